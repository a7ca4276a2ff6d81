"""Positions along a Hilbert curve, which keeps neighbours in the plane near one another in a list."""

from __future__ import annotations

import numpy as np

from wsiproc.core.types import Int64Array, UInt64Array

ORDER = 24  # the curve fills 2^24 px squared, more than any slide at any resolution


def hilbert_index(yx: Int64Array) -> UInt64Array:
    """Distance along the curve of the pixels ``yx`` (N, 2): (N,) uint64.

    Every aligned square of a power-of-two side is one contiguous stretch of the curve. The classical quadrant
    walk (Wikipedia, "Hilbert curve", xy2d), vectorised over the points.
    """
    y, x = yx[:, 0].astype(np.int64), yx[:, 1].astype(np.int64)
    index = np.zeros(len(yx), np.uint64)
    for bit in range(ORDER - 1, -1, -1):
        side = np.int64(1) << bit
        rx, ry = (x & side) > 0, (y & side) > 0
        index += np.uint64(side) * np.uint64(side) * ((3 * rx) ^ ry).astype(np.uint64)
        flip = ~ry & rx
        x, y = (
            np.where(flip, side - 1 - (x & (side - 1)), x & (side - 1)),
            np.where(flip, side - 1 - (y & (side - 1)), y & (side - 1)),
        )
        x, y = np.where(ry, x, y), np.where(ry, y, x)
    return index
