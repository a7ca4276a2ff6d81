"""From a path to a finished folder: carry out a plan, run many slides and lose none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.cohort import write_cohort
from wsiproc.core.geometry import Grid
from wsiproc.core.kinds import CellKinds
from wsiproc.crops import CropPlaces, take_crops
from wsiproc.discover import find_kinds
from wsiproc.errors import MemoryLimitError, OutputError, SettingsError, sentence
from wsiproc.executors import Crew, Task, crew, give_back_memory
from wsiproc.io.fingerprint import slide_files
from wsiproc.io.slides import slide_name
from wsiproc.io.whole import write_json
from wsiproc.memory import MemoryWatch
from wsiproc.models import load_model
from wsiproc.pipeline import (
    BLOCK,
    Block,
    block_places,
    blocks_at,
    cell_tasks,
    create_outputs,
    export_tasks,
    finish,
    merge_cells,
    render_tasks,
)
from wsiproc.plan import Cluster, Plan, choose_device, cluster_facts, plan_slide, slide_source, work_facts
from wsiproc.projection import GB
from wsiproc.report import ReportCells, write_report
from wsiproc.run_facts import Drawn, run_facts
from wsiproc.seams import SeamPlaces, certificate, check_place
from wsiproc.settings import Settings
from wsiproc.workfolder import RUN, empty, locked, other_facts, storage_explained, tidy


@dataclass(frozen=True)
class Event:
    """Progress of one slide: ``done`` of ``total`` steps of a stage; ``cells`` found and ``mpx`` read so far."""

    slide: str
    stage: str
    done: int
    total: int
    cells: int = 0
    mpx: float = 0.0


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that wants nothing."""


def run_plan(
    plan: Plan, workers: Crew, settings: Settings, plan_s: float, watch: MemoryWatch, listen: Listener = ignore
) -> dict[str, Any]:
    """Carry out a plan that took ``plan_s`` seconds to make; what ``run.json`` says.

    Raises MemoryLimitError when ``watch`` finds more held than allowed; then the same call goes on with what is done.
    """
    clock = time.perf_counter()
    seconds = {"plan": round(plan_s, 3)}

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage] = round(now - clock, 3)
        clock = now

    warnings = _open_folder(plan)
    lap("prepare")
    hands = _Hands(plan.slide["name"], workers, watch, listen)
    done = _find_cells(plan, hands)
    lap("infer and segment")
    merged = _merge(plan, hands)
    give_back_memory()
    lap("merge")
    drawn = _draw(plan, merged, hands)
    lap("render and export")
    run = run_facts(plan, settings, done, merged.sums.counts, drawn)
    run["warnings"] = warnings + run["warnings"]
    run["seconds"] = seconds | {"total": round(sum(seconds.values()), 3)}
    listen(Event(plan.slide["name"], "report", 0, 1))
    with plan.job.source.open() as slide:
        crops = take_crops(plan.job, slide, merged.blocks, merged.places)
    write_report(plan.job.folder / "report.html", run, plan.overview, plan.tissue, merged.sums, crops)
    lap("report")
    run["seconds"] = seconds | {"total": round(sum(seconds.values()), 3)}
    run["memory"] = {"peak_bytes": watch.peak, "limit_bytes": watch.limit}
    finish(plan.job, run)
    return run


def _open_folder(plan: Plan) -> list[str]:
    """Make the folder ready: go on where the same work was left, else start anew. Warnings of what was given up."""
    job = plan.job
    marker = job.work / "plan.json"
    begun = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None
    if begun == plan.facts:
        return []
    empty(job.folder)
    job.work.mkdir(parents=True)
    np.save(job.work / "search.npy", plan.search)
    create_outputs(job, plan.overview, plan.overview_mpp, plan.tissue)
    write_json(marker, plan.facts)
    if begun is None:
        return []
    return [f"unfinished work was begun anew, since it was made with another {other_facts(begun, plan.facts)}"]


@dataclass(frozen=True)
class _Hands:
    """What carries out the tasks of one slide, and who is told."""

    slide: str
    crew: Crew
    watch: MemoryWatch
    listen: Listener

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they end, as long as memory lasts."""
        for done in self.crew.run(tasks):
            yield done
            self.watch.check()


def _find_cells(plan: Plan, hands: _Hands) -> dict[str, list[dict[str, Any]]]:
    """Infer and segment all regions."""
    done: dict[str, list[dict[str, Any]]] = {"infer": [], "segment": []}
    tasks = cell_tasks(plan.job, plan.infer, plan.segment)
    cells, mpx = 0, 0.0
    for number, (task, result) in enumerate(hands.run(tasks), start=1):
        done[task.key.split()[0]].append(result)
        cells += result.get("cells", 0)
        mpx += result.get("windows", 0) * plan.job.model.window**2 / 1e6
        hands.listen(Event(hands.slide, "cells", number, len(tasks), cells, mpx))
    return done


@dataclass(frozen=True)
class _Merged:
    """What merging leaves behind: the blocks in order, sums for the report, places to show in it, places to check."""

    blocks: list[Block]
    sums: ReportCells
    places: CropPlaces
    seams: SeamPlaces


def _merge(plan: Plan, hands: _Hands) -> _Merged:
    """Sort and number the cells, and count on the way."""
    job = plan.job
    mpp = float(np.mean(job.frame.mpp))
    merged = _Merged(
        [],
        ReportCells.empty(job.frame.grid, mpp, len(job.classes)),
        CropPlaces(),
        SeamPlaces(job.step, job.frame.grid, int(plan.key, 16)),
    )
    total = len({block for region in plan.segment for block in Grid(job.frame.grid, BLOCK).touching(region.box)})
    for block, cells in merge_cells(job, plan.segment):
        merged.blocks.append(block)
        merged.sums.add(cells)
        merged.places.add(cells)
        merged.seams.add(cells)
        hands.listen(Event(hands.slide, "merge", len(merged.blocks), total, int(merged.sums.counts.sum())))
        hands.watch.check()
    return merged


def _draw(plan: Plan, merged: _Merged, hands: _Hands) -> Drawn:
    """Table, GeoJSON, labels and pyramids, side by side, and the seams looked at again."""
    job, blocks = plan.job, merged.blocks
    tasks = export_tasks(job, blocks) + render_tasks(job, plan.infer, blocks)
    by_place = block_places(blocks)
    for place in merged.seams.choose(plan.windows):
        near = blocks_at(job, place, by_place)
        tasks.append(Task(f"seam {place.y} {place.x}", check_place, (job, place, near), gpu=True))
    left_out, seams = 0, []
    for number, (_, result) in enumerate(hands.run(tasks), start=1):
        left_out += result.get("left_out", 0)
        seams += [result["seams"]] if "seams" in result else []
        hands.listen(Event(hands.slide, "render", number, len(tasks)))
    return Drawn(left_out, certificate(seams))


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: ``status`` is *done*, *already done* or *failed*; ``run`` as in ``run.json``."""

    path: Path
    status: str
    folder: Path | None = None
    run: dict[str, Any] | None = None
    error: Exception | None = None


class _Crews:
    """Workers, started when the first slide needs them and kept for the others."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings = settings
        self._crew: Crew | None = None
        self._open = stack.enter_context(ExitStack())
        self._most: int | None = None
        self._cluster: Cluster | None = None

    def cluster(self) -> Cluster | None:
        """What the workers of an existing cluster are; None where the workers are this machine's."""
        if self._cluster is None and self._settings.scheduler is not None:
            self._cluster = cluster_facts(self._started(None), self._settings.device)
        return self._cluster

    def for_plan(self, plan: Plan) -> Crew:
        """Workers for a plan; a single region runs in this process unless a kind was chosen."""
        chosen = self._settings.executor != "auto" or self._settings.scheduler is not None
        size = min(plan.crew_size, self._most or plan.crew_size)
        if self._crew is not None and self._settings.scheduler is None and self._crew.workers > size:
            self._close()
        if self._crew is None and min(plan.workers, size) < 2 and not chosen:
            return Crew("loop", 1, None)
        return self._started(size)

    def _started(self, size: int | None) -> Crew:
        if self._crew is None:
            settings = self._settings
            self._crew = self._open.enter_context(crew(settings.executor, size, settings.scheduler))
        return self._crew

    def fewer(self) -> bool:
        """Have half as many workers from now on; False where one is left, or where they are not ours to send home."""
        if self._crew is None or self._settings.scheduler is not None or self._crew.workers < 2:
            return False
        self._most = self._crew.workers // 2
        self._close()
        return True

    def _close(self) -> None:
        self._open.close()
        self._crew = None


def run_slides(
    paths: Sequence[Path], out: Path, settings: Settings, overwrite: bool = False, listen: Listener = ignore
) -> Iterator[Outcome]:
    """Run slide after slide into ``out``/<slide name>, the largest first; yields what became of each.

    One that fails costs no other. Of several slides, and of what ``out`` holds already, a table is kept there.
    """
    load_model(settings.model)  # an unknown name is said once, not once a slide
    title = paths[0].name if len(paths) == 1 else f"{len(paths)} slides"
    kinds = find_kinds(paths, out, settings, lambda done, total: listen(Event(title, "classes", done, total)))
    taken: dict[str, Path] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        if len(paths) > 1:
            stack.callback(lambda: write_cohort(out, failed))
        crews = _Crews(settings, stack)
        for path in sorted(paths, key=_file_bytes, reverse=True):
            outcome = _one_of_many(path, out, settings, kinds, overwrite, crews, listen, taken)
            if outcome.error is not None:
                failed[str(path)] = sentence(outcome.error)
            yield outcome


def _file_bytes(path: Path) -> int:
    """Size of a slide's files: how much work it may be; 0 where that cannot be told."""
    try:
        return sum(file.stat().st_size for file in slide_files(path))
    except OSError:
        return 0


def _one_of_many(
    path: Path,
    out: Path,
    settings: Settings,
    kinds: CellKinds | None,
    overwrite: bool,
    crews: _Crews,
    listen: Listener,
    taken: dict[str, Path],
) -> Outcome:
    """What became of a slide; ``taken``: names of folders that slides before it have."""
    try:
        name = slide_name(path)
        if name in taken:
            raise SettingsError(f"{path} and {taken[name]} would both write {out / name}; run them apart")
        taken[name] = path
        folder = out.absolute() / name
        with storage_explained(folder), locked(folder):
            return _run_slide(path, folder, settings, kinds, overwrite, crews, listen)
    except Exception as error:
        return Outcome(path, "failed", error=error)


def _run_slide(
    path: Path,
    folder: Path,
    settings: Settings,
    kinds: CellKinds | None,
    overwrite: bool,
    crews: _Crews,
    listen: Listener,
) -> Outcome:
    """One slide, unless its folder is finished already."""
    with slide_source(path, settings).open() as slide:
        cluster = crews.cluster()
        model, device = load_model(settings.model), cluster.device if cluster else choose_device(settings.device)
        facts = work_facts(slide.fingerprint(), settings, model, device, kinds)
    if not overwrite:
        run = _finished(folder, facts)
        if run is not None:
            return Outcome(path, "already done", folder, run)
    listen(Event(folder.name, "plan", 0, 1))
    clock = time.perf_counter()
    with MemoryWatch(settings.memory_gb * GB if settings.memory_gb is not None else None) as watch:
        plan = plan_slide(path, folder.parent, settings, kinds, cluster)
        give_back_memory()
        if overwrite:
            (folder / RUN).unlink(missing_ok=True)
        while True:
            try:
                planned_s = time.perf_counter() - clock
                run = run_plan(plan, crews.for_plan(plan), settings, planned_s, watch, listen)
                return Outcome(path, "done", folder, run)
            except MemoryLimitError as error:
                if not crews.fewer():
                    raise MemoryLimitError(
                        f"{path}: {error}. Use fewer --workers, a smaller --region, or more --memory-gb; what is done "
                        "is kept, and the same command goes on from there"
                    ) from error
                watch.forget()


def _finished(folder: Path, facts: Mapping[str, str]) -> dict[str, Any] | None:
    """What a finished folder's ``run.json`` says; OutputError where it was made with something else."""
    finished = folder / RUN
    if not finished.exists():
        return None
    run: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    other = other_facts(run.get("made_with", {}), facts)
    if other:
        raise OutputError(
            f"{folder} holds results that were made with another {other}. Choose another -o folder, or pass "
            "--overwrite to replace them"
        )
    tidy(folder)
    return run
