"""Export: the cell table and GeoJSON, block by block from the merged cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiproc.executors import Task
from wsiproc.io.cells.parquet import CellWriter, read_part
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, features_bytes
from wsiproc.pipeline.stages.job import Job, stage, stage_task
from wsiproc.pipeline.stages.merge import Block, block_path
from wsiproc.results.profile import Stage


def export_tasks(job: Job, blocks: Sequence[Block]) -> list[Task]:
    """Tasks for the cell table, and for GeoJSON: each block formatted and compressed on its own, then all joined in
    order.
    """
    pieces = [stage_task(Stage.GEOJSON, block.region.key, format_geojson, (job, block)) for block in blocks]
    formatted = tuple(task.key for task in pieces)
    join = stage_task(Stage.GEOJSON, "all", join_geojson, (job, tuple(blocks)), formatted)
    return [stage_task(Stage.TABLE, "all", write_table, (job, tuple(blocks))), *pieces, join]


@stage
def write_table(job: Job, blocks: tuple[Block, ...]) -> None:
    """Write ``cells.parquet``, one row group per block."""
    with CellWriter(job.cells, job.classes, job.measurements, job.frame.scale) as writer:
        for block in blocks:
            writer.write(read_part(block_path(job, block.region)))


@stage
def format_geojson(job: Job, block: Block) -> None:
    """One block as a compressed piece of ``cells.geojson.gz``."""
    arguments = (job.fingerprint, list(job.classes), list(job.classes.values()), job.frame.scale)
    cells = read_part(block_path(job, block.region))
    Piece.of(*features_bytes(cells, block.first_id, *arguments)).save(_piece_path(job, block))


@dataclass(frozen=True)
class GeoJsonJoined:
    """``left_out``: number of cells whose outlines QuPath would refuse."""

    left_out: int


@stage
def join_geojson(job: Job, blocks: tuple[Block, ...]) -> GeoJsonJoined:
    """Write ``cells.geojson.gz`` from the pieces."""
    with GeoJsonWriter(job.folder / "cells.geojson.gz") as writer:
        for block in blocks:
            writer.append(Piece.load(_piece_path(job, block)))
    return GeoJsonJoined(writer.dropped)


def _piece_path(job: Job, block: Block) -> Path:
    return job.work / f"geojson-{block.region.key}"
