"""Polygons as labels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from skimage.draw import polygon

from wsiproc.core.types import Int64Array, IntArray


def rasterise(polygons: Iterable[shapely.Geometry], shape: tuple[int, int], ids: IntArray | None = None) -> Int64Array:
    """(h, w) labels of polygons (x, y; px, origin at the corner of the first pixel), numbered from 1 or by ``ids``.

    A pixel belongs to a polygon if its centre lies inside, so outlines along pixel edges are reproduced exactly; where
    polygons overlap, the first one is on top.
    """
    labels = np.zeros(shape, np.int64)
    numbered = list(enumerate(polygons))
    for index, geometry in reversed(numbered):
        value = index + 1 if ids is None else int(ids[index])
        for part in shapely.get_parts(geometry):
            rows, cols = _pixels(part, shape)
            labels[rows, cols] = value
    return labels


def _pixels(part: shapely.Polygon, shape: tuple[int, int]) -> tuple[Int64Array, Int64Array]:
    """Rows and columns of the pixels whose centres lie in a polygon but not in its holes."""
    rows, cols = _ring_pixels(part.exterior, shape)
    if not len(part.interiors):
        return rows, cols
    flat = rows * shape[1] + cols
    for hole in part.interiors:
        hole_rows, hole_cols = _ring_pixels(hole, shape)
        flat = np.setdiff1d(flat, hole_rows * shape[1] + hole_cols)
    return flat // shape[1], flat % shape[1]


def _ring_pixels(ring: shapely.LinearRing, shape: tuple[int, int]) -> tuple[Int64Array, Int64Array]:
    """Pixels in a closed ring; half a pixel is subtracted because ``polygon`` counts from pixel centres."""
    x, y = shapely.get_coordinates(ring).T - 0.5
    rows, cols = polygon(y, x, shape)  # type: ignore[no-untyped-call]
    return rows, cols
