"""One finished slide as the page shows it: tiles, thumbnails, cells and facts, read as they are asked for."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsiproc.array.pyramid import level_shape
from wsiproc.core.cells import DrawnCells, touching
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.immuno import NUCLEUS_DAB, RING_COLUMNS, RING_DAB, Scoring, checked_cuts
from wsiproc.core.palette import NAMED, RGB, css_colour
from wsiproc.core.types import Float32Array, UInt8Array
from wsiproc.errors import OutputError, SettingsError, SlideError
from wsiproc.io.cells.blocks import CellBlocks
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.slides.open import Slide, open_slide
from wsiproc.results.record import RunRecord
from wsiproc.results.report.figures import cell_density, density_pixels, shrink
from wsiproc.results.viewer.colouring import HIDDEN, POSITIVE, STRENGTHS, Look, codes, painted, palette, standing_out
from wsiproc.results.viewer.drawing import dots, draw_outlines, mask_edge, outlines, smooth, tinted

TILE_PX = 512
FINEST = -2  # cells are drawn at up to 2² screen px a grid px
_FROM_TABLE, _AS_DOTS = 0, 3  # powers of two of grid px a screen px: up to the first, and from the second on
_TISSUE: RGB = (0, 158, 115)
_ON_SLIDE: RGB = (0, 114, 178)
_DENSE_PER_MM2 = 12_000
_DENSITY_BINS, _FINEST_BIN_UM = 600, 50.0
_PALE_TISSUE: RGB = (226, 190, 210)
_LOOKS_KEPT = 6  # of all slides together; a byte a cell


class ShownSlide:
    """The folder of a finished slide. Everything is opened when it is first needed; any thread may ask."""

    def __init__(self, folder: Path, name: str, slides: Path | None = None) -> None:
        self.folder, self.name = folder, name
        self.run = RunRecord.read(folder)
        self._slides = slides
        self.grid = self.run.grid.shape
        self.scale = self.run.grid.scale
        self.names = list(self.run.classes)
        self._opening = Lock()

    # --- facts ---

    @cached_property
    def cells(self) -> CellBlocks:
        """The cell table."""
        return CellBlocks(self.folder / "cells.parquet")

    @cached_property
    def colours(self) -> list[RGB]:
        """Of the classes: those of all outputs, made lighter or darker where they would be lost on this tissue."""
        return [standing_out(colour, self._tissue_colour) for colour in self.run.classes.values()]

    @cached_property
    def _tissue_colour(self) -> RGB:
        """The mean of the overview over tissue; a pale pink where no tissue was found."""
        small = self._overview(len(ngff.level_shapes(self.folder / "slide.ome.zarr")) - 1)
        mask = self.tissue_mask()
        inside = cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        if not inside.any():
            return _PALE_TISSUE
        r, g, b = (round(float(part)) for part in small[inside].mean(axis=0))
        return r, g, b

    @cached_property
    def channels(self) -> list[tuple[str, RGB]]:
        """Names and colours of the maps; what is white on black in other viewers has a colour over a slide."""
        found = ngff.channels(self.folder / "maps.ome.zarr")
        return [(name, _ON_SLIDE if min(colour) > 200 else colour) for name, colour in found]

    @cached_property
    def levels(self) -> int:
        """How many levels the pyramids of labels and maps have."""
        return len(ngff.level_shapes(self.folder / "maps.ome.zarr"))

    @property
    def has_dab(self) -> bool:
        """Whether cells are positive and negative by their density of DAB."""
        return self.scoring is not None

    @cached_property
    def scoring(self) -> Scoring | None:
        """The rule by which the run distinguished positive from negative cells; None if no rule on DAB did for all."""
        told = self.run.immuno
        if told is None:
            return None
        rule = Scoring(told.compartment, tuple(told.positive_dab_od), told.ring_dab_od)
        needed = {self.density_of(rule), *(RING_COLUMNS if rule.compartment == "membrane" else ())}
        return rule if list(rule.classes) == self.names and needed <= set(self.cells.measurements) else None

    @staticmethod
    def density_of(rule: Scoring) -> str:
        """The column that a rule's cuts are of."""
        return NUCLEUS_DAB if rule.compartment == "nucleus" else RING_DAB

    def graded(self, cuts: tuple[float, ...], columns: Mapping[str, Float32Array] | None = None) -> UInt8Array:
        """How strongly each cell (N,) is stained by other cuts; of some cells, from their ``columns``."""
        rule = self.scoring
        if rule is None:
            raise SettingsError(f"the cells of {self.name} are not scored by DAB, so no threshold applies")
        if columns is None:
            needed = {self.density_of(rule), *(RING_COLUMNS if rule.compartment == "membrane" else ())}
            columns = {name: self.measured(name) for name in needed}
        return replace(rule, cuts=checked_cuts(cuts)).classify(columns)

    def card(self) -> dict[str, Any]:
        """What a list of slides says about this one."""
        return {"name": self.name, **asdict(self.run.slide_numbers()), "warnings": len(self.run.warnings)}

    def facts(self) -> dict[str, Any]:
        """All that the page needs to show the slide; sizes (h, w), frames as in ``run.json``."""
        counts = self.run.counts.classes
        return self.card() | {
            "shape": self.run.slide.shape,
            "mpp": self.run.slide.mpp,
            "objective": self.run.slide.objective,
            "format": self.run.slide.format,
            "grid": {"shape": self.grid, "scale": self.scale, "levels": self.levels},
            "classes": [
                {"name": name, "colour": css_colour(colour), "cells": counts.get(name, 0)}
                for name, colour in zip(self.names, self.colours, strict=True)
            ],
            "maps": [{"name": name, "colour": css_colour(colour)} for name, colour in self.channels],
            "regions": self.run.regions.boxes,
            "failed": [region.as_dict() for region in self.run.regions.failed],
            "messages": self.run.warnings,
            "measurements": self.cells.measurements,
            "has_dab": self.has_dab,
            "has_index": self.run.has_index,
            "positive_colour": css_colour(NAMED[POSITIVE]),
            "folder": shlex.quote(str(self.folder.resolve())),
            "tissue_colour": css_colour(_TISSUE),
            "strengths": {name: css_colour(colour) for name, colour in STRENGTHS.items()},
            "model": self.run.model.name,
            "version": self.run.wsiproc,
            "slide_there": self.slide is not None,
        }

    # --- the slide ---

    @cached_property
    def slide(self) -> Slide | None:
        """The slide itself, where it was when it was run or in the folder of slides; None where it is gone."""
        path = Path(self.run.slide.path)
        places = [path, self.folder / path.name, self.folder.parent / path.name]
        settings = self.run.settings
        for place in [self._slides / path.name, *places] if self._slides else places:
            try:
                slide = open_slide(place, settings.mpp, settings.reader)
            except SlideError:
                continue
            if slide.fingerprint() == self.run.slide.fingerprint:
                return slide
            slide.close()
        return None

    def _slide(self) -> Slide | None:
        with self._opening:  # two threads would open it twice
            return self.slide

    def slide_tile(self, level: int, row: int, col: int) -> UInt8Array:
        """A tile (h, w, 3) of the slide, ``2 ** level`` level-0 px a px; from the overview where the slide is gone."""
        slide = self._slide()
        h, w = self.run.slide.shape
        mpp = self.run.slide.mpp * 2**level
        box = Box(row * TILE_PX, col * TILE_PX, TILE_PX, TILE_PX).clip(grid_shape((h, w), 1.0, 2.0**level))
        if box.area == 0:
            raise OutputError(f"{self.name} has no such tile")
        return slide.read(box, mpp) if slide is not None else self._from_overview(box, 2**level)

    def _from_overview(self, box: Box, shrink: float) -> UInt8Array:
        """A box (px of ``shrink`` level-0 px) cut out of the overview, however blurred."""
        shape = np.array(self.overview.shape[:2])
        factor = shape / np.array(self.run.slide.shape) * shrink
        to_overview = np.array([[factor[1], 0, box.x * factor[1] - 0.5], [0, factor[0], box.y * factor[0] - 0.5]])
        to_overview[:, 2] += to_overview[:, :2].sum(axis=1) / 2
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        image = cv2.warpAffine(self.overview, to_overview, (box.w, box.h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return image.astype(np.uint8, copy=False)

    @cached_property
    def overview(self) -> UInt8Array:
        """The whole slide in one image (h, w, 3)."""
        return self._overview(0)

    def thumbnail(self, longest_px: int) -> UInt8Array:
        """The whole slide (h, w, 3) with its longer side at most ``longest_px``."""
        return shrink(ngff.read_small(self.folder / "slide.ome.zarr", longest_px), longest_px)

    def _overview(self, level: int) -> UInt8Array:
        folder = self.folder / "slide.ome.zarr"
        h, w = ngff.level_shapes(folder)[level][-2:]
        return np.ascontiguousarray(ngff.read_box(folder, level, Box(0, 0, h, w)).transpose(1, 2, 0))

    # --- overlays ---

    def codes(self, look: Look) -> UInt8Array:
        """The code of each cell (N,) in a look."""
        return _codes(self, look)

    def palette(self, look: Look) -> UInt8Array:
        """The colours of codes (256, 3)."""
        return palette(look, self.names, self.colours)

    def values(self, look: Look) -> Float32Array | None:
        """The look's measurement of all cells (N,); None where it has none."""
        return None if look.measure is None else self.measured(look.measure)

    def measured(self, name: str) -> Float32Array:
        """A measurement of all cells (N,)."""
        if name not in self.cells.measurements:
            raise SettingsError(f"{self.name} has no measurement {name!r}; it has {', '.join(self.cells.measurements)}")
        return self.cells.column(name)

    def cell_tile(self, level: int, row: int, col: int, look: Look, fill: int) -> UInt8Array | None:
        """A tile (h, w, 4) of the cells, ``2 ** level`` grid px a px; None where there are none. ``fill``: as drawn.

        From close by the exact outlines, from farther off the label pyramid, from far away the centres.
        """
        px = max(1, TILE_PX << level if level >= 0 else TILE_PX >> -level)
        box = Box(row * px, col * px, px, px).clip(self.grid)
        blocks = self.cells.touching(box)
        if not blocks:
            return None
        if level >= min(_AS_DOTS, self.levels):
            return self._dots(blocks, box, 2**level, look)
        if level > _FROM_TABLE:
            return self._from_labels(level, row, col, look, fill)
        codes, near = self.codes(look), []
        for number in blocks:
            block = self.cells.block(number)
            rows = touching(block.boxes, box)
            here = codes[self.cells.rows(number)][rows]
            seen = here != HIDDEN
            near.append(replace(block.take(rows[seen]), classes=here[seen]))
        cells = DrawnCells.concat(near)
        return outlines(cells, self.palette(look), box, 2**-level, fill) if len(cells) else None

    def _dots(self, blocks: list[int], box: Box, shrink: int, look: Look) -> UInt8Array:
        centres, _ = self.cells.centres()
        codes = self.codes(look)
        if len(blocks) < len(self.cells.blocks):
            parts = [self.cells.rows(block) for block in blocks]
            centres, codes = (np.concatenate([column[part] for part in parts]) for column in (centres, codes))
        dense = _DENSE_PER_MM2 * float(np.prod(self.run.grid.mpp)) / 1e6
        return dots(centres, codes, self.palette(look), box, shrink, dense, painted(look))

    def _from_labels(self, level: int, row: int, col: int, look: Look, fill: int) -> UInt8Array | None:
        shape = level_shape(self.grid, level)
        box = Box(row * TILE_PX, col * TILE_PX, TILE_PX, TILE_PX).clip(shape)
        labels = self._padded("cells", level, box, shape)
        return draw_outlines(labels, self.codes(look), self.palette(look), fill) if labels.any() else None

    def _padded(self, name: str, level: int, box: Box, shape: tuple[int, int]) -> npt.NDArray[Any]:
        """Labels of a box and one px around it, the slide's edge repeated."""
        around = box.pad(1).clip(shape)
        pixels = ngff.read_box(self.folder / "slide.ome.zarr/labels" / name, level, around)
        before = (around.y - box.y + 1, around.x - box.x + 1)
        after = (box.y1 + 1 - around.y1, box.x1 + 1 - around.x1)
        return np.pad(pixels, tuple(zip(before, after, strict=True)), mode="edge")

    def map_tile(self, channel: int, level: int, row: int, col: int) -> UInt8Array | None:
        """A tile (h, w, 4) of a map, ``2 ** level`` grid px a px; None where it is empty."""
        shape = level_shape(self.grid, level)
        box = Box(row * TILE_PX, col * TILE_PX, TILE_PX, TILE_PX).clip(shape)
        if box.area == 0 or level >= self.levels:
            return None
        values = ngff.read_box(self.folder / "maps.ome.zarr", level, box)[channel]
        return tinted(values, self.channels[channel][1]) if values.any() else None

    def tissue(self) -> UInt8Array:
        """Where tissue was found, (h, w, 4), over the whole slide."""
        return mask_edge(self.tissue_mask(), _TISSUE)

    def tissue_mask(self) -> UInt8Array:
        """1 where tissue was found, (h, w), over the whole slide."""
        folder = self.folder / "slide.ome.zarr/labels/tissue"
        h, w = ngff.level_shapes(folder)[0]
        mask: UInt8Array = ngff.read_box(folder, 0, Box(0, 0, h, w))
        return mask

    def density(self) -> tuple[UInt8Array, float]:
        """Cells per mm² in colours, (h, w, 4), over the whole slide, and the density of the deepest colour."""
        mpp = np.array(self.run.grid.mpp)
        side = max(_FINEST_BIN_UM / mpp.mean(), max(self.grid) / _DENSITY_BINS)
        h, w = (max(1, round(px / side)) for px in self.grid)
        centres, _ = self.cells.centres()
        y, x = np.minimum((centres * (h / self.grid[0], w / self.grid[1])).astype(np.int64), (h - 1, w - 1)).T
        counts = np.bincount(y * w + x, minlength=h * w).reshape(h, w)
        values, top = cell_density(counts, float(np.prod(mpp * self.grid)) / (h * w) / 1e6)
        return density_pixels(values, top), top

    # --- picking ---

    def cell_at(self, y: float, x: float) -> int:
        """Id of the cell at a point (level-0 px); 0 where there is none."""
        row, col = int(y / self.scale[0]), int(x / self.scale[1])
        if not (0 <= row < self.grid[0] and 0 <= col < self.grid[1]):
            return 0
        return int(ngff.read_box(self.folder / "slide.ome.zarr/labels/cells", 0, Box(row, col, 1, 1))[0, 0])

    def crop(self, number: int, side_px: int, side_um: float) -> UInt8Array | None:
        """The slide around a cell (side, side, 3), its outline drawn on it; None where there is no such cell."""
        found = self.cells.cell(number)
        if found is None:
            return None
        row, rings = found
        slide_mpp, mpp = self.run.slide.mpp, side_um / side_px
        centre = np.array([row["centroid_y"], row["centroid_x"]]) * (slide_mpp / mpp)
        corner = np.rint(centre - side_px / 2).astype(int)
        box = Box(int(corner[0]), int(corner[1]), side_px, side_px)
        slide = self._slide()
        image = slide.read(box, mpp) if slide is not None else self._from_overview(box, mpp / slide_mpp)
        outline = smooth(rings[0]) * self.scale * (slide_mpp / mpp) - corner
        points = np.rint((outline[:, ::-1] - 0.5) * 16).astype(np.int32)
        image = np.ascontiguousarray(image)
        for colour, width in (((255, 255, 255), 3), (self.colours[self.names.index(row["class"])], 1)):
            cv2.polylines(image, [points], True, colour, width, cv2.LINE_AA, 4)
        return image

    def describe_cell(self, number: int) -> Mapping[str, Any] | None:
        """What is known of a cell, its outline and centre as (x, y) in level-0 px; None where there is none."""
        found = self.cells.cell(number)
        if found is None:
            return None
        row, rings = found
        kind = self.names.index(row.pop("class"))
        return {
            "id": row.pop("id"),
            "class": self.names[kind],
            "kind": kind,
            "colour": css_colour(self.colours[kind]),
            "score": row.pop("score"),
            "centre": [row.pop("centroid_x"), row.pop("centroid_y")],
            "outline": np.round((smooth(rings[0]) * self.scale)[:, ::-1], 2).tolist(),
            "measurements": row,
        }


@lru_cache(maxsize=_LOOKS_KEPT)
def _codes(shown: ShownSlide, look: Look) -> UInt8Array:
    """As ``ShownSlide.codes``; kept, since the tiles of a view all need it."""
    _, classes = shown.cells.centres()
    grades = shown.graded(look.cuts) if look.cuts else None
    return codes(look, shown.names, classes, shown.values(look), grades)


def find_slides(folders: Sequence[Path], slides: Path | None) -> tuple[dict[str, ShownSlide], list[str]]:
    """Finished slides in ``folders``, each a slide's own or one that holds several, by name; and what was wrong.

    Raises OutputError where there is none that can be shown.
    """
    found: dict[str, ShownSlide] = {}
    problems: list[str] = []
    for folder in folders:
        inside = [folder] if (folder / "run.json").is_file() else sorted(p.parent for p in folder.glob("*/run.json"))
        if not inside:
            problems.append(
                f"{folder}: no finished slide in it (a folder with run.json). Run slides with `wsiproc run SLIDE -o "
                f"{folder}`, or name the folder of results"
            )
        for place in inside:
            try:
                name = _free_name(place.resolve().name, found)
                found[name] = ShownSlide(place, name, slides)
            except OutputError as error:
                problems.append(str(error))
    if not found:
        raise OutputError(". ".join(problems))
    return found, problems


def _free_name(name: str, taken: Mapping[str, ShownSlide]) -> str:
    """The name, or with a number where another folder of that name is shown already."""
    names = (name if number == 1 else f"{name} ({number})" for number in count(1))
    return next(candidate for candidate in names if candidate not in taken)
