"""Estimates of what a run needs, as plain arithmetic: regions, memory, disk, time. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Mapping

from wsiproc.core.frame import mask_box
from wsiproc.core.geometry import Grid, Region
from wsiproc.core.types import BoolArray

# Resident memory as measured on runs of one to ten gigapixels: the planning process, with its overview and masks; and a
# worker before it holds a pixel (500 MB of libraries), with what its heap keeps between tasks.
DRIVER_BYTES = 850_000_000
NEXT_SLIDE_BYTES = 200_000_000  # in that process, for each further slide in flight
WORKER_BYTES = 700_000_000
# What a network with 16 channels at full resolution keeps per pixel of its input window.
PREDICT_BYTES_PER_PX = 650
# What segmentation keeps per pixel of a region with its margin: maps, distances, parents, labels, stacks.
SEGMENT_BYTES_PER_PX = 34
# What rendering keeps per pixel of a label shard: both label maps, their encoded copies, the cells' outlines.
RENDER_BYTES_PER_PX = 22
RENDER_SHARD_PX = 4096**2
CELLS_PER_MM2 = 5000


def split_regions(
    mask: BoolArray, grid: tuple[int, int], region_px: int, margin: int
) -> tuple[list[Region], list[Region]]:
    """Regions to infer (tissue within the margin) and, among them, those to segment (tissue inside)."""
    infer = [r for r in Grid(grid, region_px) if mask_box(mask, grid, r.box.pad(margin)).any()]
    return infer, [r for r in infer if mask_box(mask, grid, r.box).any()]


def small_last(work: Mapping[Region, int]) -> list[Region]:
    """Regions in their order, except the quarter with the least ``work`` (px), which comes last, in decreasing order.

    So no core is left with a large region while the others are idle.
    """
    by_work = sorted(work, key=lambda region: -work[region])
    large = set(by_work[: len(by_work) - len(by_work) // 4])
    return [region for region in work if region in large] + by_work[len(large) :]


def driver_bytes(slides: int) -> int:
    """Projected peak memory of the planning process, with this many slides in flight."""
    return DRIVER_BYTES + (slides - 1) * NEXT_SLIDE_BYTES


def worker_bytes(region_px: int, margin: int, window: int, halo: int, channels: int, zoom: float) -> int:
    """Projected peak memory of one worker process, bytes: the maximum over its stages.

    ``zoom``: level px read per grid px along one axis. Inference holds a strip of windows and the region's maps,
    segmentation the maps and labels of the region with its margin, rendering one label shard.
    """
    strip = int(region_px * (window + 2 * halo) * (3 + 8 * zoom**2))
    infer = strip + channels * region_px**2 * 2 + (window + 2 * halo) ** 2 * PREDICT_BYTES_PER_PX
    segment = (region_px + 2 * margin) ** 2 * (channels + SEGMENT_BYTES_PER_PX)
    return WORKER_BYTES + max(infer, segment, RENDER_SHARD_PX * RENDER_BYTES_PER_PX)


def disk_bytes(infer_px: int, channels: int, tissue_mm2: float) -> int:
    """Projected size of the outputs, bytes: stain maps compress to about two thirds, labels to little, a cell takes
    1.2 kB.

    It assumes a typical density of cells; maps take more than cells.
    """
    return int(infer_px * channels * 0.67 * 4 / 3 + infer_px * 0.15 + tissue_mm2 * CELLS_PER_MM2 * 1200)


def run_seconds(windows: float, window_s: float, shards: int, cells: float, workers: int) -> float:
    """Projected duration of a run, with the factors of the runs in ``docs/benchmarks.md``.

    Concurrent workers have one thread each and share memory and caches, so a window takes 1.5 times as long as alone; a
    label shard takes 0.2 s, and a cell 30 µs to merge and write; starting workers and surveying the slide take 4 s.
    """
    return 4.0 + (windows * window_s * 1.5 + shards * 0.2 + cells * 3e-5) / workers
