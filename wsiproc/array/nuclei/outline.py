"""Exact outlines: from labels to rings of pixel corners and back.

``fill(trace(labels)) == labels`` by construction, for labels that are 4-connected and without holes.
"""

from __future__ import annotations

import numpy as np
import shapely
from numba import njit

from wsiproc.core.cells import Rings
from wsiproc.core.types import Float64Array, Int32Array, Int64Array, ObjectArray

# Directions along pixel edges, clockwise on the screen: right, down, left, up.
_DY = (0, 1, 0, -1)
_DX = (1, 0, -1, 0)


def trace(labels: Int32Array, wanted: Int64Array) -> Rings:
    """Outlines of the labels in ``wanted``, in that order, as pixel corners of ``labels`` (h, w).

    Rings run clockwise (on the screen) from the top-left corner of a label's first pixel in raster order; only
    corners are stored. Each label must be 4-connected and without holes.
    """
    firsts = _first_pixels(labels, int(labels.max(initial=0)))
    offsets, vertices = _trace(labels, wanted, firsts)
    return Rings(offsets, vertices)


def as_polygons(points: Float64Array, offsets: Int64Array) -> ObjectArray:
    """Rings as shapely polygons: (N,). ``points`` (P, 2): concatenated open rings, from ``offsets`` (N + 1,)."""
    count = len(offsets) - 1
    closed = offsets + np.arange(count + 1)
    coordinates = np.empty((closed[-1], 2))
    last = np.zeros(closed[-1], np.bool_)
    last[closed[1:] - 1] = True
    coordinates[~last], coordinates[last] = points, points[offsets[:-1]]
    polygons: ObjectArray = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coordinates, (closed, np.arange(count + 1))
    )
    return polygons


MOST_COMPARED = 128
"""Corners of the longest ring that ``is_simple`` checks: it compares all pairs of edges."""


@njit(cache=True, nogil=True)
def is_simple(offsets, points):  # type: ignore[no-untyped-def]
    """Which closed rings (last point = first) are certainly simple polygons along pixel edges: (N,).

    Edges are parallel to the axes, each at a right angle to the previous one, none touching any but its neighbours. For
    other rings, and for long ones, the result is False, meaning unknown. ``points`` (P, 2) from ``offsets`` (N + 1,).
    """
    simple = np.zeros(len(offsets) - 1, np.bool_)
    for i in range(len(simple)):
        simple[i] = _edges_apart(points[offsets[i] : offsets[i + 1]])
    return simple


@njit(cache=True, nogil=True)
def _edges_apart(ring):  # type: ignore[no-untyped-def]
    n = len(ring) - 1
    if n < 4 or n > MOST_COMPARED or ring[0, 0] != ring[n, 0] or ring[0, 1] != ring[n, 1]:
        return False
    for i in range(n):
        k = i + 1 if i + 1 < n else 0
        along, then = ring[i, 0] == ring[i + 1, 0], ring[k, 0] == ring[k + 1, 0]
        across, thence = ring[i, 1] == ring[i + 1, 1], ring[k, 1] == ring[k + 1, 1]
        if along in (across, then) or then == thence:  # oblique or of zero length; straight on or back
            return False
    for i in range(n):
        y0, y1 = min(ring[i, 0], ring[i + 1, 0]), max(ring[i, 0], ring[i + 1, 0])
        x0, x1 = min(ring[i, 1], ring[i + 1, 1]), max(ring[i, 1], ring[i + 1, 1])
        for j in range(i + 2, n if i else n - 1):
            # Two edges parallel to the axes meet if their boxes do.
            beside = min(ring[j, 0], ring[j + 1, 0]) > y1 or max(ring[j, 0], ring[j + 1, 0]) < y0
            if not (beside or min(ring[j, 1], ring[j + 1, 1]) > x1 or max(ring[j, 1], ring[j + 1, 1]) < x0):
                return False
    return True


@njit(cache=True, nogil=True)
def _first_pixels(labels, count):  # type: ignore[no-untyped-def]
    """Flat index of each label's first pixel in raster order: (count + 1,) int64."""
    h, w = labels.shape
    firsts = np.full(count + 1, -1, np.int64)
    for y in range(h):
        for x in range(w):
            label = labels[y, x]
            if label > 0 and firsts[label] < 0:
                firsts[label] = y * w + x
    return firsts


@njit(cache=True, nogil=True)
def _is(labels, label, y, x):  # type: ignore[no-untyped-def]
    """Whether the pixel exists and has ``label``."""
    return 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == label


@njit(cache=True, nogil=True)
def _walk(labels, label, first, buffer, at):  # type: ignore[no-untyped-def]
    """Follow one outline with the label on the right; write its corners from row ``at``; returns the rows written.
    Writing stops at the end of ``buffer`` but counting continues, so that the caller can enlarge it.
    """
    w = labels.shape[1]
    y, x = first // w, first % w
    start_y, start_x, direction, n = y, x, 0, 0
    turned = True
    while True:
        if turned:
            if at + n < len(buffer):
                buffer[at + n, 0], buffer[at + n, 1] = y, x
            n += 1
        y, x = y + _DY[direction], x + _DX[direction]
        # The two pixels ahead of this corner, left and right of the walk.
        if direction == 0:
            left, right = _is(labels, label, y - 1, x), _is(labels, label, y, x)
        elif direction == 1:
            left, right = _is(labels, label, y, x), _is(labels, label, y, x - 1)
        elif direction == 2:
            left, right = _is(labels, label, y, x - 1), _is(labels, label, y - 1, x - 1)
        else:
            left, right = _is(labels, label, y - 1, x - 1), _is(labels, label, y - 1, x)
        if not right:
            direction, turned = (direction + 1) % 4, True
        elif left:
            direction, turned = (direction + 3) % 4, True
        else:
            turned = False
        if y == start_y and x == start_x:
            return n


@njit(cache=True, nogil=True)
def _trace(labels, wanted, firsts):  # type: ignore[no-untyped-def]
    """Rings of ``wanted`` as offsets and vertices."""
    offsets = np.zeros(len(wanted) + 1, np.int64)
    vertices = np.empty((max(64, 64 * len(wanted)), 2), np.int32)
    for i in range(len(wanted)):
        at = offsets[i]
        n = _walk(labels, wanted[i], firsts[wanted[i]], vertices, at)
        if at + n > len(vertices):
            larger = np.empty((2 * (at + n), 2), np.int32)
            larger[:at] = vertices[:at]
            vertices = larger
            _walk(labels, wanted[i], firsts[wanted[i]], vertices, at)
        offsets[i + 1] = at + n
    return offsets, vertices[: offsets[-1]].copy()


@njit(cache=True, nogil=True)
def fill(canvas, offsets, vertices, values, y0, x0):  # type: ignore[no-untyped-def]
    """Fill rings into ``canvas`` (h, w), whose first pixel is (y0, x0) of the rings' frame; parts outside are clipped.

    ``values``: one pixel value per ring. Even–odd rule on vertical edges, exact for pixel corners.
    """
    h, w = canvas.shape
    for i in range(len(offsets) - 1):
        ring = vertices[offsets[i] : offsets[i + 1]]
        top, left = ring[:, 0].min(), ring[:, 1].min()
        bh, bw = ring[:, 0].max() - top, ring[:, 1].max() - left
        inside = np.zeros((bh, bw + 1), np.bool_)
        for j in range(len(ring)):
            k = j + 1 if j + 1 < len(ring) else 0
            if ring[j, 1] == ring[k, 1]:
                for y in range(min(ring[j, 0], ring[k, 0]), max(ring[j, 0], ring[k, 0])):
                    inside[y - top, ring[j, 1] - left] ^= True
        for y in range(max(0, y0 - top), min(bh, y0 + h - top)):
            start = -1
            for x in range(bw + 1):
                if not inside[y, x]:
                    continue
                if start < 0:
                    start = x
                    continue
                for cx in range(max(0, start + left - x0), min(w, x + left - x0)):
                    canvas[y + top - y0, cx] = values[i]
                start = -1
