"""The two pixel frames of a slide, and the windows needed for its tissue mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsiproc.core.geometry import Box, Grid
from wsiproc.core.types import BoolArray


@dataclass(frozen=True)
class Frame:
    """The two pixel frames of a slide: ``grid`` (h, w) px at the model's mpp over ``slide`` (h, w) level-0 px."""

    slide: tuple[int, int]
    grid: tuple[int, int]
    slide_mpp: float

    @property
    def scale(self) -> tuple[float, float]:
        """Slide px per grid px, (y, x)."""
        return self.slide[0] / self.grid[0], self.slide[1] / self.grid[1]

    @property
    def mpp(self) -> tuple[float, float]:
        """µm per grid px, (y, x): the slide's extent ÷ the grid's, not the nominal value."""
        return self.scale[0] * self.slide_mpp, self.scale[1] * self.slide_mpp

    @property
    def mean_mpp(self) -> float:
        """µm per grid px, the mean of both axes, where lengths are measured in any direction."""
        return (self.mpp[0] + self.mpp[1]) / 2

    @property
    def px_um2(self) -> float:
        """Area of a grid px in µm²."""
        return self.mpp[0] * self.mpp[1]


def mask_box(mask: BoolArray, grid: tuple[int, int], box: Box) -> BoolArray:
    """The part of an overview mask that ``box`` (grid px) touches; at least one px."""
    fy, fx = mask.shape[0] / grid[0], mask.shape[1] / grid[1]
    inside = box.clip(grid)
    if inside.area == 0:
        return mask[:0, :0]
    return mask[_touched(inside.y, inside.y1, fy), _touched(inside.x, inside.x1, fx)]


def _touched(first: int, end: int, per_px: float) -> slice:
    """The overview px, ``per_px`` per grid px, that a range of grid px touches."""
    return slice(int(first * per_px), max(int(first * per_px) + 1, int(np.ceil(end * per_px))))


@dataclass(frozen=True)
class WindowRule:
    """How maps are requested: squares of ``window`` grid px, cut to multiples of ``window_multiple`` px. ``margin``: px
    around tissue whose maps cells on it may depend on.
    """

    window: int
    window_multiple: int
    margin: int


def needed_windows(mask: BoolArray, grid: tuple[int, int], region: Box, rule: WindowRule) -> list[Box]:
    """Windows of a region whose maps cells on tissue may depend on, in raster order, each as small as possible. Whether
    and how much of a window is needed depends on the mask and the window alone, never on its region.
    """
    cut = (_needed(mask, grid, window.box, rule) for window in Grid(grid, rule.window).touching(region))
    return [box for box in cut if box.area]


def _needed(mask: BoolArray, grid: tuple[int, int], window: Box, rule: WindowRule) -> Box:
    """The rectangle of a window that contains everything within the margin of tissue; empty if there is none."""
    fy, fx = mask.shape[0] / grid[0], mask.shape[1] / grid[1]
    around = window.pad(rule.margin).clip(grid)
    rows, cols = _touched(around.y, around.y1, fy), _touched(around.x, around.x1, fx)
    y, x = np.nonzero(mask[rows, cols])
    if not len(y):
        return Box(window.y, window.x, 0, 0)
    top, bottom = _reach(rows.start + y.min(), rows.start + y.max(), fy, rule, window.y)
    left, right = _reach(cols.start + x.min(), cols.start + x.max(), fx, rule, window.x)
    return window.intersect(Box(top, left, bottom - top, right - left))


def _reach(first: int, last: int, per_px: float, rule: WindowRule, origin: int) -> tuple[int, int]:
    """Grid px within the margin of a range of overview px, rounded outwards to window multiples from ``origin``."""
    start = (int(first / per_px) - rule.margin - origin) // rule.window_multiple
    end = -((origin - int(np.ceil((last + 1) / per_px)) - rule.margin) // rule.window_multiple)
    return origin + start * rule.window_multiple, origin + end * rule.window_multiple


def sample_windows(
    mask: BoolArray, grid: tuple[int, int], window: int, count: int, scanned: Box | None = None
) -> list[Box]:
    """Up to ``count`` windows spread evenly over the tissue, preferring those with the most tissue.

    ``scanned``: the part of the grid (px) from which they are taken, as if there were nothing around it; None: all of
    it. Depends on the mask alone, not on the region size.
    """
    whole = scanned or Box(0, 0, *grid)
    windows = [w.box.shifted(whole.y, whole.x) for w in Grid(whole.shape, window)]
    share = np.array([mask_box(mask, grid, box).mean() for box in windows])
    full = np.flatnonzero(share >= min(0.7, 0.7 * share.max(initial=0)))
    full = full[share[full] > 0]
    chosen = full[np.linspace(0, len(full) - 1, min(count, len(full))).round().astype(int)]
    return [windows[i] for i in chosen]
