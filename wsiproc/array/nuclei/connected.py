"""Connected components from runs of pixels along rows; and proximity by bounding boxes.

A run covers many pixels, so all this is cheap compared to finding the runs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from wsiproc.core.geometry import Box
from wsiproc.core.types import BoolArray, IntArray


def objects_at(mask: BoolArray, inner: Box, px: int, rounds: int, within: int) -> None:
    """Clear the mask (h, w) except for whole, 8-connected objects that are ``related`` to a box."""
    runs, roots = _runs(mask.view(np.uint8), True)
    boxes, numbers = _boxes(runs, roots)
    _clear(mask, runs, related(boxes, inner, px, rounds, within)[numbers])


def related(boxes: IntArray, inner: Box, px: int, rounds: int, within: int = 0) -> BoolArray:
    """Which ``boxes`` (N, 4), (y, x, h, w), come within ``px`` of ``inner``; which of the others come within twice that
    of these; and so on for ``rounds``; finally, which come ``within`` px of any of them: (N,).
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.int64)
    around = inner.pad(px)
    met = (corners[:, :2] < (around.y1, around.x1)) & (corners[:, 2:] > (around.y, around.x))
    found = np.asarray(met.all(axis=1), np.bool_)
    deep = inner.pad(-max(2 * px, within))  # boxes inside it are near nothing that was not found in the first round
    outer = ~((corners[:, :2] >= (deep.y, deep.x)) & (corners[:, 2:] <= (deep.y1, deep.x1))).all(axis=1)
    for apart in [2 * px] * rounds + [within]:
        found |= _within_reach(corners, found, found & outer, apart)
    return found


@njit(cache=True, nogil=True)
def _within_reach(corners, found, some, px):  # type: ignore[no-untyped-def]
    """Which boxes (N, 4), (y, x, y1, x1), that are not ``found`` come within ``px`` of ``some``."""
    beside = np.zeros(len(corners), np.bool_)
    others = corners[some]
    for i in range(len(corners)):
        if found[i]:
            continue
        y, x, y1, x1 = corners[i, 0] - px, corners[i, 1] - px, corners[i, 2] + px, corners[i, 3] + px
        for k in range(len(others)):
            if y < others[k, 2] and others[k, 0] < y1 and x < others[k, 3] and others[k, 1] < x1:
                beside[i] = True
                break
    return beside


@njit(cache=True, nogil=True)
def _runs(labels, diagonal):  # type: ignore[no-untyped-def]
    """Runs of one label along rows in raster order: (N, 3) (y, x, x1) int32; and (N,) the first run that each is
    connected to, also diagonally if ``diagonal``.
    """
    h, w = labels.shape
    count = 0
    for y in range(h):
        for x in range(w):
            count += labels[y, x] != 0 and (x == 0 or labels[y, x - 1] != labels[y, x])
    runs, roots = np.empty((count, 3), np.int32), np.arange(count)
    apart = 0 if diagonal else 1
    n, above = 0, 0
    for y in range(h):
        first, x = n, 0
        while x < w:
            label, start = labels[y, x], x
            while x < w and labels[y, x] == label:
                x += 1
            if label == 0:
                continue
            runs[n, 0], runs[n, 1], runs[n, 2] = y, start, x
            while above < first and runs[above, 2] < start + apart:
                above += 1
            k = above
            while k < first and runs[k, 1] <= x - apart:
                if labels[y - 1, runs[k, 1]] == label:
                    _unite(roots, n, k)
                k += 1
            n += 1
        above = first
    for i in range(n):
        roots[i] = roots[roots[i]]  # already done, since no root comes later
    return runs, roots


@njit(cache=True, nogil=True)
def _unite(roots, i, k):  # type: ignore[no-untyped-def]
    """Give two runs, and all that they are connected to, the smaller root of both."""
    while roots[i] != i:
        roots[i] = roots[roots[i]]
        i = roots[i]
    while roots[k] != k:
        roots[k] = roots[roots[k]]
        k = roots[k]
    roots[max(i, k)] = min(i, k)


@njit(cache=True, nogil=True)
def _boxes(runs, roots):  # type: ignore[no-untyped-def]
    """Boxes (N, 4), (y, x, h, w), of connected components, and the component, from 0, of each run."""
    numbers = np.empty(len(runs), np.int64)
    corners = np.empty((len(runs), 4), np.int64)
    count = 0
    for i in range(len(runs)):
        y, x, x1 = np.int64(runs[i, 0]), np.int64(runs[i, 1]), np.int64(runs[i, 2])
        if roots[i] == i:
            numbers[i] = count
            corners[count] = (y, x, y + 1, x1)
            count += 1
            continue
        k = numbers[roots[i]]
        numbers[i] = k
        corners[k] = (corners[k, 0], min(corners[k, 1], x), y + 1, max(corners[k, 3], x1))
    boxes = corners[:count].copy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes, numbers


@njit(cache=True, nogil=True)
def _clear(mask, runs, kept):  # type: ignore[no-untyped-def]
    """Remove the runs that are not ``kept`` (N,) from the mask."""
    for i in range(len(runs)):
        if not kept[i]:
            mask[runs[i, 0], runs[i, 1] : runs[i, 2]] = False


@njit(cache=True, nogil=True)
def seeded_parts(labels, seeds, n):  # type: ignore[no-untyped-def]
    """The 4-connected part of each label, of ``n``, around its seed (h, w); areas (n,) and bounding boxes (n, 4), the
    last row and column included; which have holes (n,).
    """
    h, w = labels.shape
    runs, roots = _runs(labels, False)
    kept, chosen = np.zeros((h, w), np.int32), np.zeros(len(runs), np.bool_)
    areas, boxes = np.zeros(n, np.int64), np.empty((n, 4), np.int64)
    for p in seeds:
        chosen[roots[_run_at(runs, p // w, p % w)]] = True
    for i in range(len(runs)):
        chosen[i] = chosen[roots[i]]  # no root comes later
        if not chosen[i]:
            continue
        y, x, x1 = np.int64(runs[i, 0]), np.int64(runs[i, 1]), np.int64(runs[i, 2])
        label = labels[y, x]
        kept[y, x:x1] = label
        if areas[label] == 0:
            boxes[label] = (y, x, y, x1 - 1)
        areas[label] += x1 - x
        boxes[label, 1], boxes[label, 2] = min(boxes[label, 1], x), y
        boxes[label, 3] = max(boxes[label, 3], x1 - 1)
    return kept, areas, boxes, _holed(kept, runs[chosen], n)


@njit(cache=True, nogil=True)
def _holed(labels, runs, n):  # type: ignore[no-untyped-def]
    """Which of ``n`` labels have a hole, that is, enclosed 4-connected background; ``runs``: the runs of all.

    By the Euler number: runs minus pairs of runs that touch in adjacent rows, also diagonally, equals connected parts,
    here one per label, minus holes.
    """
    euler = np.zeros(n, np.int64)
    above, first = 0, 0  # of the previous row, of this one
    for i in range(len(runs)):
        y, x, x1 = runs[i, 0], runs[i, 1], runs[i, 2]
        if runs[first, 0] < y:
            first, above = i, first if runs[i - 1, 0] == y - 1 else i
        while above < first and runs[above, 2] < x:
            above += 1
        label = labels[y, x]
        euler[label] += 1
        k = above
        while k < first and runs[k, 1] <= x1:
            euler[label] -= labels[y - 1, runs[k, 1]] == label
            k += 1
    return euler != 1


@njit(cache=True, nogil=True)
def _run_at(runs, y, x):  # type: ignore[no-untyped-def]
    """The last run, in raster order, that begins at or before a pixel."""
    low, high = 0, len(runs)
    while high - low > 1:
        middle = (low + high) // 2
        if runs[middle, 0] < y or (runs[middle, 0] == y and runs[middle, 1] <= x):
            low = middle
        else:
            high = middle
    return low
