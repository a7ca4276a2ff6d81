"""Merge, render and export a million cells: seconds per stage and peak memory of all processes.

    python benchmarks/million_cells.py            # a million cells, two workers
    python benchmarks/million_cells.py 100000 2

The cells are real outlines: ellipses drawn on a grid, traced and measured by the package, 4,800 per region of 2048 px,
the density of crowded tissue. Only detection is left out. The workers have rendered a small slide before, as in a run,
where they have already found its cells: imports and compilation are not counted.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from peak_memory import GIB, Watch

from wsiproc.array.dab_pattern import DabPattern
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.array.nuclei.outline import trace
from wsiproc.array.stains import STANDARD, Stain, Stains
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.frame import Frame
from wsiproc.core.geometry import Grid, Region
from wsiproc.core.immuno import Scoring
from wsiproc.executors import WorkerPool, worker_pool
from wsiproc.io.cells.parquet import write_part
from wsiproc.io.slides.open import SlideSource
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.device import Device
from wsiproc.pipeline.planning.scoring import RecognisedDab, SlideScoring
from wsiproc.pipeline.stages.export import export_tasks
from wsiproc.pipeline.stages.job import Job
from wsiproc.pipeline.stages.merge import Block, merge_tasks, number_blocks
from wsiproc.pipeline.stages.render import create_images, create_maps, render_tasks, save_overview
from wsiproc.results.record import (
    RECORD_VERSION,
    CountsRecord,
    GridRecord,
    ModelRecord,
    RegionsRecord,
    RunRecord,
    SettingsRecord,
    SlideRecord,
)

STEP, PITCH = 2048, 29
POSITIVE_OD = 0.8


def nuclei(model_names: list[str]) -> CellTable:
    """The cells of one region: an ellipse of its own size and direction in each 29 px square."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:STEP, :STEP]
    row, col = y // PITCH, x // PITCH
    n = STEP // PITCH
    inside = (row < n) & (col < n)
    index = np.where(inside, row * n + col, 0)
    angle, a, b = rng.random(n * n) * np.pi, rng.uniform(7, 13, n * n), rng.uniform(5, 9, n * n)
    dy, dx = y % PITCH - PITCH / 2, x % PITCH - PITCH / 2
    u = dx * np.cos(angle)[index] + dy * np.sin(angle)[index]
    v = dy * np.cos(angle)[index] - dx * np.sin(angle)[index]
    labels = np.where(inside & ((u / a[index]) ** 2 + (v / b[index]) ** 2 < 1), index + 1, 0).astype(np.int32)
    sums = label_sums(labels, n * n, np.zeros((1, STEP, STEP), np.uint8))
    values = {name: rng.random(n * n).astype(np.float32) for name in model_names}
    rings = trace(labels, np.arange(1, n * n + 1))
    # Where there is DAB, a fifth is positive, by it.
    kinds = (
        (values["dab_od_mean"] > POSITIVE_OD).astype(np.uint8) if "dab_od_mean" in values else np.zeros(n * n, np.uint8)
    )
    return CellTable(
        kinds, rng.random(n * n).astype(np.float32), centroids(sums), sums.boxes.astype(np.int32), values, rings
    )


def moved(cells: CellTable, region: Region) -> CellTable:
    """The same cells in another region."""
    shift = np.array([region.box.y, region.box.x])
    rings = Rings(cells.rings.offsets, (cells.rings.vertices + shift).astype(np.int32))
    boxes = (cells.boxes + np.array([*shift, 0, 0])).astype(np.int32)
    return CellTable(cells.classes, cells.scores, cells.centroids + shift, boxes, cells.measurements, rings)


def make_parts(folder: Path, count: int, kind: Stain = "H&E") -> tuple[Job, list[Region]]:
    """Part files of at least ``count`` cells of a stain in a square of regions."""
    each = (STEP // PITCH) ** 2
    side = int(np.ceil(np.sqrt(count / each)))
    grid = (side * STEP, side * STEP)
    frame = Frame((2 * grid[0], 2 * grid[1]), grid, 0.25)
    model = Classical(stains=Stains(kind, STANDARD[kind]))
    scoring = Scoring("nucleus", (POSITIVE_OD,), 0.2) if kind == "H-DAB" else None
    source = SlideSource(Path("none"))
    job = Job(source, folder, "0" * 64, frame, model, STEP, Device(), 1, None, scoring=scoring)
    cells = nuclei(job.measurements)
    job.work.mkdir(parents=True)
    regions = list(Grid(grid, STEP))[: int(np.ceil(count / each))]
    for region in regions:
        write_part(job.part(region), moved(cells, region))
    overview: npt.NDArray[np.uint8] = np.full((1024, 1024, 3), 230, np.uint8)
    um = grid[0] * 0.5 / 1024
    save_overview(job, overview, np.ones((1024, 1024), bool))
    create_maps(job)
    create_images(job, (1024, 1024), (um, um))
    return job, regions


def merged(job: Job, regions: list[Region], team: WorkerPool) -> list[Block]:
    """The cells of the regions, merged by a pool of workers."""
    results = [result for _, result in team.run(merge_tasks(job, regions, None))]
    return number_blocks({result.value.block: result.value.cells for result in results})


def record_of(job: Job, slide: Path, counts: Sequence[int]) -> RunRecord:
    """What ``run.json`` says of cells, of which there are so many of each class."""
    frame, rule = job.frame, job.scoring
    found = RecognisedDab(DabPattern(0.0, 0.0, 0.0, 0.0), POSITIVE_OD, 0.2, "drawn", "drawn")
    return RunRecord(
        record_version=RECORD_VERSION,
        wsiproc="benchmark",
        key="none",
        slide=SlideRecord(
            name="drawn",
            path=str(slide),
            shape=frame.slide,
            mpp=frame.slide_mpp,
            format="none",
            fingerprint=job.fingerprint,
        ),
        model=ModelRecord(name=job.model.name, mpp=job.model.mpp, classes=list(job.model.classes), calibration={}),
        classes=dict(job.classes),
        immuno=None if rule is None else SlideScoring(rule, found, True, True).record(),
        settings=SettingsRecord(mpp=frame.slide_mpp),
        grid=GridRecord(shape=frame.grid, mpp=frame.mpp, scale=frame.scale),
        tissue_mm2=float(np.prod(frame.grid)) * frame.px_um2 / 1e6,
        regions=RegionsRecord(step=STEP, total=1, tissue=1, failed=[], boxes=[]),
        counts=CountsRecord(cells=sum(counts), classes=dict(zip(job.classes, counts, strict=True)), dropped={}),
        warnings=[],
        versions={},
        seconds={"total": 0.0},
    )


def main(count: int, workers: int) -> None:
    """Time the stages and print them."""
    folder = Path(tempfile.mkdtemp()) / "slide"
    try:
        job, regions = make_parts(folder, count)
        small, few = make_parts(folder.with_name("small"), 20_000)
        with worker_pool("auto", workers) as team, Watch(psutil.Process()) as watch:
            before = merged(small, few, team)
            for _ in team.run(export_tasks(small, before) + render_tasks(small, (), before)):
                pass
            clock = time.perf_counter()
            blocks = merged(job, regions, team)
            there = time.perf_counter()
            for _ in team.run(export_tasks(job, blocks) + render_tasks(job, (), blocks)):
                pass
            drawn = time.perf_counter()
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and ".work" not in p.parts)
        found = sum(block.count for block in blocks)
        stages = f"merge {there - clock:.1f} s, render and export {drawn - there:.1f} s"
        print(f"{found:,} cells, {workers} workers: {stages}")
        print(f"in all {drawn - clock:.1f} s, {size / 1e6:.0f} MB written")
        print(f"peak of all processes: RSS {watch.rss / GIB:.2f} GiB, PSS {watch.pss / GIB:.2f} GiB")
    finally:
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 2)
