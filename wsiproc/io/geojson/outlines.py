"""Outlines as written to files: closed rings in level-0 px, (x, y), rounded, then simplified, then validated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from wsiproc.array.nuclei.outline import is_simple
from wsiproc.core.cells import Rings
from wsiproc.core.types import BoolArray, Float64Array, Int64Array, IntArray, ObjectArray

# QuPath 0.6 and later snap to this grid (px) and reject what is invalid there.
SNAP_DECIMALS = 2
_POINTS = 4  # of the smallest closed ring, a triangle


@dataclass(frozen=True)
class Outlines:
    """Closed rings: ring *i* is ``points[offsets[i]:offsets[i + 1]]``, its last point equal to its first.

    ``offsets``: (N + 1,) int64; ``points``: (P, 2) float64, (x, y) in level-0 px, rounded to 0.01.
    """

    offsets: Int64Array
    points: Float64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, rings: Rings, scale: tuple[float, float]) -> Outlines:
        """The outlines of cells; ``scale`` (sy, sx): level-0 px per grid px."""
        lengths = np.diff(rings.offsets)
        extra = (lengths > 0).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths + extra)])
        starts = np.repeat(rings.offsets[:-1] - offsets[:-1], lengths + extra)
        index = starts + np.arange(offsets[-1])
        index[offsets[1:][extra > 0] - 1] = rings.offsets[:-1][extra > 0]
        return cls(offsets, np.round(rings.vertices[index][:, ::-1] * np.array(scale[::-1]), SNAP_DECIMALS))

    @property
    def corners(self) -> Int64Array:
        """Corners of each ring, the closing one not counted: (N,)."""
        corners: Int64Array = np.maximum(np.diff(self.offsets) - 1, 0)
        return corners

    def polygons(self) -> ObjectArray:
        """The rings as shapely polygons, (N,); empty ones where a ring has too few points to be one."""
        candidates = np.flatnonzero(np.diff(self.offsets) >= _POINTS)
        rank = np.full(len(self), -1)
        rank[candidates] = np.arange(len(candidates))
        owner = rank[np.repeat(np.arange(len(self)), np.diff(self.offsets))]
        mine = owner >= 0
        found = np.full(len(self), shapely.Polygon(), object)
        if len(candidates):
            found[candidates] = shapely.polygons(shapely.linearrings(self.points[mine], indices=owner[mine]))
        return found

    def writable(self) -> BoolArray:
        """Which rings are valid polygons with an area: (N,). QuPath rejects the whole file for one that is not."""
        good: BoolArray = is_simple(self.offsets, self.points)
        others = np.flatnonzero(~good)
        if len(others):
            good[others] = writable(self.take(others).polygons())
        return good

    def take(self, rows: IntArray) -> Outlines:
        """Some of the rings, in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        index = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Outlines(offsets, self.points[index])

    def simplified(self, tolerance_px: float) -> tuple[Outlines, BoolArray]:
        """Rings with fewer corners, at most ``tolerance_px`` from the old line; and which (N,) stayed as they were.

        Douglas and Peucker (1973), as GEOS does it with the topology kept. A ring that would become invalid, or lose
        its area, once rounded to 0.01 px is left as it was, so no cell is lost.
        """
        before = self.polygons()
        after = shapely.simplify(before, tolerance_px, preserve_topology=True)
        # GEOS then drops the first corner if that is near the *simplified* line: up to twice the tolerance in all.
        far = np.flatnonzero(shapely.hausdorff_distance(before, after) > tolerance_px)
        after[far] = shapely.simplify(before[far], tolerance_px / 2, preserve_topology=True)
        # A ring that touches itself may become several polygons or get a hole; only one ring is written.
        one = (shapely.get_type_id(after) == shapely.GeometryType.POLYGON) & (
            shapely.get_num_interior_rings(after) == 0
        )
        stays = ~(one & writable(after))
        chosen = np.where(stays, before, after)
        lengths = shapely.get_num_coordinates(chosen)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Outlines(offsets, np.round(shapely.get_coordinates(chosen), SNAP_DECIMALS)), stays


def writable(polygons: ObjectArray) -> BoolArray:
    """Which polygons are valid and have an area: (N,)."""
    good: BoolArray = shapely.is_valid(polygons) & (shapely.area(polygons) > 0)
    return good
