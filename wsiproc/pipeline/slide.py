"""READ FIRST: the way of one slide from its path to finished files, top to bottom.

*Plan*: the slide is surveyed and cut into regions, and everything is decided before anything expensive starts. *Infer*
writes each region's maps as one whole shard of a stitched image. *Segment* reads a region with a margin around it from
that image, so that both sides of every border see the same nuclei, and keeps the cells whose centres lie inside.
*Merge* sorts all cells along a Hilbert curve. *Render* and *export* draw every output from that one table. *Report*
counts and shows them.

Each stage is a file in ``stages/``. Its tasks leave files; a task whose files are there is not done again, and
``run.json`` comes last: a folder that has one is finished.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.core.geometry import Region
from wsiproc.core.phenotypes import Phenotypes
from wsiproc.core.threads import in_background
from wsiproc.errors import MemoryLimitError, OutputError
from wsiproc.executors import Measured, Task, WorkerPool, trim_heap
from wsiproc.executors.limits import GB
from wsiproc.executors.memory import MemoryWatch, enforced_bytes
from wsiproc.io.atomic import remove_leftovers, write_json
from wsiproc.io.cells.parquet import read_part
from wsiproc.pipeline.planning.plan import Plan, choose_model, device_for, plan_slide, run_identity, slide_source
from wsiproc.pipeline.progress import Event, OnEvent, Outcome
from wsiproc.pipeline.record import Drawn, FoundCells, Spent, run_record
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.stages.crops import CropPlaces, take_crops
from wsiproc.pipeline.stages.export import GeoJsonJoined, export_tasks
from wsiproc.pipeline.stages.infer import Inferred, infer_task
from wsiproc.pipeline.stages.job import Job
from wsiproc.pipeline.stages.merge import (
    Block,
    block_path,
    block_places,
    blocks_at,
    doubt_of,
    merge_tasks,
    number_blocks,
)
from wsiproc.pipeline.stages.render import create_images, create_maps, render_tasks, save_overview
from wsiproc.pipeline.stages.seams import SeamCounts, SeamPlaces, certificate, seam_task
from wsiproc.pipeline.stages.segment import Segmented, segment_task
from wsiproc.pipeline.workers import SharedWorkers
from wsiproc.results.folder import RUN, SLIDE, changed_keys, clean_up, empty
from wsiproc.results.profile import Profile, Stage
from wsiproc.results.record import MemoryRecord, RunRecord, SeamsRecord
from wsiproc.results.report.cells import ReportCells
from wsiproc.results.report.page import write_report
from wsiproc.results.run_log import LOG

# --- the slide -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlideRequest:
    """A slide that is to be run: its ``path``, the ``folder`` that it gets, and what it has in common with others.

    ``priority``: workers do slides of a lower one first; ``at_once`` slides share them. ``cohort``: where the table of
    all slides is, seen from this one's folder; None for a slide alone.
    """

    path: Path
    folder: Path
    settings: Settings
    phenotypes: Phenotypes | None
    overwrite: bool
    workers: SharedWorkers
    priority: int
    at_once: int
    cohort: str | None


def run_slide(request: SlideRequest, on_progress: OnEvent) -> Outcome:
    """From the path of a slide to a finished folder, unless that is finished already.

    Where memory runs short, the same work goes on with fewer workers.
    """
    path, folder, settings = request.path, request.folder, request.settings
    with slide_source(path, settings).open() as slide:
        cluster = request.workers.cluster()
        model = choose_model(settings)
        device = device_for(model, settings, cluster)
        identity = run_identity(slide.fingerprint(), settings, model, device, request.phenotypes)
    if not request.overwrite:
        run = _finished(folder, identity)
        if run is not None:
            return Outcome(path, folder.name, "already done", folder, run)
    on_progress(Event(folder.name, "plan", 0, 1))
    clock = time.perf_counter()
    with MemoryWatch(enforced_bytes(None if settings.memory_gb is None else settings.memory_gb * GB)) as watch:
        plan = plan_slide(path, folder.parent, settings, request.phenotypes, cluster, request.at_once, folder.name)
        trim_heap()
        if request.overwrite:
            (folder / RUN).unlink(missing_ok=True)
        while True:
            pool: WorkerPool | None = None
            try:
                before = {"plan": time.perf_counter() - clock}
                with in_background(partial(_open_folder, plan)) as opened, request.workers.for_plan(plan) as pool:
                    before["workers"] = time.perf_counter() - clock - before["plan"]
                    watch.forget()
                    run = _run_plan(plan, _Context(request, pool, watch, on_progress), before, opened)
                (folder / LOG).unlink(missing_ok=True)
                return Outcome(path, folder.name, "done", folder, run)
            except MemoryLimitError as error:
                if pool is None or not request.workers.fewer(pool):
                    raise MemoryLimitError(
                        f"{path}: {error}. Use fewer --workers, a smaller --region, more --memory, or a higher "
                        "limit of the container or job; what is done is kept; run the same command to resume"
                    ) from error


def _finished(folder: Path, identity: Mapping[str, str]) -> RunRecord | None:
    """The record of a finished folder; OutputError where it was made with something else."""
    if not (folder / RUN).exists():
        return None
    run = RunRecord.read(folder)
    other = changed_keys(run.made_with, identity)
    if other:
        raise OutputError(
            f"{folder} holds results that were made with another {other}. Choose another -o folder, or pass "
            "--overwrite to replace them"
        )
    clean_up(folder)
    return run


def _open_folder(plan: Plan) -> list[str]:
    """Make the folder ready: resume the same work, else start over. Warnings of what was discarded."""
    job = plan.job
    marker = job.work / "plan.json"
    begun = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None
    if begun == plan.identity:
        return []
    empty(job.folder)
    job.work.mkdir(parents=True)
    np.save(job.work / "search.npy", plan.search)
    save_overview(job, plan.overview, plan.tissue)
    create_maps(job)
    write_json(job.work / SLIDE, {"path": plan.slide["path"], "fingerprint": plan.slide["fingerprint"]})
    write_json(marker, plan.identity)
    if begun is None:
        return []
    return [f"unfinished work was started over, since it was made with another {changed_keys(begun, plan.identity)}"]


# --- the plan, stage by stage ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Context:
    """What runs the tasks of one slide, and where progress is reported."""

    request: SlideRequest
    pool: WorkerPool
    watch: MemoryWatch
    on_progress: OnEvent
    profile: Profile = field(default_factory=Profile)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Measured[Any]]]:
        """Each task with its result, as they end, as long as memory lasts."""
        for task, result in self.pool.run(tasks, self.request.priority):
            if task.stage != Stage.INFER:
                self.profile.add(Stage(task.stage), result.metrics)
            yield task, result
            self.watch.check()

    def report(self, stage: str, done: int, total: int, cells: int = 0, mpx: float = 0.0) -> None:
        """Report so many steps of a stage as done."""
        self.on_progress(Event(self.request.folder.name, stage, done, total, cells, mpx, self.profile.most()))


def _run_plan(plan: Plan, context: _Context, before: Mapping[str, float], opened: Future[list[str]]) -> RunRecord:
    """Carry out a plan; its record.

    ``before``: seconds that went by already, by what took them; ``opened``: the end of ``_open_folder``.

    Raises MemoryLimitError when more is held than allowed; then the same call resumes.
    """
    seconds = _Laps(before)
    warnings = opened.result()
    seconds.lap("prepare")
    shape = plan.tissue.shape[0], plan.tissue.shape[1]
    with in_background(partial(create_images, plan.job, shape, plan.overview_mpp)) as created:
        found = _find_cells(plan, context)
    created.result()
    seconds.lap("infer and segment")
    merged = _merge(plan, context, found)
    trim_heap()
    seconds.lap("merge")
    drawn = _draw(plan, merged, context)
    seconds.lap("render and export")
    spent = Spent.of(context.profile, context.pool.workers, context.request.at_once, seconds.as_dict())
    run = run_record(plan, context.request.settings, found, merged.sums.counts, drawn, spent, warnings)
    _report(plan, merged, context, run)
    seconds.lap("report")
    memory = MemoryRecord(peak_bytes=context.watch.peak, limit_bytes=context.watch.limit)
    run = run.model_copy(update={"seconds": seconds.as_dict(), "memory": memory})
    _finish(plan.job, run)
    return run


class _Laps:
    """Seconds that each part of the work took."""

    def __init__(self, before: Mapping[str, float]) -> None:
        self._seconds = {part: round(passed, 3) for part, passed in before.items()}
        self._clock = time.perf_counter()

    def lap(self, part: str) -> None:
        """A part has ended."""
        now = time.perf_counter()
        self._seconds[part] = round(now - self._clock, 3)
        self._clock = now

    def as_dict(self) -> dict[str, float]:
        """Seconds by part, and their total."""
        return self._seconds | {"total": round(sum(self._seconds.values()), 3)}


def _find_cells(plan: Plan, context: _Context) -> FoundCells:
    """Infer and segment all regions; results of each stage in any order."""
    found = FoundCells()
    tasks = cell_tasks(plan.job, plan.infer, plan.segment)
    context.report("cells", 0, len(tasks))
    cells, mpx = 0, 0.0
    for number, (task, result) in enumerate(context.run(tasks), start=1):
        found.count(task.stage, result.metrics.worker)
        match result.value:
            case Inferred() as inferred:
                found.inferred.append(inferred)
                mpx += inferred.mpx
                if not inferred.resumed:
                    context.profile.add_inference(result.metrics, inferred.spent)
            case Segmented() as segmented:
                found.segmented.append(segmented)
                cells += segmented.cells
        context.report("cells", number, len(tasks), cells, mpx)
    return found


def cell_tasks(job: Job, infer: Sequence[Region], segment: Sequence[Region]) -> list[Task]:
    """Infer and segment, each segmentation right behind the last of the maps that it reads."""
    inferences, inferred = [infer_task(job, region) for region in infer], {region.key for region in infer}
    indices = {task.key: index for index, task in enumerate(inferences)}
    behind: dict[int, list[Task]] = {}
    for region in segment:
        task = segment_task(job, region, inferred)
        behind.setdefault(max(indices[key] for key in task.depends_on), []).append(task)
    return [task for index, inference in enumerate(inferences) for task in (inference, *behind.get(index, []))]


@dataclass(frozen=True)
class _Table:
    """What merging leaves behind: the blocks in order, sums for the report, places to show in it, places to check."""

    blocks: list[Block]
    sums: ReportCells
    places: CropPlaces
    seams: SeamPlaces


def _merge(plan: Plan, context: _Context, found: FoundCells) -> _Table:
    """Merge the cells of all regions and number them, and count on the way."""
    job = plan.job
    tasks = merge_tasks(job, plan.segment, doubt_of(job, found.segmented))
    context.report("merge", 0, 2 * len(tasks))
    for number, (task, result) in enumerate(context.run(tasks), start=1):
        found.count(task.stage, result.metrics.worker)
        found.merged.append(result.value)
        context.report("merge", number, 2 * len(tasks))
    table = _Table(
        number_blocks({each.block: each.cells for each in found.merged}),
        ReportCells.empty(job.frame.grid, job.frame.mean_mpp, len(job.classes), plan.tissue),
        CropPlaces(),
        SeamPlaces(job.region_px, job.frame.grid, int(plan.key, 16)),
    )
    for number, block in enumerate(table.blocks, start=1):
        cells = read_part(block_path(job, block.region))
        table.sums.add(cells)
        table.places.add(cells)
        table.seams.add(cells)
        context.report("merge", len(tasks) + number, len(tasks) + len(table.blocks), table.sums.counts.total)
        context.watch.check()
    return table


def _draw(plan: Plan, table: _Table, context: _Context) -> Drawn:
    """Table, GeoJSON, labels and pyramids, all at the same time, and the seam certificate."""
    job, blocks = plan.job, table.blocks
    by_place = block_places(blocks)
    places = table.seams.choose(plan.windows)
    seen_again = [seam_task(job, place, blocks_at(job, place, by_place)) for place in places]
    tasks = [*seen_again, *export_tasks(job, blocks), *render_tasks(job, plan.infer, blocks)]  # the longest go first
    left_out, seams = 0, []
    context.report("render", 0, len(tasks))
    for number, (_, result) in enumerate(context.run(tasks), start=1):
        match result.value:
            case GeoJsonJoined() as joined:
                left_out = joined.left_out
            case SeamCounts() as counts:
                seams.append(counts)
        context.report("render", number, len(tasks))
    return Drawn(left_out, SeamsRecord(**certificate(seams)))


def _report(plan: Plan, table: _Table, context: _Context, run: RunRecord) -> None:
    context.report("report", 0, 1)
    with plan.job.source.open() as slide:
        crops = take_crops(plan.job, slide, table.blocks, table.places)
    page, cohort = plan.job.folder / "report.html", context.request.cohort
    write_report(page, run, plan.overview, plan.tissue, plan.left_out, table.sums, crops, cohort)


def _finish(job: Job, run: RunRecord) -> None:
    """``run.json`` by rename, the mark of completion; before it go temporary files that killed workers left."""
    remove_leftovers(job.folder)
    run.write(job.folder)
    shutil.rmtree(job.work)
