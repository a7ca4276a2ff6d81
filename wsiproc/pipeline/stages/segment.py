"""Segment: the cells of one region, from the stitched maps with a margin around it.

The region keeps exactly those cells whose centres lie in it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container
from dataclasses import asdict, dataclass

import numpy as np

from wsiproc.array.nuclei.measure import LabelSums, centroids, label_sums, measure
from wsiproc.array.nuclei.outline import trace
from wsiproc.array.nuclei.ring import ring_sums
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.geometry import Box, Grid, Region, at_points
from wsiproc.core.immuno import RING_COMPLETE, RING_DAB, Scoring
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, FloatArray, Int32Array, Int64Array, UInt8Array
from wsiproc.executors import Task
from wsiproc.io.atomic import write_json
from wsiproc.io.cells.parquet import write_part
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.models.base import OD_STEP, Instances, Model, doubt_rules
from wsiproc.models.doubt import count_steps
from wsiproc.pipeline.stages.job import Job, infer_marker, search_mask, stage, stage_task, stain_channels, task_key
from wsiproc.results.profile import Stage

# --- segment ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segmented:
    """The result of a region: its number of cells, how many were ``dropped``, by reason, how many have each score, and
    how many clear nuclei have each share of haematoxylin, if the model drops cells by it (``wsiproc.models.doubt``).
    """

    key: str
    cells: int
    dropped: dict[str, int]
    scores: list[int]
    shares: list[int]
    resumed: bool = False


def segment_task(job: Job, region: Region, inferred: Container[str]) -> Task:
    """The task that segments a region; ``inferred``: keys of the regions that have maps."""
    near = Grid(job.frame.grid, job.region_px).touching(region.box.pad(job.model.margin))
    needs = tuple(r.key for r in near if r.key in inferred)
    after = tuple(task_key(Stage.INFER, key) for key in needs)
    return stage_task(Stage.SEGMENT, region.key, segment_region, (job, region, needs), after)


@stage
def segment_region(job: Job, region: Region, needs: tuple[str, ...]) -> Segmented:
    """Segment the cells of one region in the stitched maps and write them as a part file.

    ``needs``: keys of the regions whose maps it reads. If one could not be read, a later run retries that region, and
    then this one.
    """
    marker = job.work / f"{region.key}.segmented.json"
    if marker.exists():
        return Segmented(**json.loads(marker.read_text(encoding="utf-8")) | {"resumed": True})
    around = region.box.pad(job.model.margin).clip(job.frame.grid)
    cells, dropped = cells_inside(job, region.box, around, ngff.read_box(job.maps, 0, around))
    write_part(job.part(region), cells)
    doubt = doubt_rules(job.model)
    shares = doubt.colour.counts(cells) if doubt and doubt.colour else []
    done = Segmented(region.key, len(cells), dropped, count_steps(cells.scores), shares)
    if all(infer_marker(job, key).exists() for key in needs):
        write_json(marker, asdict(done))
    return done


def cells_inside(job: Job, box: Box, around: Box, maps: UInt8Array) -> tuple[CellTable, dict[str, int]]:
    """Cells whose centres lie in a box, from the maps (c, h, w) of the box ``around`` it; and the number of rejected
    ones, by reason.
    """
    found = job.model.instances(maps, box.relative_to(around))
    sums = label_sums(found.labels, len(found.classes), maps)
    # Absolute positions before any division, so that rounding does not depend on the region.
    shift = np.array([around.y, around.x, 0, 0])
    sums = dataclasses.replace(sums, boxes=sums.boxes + shift)
    centres = centroids(sums)
    here = inside(box, centres)
    kept = here & _wanted(job, centres)
    cells = cell_table(job.model, found, sums, np.flatnonzero(kept), (around.y, around.x), job.frame.px_um2)
    if job.phenotypes is not None:
        cells = dataclasses.replace(cells, classes=job.phenotypes.nearest(cells.measurements))
    elif job.scoring is not None:
        measured = cells.measurements | _around_nuclei(job, job.scoring, found.labels, sums, kept, around, maps)
        cells = dataclasses.replace(cells, measurements=measured, classes=job.scoring.classify(measured))
    local = box.relative_to(around)
    dropped = {reason: int(inside(local, places.astype(float)).sum()) for reason, places in found.dropped.items()}
    return cells, dropped | {"outside the tissue or region of interest": int(here.sum() - kept.sum())}


def _around_nuclei(
    job: Job,
    scoring: Scoring,
    labels: Int32Array,
    sums: LabelSums,
    kept: BoolArray,
    around: Box,
    maps: UInt8Array,
) -> dict[str, Float32Array]:
    """DAB in the rings around the ``kept`` cells, by column; ``sums``: of all ``labels``, in the frame of the grid."""
    dab = maps[stain_channels(job.model)["dab"]]
    rings = ring_sums(labels, sums, (around.y, around.x), maps[0], dab, job.frame.mean_mpp)
    columns = {RING_DAB: rings.means() * OD_STEP, RING_COMPLETE: rings.completeness(scoring.ring_cut / OD_STEP)}
    return {name: values[kept].astype(np.float32) for name, values in columns.items()}


def inside(box: Box, points: FloatArray) -> BoolArray:
    """Which ``points`` (N, 2), (y, x), lie in a box: the one rule that decides which region owns a cell."""
    y, x = points.T
    owned: BoolArray = (y >= box.y) & (y < box.y1) & (x >= box.x) & (x < box.x1)
    return owned


def _wanted(job: Job, centres: Float64Array) -> BoolArray:
    """Which centres (N, 2), grid px, lie in the search mask and in the region of interest."""
    searched: BoolArray = at_points(search_mask(job), job.frame.grid, centres)
    if job.roi is None:
        return searched
    import shapely

    y, x = (centres * job.frame.scale).T
    in_roi: BoolArray = shapely.contains_xy(job.roi, x, y)
    return searched & in_roi


def cell_table(
    model: Model,
    found: Instances,
    sums: LabelSums,
    rows: Int64Array,
    corner: tuple[int, int],
    px_um2: float,
) -> CellTable:
    """The chosen ``rows`` (N,) as a table, measured; ``corner`` (y, x): of the labels in the frame of the sums."""
    rings = trace(found.labels, rows + 1)
    rings = Rings(rings.offsets, rings.vertices + np.array(corner, np.int32))
    sums = LabelSums(*(getattr(sums, field.name)[rows] for field in dataclasses.fields(sums)))
    return CellTable(
        found.classes[rows],
        found.scores[rows],
        centroids(sums),
        sums.boxes.astype(np.int32),
        measure(sums, rings, px_um2, stain_channels(model), OD_STEP),
        rings,
    )
