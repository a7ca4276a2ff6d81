"""Measurements of labelled objects, from integer sums only, so that results are identical for every crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from wsiproc.core.cells import Rings
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, Int64Array, UInt8Array


@dataclass(frozen=True)
class LabelSums:
    """Integer sums over the pixels of labels 1…N (row *i* is label *i + 1*).

    ``areas``: (N,) px; ``boxes``: (N, 4) (y, x, h, w); ``first``: (N, 2) sums of y, x counted from the box's corner;
    ``second``: (N, 3) sums of y², x², yx; ``values``, ``squares``: (N, C) sums over each channel of the maps.
    """

    areas: Int64Array
    boxes: Int64Array
    first: Int64Array
    second: Int64Array
    values: Int64Array
    squares: Int64Array


def label_sums(labels: Int32Array, count: int, maps: UInt8Array) -> LabelSums:
    """Sums over labels 1…``count`` of ``labels`` (h, w) and of ``maps`` (c, h, w)."""
    boxes, areas, first, second, values, squares = _sums(labels, count, maps)
    # From the image's corner to the box's: in integers, so exact.
    y0, x0 = boxes[:, 0], boxes[:, 1]
    y, x = first.T
    shifted = [
        second[:, 0] - 2 * y0 * y + areas * y0**2,
        second[:, 1] - 2 * x0 * x + areas * x0**2,
        second[:, 2] - y0 * x - x0 * y + areas * y0 * x0,
    ]
    first = first - areas[:, None] * boxes[:, :2]
    boxes[:, 2:] += 1 - boxes[:, :2]
    return LabelSums(areas, boxes, first, np.stack(shifted, axis=1), values, squares)


@njit(cache=True, nogil=True)
def _sums(labels, count, maps):  # type: ignore[no-untyped-def]
    """First and last row and column (inclusive), area, moments about the image's corner, and channel sums."""
    n, c = count, maps.shape[0]
    boxes = np.empty((n, 4), np.int64)
    boxes[:, :2] = max(labels.shape)
    boxes[:, 2:] = -1
    areas, first, second = np.zeros(n, np.int64), np.zeros((n, 2), np.int64), np.zeros((n, 3), np.int64)
    values, squares = np.zeros((n, c), np.int64), np.zeros((n, c), np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            i = labels[y, x] - 1
            if i < 0:
                continue
            boxes[i, 0] = min(boxes[i, 0], y)
            boxes[i, 1] = min(boxes[i, 1], x)
            boxes[i, 2] = max(boxes[i, 2], y)
            boxes[i, 3] = max(boxes[i, 3], x)
            areas[i] += 1
            first[i, 0] += y
            first[i, 1] += x
            second[i, 0] += y * y
            second[i, 1] += x * x
            second[i, 2] += y * x
            for k in range(c):
                value = np.int64(maps[k, y, x])
                values[i, k] += value
                squares[i, k] += value * value
    return boxes, areas, first, second, values, squares


def centroids(sums: LabelSums) -> Float64Array:
    """Mean of the pixel centres of each label in the frame of its label image: (N, 2), (y, x), pixels centred at ½."""
    centres: Float64Array = sums.boxes[:, :2] + 0.5 + sums.first / sums.areas[:, None]
    return centres


def mean_and_spread(sums: LabelSums, channel: int, unit: float) -> tuple[Float64Array, ...]:
    """Mean and standard deviation of a channel over each label, in multiples of ``unit``: two (N,) arrays."""
    mean = sums.values[:, channel] / sums.areas
    # From exact integers: n·Σv² − (Σv)² has no cancellation error.
    variance = sums.areas * sums.squares[:, channel] - sums.values[:, channel] ** 2
    return mean * unit, np.sqrt(variance) / sums.areas * unit


def ellipse_axes(sums: LabelSums) -> tuple[Float64Array, Float64Array]:
    """Major and minor axis (px) of the ellipse with each label's second moments: two (N,) arrays.

    As in scikit-image's ``regionprops``.
    """
    n = sums.areas.astype(np.float64)
    syy = (sums.areas * sums.second[:, 0] - sums.first[:, 0] ** 2) / n**2
    sxx = (sums.areas * sums.second[:, 1] - sums.first[:, 1] ** 2) / n**2
    syx = (sums.areas * sums.second[:, 2] - sums.first[:, 0] * sums.first[:, 1]) / n**2
    mean, half = (syy + sxx) / 2, np.sqrt(((syy - sxx) / 2) ** 2 + syx**2)
    return 4 * np.sqrt(mean + half), 4 * np.sqrt(np.maximum(mean - half, 0))


def perimeters_and_solidities(rings: Rings) -> tuple[Float64Array, Float64Array]:
    """Length (px) of each outline, and its area ÷ the area of its convex hull: two (N,) arrays.

    Both use the outline with each corner cut half a pixel from it: an outline along pixel edges is a staircase; through
    the midpoints of its unit edges it is the contour of marching squares, and the solidity of a digital disc is near 1.
    Such a contour is too long on average over all directions; 0.948 corrects it (Proffitt and Rosen 1979).
    """
    lengths, areas, hulls = _cut_corners(rings.offsets, rings.vertices)
    return 0.948 * lengths, areas / hulls


_NOWHERE = 2**40  # beyond any slide


@njit(cache=True, nogil=True)
def _cut_corners(offsets, vertices):  # type: ignore[no-untyped-def]
    """Length, area and area of the convex hull of each outline with its corners cut: three (N,); areas times eight.

    General convex hulls by GEOS would take most of the measuring time. These points lie on rows of half pixels, so
    nothing needs sorting, and areas are integers.
    """
    count = len(offsets) - 1
    lengths, areas, hulls = np.empty(count), np.empty(count, np.int64), np.empty(count, np.int64)
    for i in range(count):
        ring = vertices[offsets[i] : offsets[i + 1]].astype(np.int64)
        top = 2 * ring[:, 0].min()
        left = np.full(2 * ring[:, 0].max() - top + 1, _NOWHERE)
        right = left.copy()  # mirrored, so that it is also a left side
        length, area = 0.0, 0
        y, x = 2 * ring[0] - np.sign(ring[0] - ring[-1])  # the last point, which precedes the first
        for j in range(len(ring)):
            here, there = ring[j], ring[j + 1 if j + 1 < len(ring) else 0]
            step = np.sign(there - here)
            length += np.abs(there - here).sum() - 1 + np.sqrt(0.5)
            for next_y, next_x in (2 * here + step, 2 * there - step):
                area += y * next_x - x * next_y
                y, x = next_y, next_x
                left[y - top] = min(left[y - top], x)
                right[y - top] = min(right[y - top], -x)
        lengths[i], areas[i] = length, abs(area)
        hulls[i] = -_under_envelope(left) - _under_envelope(right)
    return lengths, areas, hulls


@njit(cache=True, nogil=True)
def _under_envelope(side):  # type: ignore[no-untyped-def]
    """Twice the integral, from the first row to the last, of the largest convex function below ``side``[row]."""
    rows, kept = np.empty(len(side), np.int64), 0
    for row in range(len(side)):
        if side[row] == _NOWHERE:
            continue
        while kept >= 2:
            y0, y1 = rows[kept - 2], rows[kept - 1]
            if (side[y1] - side[y0]) * (row - y0) < (side[row] - side[y0]) * (y1 - y0):
                break  # it is convex there
            kept -= 1
        rows[kept], kept = row, kept + 1
    twice = 0
    for k in range(kept - 1):
        twice += (side[rows[k]] + side[rows[k + 1]]) * (rows[k + 1] - rows[k])
    return twice


def measurement_names(stains: Sequence[str]) -> list[str]:
    """Columns of ``measure``, with units in the names."""
    shape = ["area_um2", "perimeter_um", "solidity", "eccentricity", "major_axis_um", "minor_axis_um"]
    return shape + [f"{stain}_od_{value}" for stain in stains for value in ("mean", "std")]


def measure(
    sums: LabelSums, rings: Rings, px_um2: float, stains: Mapping[str, int], od_step: float
) -> dict[str, Float32Array]:
    """Shape (µm, µm²) and optical density of each stain: name → (N,) float32.

    ``px_um2``: area of a pixel; ``stains``: name → channel of the sums, in steps of ``od_step``.
    """
    px_um = np.sqrt(px_um2)
    major, minor = ellipse_axes(sums)
    perimeter, solidity = perimeters_and_solidities(rings)
    eccentricity = np.sqrt(np.maximum(0, 1 - (minor / major) ** 2))
    columns = [sums.areas * px_um2, perimeter * px_um, solidity, eccentricity, major * px_um, minor * px_um]
    for channel in stains.values():
        columns += mean_and_spread(sums, channel, od_step)
    named = zip(measurement_names(list(stains)), columns, strict=True)
    return {name: column.astype(np.float32) for name, column in named}
