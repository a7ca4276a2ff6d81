"""Stain around nuclei: in a ring around each, from integer sums only, so that results are identical for every crop."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from wsiproc.array.nuclei.measure import LabelSums
from wsiproc.core.types import Float64Array, Int32Array, Int64Array, UInt8Array

RING_UM = 2.0
"""Width of the ring around the nucleus."""
SECTORS = 12
_NUCLEUS = 128  # of 255; a pixel with at least this probability of a nucleus belongs to no ring


@dataclass(frozen=True)
class RingSums:
    """Integer sums over the rings of labels 1…N, in sectors around each label's centre.

    ``counts``: (N, 12) px; ``values``: (N, 12) sums of the stain.
    """

    counts: Int64Array
    values: Int64Array

    def means(self) -> Float64Array:
        """Mean of the stain over each ring (N,); NaN if a nucleus has no room for one."""
        counts = self.counts.sum(axis=1)
        mean: Float64Array = np.where(counts > 0, self.values.sum(axis=1) / np.maximum(counts, 1), np.nan)
        return mean

    def completeness(self, above: float) -> Float64Array:
        """Share of the sectors with pixels whose mean is higher than ``above``: (N,); NaN without a ring."""
        there = (self.counts > 0).sum(axis=1)
        stained = ((self.values > above * self.counts) & (self.counts > 0)).sum(axis=1)
        share: Float64Array = np.where(there > 0, stained / np.maximum(there, 1), np.nan)
        return share


def ring_sums(
    labels: Int32Array,
    sums: LabelSums,
    corner: tuple[int, int],
    nucleus: UInt8Array,
    stain: UInt8Array,
    mpp: float,
) -> RingSums:
    """Sums of ``stain`` (h, w) over the ring of each label of ``labels`` (h, w), whose ``sums`` are.

    A ring contains pixels at most 2 µm from the nucleus that lie in no nucleus by their probability ``nucleus`` (h, w).
    The border between two cells counts for both. ``corner``: position of the labels in the frame of the sums. A ring
    depends only on its own label and on pixels within 2 µm of it.
    """
    reach = max(1, round(RING_UM / mpp))
    count = len(sums.areas)
    if not count:
        return RingSums(np.zeros((0, SECTORS), np.int64), np.zeros((0, SECTORS), np.int64))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = y**2 + x**2 <= reach**2
    near = cv2.dilate((labels > 0).view(np.uint8), disc.astype(np.uint8))
    places = (near > 0) & (nucleus < _NUCLEUS)
    origin = sums.boxes[:, :2] - np.array(corner)
    # The centre times the area: integers, identical for every crop.
    middles = sums.first + sums.areas[:, None] * origin
    offsets = np.argwhere(disc) - reach
    return RingSums(*_ring_sums(labels, places, stain, offsets, middles, sums.areas))


@njit(cache=True, nogil=True)
def _ring_sums(labels, places, stain, offsets, middles, areas):  # type: ignore[no-untyped-def]
    h, w = labels.shape
    counts = np.zeros((len(areas), SECTORS), np.int64)
    values = np.zeros((len(areas), SECTORS), np.int64)
    seen = np.zeros(len(offsets), np.int64)
    for y in range(h):
        for x in range(w):
            if not places[y, x]:
                continue
            own, found, last = labels[y, x], 0, 0
            for k in range(len(offsets)):
                i, j = y + offsets[k, 0], x + offsets[k, 1]
                if i < 0 or j < 0 or i >= h or j >= w:
                    continue
                label = labels[i, j]
                if label == 0 or label == own:
                    continue
                if label == last:
                    continue
                last = label
                new = True
                for m in range(found):
                    if seen[m] == label:
                        new = False
                if new:
                    seen[found] = label
                    found += 1
            for m in range(found):
                n = seen[m] - 1
                down, right = areas[n] * y - middles[n, 0], areas[n] * x - middles[n, 1]
                turn = (np.arctan2(np.float64(down), np.float64(right)) + np.pi) / (2 * np.pi)
                sector = min(SECTORS - 1, int(turn * SECTORS))
                counts[n, sector] += 1
                values[n, sector] += stain[y, x]
    return counts, values
