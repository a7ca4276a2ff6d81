"""Cells from outlines that someone drew: the same measurements, from the same maps, as of cells that were found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from scipy import ndimage

from wsiproc.array.nuclei.measure import LabelSums, centroids, label_sums, measure
from wsiproc.array.nuclei.outline import trace
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.geometry import Box
from wsiproc.core.types import BoolArray, Int64Array, ObjectArray
from wsiproc.errors import OutputError
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.models.base import OD_STEP

_TILE = 2048  # maps are read once for all outlines of such a square (grid px)
MOST_PX = 1024
"""Longest side (grid px) of what is taken for a cell."""


@dataclass(frozen=True)
class Maps:
    """The stitched maps of a slide.

    ``shape`` (h, w) of the grid; ``scale`` (sy, sx): level-0 px per grid px; ``px_um2``: area of a grid px;
    ``measurements``: columns of the slide's table of cells.
    """

    folder: Path
    shape: tuple[int, int]
    scale: tuple[float, float]
    px_um2: float
    measurements: Sequence[str]

    def stains(self) -> dict[str, int]:
        """Stains that are measured: name → channel; ``OutputError`` where the maps are gone."""
        try:
            channels = [name for name, _ in ngff.channels(self.folder)]
        except (OSError, KeyError, ValueError) as error:
            raise OutputError(
                f"{self.folder}: changed outlines are measured in these maps, which are missing or damaged: {error}"
            ) from error
        names = [name.removesuffix("_od_mean") for name in self.measurements if name.endswith("_od_mean")]
        return {name: channels.index(name) for name in names if name in channels}


@dataclass(frozen=True)
class _Drawn:
    """The pixels of one outline: its place in the list, its box on the grid, and which pixels of that are in it."""

    place: int
    box: Box
    mask: BoolArray


def cells_in(polygons: ObjectArray, maps: Maps) -> tuple[Int64Array, CellTable]:
    """The cells that polygons (N,), level-0 px, (x, y), mark: which of them mark one, and its row of a table.

    A pixel of the grid belongs to a cell if its centre lies in the polygon; of several parts, the largest counts, and
    holes are filled. What holds no pixel, or is longer than 1024 px, marks no cell. Classes are zeros; a measurement
    that the maps do not give is NaN.
    """
    drawn = [each for place, polygon in enumerate(polygons) if (each := _pixels(place, polygon, maps)) is not None]
    if not drawn:
        return np.zeros(0, np.int64), _table([], [], maps, {})
    stains = maps.stains()
    tiles: dict[tuple[int, int], list[_Drawn]] = {}
    for each in drawn:
        tiles.setdefault((each.box.y // _TILE, each.box.x // _TILE), []).append(each)
    places, rings, sums = [], [], []
    for tile in tiles.values():
        for each, outline, values in _measured(tile, maps):
            places.append(each.place)
            rings.append(outline)
            sums.append(values)
    order = np.argsort(places)
    return np.array(places, np.int64)[order], _table(rings, sums, maps, stains).take(order)


def _pixels(place: int, polygon: shapely.Geometry, maps: Maps) -> _Drawn | None:
    """The pixels of the grid whose centres lie in a polygon, one connected piece without holes; None for none."""
    scaled = shapely.transform(polygon, lambda points: points / np.array(maps.scale[::-1]))
    x0, y0, x1, y1 = scaled.bounds
    if not max(x1 - x0, y1 - y0) <= MOST_PX:
        return None
    low, high = np.floor([y0, x0]).astype(int), np.ceil([y1, x1]).astype(int)
    box = Box(*low.tolist(), *(high - low).tolist()).clip(maps.shape)
    if box.area == 0:
        return None
    y, x = np.mgrid[box.slices] + 0.5
    shapely.prepare(scaled)
    parts, count = ndimage.label(shapely.contains_xy(scaled, x, y))
    if count == 0:
        return None
    mask = ndimage.binary_fill_holes(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
    return _Drawn(place, box, mask)


def _measured(tile: list[_Drawn], maps: Maps) -> Iterator[tuple[_Drawn, Rings, LabelSums]]:
    """Outline along pixel edges and sums over the maps of each cell of a tile, in the frame of the grid."""
    corners = np.array([(each.box.y, each.box.x, each.box.y1, each.box.x1) for each in tile])
    y0, x0 = corners[:, :2].min(0).tolist()
    y1, x1 = corners[:, 2:].max(0).tolist()
    around = Box(y0, x0, y1 - y0, x1 - x0)
    pixels = ngff.read_box(maps.folder, 0, around)
    for each in tile:
        labels = each.mask.astype(np.int32)
        here = each.box.relative_to(around)
        sums = label_sums(labels, 1, np.ascontiguousarray(pixels[(slice(None), *here.slices)]))
        rings = trace(labels, np.ones(1, np.int64))
        shift = np.array([each.box.y, each.box.x], np.int32)
        moved = dataclasses.replace(sums, boxes=sums.boxes + np.array([*shift, 0, 0]))
        yield each, Rings(rings.offsets, rings.vertices + shift), moved


def _table(rings: list[Rings], sums: list[LabelSums], maps: Maps, stains: dict[str, int]) -> CellTable:
    """Cells as a table with the columns of the slide's own."""
    if not rings:
        empty = {name: np.zeros(0, np.float32) for name in maps.measurements}
        nothing = Rings(np.zeros(1, np.int64), np.zeros((0, 2), np.int32))
        none = np.zeros(0, np.float32)
        return CellTable(none.astype(np.uint8), none, np.zeros((0, 2)), np.zeros((0, 4), np.int32), empty, nothing)
    outlines = Rings.concat(rings)
    names = [field.name for field in dataclasses.fields(LabelSums)]
    all_sums = LabelSums(*(np.concatenate([getattr(each, name) for each in sums]) for name in names))
    found = measure(all_sums, outlines, maps.px_um2, stains, OD_STEP)
    unknown = np.full(len(outlines), np.nan, np.float32)
    return CellTable(
        np.zeros(len(outlines), np.uint8),
        (all_sums.values[:, 0] / all_sums.areas / 255).astype(np.float32),
        centroids(all_sums),
        all_sums.boxes.astype(np.int32),
        {name: found.get(name, unknown) for name in maps.measurements},
        outlines,
    )
