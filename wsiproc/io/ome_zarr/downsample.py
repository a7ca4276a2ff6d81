"""The coarse levels of pyramids, which no region fills by itself: a task a shard, each level made of the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsiproc.array.pyramid import level_count, level_shape
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.executors import Task, measured
from wsiproc.io.ome_zarr import image as ngff


def downsample_tasks(
    name: str,
    folders: tuple[Path, ...],
    shape: tuple[int, int],
    shard: int,
    touched: Sequence[Region],
    levels: int | None = None,
) -> list[Task]:
    """Tasks for the levels of pyramids of ``shape`` that no shard of level 0 could fill.

    ``touched``: what was written at level 0, in shards of side ``shard``; ``levels``: how many there are, where
    not as many as ``level_count`` says. Labels are drawn by tasks of the same list, so each of these comes after those
    that it is made of.
    """
    tasks: list[Task] = []
    filled = ngff.direct_levels(shard)
    below = [(f"{name} 0 {region.key}", region.box) for region in touched] if name == "labels" else []
    boxes = [region.box for region in touched]
    for level in range(filled, level_count(shape) if levels is None else levels):
        # Boxes in the px of level 0 for the first of these levels, then in those of the level before.
        shrink = level if level == filled else 1
        grid = Grid(level_shape(shape, level), ngff.SHARD)
        here = sorted({region for box in boxes for region in grid.touching(_shrunk(box, shrink))})
        new = []
        for region in here:
            depends_on = tuple(key for key, box in below if _shrunk(box, shrink).intersect(region.box).area)
            new.append(Task(f"{name} {level} {region.key}", downsample, (folders, level, region.box), depends_on, name))
        tasks += new
        below = [(task.key, region.box) for task, region in zip(new, here, strict=True)]
        boxes = [region.box for region in here]
    return tasks


def _shrunk(box: Box, levels: int) -> Box:
    """The box at a level so much coarser."""
    y, x = box.y >> levels, box.x >> levels
    return Box(y, x, -(-box.y1 >> levels) - y, -(-box.x1 >> levels) - x)


@measured
def downsample(folders: Sequence[Path], level: int, shard: Box) -> None:
    """Fill one shard of a level of some pyramids."""
    for folder in folders:
        ngff.downsample_shard(folder, level, shard)
