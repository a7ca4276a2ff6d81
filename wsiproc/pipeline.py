"""READ FIRST: the whole story of a slide, top to bottom: plan, infer, segment, merge, render, export.

A plan cuts the slide into regions. *Infer* writes each region's maps as one whole shard of a stitched picture.
*Segment* reads a region and a margin around it from that picture, so that both sides of every border see the same
nuclei, and keeps the cells whose centre lies inside. *Merge* sorts all cells along a Hilbert curve. *Render* and
*export* draw every output from that one table. Each stage leaves files; a stage whose files are there is not done
again, and ``run.json`` comes last.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc.array.hilbert import hilbert_index
from wsiproc.array.outline import fill
from wsiproc.array.pyramid import level_count, level_shape
from wsiproc.coarse import coarse_tasks
from wsiproc.core.cells import CellTable, DrawnCells
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.core.palette import RGB
from wsiproc.executors import Meter, Task, worker_name
from wsiproc.io import ngff
from wsiproc.io.geojson import GeoJsonWriter, Piece, features_bytes
from wsiproc.io.parquet import CellWriter, read_drawn, read_part, write_part
from wsiproc.io.whole import remove_unfinished, write_json
from wsiproc.projection import Mask
from wsiproc.regions import Job, begin_task, infer_region, inside, segment_region, unread
from wsiproc.workfolder import RUN

_TRIES = 3  # of a region whose reading hangs
BLOCK = ngff.SHARD  # cells are merged, and labels drawn, by squares of this side (grid px)


# --- merge -----------------------------------------------------------------------------------------------------------


def merge_tasks(job: Job, regions: Sequence[Region]) -> list[Task]:
    """A task a block that regions touch, each behind the regions whose cells it takes."""
    parts: dict[Region, list[Region]] = {}
    for region in regions:
        for block in Grid(job.frame.grid, BLOCK).touching(region.box):
            parts.setdefault(block, []).append(region)
    return [
        Task(f"merge {block.key}", merge_block, (job, block, tuple(some)), tuple(f"segment {r.key}" for r in some))
        for block, some in parts.items()
    ]


def merge_block(job: Job, block: Region, parts: tuple[Region, ...]) -> dict[str, Any]:
    """Sort the cells of a block into a file for those who draw it: a pure function of the set of cells.

    How they were cut into parts leaves no trace.
    """
    begin_task()
    meter = Meter()
    tables = [read_part(job.part(part)) for part in parts]
    cells = CellTable.concat([t.take(np.flatnonzero(inside(block.box, t.centroids))) for t in tables])
    write_part(block_path(job, block), cells.take(_hilbert_order(cells)))
    return {"block": block, "merged": len(cells), "worker": worker_name()} | meter.facts()


def _hilbert_order(cells: CellTable) -> npt.NDArray[np.int64]:
    """Rows by place of the centre on the curve; two centres in one pixel go by their outlines' first corner."""
    first = cells.rings.vertices[cells.rings.offsets[:-1]]
    order: npt.NDArray[np.int64] = np.lexsort(
        (first[:, 1], first[:, 0], hilbert_index(cells.centroids.astype(np.int64)))
    )
    return order


@dataclass(frozen=True)
class Block:
    """A merged square: its place, the id of its first cell, how many it has."""

    region: Region
    first_id: int
    count: int


def number_blocks(merged: Mapping[Region, int]) -> list[Block]:
    """Blocks with cells along a Hilbert curve, of all with how many each has.

    Blocks are aligned squares of a power of two, so each is one stretch of the curve: cells that are sorted along it
    within each block are sorted as a whole, and no more than a block is ever held.
    """
    corners = np.array([(region.box.y, region.box.x) for region in merged], np.int64).reshape(-1, 2)
    regions, blocks, first = list(merged), [], 1
    for place in np.argsort(hilbert_index(corners)):
        count = merged[regions[place]]
        if count:
            blocks.append(Block(regions[place], first, count))
        first += count
    return blocks


def block_places(blocks: Sequence[Block]) -> dict[tuple[int, int], Block]:
    """Blocks by their place in the raster."""
    return {(block.region.row, block.region.col): block for block in blocks}


def blocks_at(job: Job, box: Box, by_place: Mapping[tuple[int, int], Block]) -> tuple[Block, ...]:
    """The blocks that hold cells which may touch a box; a cell reaches out of its block by less than a margin."""
    near = Grid(job.frame.grid, BLOCK).touching(box.pad(job.model.margin))
    return tuple(by_place[r.row, r.col] for r in near if (r.row, r.col) in by_place)


def block_path(job: Job, region: Region) -> Path:
    """The merged cells of a block."""
    return job.work / f"merged-{region.key}.part"


# --- render ----------------------------------------------------------------------------------------------------------


def create_maps(job: Job) -> None:
    """The empty pyramid of the maps, all that must be there before the first task."""
    channels = [(c.name, c.colour) for c in job.model.channels]
    levels = level_count(job.frame.grid)
    ngff.create_image(job.maps, job.frame.grid, job.frame.mpp, levels, channels, shard=job.step)


def create_pictures(job: Job, overview: tuple[int, int], overview_mpp: tuple[float, float]) -> None:
    """Empty pyramids for overview and tissue, which have the shape ``overview``, and for labels."""
    levels = level_count(job.frame.grid)
    rgb = [("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255))]
    name = f"overview, {np.mean(overview_mpp):.3g} µm/px"
    ngff.create_image(job.image, overview, overview_mpp, levels, rgb, name=name)
    ngff.create_labels_group(job.image, ["tissue", "classes", "cells"])
    glass = {0: ("Glass", (0, 0, 0), 0), 1: ("Tissue", (86, 180, 233), 90)}
    ngff.create_labels(job.image, "tissue", overview, overview_mpp, levels, "uint8", glass)
    create_class_labels(job.image, job.classes, job.frame.grid, job.frame.mpp)
    ngff.create_labels(job.image, "cells", job.frame.grid, job.frame.mpp, levels, "uint32")


def create_class_labels(
    image: Path, classes: Mapping[str, RGB], grid: tuple[int, int], mpp: tuple[float, float]
) -> None:
    """The empty label pyramid of classes (colours by name)."""
    values = {0: ("Background", (0, 0, 0), 0)} | {
        value: (name, colour, 160) for value, (name, colour) in enumerate(classes.items(), start=1)
    }
    ngff.create_labels(image, "classes", grid, mpp, level_count(grid), "uint8", values)


def save_overview(job: Job, overview: npt.NDArray[np.uint8], tissue: Mask) -> None:
    """Keep the overview (h, w, 3) and its tissue (h, w) for whoever draws their pyramids."""
    np.save(job.work / "overview.npy", overview)
    np.save(job.work / "tissue.npy", tissue)


def draw_overview(job: Job) -> dict[str, Any]:
    """Fill the pyramids of overview and tissue, which are small."""
    begin_task()
    meter = Meter()
    overview, tissue = np.load(job.work / "overview.npy"), np.load(job.work / "tissue.npy")
    for folder, pixels in (
        (job.image, overview.transpose(2, 0, 1)),
        (job.image / "labels/tissue", tissue.view(np.uint8)),
    ):
        shape = (pixels.shape[-2], pixels.shape[-1])
        ngff.write_pyramid(folder, Box(0, 0, *shape), pixels, BLOCK)
        for level in range(ngff.direct_levels(BLOCK), level_count(job.frame.grid)):
            ngff.halve_shard(folder, level, Box(0, 0, *level_shape(shape, level)))
    return meter.facts()


def render_tasks(job: Job, infer: Sequence[Region], blocks: Sequence[Block]) -> list[Task]:
    """Everything that is drawn: overview, label shards from the table, then the coarse levels of labels and maps."""
    by_place = block_places(blocks)
    shards = Grid(job.frame.grid, BLOCK)
    # A cell reaches over its block's border by less than its largest diameter.
    drawn = sorted({shard for block in blocks for shard in shards.touching(block.region.box.pad(job.model.margin))})
    tasks = [Task("overview", draw_overview, (job,))]
    for shard in drawn:
        sources = blocks_at(job, shard.box, by_place)
        tasks.append(Task(f"labels 0 {shard.key}", render_labels, (job, shard.box, sources)))
    labels = (job.image / "labels/classes", job.image / "labels/cells")
    tasks += coarse_tasks("labels", labels, job.frame.grid, BLOCK, drawn)
    return tasks + coarse_tasks("maps", (job.maps,), job.frame.grid, job.step, infer)


def render_labels(job: Job, shard: Box, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Draw one shard of both label maps from the cells that may touch it."""
    begin_task()
    meter = Meter()
    found = [read_drawn(block_path(job, block.region), shard) for block in blocks]
    cells = DrawnCells.concat([some for _, some in found])
    if len(cells):
        numbers = np.concatenate([block.first_id + rows for block, (rows, _) in zip(blocks, found, strict=True)])
        box = ngff.part_to_write(_around_all(cells.boxes).intersect(shard), shard, BLOCK)
        ids, kinds = np.zeros(box.shape, np.uint32), np.zeros(box.shape, np.uint8)
        fill(ids, cells.rings.offsets, cells.rings.vertices, numbers.astype(np.uint32), box.y, box.x)
        fill(kinds, cells.rings.offsets, cells.rings.vertices, cells.classes + np.uint8(1), box.y, box.x)
        ngff.write_pyramid(job.image / "labels/cells", box, ids, BLOCK)
        ngff.write_pyramid(job.image / "labels/classes", box, kinds, BLOCK)
    return meter.facts()


def _around_all(boxes: npt.NDArray[np.int32]) -> Box:
    """The smallest box that holds all ``boxes`` (N, 4)."""
    (y, x), (y1, x1) = boxes[:, :2].min(axis=0).tolist(), (boxes[:, :2] + boxes[:, 2:]).max(axis=0).tolist()
    return Box(y, x, y1 - y, x1 - x)


# --- export ----------------------------------------------------------------------------------------------------------


def export_tasks(job: Job, blocks: Sequence[Block]) -> list[Task]:
    """The cell table; and GeoJSON, each block formatted and compressed on its own, then all joined in order."""
    pieces = [Task(f"geojson {block.region.key}", format_geojson, (job, block)) for block in blocks]
    join = Task("geojson", join_geojson, (job, tuple(blocks)), tuple(task.key for task in pieces))
    return [Task("table", write_table, (job, tuple(blocks))), *pieces, join]


def write_table(job: Job, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Write ``cells.parquet``, a row group a block."""
    meter = Meter()
    with CellWriter(job.cells, job.classes, job.measurements, job.frame.scale) as writer:
        for block in blocks:
            writer.write(read_part(block_path(job, block.region)))
    return meter.facts()


def format_geojson(job: Job, block: Block) -> dict[str, Any]:
    """One block as a compressed piece of ``cells.geojson.gz``."""
    meter = Meter()
    facts = (job.fingerprint, list(job.classes), list(job.classes.values()), job.frame.scale)
    cells = read_part(block_path(job, block.region))
    Piece.of(*features_bytes(cells, block.first_id, *facts)).save(_piece_path(job, block))
    return meter.facts()


def join_geojson(job: Job, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Write ``cells.geojson.gz``; how many outlines QuPath would have refused."""
    meter = Meter()
    with GeoJsonWriter(job.folder / "cells.geojson.gz") as writer:
        for block in blocks:
            writer.append(Piece.load(_piece_path(job, block)))
    return {"left_out": writer.dropped} | meter.facts()


def _piece_path(job: Job, block: Block) -> Path:
    return job.work / f"geojson-{block.region.key}"


# --- tasks -----------------------------------------------------------------------------------------------------------


def cell_tasks(job: Job, infer: Sequence[Region], segment: Sequence[Region]) -> list[Task]:
    """Infer and segment, each segmentation right behind the last of the maps that it reads."""
    inferred = {r.key: place for place, r in enumerate(infer)}
    behind: dict[int, list[Task]] = {}
    for region in segment:
        near = Grid(job.frame.grid, job.step).touching(region.box.pad(job.model.margin))
        needs = tuple(r.key for r in near if r.key in inferred)
        after = tuple(f"infer {key}" for key in needs)
        task = Task(f"segment {region.key}", segment_region, (job, region, needs), after)
        behind.setdefault(max(inferred[key] for key in needs), []).append(task)
    tasks = []
    for place, region in enumerate(infer):
        give_up = partial(unread, job, region)
        tasks.append(
            Task(f"infer {region.key}", infer_region, (job, region), tries=_TRIES, otherwise=give_up, gpu=True)
        )
        tasks += behind.get(place, [])
    return tasks


def finish(job: Job, run: dict[str, Any]) -> None:
    """``run.json`` by rename, the mark of completion; before it what killed workers left, then the scaffolding goes."""
    remove_unfinished(job.folder)
    write_json(job.folder / RUN, run)
    shutil.rmtree(job.work)
