"""Rectangles of pixels, and how an image is divided into them.

Two frames are used throughout. *slide*: level-0 pixels of the slide, origin at the top-left corner of its (bounds)
top-left pixel. *grid*: pixels at the model's resolution over the same extent. A ``Box`` does not know its frame;
variable names tell it. A *region* is a square of the grid that one task processes, not a region of interest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc.core.types import FloatArray


@dataclass(frozen=True, order=True)
class Box:
    """A half-open rectangle of pixels: rows ``y … y + h``, columns ``x … x + w``."""

    y: int
    x: int
    h: int
    w: int

    @property
    def y1(self) -> int:
        """First row below the box."""
        return self.y + self.h

    @property
    def x1(self) -> int:
        """First column right of the box."""
        return self.x + self.w

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""
        return self.h, self.w

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.h * self.w

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of this box in an array of the same frame."""
        return slice(self.y, self.y1), slice(self.x, self.x1)

    def pad(self, px: int) -> Box:
        """The box padded by ``px`` on each side."""
        return Box(self.y - px, self.x - px, self.h + 2 * px, self.w + 2 * px)

    def shifted(self, y: int, x: int) -> Box:
        """The box shifted by ``y`` rows and ``x`` columns."""
        return Box(self.y + y, self.x + x, self.h, self.w)

    def intersect(self, other: Box) -> Box:
        """The intersection; a box of zero size if it is empty."""
        y, x = max(self.y, other.y), max(self.x, other.x)
        return Box(y, x, max(0, min(self.y1, other.y1) - y), max(0, min(self.x1, other.x1) - x))

    def clip(self, shape: tuple[int, int]) -> Box:
        """The part inside an image of ``shape`` (h, w)."""
        return self.intersect(Box(0, 0, *shape))

    def relative_to(self, origin: Box) -> Box:
        """The same box, counted from the top-left corner of ``origin``."""
        return Box(self.y - origin.y, self.x - origin.x, self.h, self.w)

    def contains(self, y: float, x: float) -> bool:
        """Whether the point lies in the half-open box."""
        return self.y <= y < self.y1 and self.x <= x < self.x1


@dataclass(frozen=True, order=True)
class Region:
    """A square of the grid that one task processes: its position in the raster and its box (grid px)."""

    row: int
    col: int
    box: Box

    @property
    def key(self) -> str:
        """A name for files and tasks, which sorts in raster order: ``r0003c0012``."""
        return f"r{self.row:04d}c{self.col:04d}"


@dataclass(frozen=True)
class Grid:
    """An image of ``shape`` (h, w) divided into squares of ``step`` px; the last row and column may be smaller.

    Every pixel lies in exactly one region, and the regions of step ``s`` tile those of any multiple of ``s``.
    """

    shape: tuple[int, int]
    step: int

    @property
    def rows(self) -> int:
        """Number of region rows."""
        return -(-self.shape[0] // self.step)

    @property
    def cols(self) -> int:
        """Number of region columns."""
        return -(-self.shape[1] // self.step)

    def __len__(self) -> int:
        return self.rows * self.cols

    def region(self, row: int, col: int) -> Region:
        """The region at a position in the raster."""
        full = Box(row * self.step, col * self.step, self.step, self.step)
        return Region(row, col, full.clip(self.shape))

    def __iter__(self) -> Iterator[Region]:
        return (self.region(row, col) for row in range(self.rows) for col in range(self.cols))

    def touching(self, box: Box) -> list[Region]:
        """The regions that share a pixel with ``box``, in raster order."""
        inside = box.clip(self.shape)
        if inside.area == 0:
            return []
        rows = range(inside.y // self.step, (inside.y1 - 1) // self.step + 1)
        cols = range(inside.x // self.step, (inside.x1 - 1) // self.step + 1)
        return [self.region(row, col) for row in rows for col in cols]


def grid_shape(slide_shape: tuple[int, int], slide_mpp: float, mpp: float) -> tuple[int, int]:
    """Shape (h, w) of the grid of ``mpp`` µm/px over a slide of ``slide_shape`` level-0 px: its extent, rounded.

    Since the extent is rounded, one grid px is ``slide extent ÷ grid extent`` slide px (per axis), not the nominal
    ``mpp ÷ slide_mpp``; the two differ by less than half a pixel over the whole slide.
    """
    h, w = (max(1, round(px * slide_mpp / mpp)) for px in slide_shape)
    return h, w


def at_points(image: npt.NDArray[Any], extent: tuple[int, int], points: FloatArray) -> npt.NDArray[Any]:
    """Values (N,) of an image (h, w) that covers ``extent`` (h, w), at ``points`` (N, 2), (y, x) in px of the extent.
    Points beyond the edges have the value of the nearest px. Positions are rounded to a millionth of a px of the image,
    so that a point on the border between two has the same value in every frame.
    """
    places = np.round(points * np.divide(image.shape, extent), 6)
    y, x = np.clip(places.astype(np.int64), 0, np.array(image.shape) - 1).T
    return np.asarray(image[y, x])
