"""Outlines moved to where the stain drops most steeply, by a rule that is strictly local and exact.

Rays start at the centre of each object, as in star-convex models (Schmidt et al., MICCAI 2018). Along each ray the
optical density drops where the nucleus ends; a closed path of one radius per ray is found that follows the steepest
drop, stays near the given outline, and does not jump from ray to ray: dynamic programming, as for active contours
(Amini et al., PAMI 1990). Everything is integer arithmetic on offsets from the centre, so every crop of a slide that
contains an object and ``ContourRule.margin`` px around it gives the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import cv2
import numpy as np
from numba import njit

from wsiproc.array.nuclei.connected import related
from wsiproc.array.nuclei.instances import clean_labels
from wsiproc.array.nuclei.measure import label_sums
from wsiproc.core.geometry import Box
from wsiproc.core.types import Float64Array, Int8Array, Int32Array, Int64Array, UInt8Array

RAYS = 32
_SUB = 64  # subdivisions of a pixel for offsets
_PER_OD = 100 * 64
"""Units of the searched density: steps of 0.01 optical density, 64 for each."""


@dataclass(frozen=True)
class ContourRule:
    """How far an outline may move, in px. Costs are in optical density.

    ``inwards``, ``outwards``: how far each ray may move; ``across``: half the distance over which the drop is measured;
    ``stay``: cost of moving, times the square of the px moved; ``bend``: cost of each px between neighbouring rays;
    ``reach``: longest ray; ``steep``: drop from which a ray counts as ending at a border.
    """

    reach: int
    inwards: int = 6
    outwards: int = 5
    across: float = 1.5
    stay: float = 0.006
    bend: float = 0.01
    steep: float = 0.03

    @property
    def margin(self) -> int:
        """Px around an object that its new outline can depend on: whole neighbours that claim the same pixels."""
        return 2 * (self.reach + self.outwards + 2) + _SMOOTH // 2

    @property
    def beyond(self) -> int:
        """Px by which an outline may extend beyond its object, with one for rounding."""
        return self.outwards + 2

    @property
    def context_px(self) -> int:
        """Px beyond an object whose density determines its outline."""
        return self.beyond + ceil(self.across) + _SMOOTH // 2 + 1


@dataclass(frozen=True)
class Contours:
    """Result: ``labels`` (h, w) int32, 1…N, each 4-connected and without holes; ``source`` (N,) index of the object
    that each was; ``closed`` (N,) share of the outline with a drop, in [0, 1]; ``fall`` (N,) mean drop in optical
    density across it.
    """

    labels: Int32Array
    source: Int64Array
    closed: Float64Array
    fall: Float64Array


_SMOOTH = 5  # px, side of the Gaussian (sigma 1) on the density


def searched(planes: UInt8Array, shares: tuple[int, ...]) -> UInt8Array:
    """(h, w) sum of ``planes`` (c, h, w), as many as there are shares, weighted by shares in 64ths; at most 255."""
    return _searched(planes, np.array(shares, np.int32))  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def _searched(planes, shares):  # type: ignore[no-untyped-def]
    h, w = planes.shape[1:]
    found = np.empty((h, w), np.uint8)
    totals = np.empty(w, np.int32)
    for y in range(h):
        totals[:] = 0
        for k in range(len(shares)):
            if shares[k] != 0:
                for x in range(w):
                    totals[x] += shares[k] * planes[k, y, x]
        for x in range(w):
            found[y, x] = min(max(totals[x] >> 6, 0), 255)
    return found


def refine(
    labels: Int32Array, density: UInt8Array, rule: ContourRule, min_area: int, inner: Box | None = None
) -> Contours:
    """Objects 1…N of ``labels`` (h, w) with their outlines moved; those then under ``min_area`` px are dropped.

    ``density``: (h, w) density to search, in steps of 0.01 optical density. Objects that do not contain their own
    centre keep their outline. ``inner``: objects that cannot affect those centred in it are left out; these depend on
    objects that claim the same px, which may have lost some to a third.
    """
    count = int(labels.max(initial=0))
    sums = label_sums(labels, count, np.zeros((1, *labels.shape), np.uint8))
    middles = sums.boxes[:, :2] + (2 * sums.first + sums.areas[:, None]) // (2 * np.maximum(sums.areas[:, None], 1))
    wanted = np.ones(count, np.bool_) if inner is None else related(sums.boxes, inner, rule.beyond, 2)
    smooth = cv2.GaussianBlur(np.left_shift(density, 6, dtype=np.uint16), (_SMOOTH, _SMOOTH), 1.0)
    offsets, sector = _rays(rule.reach + rule.outwards + 2)
    numbers = np.array(
        [rule.inwards, rule.outwards, round(2 * rule.across), round(rule.stay * _PER_OD), round(rule.bend * _PER_OD),
         round(rule.steep * _PER_OD)], np.int64
    )  # fmt: skip
    radii, falls, closed = _fit(labels, wanted, smooth, middles, offsets, numbers)
    drawn, seeds = _fill(labels, wanted, middles, radii, offsets, sector, sums.boxes)
    kept, source = clean_labels(drawn, seeds, min_area)
    return Contours(kept, source, closed[source] / RAYS, falls[source] / (RAYS * _PER_OD))


@lru_cache(maxsize=8)
def _rays(reach: int) -> tuple[Int32Array, Int8Array]:
    """(RAYS, 2·reach + 1, 2) offsets (y, x) in ``_SUB`` of a pixel for each half px of radius, and the sector, between
    adjacent rays, of each pixel around the centre (2·reach + 1, 2·reach + 1).
    """
    angles = 2 * np.pi * np.arange(RAYS) / RAYS
    radii = np.arange(2 * reach + 1) * (_SUB / 2)
    offsets = np.rint(radii[None, :, None] * np.stack([np.sin(angles), np.cos(angles)], -1)[:, None]).astype(np.int32)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    turns = np.arctan2(y, x) / (2 * np.pi) % 1.0
    return offsets, (np.floor(turns * RAYS + 1e-9).astype(np.int64) % RAYS).astype(np.int8)


@njit(cache=True, nogil=True)
def _sample(density, y, x):  # type: ignore[no-untyped-def]
    """Bilinear value at (y, x), in 1/64 px from the first pixel's centre; beyond the edge the nearest pixel's."""
    h, w = density.shape
    y0, x0 = y >> 6, x >> 6
    fy, fx = np.int64(y & 63), np.int64(x & 63)
    ya, yb = min(max(y0, 0), h - 1), min(max(y0 + 1, 0), h - 1)
    xa, xb = min(max(x0, 0), w - 1), min(max(x0 + 1, 0), w - 1)
    above = np.int64(density[ya, xa]) * (64 - fx) + np.int64(density[ya, xb]) * fx
    below = np.int64(density[yb, xa]) * (64 - fx) + np.int64(density[yb, xb]) * fx
    return (above * (64 - fy) + below * fy) >> 12


@njit(cache=True, nogil=True)
def _exits(labels, number, cy, cx, offsets, exits):  # type: ignore[no-untyped-def]
    """The last half px of each ray inside the object, allowing gaps of up to 2 px."""
    h, w = labels.shape
    for k in range(offsets.shape[0]):
        last = 0
        for s in range(offsets.shape[1]):
            y, x = cy + ((offsets[k, s, 0] + 32) >> 6), cx + ((offsets[k, s, 1] + 32) >> 6)
            if y < 0 or x < 0 or y >= h or x >= w or s - last > 4:
                break
            if labels[y, x] == number:
                last = s
        exits[k] = last


@njit(cache=True, nogil=True)
def _costs(labels, density, number, cy, cx, offsets, exits, numbers, costs, falls):  # type: ignore[no-untyped-def]
    """Cost and drop for each possible radius of each ray."""
    h, w = labels.shape
    inwards, outwards, across, stay = numbers[0], numbers[1], numbers[2], numbers[3]
    longest = offsets.shape[1] - 1
    for k in range(offsets.shape[0]):
        for j in range(inwards + outwards + 1):
            moved = j - inwards
            s = exits[k] + 2 * moved
            if s < 3 or s + across > longest:
                costs[k, j], falls[k, j] = 1 << 40, 0
                continue
            inside, outside = max(s - across, 0), s + across
            fall = _sample(density, (cy << 6) + offsets[k, inside, 0], (cx << 6) + offsets[k, inside, 1]) - _sample(
                density, (cy << 6) + offsets[k, outside, 0], (cx << 6) + offsets[k, outside, 1]
            )
            falls[k, j] = fall
            costs[k, j] = stay * moved * moved - fall
            if moved > 0:
                y, x = cy + ((offsets[k, s, 0] + 32) >> 6), cx + ((offsets[k, s, 1] + 32) >> 6)
                if 0 <= y < h and 0 <= x < w and labels[y, x] != number and labels[y, x] > 0:
                    costs[k, j] = 1 << 40


@njit(cache=True, nogil=True)
def _closed_path(costs, bend, back, chosen):  # type: ignore[no-untyped-def]
    """The cheapest radius of each ray, at most one px apart between neighbours; the middle one of several turns."""
    rays, steps = costs.shape
    total, turn = np.empty(steps, np.int64), np.empty(steps, np.int64)
    total[:] = costs[0]
    for t in range(1, 2 * rays):
        for j in range(steps):
            best, which = total[j], j
            if j > 0 and total[j - 1] + bend < best:
                best, which = total[j - 1] + bend, j - 1
            if j < steps - 1 and total[j + 1] + bend < best:
                best, which = total[j + 1] + bend, j + 1
            turn[j] = best + costs[t % rays, j]
            back[t, j] = which
        total[:] = turn
    j = 0
    for i in range(1, steps):
        if total[i] < total[j]:
            j = i
    for t in range(2 * rays - 1, rays // 2 - 1, -1):
        if t < rays // 2 + rays:
            chosen[t % rays] = j
        j = back[t, j]


@njit(cache=True, nogil=True)
def _fit(labels, wanted, density, middles, offsets, numbers):  # type: ignore[no-untyped-def]
    """Radius (N, RAYS) in half px, 0 for objects that keep their outline or are not ``wanted`` (N,); sum of the drops
    and number of steep rays (N,).
    """
    n, rays = len(middles), offsets.shape[0]
    steps = numbers[0] + numbers[1] + 1
    radii, total, steep = np.zeros((n, rays), np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    exits, chosen = np.zeros(rays, np.int64), np.zeros(rays, np.int64)
    costs, falls = np.zeros((rays, steps), np.int64), np.zeros((rays, steps), np.int64)
    back = np.zeros((2 * rays, steps), np.int64)
    for i in range(n):
        cy, cx = middles[i, 0], middles[i, 1]
        if not wanted[i] or labels[cy, cx] != i + 1:
            continue
        _exits(labels, i + 1, cy, cx, offsets, exits)
        _costs(labels, density, i + 1, cy, cx, offsets, exits, numbers, costs, falls)
        _closed_path(costs, numbers[4], back, chosen)
        for k in range(rays):
            radii[i, k] = max(exits[k] + 2 * (chosen[k] - numbers[0]), 2)
            total[i] += falls[k, chosen[k]]
            steep[i] += falls[k, chosen[k]] > numbers[5]
    return radii, total, steep


@njit(cache=True, nogil=True)
def _fill(labels, wanted, middles, radii, offsets, sector, boxes):  # type: ignore[no-untyped-def]
    """The new outlines of ``wanted`` objects, filled, and a pixel inside each (flat index, −1 if there is none). No
    object takes pixels of another; free ones claimed by two go to the nearer centre.
    """
    h, w = labels.shape
    reach = sector.shape[0] // 2
    drawn = np.zeros((h, w), np.int32)
    seeds = np.full(len(middles), -1, np.int32)
    for i in range(len(middles)):
        cy, cx = middles[i, 0], middles[i, 1]
        if not wanted[i]:
            continue
        if radii[i, 0] == 0:
            for y in range(boxes[i, 0], boxes[i, 0] + boxes[i, 2]):
                for x in range(boxes[i, 1], boxes[i, 1] + boxes[i, 3]):
                    if labels[y, x] == i + 1:
                        drawn[y, x] = i + 1
                        if seeds[i] < 0:
                            seeds[i] = y * w + x
            continue
        seeds[i] = cy * w + cx
        far = min(int(radii[i].max()) // 2 + 1, reach)
        for y in range(max(cy - far, 0), min(cy + far + 1, h)):
            for x in range(max(cx - far, 0), min(cx + far + 1, w)):
                own = labels[y, x]
                if own != 0 and own != i + 1:
                    continue
                k = sector[y - cy + reach, x - cx + reach]
                n = (k + 1) % radii.shape[1]
                ay, ax = offsets[k, radii[i, k], 0], offsets[k, radii[i, k], 1]
                by, bx = offsets[n, radii[i, n], 0], offsets[n, radii[i, n], 1]
                py, px = (y - cy) << 6, (x - cx) << 6
                if np.int64(bx - ax) * (py - ay) - np.int64(by - ay) * (px - ax) < 0:
                    continue
                other = drawn[y, x]
                if other > 0 and own != i + 1:
                    oy, ox = y - middles[other - 1, 0], x - middles[other - 1, 1]
                    mine, theirs = (y - cy) ** 2 + (x - cx) ** 2, oy * oy + ox * ox
                    if theirs < mine or (theirs == mine and other < i + 1):
                        continue
                drawn[y, x] = i + 1
    return drawn, seeds
