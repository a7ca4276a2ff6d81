"""Images stored rotated or mirrored, with a tag that says so (EXIF and TIFF 6.0, tag 274)."""

from __future__ import annotations

import numpy as np

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.io.slides.pixels.resample import PyramidLevel

UPRIGHT = 1
# Tag → whether to transpose the stored image first, then flip it up-down and left-right, for display.
_STEPS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class OrientedLevel:
    """A level in display orientation."""

    def __init__(self, level: PyramidLevel, orientation: int) -> None:
        self._level = level
        self._transposed, self._upside_down, self._mirrored = _STEPS[orientation]
        self.shape = turned(level.shape, orientation)
        dy, dx = level.downsample
        self.downsample = (dx, dy) if self._transposed else (dy, dx)

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        h, w = self.shape
        y = h - box.y1 if self._upside_down else box.y
        x = w - box.x1 if self._mirrored else box.x
        stored = Box(x, y, box.w, box.h) if self._transposed else Box(y, x, box.h, box.w)
        pixels = self._level.read(stored)
        if self._transposed:
            pixels = pixels.transpose(1, 0, 2)
        if self._upside_down:
            pixels = pixels[::-1]
        if self._mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


def oriented(level: PyramidLevel, orientation: int) -> PyramidLevel:
    """The level in the orientation of the tag; unknown tags change nothing."""
    return OrientedLevel(level, orientation) if orientation in _STEPS else level


def turned(shape: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(h, w) in display orientation."""
    return shape[::-1] if _STEPS.get(orientation, (False,))[0] else shape
