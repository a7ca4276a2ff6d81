"""The slide that all readers return: the levels of a pyramid, with metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np

from wsiproc.array.fill import REACH_PX, Fill, without_fill
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.palette import RGB
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideReadError
from wsiproc.io.slides.fingerprint import fingerprint
from wsiproc.io.slides.pixels.resample import PyramidLevel, choose_level, read_grid
from wsiproc.io.slides.timeout import call_with_timeout

WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class SlideMetadata:
    """Metadata in a file; ``None`` for what it does not state. ``mpp`` is (y, x) in µm/px.

    ``warnings``: what users of the cells must know, such as scenes or focal planes that are left out; ``remarks``: what
    else ``info`` shows, by name.
    """

    format: str
    mpp: tuple[float, float] | None = None
    objective: float | None = None
    properties: dict[str, str] = field(default_factory=dict)
    background: RGB = WHITE
    bounds: Box | None = None  # the scanned part of the canvas, level-0 px
    warnings: tuple[str, ...] = ()
    remarks: dict[str, str] = field(default_factory=dict)


@dataclass
class PyramidSlide:
    """A slide read through the levels of a pyramid.

    ``shape`` is (h, w) in level-0 px of the scanned part, whose corner is ``origin`` (y, x) on the levels' canvas.
    ``fill``, if known, is read as background; ``reader``: the library that reads the file.
    """

    path: Path
    name: str
    format: str
    shape: tuple[int, int]
    mpp: float
    objective: float | None
    properties: dict[str, str]
    pyramid: Sequence[PyramidLevel]
    reader: str
    origin: tuple[int, int] = (0, 0)
    background: RGB = WHITE
    warnings: tuple[str, ...] = ()
    remarks: dict[str, str] = field(default_factory=dict)
    on_close: Callable[[], object] | None = None
    read_timeout_s: float | None = None
    fill: Fill | None = None

    @property
    def levels(self) -> tuple[float, ...]:
        """Level-0 px per px of each level (mean of the axes), finest first."""
        return tuple((dy + dx) / 2 for dy, dx in (level.downsample for level in self.pyramid))

    def read(self, box: Box, mpp: float) -> UInt8Array:
        """The (h, w, 3) uint8 pixels of ``box`` (grid px at ``mpp`` µm/px); background colour outside the slide.

        Raises ``SlideReadError`` if the file cannot be decoded, SlideTimeoutError if that takes too long.
        """
        return call_with_timeout(self.read_timeout_s, partial(self._read_unfilled, box, mpp), str(self.path))

    def _read_unfilled(self, box: Box, mpp: float) -> UInt8Array:
        """The pixels of ``box`` with fill as background, independent of how an image is cut into boxes."""
        if self.fill is None:
            return self._read(box, mpp)
        around = box.pad(REACH_PX)
        return without_fill(self._read(around, mpp), self.fill)[box.relative_to(around).slices]

    def _read(self, box: Box, mpp: float) -> UInt8Array:
        grid = grid_shape(self.shape, self.mpp, mpp)
        scale = (self.shape[0] / grid[0], self.shape[1] / grid[1])
        pixels = np.empty((*box.shape, 3), np.uint8)
        inside = box.clip(grid)
        if inside != box:
            pixels[:] = self.background
        level = self.pyramid[choose_level([each.downsample for each in self.pyramid], scale)]
        try:
            for piece, part in read_grid(level, self.shape, self.origin, scale, inside):
                pixels[piece.relative_to(box).slices] = part
        except SlideReadError:
            raise
        except Exception as error:  # a damaged file may raise undocumented errors
            raise SlideReadError(
                f"{self.path}: cannot read {box.w} × {box.h} px at x {box.x}, y {box.y} ({mpp:g} µm/px): "
                f"{type(error).__name__}: {error}; the file is damaged there: copy or export it again"
            ) from error
        return pixels

    def fingerprint(self) -> str:
        """Hash of the file's content, cheap enough for terabytes; see ``io.fingerprint``."""
        return call_with_timeout(self.read_timeout_s, partial(fingerprint, self.path), str(self.path))

    def close(self) -> None:
        """Close the file; the slide cannot be read afterwards."""
        if self.on_close is not None:
            self.on_close()

    def __enter__(self) -> PyramidSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
