"""Downsampling by two for pyramids; odd edges are padded with their own last row and column."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from wsiproc.core.types import AnyArray, UInt8Array


def level_count(shape: tuple[int, int], smallest_px: int = 1024) -> int:
    """Levels of a 2×2 pyramid whose last one is at most ``smallest_px`` on its longer side."""
    return 1 + max(0, math.ceil(math.log2(max(shape) / smallest_px)))


def level_shape(shape: tuple[int, int], level: int) -> tuple[int, int]:
    """Shape (h, w) of a level, halved and rounded up ``level`` times."""
    return -(-shape[0] // 2**level), -(-shape[1] // 2**level)


def _pad_even(image: AnyArray) -> AnyArray:
    h, w = image.shape[-2:]
    widths = [(0, 0)] * (image.ndim - 2) + [(0, h % 2), (0, w % 2)]
    return np.pad(image, widths, mode="edge") if h % 2 or w % 2 else image


def downsample_mean(image: UInt8Array) -> UInt8Array:
    """Mean of each 2×2 block, rounded half up: (…, h, w) uint8 → (…, ⌈h/2⌉, ⌈w/2⌉)."""
    even = np.ascontiguousarray(_pad_even(image))
    halved = _mean(even.reshape(-1, *even.shape[-2:]))
    return halved.reshape(*even.shape[:-2], *halved.shape[-2:])  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)
def _mean(planes):  # type: ignore[no-untyped-def]
    n, h, w = planes.shape[0], planes.shape[1] // 2, planes.shape[2] // 2
    out = np.empty((n, h, w), np.uint8)
    for i in range(n):
        for y in range(h):
            upper, lower = planes[i, 2 * y], planes[i, 2 * y + 1]
            for x in range(w):
                total = np.uint16(upper[2 * x]) + np.uint16(upper[2 * x + 1])
                total += np.uint16(lower[2 * x]) + np.uint16(lower[2 * x + 1])
                out[i, y, x] = (total + 2) // 4
    return out


def downsample_mode(labels: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """Most common value of each 2×2 block; the top-left one if all four differ or the vote is a tie."""
    halved: npt.NDArray[np.unsignedinteger] = _mode(np.ascontiguousarray(_pad_even(labels)))
    return halved


@njit(cache=True, nogil=True)
def _mode(labels):  # type: ignore[no-untyped-def]
    h, w = labels.shape[0] // 2, labels.shape[1] // 2
    out = np.empty((h, w), labels.dtype)
    for y in range(h):
        for x in range(w):
            a, b = labels[2 * y, 2 * x], labels[2 * y, 2 * x + 1]
            c, d = labels[2 * y + 1, 2 * x], labels[2 * y + 1, 2 * x + 1]
            if a in (b, c, d):
                out[y, x] = a
            elif b in (c, d):
                out[y, x] = b
            else:
                out[y, x] = c if c == d else a
    return out
