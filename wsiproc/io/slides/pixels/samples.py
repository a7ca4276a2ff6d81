"""From the samples in a file to 8-bit RGB: one set of rules for TIFF, OME-TIFF and OME-Zarr.

16-bit integers are scaled by the bits in use, floats by 1.0, palettes are looked up, CMYK and YCbCr are converted, and
transparent pixels become white, like background. Nothing here depends on a file format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array

Colour = Literal["rgb", "grey", "inverted grey", "palette", "cmyk", "ycbcr"]
Alpha = Literal["none", "straight", "premultiplied"]

_COLOURS: dict[Colour, int] = {"rgb": 3, "grey": 1, "inverted grey": 1, "palette": 1, "cmyk": 4, "ycbcr": 3}
# Bit depths of cameras; a slide in uint16 uses one of these ranges.
_BIT_DEPTHS = (8, 10, 12, 14, 16)
_FLUOROCHROME = re.compile(
    r"\b(dapi|hoechst|fitc|tritc|alexa|af ?\d{3}|cy[2357]|opal|texas ?red|[ry]fp|e?gfp|m?cherry|rhodamine|"
    r"phalloidin|sybr|draq5|autofluorescence)(?![a-z])",
    re.IGNORECASE,
)
# Rounding and resampling may slightly exceed 0 … 1.
_FLOAT_SLACK = 0.01
_SAMPLES_A_SIDE, _SAMPLE_PX = 4, 256


@dataclass(frozen=True)
class SampleFormat:
    """How (h, w, channels) samples of a file become RGB.

    ``full``: the sample value of full intensity; ``palette``: (N, 3) colours; ``alpha`` is the channel after the
    colours, where there is one.
    """

    colour: Colour = "rgb"
    full: float = 255.0
    alpha: Alpha = "none"
    palette: UInt8Array | None = None

    def blank(self, dtype: np.dtype[Any], channels: int) -> npt.NDArray[Any]:
        """Samples (channels,) that are white, for tiles that a file leaves out."""
        value = np.full(channels, self.full).astype(dtype)
        colours = _COLOURS[self.colour]
        if self.colour in {"cmyk", "inverted grey"}:
            value[:colours] = 0
        elif self.colour == "ycbcr":
            value[1:3] = (self.full + 1) / 2
        elif self.palette is not None:
            value[0] = int(self.palette.astype(int).sum(axis=1).argmax())
        return value

    def to_rgb(self, values: npt.NDArray[Any]) -> UInt8Array:
        """(h, w, channels) samples as (h, w, 3) uint8."""
        colours = _COLOURS[self.colour]
        if self.palette is not None:
            rgb: UInt8Array = self.palette[np.minimum(values[..., 0], len(self.palette) - 1)]
            return rgb if self.alpha == "none" else self._on_white(rgb, to_bytes(values[..., 1:2], self.full))
        if self.alpha == "none":
            return _as_rgb(to_bytes(values[..., :colours], self.full), self.colour)
        eight = to_bytes(values[..., : colours + 1], self.full)
        return self._on_white(_as_rgb(eight[..., :colours], self.colour), eight[..., colours:])

    def _on_white(self, rgb: UInt8Array, alpha: UInt8Array) -> UInt8Array:
        """RGB composited on white by its alpha (h, w, 1)."""
        opacity = alpha.astype(np.uint16)
        if self.alpha == "premultiplied":
            return np.asarray(np.minimum(rgb + (255 - opacity), 255), np.uint8)
        return np.asarray((rgb * opacity + 255 * (255 - opacity) + 127) // 255, np.uint8)


def to_bytes(values: npt.NDArray[Any], full: float) -> UInt8Array:
    """Samples as 0 … 255, where ``full`` becomes 255; NaN (no value) becomes 255, like background."""
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    if values.dtype == np.uint16:
        return np.asarray(_table(int(full))[values], np.uint8)
    scaled = np.nan_to_num(np.asarray(values, np.float32) * (255.0 / full), nan=255.0, posinf=255.0, neginf=0.0)
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), np.uint8)


@lru_cache(maxsize=8)
def _table(full: int) -> UInt8Array:
    """Lookup table from uint16 to uint8."""
    scaled = (np.arange(65_536, dtype=np.int64) * 255 + full // 2) // full
    return np.minimum(scaled, 255).astype(np.uint8)


def _as_rgb(values: UInt8Array, colour: Colour) -> UInt8Array:
    """(h, w, colours) uint8 as (h, w, 3)."""
    if colour == "rgb":
        return values
    if colour == "ycbcr":
        return _ycbcr_to_rgb(values)
    if colour == "cmyk":
        ink = 255 - values.astype(np.uint16)
        return np.asarray((ink[..., :3] * ink[..., 3:] + 127) // 255, np.uint8)
    grey = 255 - values if colour == "inverted grey" else values
    return np.repeat(np.asarray(grey, np.uint8), 3, axis=-1)


def _ycbcr_to_rgb(values: UInt8Array) -> UInt8Array:
    """Full-range YCbCr of ITU-R BT.601, as in JFIF and the defaults of TIFF 6.0 (section 21)."""
    y, cb, cr = (values[..., channel].astype(np.float32) for channel in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.asarray(np.rint(np.clip(rgb, 0, 255)), np.uint8)


def sample_boxes(shape: tuple[int, int]) -> list[Box]:
    """Up to 16 boxes spread evenly over a level of ``shape`` (h, w), at most 256 px wide; all of a small level."""
    spans = []
    for size in shape:
        side = min(size, _SAMPLE_PX)
        count = min(_SAMPLES_A_SIDE, -(-size // side))
        spans.append([((size - side) * index // max(1, count - 1), side) for index in range(count)])
    return [Box(y, x, h, w) for y, h in spans[0] for x, w in spans[1]]


def bits_in_use(samples: Iterable[npt.NDArray[Any]]) -> int:
    """How many of 16 bits are in use: the smallest camera bit depth, of 8 to 16, that holds the largest value.
    Brightfield slides have background, or pale tissue, near the upper end of their range.
    """
    largest = max((int(each.max(initial=0)) for each in samples), default=0)
    return next(bits for bits in _BIT_DEPTHS if largest < 2**bits) if largest else 16


def float_range(samples: Iterable[npt.NDArray[Any]]) -> tuple[float, float]:
    """The smallest and the largest value that are numbers; (0, 0) where there is none."""
    finite = [each[np.isfinite(each)] for each in samples]
    values = [each for each in finite if each.size]
    return (min(float(v.min()) for v in values), max(float(v.max()) for v in values)) if values else (0.0, 0.0)


def is_unit_range(low: float, high: float) -> bool:
    """Whether floats go from 0 to 1, give or take rounding."""
    return low >= -_FLOAT_SLACK and high <= 1 + _FLOAT_SLACK


def names_fluorochrome(names: Iterable[str]) -> bool:
    """Whether the name of a channel is that of a fluorescent dye or protein; those of brightfield are colours."""
    return any(_FLUOROCHROME.search(name) for name in names)


def kind_problem(dtype: np.dtype[Any] | None) -> str | None:
    """Why samples of a type cannot be the colours of a slide; None if they can."""
    if dtype is not None and (dtype in (np.uint8, np.uint16) or dtype.kind == "f"):
        return None
    return (
        f"samples of type {dtype}; wsiproc reads 8 bits, 16 bits and floats of 0 … 1 per channel: convert it, with the "
        "display range that you see, to 8-bit RGB"
    )
