"""Splitting a mask of touching nuclei into single ones, by a rule that is strictly local.

The usual seeded watershed floods from a global queue: distant pixels decide ties, and two crops of one slide may
disagree. Here each pixel climbs the smoothed distance to the background, one neighbour at a time, to a peak; a peak
joins a higher one nearby when the straight ridge between them hardly dips. Every decision looks at a bounded
neighbourhood and ties are broken by position, so any crop that contains a nucleus and ``SplitRule.margin`` px around it
gives the same pixels. A pixel further than ``reach`` from its peak belongs to no nucleus, which bounds the largest one;
such pixels are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from wsiproc.array.nuclei.connected import seeded_parts
from wsiproc.core.geometry import Box
from wsiproc.core.types import BoolArray, Int32Array, Int64Array, UInt8Array, UInt16Array

# Distances are kept as integers, so that smoothing is exact for every crop.
_STEPS_PER_PX = 64


@dataclass(frozen=True)
class SplitRule:
    """How touching nuclei are separated; lengths in px of the maps.

    ``reach``: largest distance of a pixel from its nucleus' peak; ``merge``: peaks closer than this may be one
    nucleus; ``saddle``: they are when the ridge between them keeps this share of the lower peak's height;
    ``smooth``: sigma of the Gaussian on the distance map; ``min_area``: smaller objects are dropped.
    """

    reach: int
    merge: int
    saddle: float
    smooth: float
    min_area: int

    @property
    def margin(self) -> int:
        """Pixels around a region that its nuclei can depend on.

        A nucleus whose centre lies in the region has its peak within ``reach`` and its pixels, and those that
        enclose them, within three; each of these climbs over at most ``reach``, looking ``merge`` and the
        smoothing further; distances are capped at ``reach``.
        """
        return 5 * self.reach + self.merge + self.smooth_radius + 1

    @property
    def smooth_radius(self) -> int:
        """Radius of the Gaussian kernel on the distance map."""
        return int(np.ceil(2.5 * self.smooth))


@dataclass(frozen=True)
class ClumpSplit:
    """Result of a split: ``labels`` (h, w) int32, 1…``count``, each 4-connected and without holes; ``clipped`` mask of
    foreground beyond the reach of every peak; ``small`` (K, 2) centres (y, x) of objects dropped as small.
    """

    labels: Int32Array
    count: int
    clipped: BoolArray
    small: Int32Array


def split_clumps(mask: BoolArray, rule: SplitRule, interior: UInt8Array | None = None) -> ClumpSplit:
    """Single nuclei in ``mask`` (h, w).

    The peaks of the smoothed distance transform are the seeds; see the module docstring for the rule. ``interior``
    (h, w), 255 well inside a nucleus and 0 at its border, lowers the distance where it is low.
    """
    height = _height(mask, rule, interior)
    parent, peaks = _climb(mask, height)
    _join_peaks(height, parent, peaks, rule.merge, rule.saddle)
    labels, clipped = _follow(mask, parent, peaks, rule.reach)
    kept, count, small, _ = _clean(labels, peaks, rule.min_area)
    return ClumpSplit(kept, count, clipped, small)


def clean_labels(labels: Int32Array, seeds: Int32Array, min_area: int) -> tuple[Int32Array, Int64Array]:
    """Each label's 4-connected part around its seed, with holes filled; those under ``min_area`` px are dropped.

    ``seeds``: (N,) flat index of a pixel of labels 1…N, negative for none. Returns relabelled (h, w) 1…M, and the
    original index (M,) of each.
    """
    kept, _, _, number = _clean(labels, seeds, min_area)
    source = np.flatnonzero(number)
    return kept, source[np.argsort(number[source])] - 1


def fill_small_holes(mask: BoolArray, area: int, side: int) -> BoolArray:
    """The mask (h, w) with holes filled that have at most ``area`` px and fit into a square of ``side`` px.

    A hole is 4-connected background. The bound on its sides makes the decision local: within ``side`` px.
    """
    filled = mask.copy()
    first = ~mask  # of each hole: with foreground above and to the left
    first[1:] &= mask[:-1]
    first[:, 1:] &= mask[:, :-1]
    _fill_holes(filled, np.flatnonzero(first), area, side)
    return filled


@njit(cache=True, nogil=True)
def _fill_holes(mask, places, area, side):  # type: ignore[no-untyped-def]
    """Fill the small holes of ``mask`` in place, each from one of ``places`` (N,), flat indices."""
    w = mask.shape[1]
    pixels = np.empty((area + 1, 2), np.int64)
    for p in places:
        y, x = p // w, p % w
        # Most such pixels are next to a nucleus, where the background continues far.
        if mask[y, x] or _run(mask, y, x, 0, 1, side) > side or _run(mask, y, x, 1, 0, side) > side:
            continue
        _fill_hole(mask, y, x, area, side, pixels)


@njit(cache=True, nogil=True)
def _run(mask, y, x, dy, dx, most):  # type: ignore[no-untyped-def]
    """Number of background pixels from a pixel in one direction, counted up to ``most`` + 1."""
    n = 0
    while n <= most and y < mask.shape[0] and x < mask.shape[1] and not mask[y, x]:
        y, x, n = y + dy, x + dx, n + 1
    return n


@njit(cache=True, nogil=True)
def _fill_hole(mask, y, x, area, side, pixels):  # type: ignore[no-untyped-def]
    """Fill the background around a pixel, unless it has more than ``area`` pixels or is wider than ``side``."""
    h, w = mask.shape
    y_low, x_low, y_high, x_high = y, x, y, x
    pixels[0, 0], pixels[0, 1] = y, x
    mask[y, x] = True
    size, looked_at, small = 1, 0, area > 0
    while small and looked_at < size:
        cy, cx = pixels[looked_at, 0], pixels[looked_at, 1]
        looked_at += 1
        for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            ny, nx = cy + dy, cx + dx
            if ny < 0 or nx < 0 or ny >= h or nx >= w or mask[ny, nx]:
                continue
            y_low, y_high, x_low, x_high = min(y_low, ny), max(y_high, ny), min(x_low, nx), max(x_high, nx)
            small = small and size < area and y_high - y_low < side and x_high - x_low < side
            if not small:
                break
            mask[ny, nx] = True
            pixels[size, 0], pixels[size, 1] = ny, nx
            size += 1
    if not small:
        for i in range(size):
            mask[pixels[i, 0], pixels[i, 1]] = False


def content(mask: BoolArray, pad: int) -> Box:
    """The bounding box of the mask (h, w), padded by ``pad`` px within the image. For an empty mask, that of its first
    pixel.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inner = Box(0, 0, 1, 1)
    if len(rows):
        inner = Box(int(rows[0]), int(cols[0]), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
    return inner.pad(pad).clip((mask.shape[0], mask.shape[1]))


def open_disc(mask: BoolArray, radius: float) -> BoolArray:
    """The mask without parts into which no disc of ``radius`` px fits; local within twice the radius."""
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (y**2 + x**2 <= radius**2).astype(np.uint8)
    opened: BoolArray = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, disc).view(np.bool_)
    return opened


def _height(mask: BoolArray, rule: SplitRule, interior: UInt8Array | None) -> UInt16Array:
    """Distance to the background, capped and smoothed, in integer steps: (h, w) uint16, 0 outside the mask."""
    steps: UInt16Array = _steps(mask, _to_background(mask, rule.reach + 1), rule.reach, interior)
    if rule.smooth > 0:
        side = 2 * rule.smooth_radius + 1
        cv2.GaussianBlur(steps, (side, side), rule.smooth, dst=steps)
        np.multiply(steps, mask.view(np.uint8), out=steps)
    return steps


@njit(cache=True, nogil=True)
def _to_background(mask, most):  # type: ignore[no-untyped-def]
    """Pixels up or down to the nearest background of each column, at most ``most``: (h, w) uint16."""
    h, w = mask.shape
    apart = np.zeros((h, w), np.uint16)
    for y in range(h):
        for x in range(w):
            if mask[y, x]:
                apart[y, x] = min(apart[y - 1, x] + 1, most) if y > 0 else most
    for y in range(h - 2, -1, -1):
        for x in range(w):
            if mask[y, x]:
                apart[y, x] = min(apart[y, x], apart[y + 1, x] + 1)
    return apart


@njit(cache=True, nogil=True)
def _steps(mask, apart, reach, interior):  # type: ignore[no-untyped-def]
    """The distance to the background, at most ``reach`` px, in integer steps (h, w) uint16, 0 outside the mask.

    ``apart``: the same along columns. Lower where ``interior`` is, if given.
    """
    h, w = mask.shape
    steps = np.zeros((h, w), np.uint16)
    for y in range(h):
        for x in range(w):
            if not mask[y, x]:
                continue
            nearest = min(np.int64(apart[y, x]) ** 2, reach * reach)
            k = 1
            while k * k < nearest:  # nothing further along the row can be nearer
                if x >= k:
                    nearest = min(nearest, k * k + np.int64(apart[y, x - k]) ** 2)
                if x + k < w:
                    nearest = min(nearest, k * k + np.int64(apart[y, x + k]) ** 2)
                k += 1
            height = np.uint32(np.rint(np.sqrt(np.float32(nearest)) * np.float32(_STEPS_PER_PX)))
            if interior is not None:
                # Down to a fifth, never to zero: a plateau of zeros could not be climbed. In integers, so exact.
                height = height * (64 + np.uint32(interior[y, x])) // (64 + 255)
            steps[y, x] = height
    return steps


@njit(cache=True, nogil=True)
def _climb(mask, height):  # type: ignore[no-untyped-def]
    """Each pixel's best neighbour as a flat index (itself at a peak), and the peaks in raster order.

    Higher wins, then the smaller position. A diagonal step needs an adjacent foreground pixel, so that nuclei that
    touch at a corner stay separate.
    """
    h, w = mask.shape
    parent = np.full(h * w, -1, np.int32)
    peaks = []
    for y in range(h):
        for x in range(w):
            if not mask[y, x]:
                continue
            best_y, best_x, best = y, x, height[y, x]
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    ny, nx = y + dy, x + dx
                    if ny < 0 or nx < 0 or ny >= h or nx >= w or not mask[ny, nx]:
                        continue
                    if dy != 0 and dx != 0 and not (mask[y, nx] or mask[ny, x]):
                        continue
                    value = height[ny, nx]
                    if value > best or (value == best and (ny < best_y or (ny == best_y and nx < best_x))):
                        best_y, best_x, best = ny, nx, value
            parent[y * w + x] = best_y * w + best_x
            if best_y == y and best_x == x:
                peaks.append(y * w + x)
    return parent, np.array(peaks, np.int32)


@njit(cache=True, nogil=True)
def _ridge(height, y0, x0, y1, x1):  # type: ignore[no-untyped-def]
    """Lowest height on the straight line between two pixels, stepped so that both directions see the same pixels."""
    if y1 < y0 or (y1 == y0 and x1 < x0):
        y0, x0, y1, x1 = y1, x1, y0, x0
    steps = max(abs(y1 - y0), abs(x1 - x0))
    lowest = min(height[y0, x0], height[y1, x1])
    for i in range(1, steps):
        # Rounded division of integers: exact and the same for every origin.
        y = y0 + (2 * i * (y1 - y0) + steps) // (2 * steps)
        x = x0 + (2 * i * (x1 - x0) + steps) // (2 * steps)
        lowest = min(lowest, height[y, x])
    return lowest


@njit(cache=True, nogil=True)
def _join_peaks(height, parent, peaks, merge, saddle):  # type: ignore[no-untyped-def]
    """Point each peak at the nearest higher one within ``merge`` px whose ridge keeps ``saddle`` of its height."""
    h, w = height.shape
    is_peak = np.zeros(h * w, np.bool_)
    is_peak[peaks] = True
    for p in peaks:
        y, x = p // w, p % w
        nearest = merge * merge + 1
        for ny in range(max(0, y - merge), min(h, y + merge + 1)):
            for nx in range(max(0, x - merge), min(w, x + merge + 1)):
                q = ny * w + nx
                if not is_peak[q] or q == p:
                    continue
                if height[ny, nx] < height[y, x] or (height[ny, nx] == height[y, x] and q > p):
                    continue
                apart = (ny - y) ** 2 + (nx - x) ** 2
                if apart >= nearest:
                    continue
                ridge = _ridge(height, y, x, ny, nx)
                if ridge > 0 and ridge >= saddle * height[y, x]:  # never across the background, where it is 0
                    nearest = apart
                    parent[p] = q


@njit(cache=True, nogil=True)
def _follow(mask, parent, peaks, reach):  # type: ignore[no-untyped-def]
    """Label of the peak that each pixel climbs to; none if the path leads further than ``reach`` px."""
    h, w = mask.shape
    labels = np.zeros((h, w), np.int32)
    clipped = np.zeros((h, w), np.bool_)
    for i in range(len(peaks)):
        labels[peaks[i] // w, peaks[i] % w] = i + 1
    for y in range(h):
        for x in range(w):
            if not mask[y, x]:
                continue
            p = y * w + x
            if parent[p] == p:
                continue
            inside = True
            while parent[p] != p:
                p = parent[p]
                dy, dx = p // w - y, p % w - x
                if dy * dy + dx * dx > reach * reach:
                    inside = False
                    break
            if inside:
                labels[y, x] = labels[p // w, p % w]
            else:
                clipped[y, x] = True
    return labels, clipped


@njit(cache=True, nogil=True)
def _outside(kept, label, box, reached, stack):  # type: ignore[no-untyped-def]
    """Mark in ``reached`` what is 4-connected to the outside of a label within its box padded by one pixel."""
    y0, x0 = box[0] - 1, box[1] - 1
    bh, bw = box[2] - box[0] + 3, box[3] - box[1] + 3
    reached[: bh * bw] = False
    reached[0] = True
    stack[0] = 0
    top = 1
    while top > 0:
        top -= 1
        y, x = stack[top] // bw, stack[top] % bw
        for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            ny, nx = y + dy, x + dx
            if ny < 0 or nx < 0 or ny >= bh or nx >= bw or reached[ny * bw + nx]:
                continue
            edge = ny == 0 or nx == 0 or ny == bh - 1 or nx == bw - 1
            if edge or kept[y0 + ny, x0 + nx] != label:
                reached[ny * bw + nx] = True
                stack[top] = ny * bw + nx
                top += 1


@njit(cache=True, nogil=True)
def _clean(labels, peaks, min_area):  # type: ignore[no-untyped-def]
    """Each label's part around its peak, its holes filled, without small ones: labels 1…count, count, small ones, and
    the new number of each label. A nucleus entirely inside a hole of another becomes part of it. Small objects are
    found after that.
    """
    w = labels.shape[1]
    seeds = np.array(
        [p for p in peaks if labels[p // w, p % w] > 0 and peaks[labels[p // w, p % w] - 1] == p], np.int32
    )
    n = len(peaks) + 1
    kept, areas, boxes, holed = seeded_parts(labels, seeds, n)
    largest = 0
    for p in seeds:
        y0, x0, y1, x1 = boxes[labels[p // w, p % w]]
        largest = max(largest, (y1 - y0 + 3) * (x1 - x0 + 3))
    stack = np.empty(largest, np.int32)
    absorbed = np.zeros(n, np.bool_)
    reached = np.empty(max(1, largest), np.bool_)
    for fill in (False, True):
        for p in seeds:
            label = labels[p // w, p % w]
            box = boxes[label]
            if absorbed[label] or not holed[label]:
                continue
            holed[label] = False
            _outside(kept, label, box, reached, stack)
            bw = box[3] - box[1] + 3
            for y in range(box[0], box[2] + 1):
                for x in range(box[1], box[3] + 1):
                    if kept[y, x] != label and not reached[(y - box[0] + 1) * bw + x - box[1] + 1]:
                        holed[label] = True
                        if fill:  # holes of labels that are not absorbed are disjoint
                            kept[y, x] = label
                            areas[label] += 1
                        elif kept[y, x] > 0:
                            absorbed[kept[y, x]] = True
    count, dropped, number = _number(kept, labels.ravel()[seeds], absorbed, areas, boxes, min_area)
    return kept, count, dropped, number


@njit(cache=True, nogil=True)
def _number(kept, own, absorbed, areas, boxes, min_area):  # type: ignore[no-untyped-def]
    """Renumber ``kept`` in place: 1…count in the order of ``own``, without absorbed and small labels.

    Count, the centres of the small ones, and the new number of each label (0: none).
    """
    number = np.zeros(len(areas), np.int32)
    small = []
    count = 0
    for label in own:
        if absorbed[label]:
            continue
        if areas[label] < min_area:
            box = boxes[label]
            small.append(((box[0] + box[2]) // 2, (box[1] + box[3]) // 2))
        else:
            count += 1
            number[label] = count
    for y in range(kept.shape[0]):
        for x in range(kept.shape[1]):
            if kept[y, x] > 0:
                kept[y, x] = number[kept[y, x]]
    dropped = np.empty((len(small), 2), np.int32)
    for i in range(len(small)):
        dropped[i, 0] = small[i][0]
        dropped[i, 1] = small[i][1]
    return count, dropped, number
