"""Beyond its edge a slide goes on as its own mirror image, for networks that must see around what they predict.

A network that sees white where tissue was cut off takes the cut for the border of the tissue. Where a pixel comes from
depends on the slide's bounds alone, never on the box that is asked for, so that neighbouring windows agree.
"""

from __future__ import annotations

import numpy as np

from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import Int64Array, UInt8Array
from wsiproc.io.slides.open import Slide


def read_mirrored(slide: Slide, box: Box, mpp: float) -> UInt8Array:
    """As ``Slide.read``, but mirrored at the slide's outermost pixels, which are not repeated, as often as needed.

    Reads no pixel outside the slide, and of the inside only what shows.
    """
    shape = grid_shape(slide.shape, slide.mpp, mpp)
    if box.clip(shape) == box:
        return slide.read(box, mpp)
    rows, cols = (_places(start, n, size) for start, n, size in zip((box.y, box.x), box.shape, shape, strict=True))
    y, x = int(rows.min()), int(cols.min())
    pixels = slide.read(Box(y, x, int(rows.max()) + 1 - y, int(cols.max()) + 1 - x), mpp)
    mirrored: UInt8Array = pixels.take(rows - y, axis=0).take(cols - x, axis=1)
    return mirrored


def _places(start: int, n: int, size: int) -> Int64Array:
    """Which of ``size`` px each of ``n`` px from ``start`` on shows: … 2 1 0 1 2 … and the same at the other end."""
    period = max(1, 2 * (size - 1))
    place = np.arange(start, start + n, dtype=np.int64) % period
    return np.minimum(place, period - place) if size > 1 else place
