"""Mirror padding beyond the edge of a slide, for networks that need context around their window. If tissue that is cut
off continued as white, a network would take the cut for the border of the tissue. The source of a pixel depends only on
the slide's bounds, never on the requested box, so neighbouring windows agree.
"""

from __future__ import annotations

import numpy as np

from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import Int64Array, UInt8Array
from wsiproc.io.slides.open import Slide


def read_mirrored(slide: Slide, box: Box, mpp: float) -> UInt8Array:
    """Like ``Slide.read``, but mirrored at the slide's outermost pixels, which are not repeated, as often as needed.
    Reads only the pixels inside the slide that are needed.
    """
    shape = grid_shape(slide.shape, slide.mpp, mpp)
    if box.clip(shape) == box:
        return slide.read(box, mpp)
    rows, cols = (_indices(start, n, size) for start, n, size in zip((box.y, box.x), box.shape, shape, strict=True))
    y, x = int(rows.min()), int(cols.min())
    pixels = slide.read(Box(y, x, int(rows.max()) + 1 - y, int(cols.max()) + 1 - x), mpp)
    mirrored: UInt8Array = pixels.take(rows - y, axis=0).take(cols - x, axis=1)
    return mirrored


def _indices(start: int, n: int, size: int) -> Int64Array:
    """The source index in ``size`` px of each of ``n`` px from ``start``: … 2 1 0 1 2 … and so at the other end."""
    period = max(1, 2 * (size - 1))
    position = np.arange(start, start + n, dtype=np.int64) % period
    return np.minimum(position, period - position) if size > 1 else position
