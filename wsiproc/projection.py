"""What a run will need, as plain arithmetic: regions, windows, memory, disk. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.errors import PlanError

GB = 1e9
Mask = npt.NDArray[np.bool_]

# Resident memory as measured on runs of one to ten gigapixels: the process that plans, with its overview and masks; and
# a worker before it holds a pixel (500 MB of libraries), with what its heap keeps between tasks.
DRIVER_BYTES = 850_000_000
NEXT_SLIDE_BYTES = 200_000_000  # in that process, for each further slide that is under way
WORKER_BYTES = 700_000_000
# What a network of 16 channels at full size keeps for a pixel of the window that it sees.
PREDICT_BYTES_PER_PX = 650
# What segmentation keeps for a pixel of a region with its margin: maps, distances, parents, labels, stacks.
SEGMENT_BYTES_PER_PX = 34
# What rendering keeps for a pixel of a label shard: both label maps, their encoded copies, the cells' outlines.
RENDER_BYTES_PER_PX = 22
RENDER_SHARD_PX = 4096**2
CELLS_PER_MM2 = 5000


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
    def px_um2(self) -> float:
        """Area of a grid px in µm²."""
        return self.mpp[0] * self.mpp[1]


def mask_box(mask: Mask, grid: tuple[int, int], box: Box) -> Mask:
    """The part of an overview mask that ``box`` (grid px) touches, at least one px on the slide."""
    fy, fx = mask.shape[0] / grid[0], mask.shape[1] / grid[1]
    inside = box.clip(grid)
    if inside.area == 0:
        return mask[:0, :0]
    return mask[_touched(inside.y, inside.y1, fy), _touched(inside.x, inside.x1, fx)]


def _touched(first: int, end: int, per_px: float) -> slice:
    """Overview px, so many to a grid px, that a range of grid px touches."""
    return slice(int(first * per_px), max(int(first * per_px) + 1, int(np.ceil(end * per_px))))


@dataclass(frozen=True)
class WindowRule:
    """How the maps are asked for: squares of ``window`` grid px, cut where less is needed to multiples of ``grain``.

    ``margin``: px around tissue whose maps some cell on it may depend on.
    """

    window: int
    grain: int
    margin: int


def needed_windows(mask: Mask, grid: tuple[int, int], region: Box, rule: WindowRule) -> list[Box]:
    """Windows of a region whose maps some cell on tissue may depend on, in raster order, each as small as it may be.

    Whether and how far a window is needed is a matter of the mask and the window alone, never of the region it lies in.
    """
    cut = (_needed(mask, grid, window.box, rule) for window in Grid(grid, rule.window).touching(region))
    return [box for box in cut if box.area]


def _needed(mask: Mask, grid: tuple[int, int], window: Box, rule: WindowRule) -> Box:
    """The rectangle of a window that holds all within the margin of tissue; of no size where nothing is."""
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
    """Grid px within the margin of a range of overview px, outwards to whole grains from a window's ``origin``."""
    start = (int(first / per_px) - rule.margin - origin) // rule.grain
    end = -((origin - int(np.ceil((last + 1) / per_px)) - rule.margin) // rule.grain)
    return origin + start * rule.grain, origin + end * rule.grain


def split_regions(mask: Mask, grid: tuple[int, int], step: int, margin: int) -> tuple[list[Region], list[Region]]:
    """Regions to infer (tissue within the margin) and, among them, those to segment (tissue inside)."""
    infer = [r for r in Grid(grid, step) if mask_box(mask, grid, r.box.pad(margin)).any()]
    return infer, [r for r in infer if mask_box(mask, grid, r.box).any()]


def small_last(work: Mapping[Region, int]) -> list[Region]:
    """Regions in their order, but for the quarter with the least ``work`` (px), which goes last, the least at the end.

    So no core is left with a large one while the others have nothing more to do.
    """
    by_work = sorted(work, key=lambda region: -work[region])
    large = set(by_work[: len(by_work) - len(by_work) // 4])
    return [region for region in work if region in large] + by_work[len(large) :]


def sample_windows(mask: Mask, grid: tuple[int, int], window: int, count: int, scanned: Box | None = None) -> list[Box]:
    """Up to ``count`` windows spread evenly over the tissue, those that hold the most of it first choice.

    ``scanned``: the part of the grid (px) that they are cut from, as if there were nothing around it; None: all of it.
    Depends on the mask alone: the same for every region size.
    """
    whole = scanned or Box(0, 0, *grid)
    windows = [w.box.shifted(whole.y, whole.x) for w in Grid(whole.shape, window)]
    share = np.array([mask_box(mask, grid, box).mean() for box in windows])
    full = np.flatnonzero(share >= min(0.7, 0.7 * share.max(initial=0)))
    full = full[share[full] > 0]
    chosen = full[np.linspace(0, len(full) - 1, min(count, len(full))).round().astype(int)]
    return [windows[i] for i in chosen]


def driver_bytes(slides: int) -> int:
    """Projected peak of the process that plans, with so many slides under way."""
    return DRIVER_BYTES + (slides - 1) * NEXT_SLIDE_BYTES


def worker_bytes(step: int, margin: int, window: int, halo: int, channels: int, zoom: float) -> int:
    """Projected peak of one worker process: the largest of its stages.

    ``zoom``: level px read per grid px along one axis. Inference holds a strip of windows and the region's maps,
    segmentation the maps and labels of the region with its margin, rendering one label shard.
    """
    strip = int(step * (window + 2 * halo) * (3 + 8 * zoom**2))
    infer = strip + channels * step**2 * 2 + (window + 2 * halo) ** 2 * PREDICT_BYTES_PER_PX
    segment = (step + 2 * margin) ** 2 * (channels + SEGMENT_BYTES_PER_PX)
    return WORKER_BYTES + max(infer, segment, RENDER_SHARD_PX * RENDER_BYTES_PER_PX)


def disk_bytes(infer_px: int, channels: int, tissue_mm2: float) -> int:
    """Projected size of the outputs: stain maps compress to about two thirds, labels to little, a cell to 1.2 kB.

    With as many cells as tissue has as a rule; maps weigh more.
    """
    return int(infer_px * channels * 0.67 * 4 / 3 + infer_px * 0.15 + tissue_mm2 * CELLS_PER_MM2 * 1200)


def run_seconds(windows: float, window_s: float, shards: int, cells: float, workers: int) -> float:
    """Projected time of a run, with the factors of the runs in ``docs/benchmarks.md``.

    Side by side, workers have one thread each and share memory and caches, so a window takes 1.5 times what it takes
    alone; a label shard takes 0.2 s and a cell 30 µs to merge and write; starting workers and looking at the slide take
    4 s.
    """
    return 4.0 + (windows * window_s * 1.5 + shards * 0.2 + cells * 3e-5) / workers


def require(what: str, needed: float, available: float, remedy: str) -> None:
    """Refuse, with both numbers, what does not fit."""
    if needed > available:
        raise PlanError(f"{what}: {needed / GB:.2f} GB needed, {available / GB:.2f} GB available. {remedy}")
