"""What corrections say of a slide: windows of its tissue, the cells in them, and which pixels are known.

Known is every pixel of a reviewed area, in which all cells were checked; and, elsewhere, the pixels of each cell that
was drawn, changed or marked as right, those of each cell that was deleted or marked as wrong, and a narrow rim around
all of them. Nothing is known of other places, nor of excluded areas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import shapely

from wsiproc.array.fill import find_fill
from wsiproc.array.nuclei.rasterise import rasterise
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import BoolArray, Float64Array, Int32Array, ObjectArray, UInt8Array
from wsiproc.errors import OutputError, SettingsError, SlideError
from wsiproc.io.geojson.areas import as_shape
from wsiproc.io.slides.open import Slide, read_overview
from wsiproc.psm.distil import DISTIL_MPP, Tissue
from wsiproc.psm.teacher import calibrated_classical
from wsiproc.psm.tiles import calibrated_tiles
from wsiproc.results.folder import find_outputs
from wsiproc.results.qupath.import_corrections import FACTS, TABLE
from wsiproc.results.record import RunRecord
from wsiproc.results.result import Result

if TYPE_CHECKING:
    import geopandas

WINDOW_PX, _STRIDE_PX = 512, 384
MOST_WINDOWS, _MOST_OTHERS = 400, 12
"""Windows per slide, with something known in them and without; of more, a regular sample is used."""
_RIM_UM = 0.5
_KEPT = "unchanged"


@dataclass(frozen=True)
class Corrected:
    """What is known of one slide, in px of the grid of ``DISTIL_MPP``, (x, y).

    Outlines of its ``cells``, of those that are ``certain``, of those ``deleted``, and former ones of ``changed`` ones;
    areas that were ``reviewed`` or ``excluded``, None for none.
    """

    result: Result
    grid: tuple[int, int]
    cells: ObjectArray
    certain: ObjectArray
    deleted: ObjectArray
    changed: ObjectArray
    reviewed: Any
    excluded: Any

    def digest(self) -> str:
        """Hash of everything that is known."""
        shapes = [*self.cells, *self.certain, *self.deleted, *self.changed, self.reviewed, self.excluded]
        return hashlib.sha256(
            b"|".join(b"" if shape is None else shapely.to_wkb(shape) for shape in shapes)
        ).hexdigest()

    @cached_property
    def known_cells(self) -> int:
        """Cells from which something is learned: all in reviewed areas, elsewhere those certain, and those that were
        deleted and not drawn anew.
        """
        centres = shapely.centroid(self.deleted)
        redrawn = np.unique(shapely.STRtree(self.cells).query(centres, "within")[0])
        certain = (~_within(self.certain, self.reviewed)).sum()
        return int(_within(self.cells, self.reviewed).sum() + certain + len(centres) - len(redrawn))


@dataclass(frozen=True)
class Window:
    """A window of one slide: pixels (h, w, 3), labels (h, w) of its cells, and which pixels (h, w) are ``known`` and,
    of these, ``reviewed``.
    """

    tissue: Tissue
    pixels: UInt8Array
    labels: Int32Array
    known: BoolArray
    reviewed: BoolArray


def find_corrected(folders: Sequence[Path]) -> list[Corrected]:
    """The slides in output folders whose cells were corrected.

    Raises OutputError for folders that are none, and for corrections of an earlier run; SettingsError where nothing was
    corrected.
    """
    outputs = dict.fromkeys(output for folder in folders for output in find_outputs(folder))
    found = [_corrected(output) for output in outputs if (output / TABLE).exists()]
    taught = [each for each in found if each.known_cells]
    if not taught:
        named = ", ".join(map(str, folders))
        raise SettingsError(
            f"{named}: nothing to learn from: no cell was changed, drawn or deleted, and no area was marked as "
            "reviewed; `wsiproc import` takes corrections from QuPath and from `wsiproc view --write`"
        )
    return taught


def _corrected(folder: Path) -> Corrected:
    result = Result(folder, RunRecord.read(folder), corrected=True)
    facts = _facts(folder, result.record)
    slide = result.record.slide
    grid = grid_shape(slide.shape, slide.mpp, DISTIL_MPP)
    scale = np.divide(grid, slide.shape)[::-1]
    areas = {name: _scaled(as_shape(shape), scale) for name, shape in facts.get("areas", {}).items()}
    before, after = (table.set_index("id") for table in (
        Result(folder, result.record).cells(["id"]), result.cells(["id", "corrected"]),
    ))  # fmt: skip
    deleted = _outlines(before[~before.index.isin(after.index)], scale)
    return Corrected(
        result,
        grid,
        cells=_outlines(after, scale),
        certain=_outlines(after[after["corrected"] != _KEPT], scale),
        deleted=deleted[~_within(deleted, areas.get("excluded"))],
        changed=_outlines(before[before.index.isin(after.index[after["corrected"] == "outline"])], scale),
        reviewed=areas.get("reviewed"),
        excluded=areas.get("excluded"),
    )


def _outlines(cells: geopandas.GeoDataFrame, scale: Float64Array) -> ObjectArray:
    """Outlines (N,) in px of the grid."""
    found: ObjectArray = _scaled(cells.geometry.to_numpy(), scale)
    return found


def _within(outlines: ObjectArray, area: shapely.Geometry | None) -> BoolArray:
    """Which outlines (N,) have their centre in an area."""
    if area is None:
        return np.zeros(len(outlines), np.bool_)
    shapely.prepare(area)
    found: BoolArray = shapely.contains(area, shapely.centroid(outlines))
    return found


def _facts(folder: Path, record: RunRecord) -> dict[str, Any]:
    """What ``wsiproc import`` wrote about the corrections."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{folder / FACTS}: missing or damaged ({error}); import the corrections again with `wsiproc import`"
        ) from error
    if facts.get("run") != record.key:
        raise OutputError(
            f"{folder / TABLE}: corrections of an earlier run, whose cells are no longer there; correct the new ones, "
            f"or delete {TABLE} and {FACTS}"
        )
    return facts


def _scaled(shapes: Any, scale: Float64Array) -> Any:
    """Shapes in px of the grid."""
    return shapely.transform(shapes, lambda points: points * scale)


def read_windows(corrected: Sequence[Corrected], od99: float, on_progress: Callable[[int, int], None]) -> list[Window]:
    """All windows in which something is known, and some in which nothing is, slide by slide; a slide's stains are
    estimated on all of its windows.

    Raises SlideError where a slide is gone, is another one or cannot be read.
    """
    found: list[Window] = []
    for number, each in enumerate(corrected, start=1):
        boxes = [*known_boxes(each), *other_boxes(each)]
        with _opened(each.result) as slide:
            slide.fill = find_fill(read_overview(slide).pixels)
            pixels = [slide.read(box, DISTIL_MPP) for box in boxes]
        immuno = each.result.record.immuno
        outside = immuno is not None and immuno.compartment != "nucleus"
        tiles = calibrated_tiles(each.result.name, pixels, DISTIL_MPP, od99, outside)
        tissue = Tissue(tiles, calibrated_classical(tiles, DISTIL_MPP))
        found += [Window(tissue, part, *known_in(each, box)) for part, box in zip(pixels, boxes, strict=True)]
        on_progress(number, len(corrected))
    return found


def _opened(result: Result) -> Slide:
    """The slide of a result. Raises SlideError where it is gone or is another one."""
    if not (place := Path(result.record.slide.path)).exists():
        raise SlideError(
            f"{place}: the slide of {result.folder} is not there (any more); put it back, or give only results whose "
            "slides are there"
        )
    return result.source().open()


def known_boxes(corrected: Corrected) -> list[Box]:
    """Boxes of the grid around everything known, from the squares of a regular grid that it touches."""
    return _boxes(_known_squares(corrected), MOST_WINDOWS, corrected.grid)


def other_boxes(corrected: Corrected) -> list[Box]:
    """Boxes with cells, of which nothing is known, from all over the slide."""
    places = shapely.get_coordinates(shapely.centroid(corrected.cells))[:, ::-1] // _STRIDE_PX
    squares = set(map(tuple, np.unique(places.astype(int), axis=0).tolist()))
    return _boxes(squares - _known_squares(corrected), _MOST_OTHERS, corrected.grid)


def _known_squares(corrected: Corrected) -> set[tuple[int, int]]:
    shapes = [*corrected.certain, *corrected.deleted, *shapely.get_parts(corrected.reviewed).tolist()]
    return {square for shape in shapes for square in _squares(shape)}


def _boxes(squares: Collection[tuple[int, int]], most: int, grid: tuple[int, int]) -> list[Box]:
    """The windows around a regular sample of squares."""
    ordered = sorted(squares)
    chosen = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
    return [_around(ordered[i], grid) for i in chosen]


def _squares(shape: shapely.Geometry) -> list[tuple[int, int]]:
    """Row and column of the squares of ``_STRIDE_PX`` that a shape touches."""
    x0, y0, x1, y1 = (int(side // _STRIDE_PX) for side in shape.bounds)
    squares = [(row, column) for row in range(y0, y1 + 1) for column in range(x0, x1 + 1)]
    if len(squares) == 1:
        return squares
    shapely.prepare(shape)
    return [
        (r, c) for r, c in squares if shape.intersects(shapely.box(*(_STRIDE_PX * v for v in (c, r, c + 1, r + 1))))
    ]


def _around(square: tuple[int, int], grid: tuple[int, int]) -> Box:
    """The window around a square, moved inwards at the slide's edge; smaller only if the slide is."""
    h, w = (min(WINDOW_PX, length) for length in grid)
    margin = (WINDOW_PX - _STRIDE_PX) // 2
    y, x = (
        max(0, min(place * _STRIDE_PX - margin, length - side))
        for place, length, side in zip(square, grid, (h, w), strict=True)
    )
    return Box(y, x, h, w)


def known_in(corrected: Corrected, box: Box) -> tuple[Int32Array, BoolArray, BoolArray]:
    """Labels (h, w) of the cells in a box of the grid, which of its pixels are known, and which of these reviewed."""
    labels = _drawn(corrected.cells, box)
    apart = (corrected.certain, corrected.deleted, corrected.changed)
    single = np.any([_drawn(shapes, box) > 0 for shapes in apart], axis=0)
    side = 2 * round(_RIM_UM / DISTIL_MPP) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    rim = (cv2.dilate(single.astype(np.uint8), disc) > 0) & (labels == 0)
    reviewed = np.zeros(box.shape, np.bool_)
    if corrected.reviewed is not None:
        reviewed = _drawn(corrected.reviewed, box) > 0
    usable = np.ones(box.shape, np.bool_)
    if corrected.excluded is not None:
        usable = _drawn(corrected.excluded, box) == 0
    return labels, (single | rim | reviewed) & usable, reviewed & usable


def _drawn(shapes: Any, box: Box) -> Int32Array:
    """Labels (h, w) of shapes in a box."""
    parts = np.atleast_1d(shapes)
    near = parts[shapely.intersects(parts, shapely.box(box.x, box.y, box.x1, box.y1))]
    moved = shapely.transform(near, lambda points: points - (box.x, box.y))
    return rasterise(moved, box.shape).astype(np.int32)
