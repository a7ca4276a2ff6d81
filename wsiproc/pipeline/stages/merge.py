"""Merge: all cells of a slide sorted along a Hilbert curve, block by block, so memory is bounded by one block.

Cells that others of the slide speak against are dropped here, where all are known (``wsiproc.models.doubt``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsiproc.array.hilbert import hilbert_index
from wsiproc.core.cells import CellTable
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.core.types import Int64Array
from wsiproc.executors import Task
from wsiproc.io.cells.parquet import read_part, write_part
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.models.base import doubt_rules
from wsiproc.models.doubt import STEPS, Doubt
from wsiproc.pipeline.stages.job import Job, stage, stage_task
from wsiproc.pipeline.stages.segment import Segmented, inside
from wsiproc.results.profile import Stage

BLOCK = ngff.SHARD  # cells are merged, and labels rendered, in squares of this side (grid px)


# --- merge -----------------------------------------------------------------------------------------------------------


def doubt_of(job: Job, segmented: Sequence[Segmented]) -> Doubt | None:
    """How cells of a slide are judged by its others, from the counts of all its regions; None if they are not."""
    doubt = doubt_rules(job.model)
    if doubt is None:
        return None
    scores, shares = (
        np.array([counts for counts in some if counts], np.int64).reshape(-1, STEPS).sum(axis=0)
        for some in ([region.scores for region in segmented], [region.shares for region in segmented])
    )
    return doubt.on(scores, shares)


def merge_tasks(job: Job, regions: Sequence[Region], doubt: Doubt | None) -> list[Task]:
    """One task per block that regions touch, once all ``regions`` are segmented."""
    reach = int(np.ceil(doubt.reach_um / job.frame.mean_mpp)) if doubt else 0
    parts: dict[Region, list[Region]] = {}
    blocks = Grid(job.frame.grid, BLOCK)
    for region in regions:
        for block in blocks.touching(region.box.pad(reach).clip(job.frame.grid)):
            parts.setdefault(block, []).append(region)
    return [
        stage_task(Stage.MERGE, block.key, merge_block, (job, block, tuple(some), doubt))
        for block, some in parts.items()
    ]


@dataclass(frozen=True)
class Merged:
    """A block of the slide, its number of cells, and how many were dropped as ``doubtful``."""

    block: Region
    cells: int
    doubtful: int


@stage
def merge_block(job: Job, block: Region, parts: tuple[Region, ...], doubt: Doubt | None) -> Merged:
    """Sort the cells of a block into a file for rendering and export: a pure function of the set of cells.

    It does not depend on how they were divided into ``parts``, which contain all cells of the block and their
    neighbours.
    """
    found = CellTable.concat([read_part(job.part(part)) for part in parts])
    here = inside(block.box, found.centroids)
    kept = here if doubt is None else here & doubt.believed(found, job.frame.mean_mpp)
    cells = found.take(np.flatnonzero(kept))
    write_part(block_path(job, block), cells.take(_hilbert_order(cells)))
    doubtful = int(here.sum() - kept.sum())
    if doubtful:
        write_part(doubtful_path(job, block), found.take(np.flatnonzero(here & ~kept)))
    return Merged(block, len(cells), doubtful)


def _hilbert_order(cells: CellTable) -> Int64Array:
    """Rows by the centre's position on the curve; ties within a pixel are broken by the outlines' first corner."""
    first = cells.rings.vertices[cells.rings.offsets[:-1]]
    order: Int64Array = np.lexsort((first[:, 1], first[:, 0], hilbert_index(cells.centroids.astype(np.int64))))
    return order


@dataclass(frozen=True)
class Block:
    """A merged block: its square, the id of its first cell, its number of cells."""

    region: Region
    first_id: int
    count: int


def number_blocks(merged: Mapping[Region, int]) -> list[Block]:
    """Non-empty blocks along a Hilbert curve; ``merged``: all blocks with their number of cells.

    Blocks are aligned squares of a power of two, so each is one contiguous section of the curve: cells sorted along it
    within each block are sorted overall, and no more than a block is ever held.
    """
    corners = np.array([(region.box.y, region.box.x) for region in merged], np.int64).reshape(-1, 2)
    regions, blocks, first = list(merged), [], 1
    for index in np.argsort(hilbert_index(corners)):
        count = merged[regions[index]]
        if count:
            blocks.append(Block(regions[index], first, count))
        first += count
    return blocks


def block_places(blocks: Sequence[Block]) -> dict[tuple[int, int], Block]:
    """Blocks by their place in the raster."""
    return {(block.region.row, block.region.col): block for block in blocks}


def blocks_at(job: Job, box: Box, by_place: Mapping[tuple[int, int], Block]) -> tuple[Block, ...]:
    """The blocks that hold cells which may touch a box; a cell reaches out of its block by less than a margin."""
    return tuple(by_place[r.row, r.col] for r in squares_near(job, box) if (r.row, r.col) in by_place)


def squares_near(job: Job, box: Box) -> list[Region]:
    """The squares of blocks whose cells may touch a box."""
    return list(Grid(job.frame.grid, BLOCK).touching(box.pad(job.model.margin)))


def block_path(job: Job, region: Region) -> Path:
    """The merged cells of a block."""
    return job.work / f"merged-{region.key}.part"


def doubtful_path(job: Job, region: Region) -> Path:
    """The cells of a block that were dropped as doubtful; there is no such file where none were."""
    return job.work / f"doubtful-{region.key}.part"
