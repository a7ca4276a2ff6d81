"""From the levels of a pyramid to the pixels of a grid, bit-identical however the reads are cut.

Everything is a function of *absolute* positions: the level and the averaging blocks depend only on the resolution,
blocks lie at multiples of their size, and subpixel positions are rounded to 1/32 px before the origin of the current
piece is subtracted. The rest is integer arithmetic, so reading a large box and cropping it equals reading the small
box.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np

from wsiproc.core.geometry import Box
from wsiproc.core.types import Int64Array, UInt8Array

# cv2.remap's fixed-point tables have 32 steps between two pixels (INTER_TAB_SIZE).
_SUBPIXELS = 32
# The grid's extent is rounded, so a level or mean that fits exactly can appear up to half a pixel per extent too
# coarse. Stretching by less than 1 % is harmless; reading a level four times as large instead is not.
_SLACK = 1.01
# Longest side read from a level at once: 2048² RGBA are 16 MiB, and the result fits cv2.remap's int16 maps.
_MAX_READ_PX = 2048


class PyramidLevel(Protocol):
    """One level of a pyramid."""

    @property
    def shape(self) -> tuple[int, int]:
        """Size (h, w) in px of this level."""

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 px per px of this level, (y, x)."""

    def read(self, box: Box) -> UInt8Array:
        """The (h, w, 3) uint8 pixels of a box (px of this level) that lies entirely inside ``shape``."""


def level_downsample(slide_shape: tuple[int, int], level_shape: tuple[int, int], nominal: float) -> tuple[float, float]:
    """Factor (y, x) between level 0 and a level of ``level_shape``.

    Writers halve and round up or down, so the ratio of the sizes is not the factor: if the integer next to ``nominal``
    explains both sizes to within one pixel of the level, the factor is that integer.
    """
    factor = max(1, round(nominal))
    if all(abs(factor * small - large) <= factor for small, large in zip(level_shape, slide_shape, strict=True)):
        return float(factor), float(factor)
    return slide_shape[0] / level_shape[0], slide_shape[1] / level_shape[1]


def choose_level(downsamples: Sequence[tuple[float, float]], scale: tuple[float, float]) -> int:
    """Index of the coarsest level that is fine enough for ``scale`` (level-0 px per grid px, y and x)."""
    fine_enough = [
        index for index, (dy, dx) in enumerate(downsamples) if dy <= scale[0] * _SLACK and dx <= scale[1] * _SLACK
    ]
    return max(fine_enough, key=lambda index: sum(downsamples[index]), default=0)


def mean_factor(downsample: tuple[float, float], scale: tuple[float, float]) -> int:
    """Side of the blocks of level px that are averaged before interpolating; 1 for none."""
    return max(1, math.floor(min(scale[0] / downsample[0], scale[1] / downsample[1]) * _SLACK))


def pieces(box: Box, side: int) -> Iterator[Box]:
    """``box`` cut into boxes of at most ``side`` px."""
    for y in range(box.y, box.y1, side):
        for x in range(box.x, box.x1, side):
            yield Box(y, x, min(side, box.y1 - y), min(side, box.x1 - x))


def read_grid(
    level: PyramidLevel, slide_shape: tuple[int, int], origin: tuple[int, int], scale: tuple[float, float], box: Box
) -> Iterator[tuple[Box, UInt8Array]]:
    """Yield pieces of ``box`` (grid px, entirely inside the grid) and their (h, w, 3) pixels, with bounded memory.

    ``origin`` (y, x) is the slide's corner and ``slide_shape`` its size in level-0 px of the level's canvas;
    ``scale`` is level-0 px per grid px, (y, x).
    """
    factor = mean_factor(level.downsample, scale)
    level_px = max(s / d for s, d in zip(scale, level.downsample, strict=True))
    side = max(1, int(_MAX_READ_PX / max(1.0, level_px)))
    spans = [
        _span(o, n, d, size) for o, n, d, size in zip(origin, slide_shape, level.downsample, level.shape, strict=True)
    ]
    for piece in pieces(box, side):
        starts = (piece.y, piece.x)
        positions = [
            _positions(start, n, s / (d * factor), o / (d * factor), lo // factor, -(-hi // factor))
            for start, n, s, d, o, (lo, hi) in zip(
                starts, piece.shape, scale, level.downsample, origin, spans, strict=True
            )
        ]
        yield piece, _sample(level, spans, factor, positions[0], positions[1])


def _span(origin: int, extent: int, downsample: float, size: int) -> tuple[int, int]:
    """The level px ``lo … hi`` (of ``size``) that show the slide on one axis; at least one."""
    lo = min(math.floor(origin / downsample), size - 1)
    return lo, max(lo + 1, min(math.ceil((origin + extent) / downsample - 1e-6), size))


def _positions(start: int, n: int, step: float, offset: float, lo: int, hi: int) -> Int64Array:
    """Positions of the centres of ``n`` grid px from ``start`` among the px ``lo … hi``, in 1/32 px. Positions count
    from the centre of px 0; those beyond the outer centres are clamped (edge replication).
    """
    centres = (np.arange(start, start + n, dtype=np.float64) + 0.5) * step + (offset - 0.5)
    fixed = np.rint(centres * _SUBPIXELS).astype(np.int64)
    return np.clip(fixed, lo * _SUBPIXELS, (hi - 1) * _SUBPIXELS)


def _sample(
    level: PyramidLevel,
    spans: Sequence[tuple[int, int]],
    factor: int,
    rows: Int64Array,
    cols: Int64Array,
) -> UInt8Array:
    """Interpolate the level's block means at ``rows`` × ``cols`` (1/32 block)."""
    y, x = int(rows[0]) // _SUBPIXELS, int(cols[0]) // _SUBPIXELS
    y1, x1 = -(-int(rows[-1]) // _SUBPIXELS) + 1, -(-int(cols[-1]) // _SUBPIXELS) + 1
    source = _block_means(level, spans, factor, Box(y, x, y1 - y, x1 - x))
    rows, cols = rows - y * _SUBPIXELS, cols - x * _SUBPIXELS
    if _is_every_pixel(rows) and _is_every_pixel(cols):
        return source
    positions = np.empty((rows.size, cols.size, 2), np.int16)
    positions[..., 0], positions[..., 1] = cols // _SUBPIXELS, (rows // _SUBPIXELS)[:, None]
    between = ((rows % _SUBPIXELS)[:, None] * _SUBPIXELS + cols % _SUBPIXELS).astype(np.uint16)
    mapped = cv2.remap(source, positions, between, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(mapped, np.uint8)


def _is_every_pixel(positions: Int64Array) -> bool:
    """Whether the positions are 0, 1, 2 … px: a plain copy (interpolation would give the same)."""
    return bool(np.array_equal(positions, np.arange(positions.size) * _SUBPIXELS))


def _block_means(level: PyramidLevel, spans: Sequence[tuple[int, int]], factor: int, blocks: Box) -> UInt8Array:
    """Means over ``factor``² level px at multiples of ``factor``; edge px are repeated to fill the outer blocks."""
    (ylo, yhi), (xlo, xhi) = spans
    wanted = Box(blocks.y * factor, blocks.x * factor, blocks.h * factor, blocks.w * factor)
    inside = wanted.intersect(Box(ylo, xlo, yhi - ylo, xhi - xlo))
    pixels = level.read(inside)
    if inside != wanted:
        margins = ((inside.y - wanted.y, wanted.y1 - inside.y1), (inside.x - wanted.x, wanted.x1 - inside.x1), (0, 0))
        pixels = np.pad(pixels, margins, mode="edge")
    if factor == 1:
        return pixels
    return np.asarray(cv2.resize(pixels, (blocks.w, blocks.h), interpolation=cv2.INTER_AREA), np.uint8)
