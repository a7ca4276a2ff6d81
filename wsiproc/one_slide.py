"""Carry out the plan of one slide: from regions to a finished folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wsiproc.crops import CropPlaces, take_crops
from wsiproc.executors import Crew, Task, give_back_memory
from wsiproc.io.parquet import read_part
from wsiproc.io.whole import write_json
from wsiproc.memory import MemoryWatch
from wsiproc.pipeline import (
    Block,
    block_path,
    block_places,
    blocks_at,
    cell_tasks,
    create_maps,
    create_pictures,
    export_tasks,
    finish,
    merge_tasks,
    number_blocks,
    render_tasks,
    save_overview,
)
from wsiproc.plan import Plan
from wsiproc.profile import Profile, device_share
from wsiproc.report import write_report
from wsiproc.report_cells import ReportCells
from wsiproc.run_facts import Drawn, run_facts
from wsiproc.seams import SeamPlaces, certificate, check_place
from wsiproc.settings import Settings
from wsiproc.side_by_side import meanwhile
from wsiproc.workfolder import SLIDE, empty, other_facts


@dataclass(frozen=True)
class Event:
    """Progress of one slide: ``done`` of ``total`` steps of a stage; ``cells`` found and ``mpx`` read so far.

    ``most``: what the workers spent most of their time on so far, with its share.
    """

    slide: str
    stage: str
    done: int
    total: int
    cells: int = 0
    mpx: float = 0.0
    most: str = ""


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that wants nothing."""


@dataclass(frozen=True)
class Hands:
    """What carries out the tasks of one slide, and who is told.

    Workers do slides of a lower ``turn`` first; ``at_once`` slides share them. ``cohort``: where the table of all
    slides is, seen from this one's folder; None for a slide alone.
    """

    slide: str
    crew: Crew
    turn: int
    at_once: int
    watch: MemoryWatch
    listen: Listener
    cohort: str | None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they end, as long as memory lasts."""
        for done in self.crew.run(tasks, self.turn):
            yield done
            self.watch.check()


def run_plan(
    plan: Plan, hands: Hands, settings: Settings, before: Mapping[str, float], opened: Future[list[str]]
) -> dict[str, Any]:
    """Carry out a plan; what ``run.json`` says.

    ``before``: seconds that went by already, by what took them; ``opened``: the end of ``open_folder``.

    Raises MemoryLimitError when more is held than allowed; then the same call goes on with what is done.
    """
    clock = time.perf_counter()
    seconds = {stage: round(passed, 3) for stage, passed in before.items()}

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage] = round(now - clock, 3)
        clock = now

    warnings = opened.result()
    lap("prepare")
    profile = Profile()
    shape = plan.tissue.shape[0], plan.tissue.shape[1]
    with meanwhile(partial(create_pictures, plan.job, shape, plan.overview_mpp)) as created:
        done = _find_cells(plan, hands, profile)
    created.result()
    lap("infer and segment")
    merged = _merge(plan, hands, done["merge"])
    give_back_memory()
    lap("merge")
    drawn = _draw(plan, merged, hands, profile)
    lap("render and export")
    run = run_facts(plan, settings, done, merged.sums.counts, drawn)
    run["profile"] = profile.facts(hands.crew.workers, hands.at_once)
    run["warnings"] = warnings + run["warnings"]
    run["seconds"] = seconds | {"total": round(sum(seconds.values()), 3)}
    run["profile"]["device_busy"] = round(device_share(run), 3)
    hands.listen(Event(hands.slide, "report", 0, 1))
    with plan.job.source.open() as slide:
        crops = take_crops(plan.job, slide, merged.blocks, merged.places)
    write_report(
        plan.job.folder / "report.html",
        run,
        plan.overview,
        plan.tissue,
        plan.left_out,
        merged.sums,
        crops,
        hands.cohort,
    )
    lap("report")
    run["seconds"] = seconds | {"total": round(sum(seconds.values()), 3)}
    run["memory"] = {"peak_bytes": hands.watch.peak, "limit_bytes": hands.watch.limit}
    finish(plan.job, run)
    return run


def open_folder(plan: Plan) -> list[str]:
    """Make the folder ready: go on where the same work was left, else start anew. Warnings of what was given up."""
    job = plan.job
    marker = job.work / "plan.json"
    begun = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None
    if begun == plan.facts:
        return []
    empty(job.folder)
    job.work.mkdir(parents=True)
    np.save(job.work / "search.npy", plan.search)
    save_overview(job, plan.overview, plan.tissue)
    create_maps(job)
    write_json(job.work / SLIDE, {"path": plan.slide["path"], "fingerprint": plan.slide["fingerprint"]})
    write_json(marker, plan.facts)
    if begun is None:
        return []
    return [f"unfinished work was begun anew, since it was made with another {other_facts(begun, plan.facts)}"]


def _find_cells(plan: Plan, hands: Hands, profile: Profile) -> dict[str, list[dict[str, Any]]]:
    """Infer and segment all regions, and merge their cells; results by kind of task, of each kind in any order."""
    done: dict[str, list[dict[str, Any]]] = {"infer": [], "segment": [], "merge": []}
    tasks = cell_tasks(plan.job, plan.infer, plan.segment) + merge_tasks(plan.job, plan.segment)
    hands.listen(Event(hands.slide, "cells", 0, len(tasks)))
    cells, mpx = 0, 0.0
    for number, (task, result) in enumerate(hands.run(tasks), start=1):
        done[task.key.split()[0]].append(result)
        cells += result.get("cells", 0)
        profile.add(task.key, result)
        mpx += result.get("mpx", 0.0)
        hands.listen(Event(hands.slide, "cells", number, len(tasks), cells, mpx, profile.most()))
    return done


@dataclass(frozen=True)
class _Merged:
    """What merging leaves behind: the blocks in order, sums for the report, places to show in it, places to check."""

    blocks: list[Block]
    sums: ReportCells
    places: CropPlaces
    seams: SeamPlaces


def _merge(plan: Plan, hands: Hands, results: Sequence[Mapping[str, Any]]) -> _Merged:
    """Number the merged cells, and count on the way; ``results`` of merging."""
    job = plan.job
    hands.listen(Event(hands.slide, "merge", 0, len(results)))
    mpp = float(np.mean(job.frame.mpp))
    merged = _Merged(
        number_blocks({result["block"]: result["merged"] for result in results}),
        ReportCells.empty(job.frame.grid, mpp, len(job.classes), plan.tissue),
        CropPlaces(),
        SeamPlaces(job.step, job.frame.grid, int(plan.key, 16)),
    )
    for number, block in enumerate(merged.blocks, start=1):
        cells = read_part(block_path(job, block.region))
        merged.sums.add(cells)
        merged.places.add(cells)
        merged.seams.add(cells)
        hands.listen(Event(hands.slide, "merge", number, len(merged.blocks), merged.sums.counts.total))
        hands.watch.check()
    return merged


def _draw(plan: Plan, merged: _Merged, hands: Hands, profile: Profile) -> Drawn:
    """Table, GeoJSON, labels and pyramids, side by side, and the seams looked at again."""
    job, blocks = plan.job, merged.blocks
    by_place = block_places(blocks)
    seen_again = [
        Task(f"seam {place.y} {place.x}", check_place, (job, place, blocks_at(job, place, by_place)), gpu=True)
        for place in merged.seams.choose(plan.windows)
    ]
    tasks = [*seen_again, *export_tasks(job, blocks), *render_tasks(job, plan.infer, blocks)]  # the longest go first
    left_out, seams = 0, []
    hands.listen(Event(hands.slide, "render", 0, len(tasks)))
    for number, (task, result) in enumerate(hands.run(tasks), start=1):
        profile.add(task.key, result)
        left_out += result.get("left_out", 0)
        seams += [result["seams"]] if "seams" in result else []
        hands.listen(Event(hands.slide, "render", number, len(tasks)))
    return Drawn(left_out, certificate(seams))
