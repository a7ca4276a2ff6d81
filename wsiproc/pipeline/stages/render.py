"""Render: overview, tissue and label pyramids, from the one table of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsiproc.array.nuclei.outline import fill
from wsiproc.array.pyramid import level_count, level_shape
from wsiproc.core.cells import DrawnCells
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.core.palette import RGB
from wsiproc.core.types import BoolArray, Int32Array, UInt8Array
from wsiproc.executors import Task
from wsiproc.io.cells.parquet import read_part_outlines
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.ome_zarr.downsample import downsample_tasks
from wsiproc.pipeline.stages.job import Job, stage, stage_task
from wsiproc.pipeline.stages.merge import BLOCK, Block, block_path, block_places, blocks_at
from wsiproc.results.profile import Stage


def create_maps(job: Job) -> None:
    """Create the empty pyramid of the maps, which must exist before the first task."""
    channels = [(c.name, c.colour) for c in job.model.channels]
    levels = level_count(job.frame.grid)
    ngff.create_image(job.maps, job.frame.grid, job.frame.mpp, levels, channels, shard=job.region_px)


def create_images(job: Job, overview: tuple[int, int], overview_mpp: tuple[float, float]) -> None:
    """Create empty pyramids for overview and tissue, which have the shape ``overview``, and for labels."""
    levels = level_count(job.frame.grid)
    rgb = [("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255))]
    name = f"overview, {np.mean(overview_mpp):.3g} µm/px"
    ngff.create_image(job.image, overview, overview_mpp, levels, rgb, name=name)
    ngff.create_labels_group(job.image, ["tissue", "classes", "cells"])
    values = {0: ("Glass", (0, 0, 0), 0), 1: ("Tissue", (86, 180, 233), 90)}
    ngff.create_labels(job.image, "tissue", overview, overview_mpp, levels, "uint8", values)
    create_class_labels(job.image, job.classes, job.frame.grid, job.frame.mpp)
    ngff.create_labels(job.image, "cells", job.frame.grid, job.frame.mpp, levels, "uint32")


def create_class_labels(
    image: Path, classes: Mapping[str, RGB], grid: tuple[int, int], mpp: tuple[float, float]
) -> None:
    """Create the empty label pyramid of ``classes`` (colours by name)."""
    values = {0: ("Background", (0, 0, 0), 0)} | {
        value: (name, colour, 160) for value, (name, colour) in enumerate(classes.items(), start=1)
    }
    ngff.create_labels(image, "classes", grid, mpp, level_count(grid), "uint8", values)


def save_overview(job: Job, overview: UInt8Array, tissue: BoolArray) -> None:
    """Save the overview (h, w, 3) and its tissue (h, w) for the task that fills their pyramids."""
    np.save(job.work / "overview.npy", overview)
    np.save(job.work / "tissue.npy", tissue)


@stage
def draw_overview(job: Job) -> None:
    """Fill the pyramids of overview and tissue, which are small."""
    overview, tissue = np.load(job.work / "overview.npy"), np.load(job.work / "tissue.npy")
    for folder, pixels in (
        (job.image, overview.transpose(2, 0, 1)),
        (job.image / "labels/tissue", tissue.view(np.uint8)),
    ):
        shape = (pixels.shape[-2], pixels.shape[-1])
        ngff.write_pyramid(folder, Box(0, 0, *shape), pixels, BLOCK)
        for level in range(ngff.direct_levels(BLOCK), level_count(job.frame.grid)):
            ngff.downsample_shard(folder, level, Box(0, 0, *level_shape(shape, level)))


def render_tasks(job: Job, infer: Sequence[Region], blocks: Sequence[Block]) -> list[Task]:
    """All rendering tasks: overview, label shards from the table, then the lower levels of labels and maps."""
    by_place = block_places(blocks)
    shards = Grid(job.frame.grid, BLOCK)
    # A cell reaches over its block's border by less than its largest diameter.
    drawn = sorted({shard for block in blocks for shard in shards.touching(block.region.box.pad(job.model.margin))})
    tasks = [stage_task(Stage.OVERVIEW, "all", draw_overview, (job,))]
    for shard in drawn:
        sources = blocks_at(job, shard.box, by_place)
        tasks.append(stage_task(Stage.LABELS, f"0 {shard.key}", render_labels, (job, shard.box, sources)))
    labels = (job.image / "labels/classes", job.image / "labels/cells")
    tasks += downsample_tasks(Stage.LABELS, labels, job.frame.grid, BLOCK, drawn)
    return tasks + downsample_tasks(Stage.MAPS, (job.maps,), job.frame.grid, job.region_px, infer)


@stage
def render_labels(job: Job, shard: Box, blocks: tuple[Block, ...]) -> None:
    """Render one shard of both label maps from the cells that may touch it."""
    found = [read_part_outlines(block_path(job, block.region), shard) for block in blocks]
    cells = DrawnCells.concat([some for _, some in found])
    if len(cells):
        numbers = np.concatenate([block.first_id + rows for block, (rows, _) in zip(blocks, found, strict=True)])
        box = ngff.part_to_write(_around_all(cells.boxes).intersect(shard), shard, BLOCK)
        ids, classes = np.zeros(box.shape, np.uint32), np.zeros(box.shape, np.uint8)
        fill(ids, cells.rings.offsets, cells.rings.vertices, numbers.astype(np.uint32), box.y, box.x)
        fill(classes, cells.rings.offsets, cells.rings.vertices, cells.classes + np.uint8(1), box.y, box.x)
        ngff.write_pyramid(job.image / "labels/cells", box, ids, BLOCK)
        ngff.write_pyramid(job.image / "labels/classes", box, classes, BLOCK)


def _around_all(boxes: Int32Array) -> Box:
    """The smallest box that holds all ``boxes`` (N, 4)."""
    (y, x), (y1, x1) = boxes[:, :2].min(axis=0).tolist(), (boxes[:, :2] + boxes[:, 2:]).max(axis=0).tolist()
    return Box(y, x, y1 - y, x1 - x)
