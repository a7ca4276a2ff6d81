"""Pseudo-labellers of nuclei without training, and the confidence of an object.

The first pseudo-labeller is the classical model. The second is a component tree: every threshold of the optical density
gives blobs, blobs of a lower threshold enclose those of a higher one, and from each nest the most nucleus-like blob is
chosen: a steep closed border around an ellipse. The two make different errors, so what both find is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from wsiproc.array.nuclei.measure import label_sums
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, Int64Array

AREA_UM2 = 15.0, 400.0
"""Smallest and largest object that the tree accepts."""
_LEVELS = 28
_VIEWS = ((1.0, 0.0, 0.0), (1.0, -0.3, 0.0), (0.5, 0.5, -0.3))  # weights of the optical density of R, G, B
_SIGMAS_UM = (0.4, 0.8)
_STEEP = 0.008  # drop in optical density per px along the outward normal from which a point counts as border
_FEWEST_POINTS = 12
_LEAST_QUALITY = 0.12
_OVERLAP = 0.15  # share of a blob that better ones may already occupy
_BORDER_UM = 0.4
_DISTANCE_PX = 3  # along the outline, between the points that define its direction


@dataclass(frozen=True)
class Shapes:
    """Features of N outlines: ``area`` px; ``ellipse``: area ÷ that of the ellipse of equal moments; ``roundness``:
    minor ÷ major axis; ``slope``: mean outward drop in optical density per px; ``closed``: share of the outline with
    such a drop; ``solidity``: area ÷ that of the convex hull. (N,) float64 each.
    """

    area: Float64Array
    ellipse: Float64Array
    roundness: Float64Array
    slope: Float64Array
    closed: Float64Array
    solidity: Float64Array


def border_density(od: Float32Array, mpp: float) -> Float32Array:
    """(h, w) density in which nuclear borders are searched, from optical density (h, w, 3): mostly red, some green."""
    mixed = od[..., 0] + np.float32(0.3) * od[..., 1]
    return _blur(mixed, _BORDER_UM / mpp)


def _blur(image: Float32Array, sigma: float) -> Float32Array:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def outline_shapes(outlines: Sequence[Int32Array], density: Float32Array) -> Shapes:
    """Features of ``outlines``, (K, 2) px (x, y) each, on a ``density`` (h, w) that drops outwards at a true border."""
    offsets = np.concatenate([[0], np.cumsum([len(points) for points in outlines], dtype=np.int64)])
    points = np.concatenate(outlines).astype(np.float64) if outlines else np.zeros((0, 2))
    across = cv2.Sobel(density, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    down = cv2.Sobel(density, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    features = np.zeros((len(outlines), 5))
    _outline_features(points, offsets, across, down, features)
    hulls = np.array([cv2.contourArea(cv2.convexHull(outline)) if len(outline) else 0.0 for outline in outlines])
    area, ellipse, roundness, slope, closed = features.T
    return Shapes(area, ellipse, roundness, slope, closed, solidity=area / np.maximum(hulls, 1.0))


@njit(cache=True, nogil=True)
def _outline_features(points, offsets, across, down, features):  # type: ignore[no-untyped-def]
    """Area, ellipse, roundness, slope, closed of each polygon; moments by Green's theorem."""
    for i in range(len(offsets) - 1):
        first, n = offsets[i], offsets[i + 1] - offsets[i]
        area, cx, cy, xx, yy, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(n):
            x0, y0 = points[first + k, 0], points[first + k, 1]
            x1, y1 = points[first + (k + 1) % n, 0], points[first + (k + 1) % n, 1]
            cross = x0 * y1 - x1 * y0
            area += 0.5 * cross
            cx += (x0 + x1) * cross / 6
            cy += (y0 + y1) * cross / 6
            xx += (x0 * x0 + x0 * x1 + x1 * x1) * cross / 12
            yy += (y0 * y0 + y0 * y1 + y1 * y1) * cross / 12
            xy += (x0 * y1 + 2 * x0 * y0 + 2 * x1 * y1 + x1 * y0) * cross / 24
        if abs(area) < 1:
            continue
        cx, cy = cx / area, cy / area
        xx, yy, xy = xx / area - cx * cx, yy / area - cy * cy, xy / area - cx * cy
        half, apart = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
        features[i, 0] = abs(area)
        features[i, 1] = abs(area) / (4 * np.pi * np.sqrt(max(xx * yy - xy * xy, 1e-6)))
        features[i, 2] = np.sqrt(max(half - apart, 1e-6) / (half + apart))
        outward = 1.0 if area > 0 else -1.0
        steep = 0
        for k in range(n):
            before, after = first + (k - _DISTANCE_PX) % n, first + (k + _DISTANCE_PX) % n
            tx, ty = points[after, 0] - points[before, 0], points[after, 1] - points[before, 1]
            length = np.sqrt(tx * tx + ty * ty) + 1e-6
            x, y = int(points[first + k, 0]), int(points[first + k, 1])
            fall = -(across[y, x] * ty - down[y, x] * tx) / length * outward
            features[i, 3] += fall / n
            steep += fall > _STEEP
        features[i, 4] = steep / n


def ramp(values: Float64Array, low: float, high: float) -> Float64Array:
    """0 up to ``low``, 1 from ``high``, linear between."""
    scaled: Float64Array = np.clip((values - low) / (high - low), 0.0, 1.0)
    return scaled


@dataclass
class _Blob:
    """A node of the tree: its outline, the blobs of the next higher threshold inside it, and its quality."""

    outline: Int32Array
    inside: list[int]
    quality: float
    area: float
    taken: bool = False


def tree_objects(od: Float32Array, mpp: float) -> Int32Array:
    """(h, w) labels of blobs that look like nuclei in optical density (h, w, 3); better ones win where they overlap."""
    found: list[_Blob] = []
    for weights in _VIEWS:
        density = od @ np.array(weights, np.float32)
        for sigma in _SIGMAS_UM:
            found += _best_blobs(_blur(density, sigma / mpp), mpp)
    labels = np.zeros(od.shape[:2], np.int32)
    number = 0
    for blob in sorted(found, key=lambda blob: -blob.quality):
        if blob.quality < _LEAST_QUALITY:
            break
        number += _draw(labels, blob.outline, number + 1)
    return labels


def _draw(labels: Int32Array, outline: Int32Array, number: int) -> bool:
    """Fill an outline's free pixels with ``number``, unless too many of them are occupied."""
    low, high = outline.min(axis=0), outline.max(axis=0) + 1
    filled = np.zeros((high - low)[::-1], np.uint8)
    cv2.fillPoly(filled, [outline - low], 1)
    here = labels[low[1] : high[1], low[0] : high[0]]
    inside = filled > 0
    if (here[inside] > 0).sum() > _OVERLAP * inside.sum():
        return False
    here[inside & (here == 0)] = number
    return True


def _best_blobs(density: Float32Array, mpp: float) -> list[_Blob]:
    """The best set of blobs of one view that do not overlap, by dynamic programming over the tree."""
    blobs, roots = _component_tree(density, mpp)
    worth = np.zeros(len(blobs))
    for i, blob in enumerate(blobs):  # inner blobs come first
        below = sum(worth[j] for j in blob.inside)
        own = blob.quality * blob.area
        blob.taken = own > below
        worth[i] = max(own, below)
    chosen, open_nodes = [], list(roots)
    while open_nodes:
        blob = blobs[open_nodes.pop()]
        if blob.taken:
            chosen.append(blob)
        else:
            open_nodes += blob.inside
    return chosen


def _component_tree(density: Float32Array, mpp: float) -> tuple[list[_Blob], list[int]]:
    """Filled blobs of falling thresholds, and the indices of the outermost ones."""
    low, high = np.percentile(density, [5, 99.7])
    slopes = np.hypot(
        cv2.Sobel(density, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(density, cv2.CV_32F, 0, 1, scale=1 / 8)
    )
    steep = max(float(np.percentile(slopes, 92)), 1e-6)
    blobs: list[_Blob] = []
    roots: list[int] = []
    for level in np.linspace(high, low, _LEVELS):
        above = (density > level).astype(np.uint8)
        outlines = [c[:, 0] for c in cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]]
        outlines = [outline for outline in outlines if len(outline) >= _FEWEST_POINTS]
        if not outlines:
            continue
        shapes = outline_shapes(outlines, density)
        quality = _quality(shapes, steep, mpp)
        first = len(blobs)
        place = np.full(density.shape, -1, np.int32)
        for i, outline in enumerate(outlines):
            cv2.fillPoly(place, [outline], first + i)
            blobs.append(_Blob(outline, [], float(quality[i]), float(shapes.area[i])))
        outside: list[int] = []
        for root in roots:
            x, y = blobs[root].outline[0]
            parent = int(place[y, x])
            (outside if parent < 0 else blobs[parent].inside).append(root)
        roots = outside + list(range(first, len(blobs)))
    return blobs, roots


def _quality(shapes: Shapes, steep: float, mpp: float) -> Float64Array:
    """How much each outline looks like a nucleus, 0 to 1; ``steep``: a slope that is rare in the image."""
    fits = (shapes.area * mpp**2 >= AREA_UM2[0]) & (shapes.area * mpp**2 <= AREA_UM2[1])
    quality: Float64Array = (
        fits
        * np.minimum(shapes.slope / steep, 1.5).clip(0)
        / 1.5
        * ramp(shapes.ellipse, 0.8, 0.95)
        * ramp(shapes.closed, 0.5, 0.95)
        * ramp(shapes.roundness, 0.2, 0.5)
    )
    return quality


def trace_outlines(labels: Int32Array) -> list[Int32Array]:
    """The outer outline (K, 2) px (x, y) of each label 1…N, of its largest part; no points if it is missing."""
    outlines = []
    for number, (y, x, h, w) in enumerate(_label_boxes(labels), start=1):
        mask = (labels[y : y + h, x : x + w] == number).astype(np.uint8)
        parts = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(int(x), int(y)))[0]
        outlines.append(max(parts, key=len)[:, 0] if parts else np.zeros((0, 2), np.int32))
    return outlines


def _label_boxes(labels: Int32Array) -> Int64Array:
    """(N, 4) y, x, h, w of each label."""
    count = int(labels.max(initial=0))
    return label_sums(labels, count, np.zeros((1, *labels.shape), np.uint8)).boxes


def confidence(labels: Int32Array, probability: Float32Array, od: Float32Array, mpp: float) -> Float64Array:
    """(N,) in [0, 1]: confidence that each object found by a network is a nucleus, from the image itself. A nucleus is
    convex, close to an ellipse, and surrounded by paler tissue; the network's own mean probability (h, w) can only
    veto.
    """
    count = int(labels.max(initial=0))
    shapes = outline_shapes(trace_outlines(labels), border_density(od, mpp))
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    mean = np.bincount(labels.ravel(), probability.ravel(), count + 1)[1:] / np.maximum(area, 1)
    accepted: Float64Array = (
        ramp(shapes.solidity, 0.8, 0.95)
        * ramp(shapes.ellipse, 0.8, 0.95)
        * ramp(shapes.closed, 0.4, 0.9)
        * ramp(mean, 0.6, 0.9)
    )
    return accepted
