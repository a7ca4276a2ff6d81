"""Run many slides as one queue, and lose none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wsiproc.cohort import HTML, failed_before, has_cohort, write_cohort
from wsiproc.core.kinds import CellKinds
from wsiproc.crews import Crews
from wsiproc.discover import find_kinds
from wsiproc.errors import MemoryLimitError, OutputError, sentence
from wsiproc.executors import Crew, give_back_memory
from wsiproc.io.fingerprint import slide_files
from wsiproc.io.slides import slide_name
from wsiproc.memory import MemoryWatch, enforced_bytes
from wsiproc.one_slide import Event, Hands, Listener, ignore, open_folder, run_plan
from wsiproc.paths import absolute
from wsiproc.plan import choose_model, device_for, plan_slide, slide_source, work_facts
from wsiproc.projection import GB
from wsiproc.result_folders import name_folders, output_folder
from wsiproc.settings import Settings
from wsiproc.side_by_side import Unheard, meanwhile, side_by_side
from wsiproc.unexpected import LOG, net, recorded
from wsiproc.workfolder import RUN, locked, other_facts, storage_explained, tidy

# While the cells of one slide are merged, drawn and told of, workers go on with the next.
_AT_ONCE = 2
# What a slide is at in each stage that is told, for sentences about what went wrong there.
_STEPS = {
    "plan": "looking for tissue and calibrating",
    "cells": "finding cells",
    "merge": "merging cells",
    "render": "drawing labels and exporting",
    "report": "writing the report",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: ``status`` is *done*, *already done* or *failed*; ``run`` as in ``run.json``.

    ``slide``: the name of its folder, as in the events about it; ``label``: what to call it where all are listed.
    """

    path: Path
    slide: str
    status: str
    folder: Path | None = None
    run: dict[str, Any] | None = None
    error: Exception | None = None

    @property
    def label(self) -> str:
        """Name of the file; where others have the same name, its path."""
        return self.path.name if self.slide == slide_name(self.path) else str(self.path)


@dataclass(frozen=True)
class _Queue:
    """What the slides of a run have in common, and ``names``, of their folders."""

    paths: Sequence[Path]
    out: Path
    settings: Settings
    kinds: CellKinds | None
    overwrite: bool
    at_once: int
    crews: Crews
    names: Sequence[str]


def run_slides(
    paths: Sequence[Path], out: Path, settings: Settings, overwrite: bool = False, listen: Listener = ignore
) -> Iterator[Outcome]:
    """Run slides into ``out``/<slide name>, the largest first, two at a time; yields what became of each.

    One that fails costs no other. Slides of the same name get folders told apart by the part of their paths that
    differs. Of several slides, and of what ``out`` holds already, a table is kept there. Leaving early ends what is
    under way; the same call goes on with it. ``listen`` is called from the caller's thread.
    """
    paths, out = list(dict.fromkeys(map(absolute, paths))), output_folder(out)
    choose_model(settings)  # an unknown name is said once, not once a slide
    title = paths[0].name if len(paths) == 1 else f"{len(paths)} slides"
    with net(f"{title}: looking for kinds of cells", out):
        kinds = find_kinds(paths, out, settings, lambda done, total: listen(Event(title, "classes", done, total)))
    in_this_process = settings.executor == "loop" or settings.workers == 1
    at_once = 1 if in_this_process and settings.scheduler is None else min(_AT_ONCE, len(paths))
    largest_first = sorted(paths, key=_file_bytes, reverse=True)
    failed = failed_before(out) if len(paths) == 1 else {}
    with net(f"{title}: between slides", out), ExitStack() as stack:
        if len(paths) > 1 or has_cohort(out):
            stack.callback(_write_cohort, out, failed)
        crews = stack.enter_context(Crews(settings, len(paths)))
        queue = _Queue(largest_first, out, settings, kinds, overwrite, at_once, crews, name_folders(largest_first, out))
        for outcome in side_by_side(range(len(paths)), at_once, partial(_outcome, queue), listen, crews.dismiss):
            if outcome.error is not None:
                failed[str(outcome.path)] = sentence(outcome.error)
            yield outcome


def _cohort_of(queue: _Queue) -> str | None:
    """Where the table of all slides will be, seen from the folder of one."""
    return f"../{HTML}" if len(queue.paths) > 1 or has_cohort(queue.out) else None


def _write_cohort(out: Path, failed: Mapping[str, str]) -> None:
    with storage_explained(out), net(f"{out}: the table of all slides", out):
        write_cohort(out, failed)


def _file_bytes(path: Path) -> int:
    """Size of a slide's files: how much work it may be; 0 where that cannot be told."""
    try:
        return sum(file.stat().st_size for file in slide_files(path))
    except OSError:
        return 0


def _outcome(queue: _Queue, turn: int, listen: Listener) -> Outcome:
    """What became of the slide whose ``turn`` it is."""
    path, name = queue.paths[turn], queue.names[turn]
    folder = queue.out / name
    step = "opening the slide"

    def noted(event: Event) -> None:
        nonlocal step
        step = _STEPS[event.stage]
        listen(event)

    try:
        with storage_explained(folder), locked(folder):
            return _run_slide(queue, turn, folder, noted)
    except Unheard:
        raise
    except Exception as error:
        home = folder if folder.is_dir() else queue.out
        return Outcome(path, name, "failed", error=recorded(error, f"{path}: while {step}", home))


def _run_slide(queue: _Queue, turn: int, folder: Path, listen: Listener) -> Outcome:
    """One slide, unless its folder is finished already."""
    path, settings = queue.paths[turn], queue.settings
    with slide_source(path, settings).open() as slide:
        cluster = queue.crews.cluster()
        model = choose_model(settings)
        device = device_for(model, settings, cluster)
        facts = work_facts(slide.fingerprint(), settings, model, device, queue.kinds)
    if not queue.overwrite:
        run = _finished(folder, facts)
        if run is not None:
            return Outcome(path, folder.name, "already done", folder, run)
    listen(Event(folder.name, "plan", 0, 1))
    clock = time.perf_counter()
    with MemoryWatch(enforced_bytes(None if settings.memory_gb is None else settings.memory_gb * GB)) as watch:
        plan = plan_slide(path, queue.out, settings, queue.kinds, cluster, queue.at_once, folder.name)
        give_back_memory()
        if queue.overwrite:
            (folder / RUN).unlink(missing_ok=True)
        while True:
            crew: Crew | None = None
            try:
                before = {"plan": time.perf_counter() - clock}
                with meanwhile(partial(open_folder, plan)) as opened, queue.crews.for_plan(plan) as crew:
                    before["workers"] = time.perf_counter() - clock - before["plan"]
                    watch.forget()
                    hands = Hands(folder.name, crew, turn, queue.at_once, watch, listen, _cohort_of(queue))
                    run = run_plan(plan, hands, settings, before, opened)
                (folder / LOG).unlink(missing_ok=True)
                return Outcome(path, folder.name, "done", folder, run)
            except MemoryLimitError as error:
                if crew is None or not queue.crews.fewer(crew):
                    raise MemoryLimitError(
                        f"{path}: {error}. Use fewer --workers, a smaller --region, more --memory, or a higher "
                        "limit of the container or job; what is done is kept, and the same command goes on from there"
                    ) from error


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
