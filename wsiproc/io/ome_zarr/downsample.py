"""The lower levels of pyramids, which no single region fills: one task per shard, each level made from the last."""

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
    """Tasks for the levels of pyramids of ``shape`` that cannot be filled along with a shard of level 0.

    ``touched``: the shards written at level 0, of side ``shard``; ``levels``: number of levels, if not ``level_count``.
    Labels are rendered by tasks of the same list, so each task depends on those that write its source.
    """
    tasks: list[Task] = []
    filled = ngff.direct_levels(shard)
    below = [(f"{name} 0 {region.key}", region.box) for region in touched] if name == "labels" else []
    boxes = [region.box for region in touched]
    for level in range(filled, level_count(shape) if levels is None else levels):
        # Boxes are in px of level 0 for the first of these levels, then in px of the previous level.
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
    """The box, that many levels further down."""
    y, x = box.y >> levels, box.x >> levels
    return Box(y, x, -(-box.y1 >> levels) - y, -(-box.x1 >> levels) - x)


@measured
def downsample(folders: Sequence[Path], level: int, shard: Box) -> None:
    """Fill one shard at one level of several pyramids."""
    for folder in folders:
        ngff.downsample_shard(folder, level, shard)
