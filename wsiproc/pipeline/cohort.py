"""Run many slides as one queue; a slide that fails does not affect the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsiproc.core.paths import absolute
from wsiproc.core.phenotypes import Phenotypes
from wsiproc.core.threads import Abandoned, concurrently
from wsiproc.errors import sentence
from wsiproc.io.slides.fingerprint import slide_files
from wsiproc.pipeline.folders import name_folders, output_folder
from wsiproc.pipeline.phenotypes import find_phenotypes
from wsiproc.pipeline.planning.plan import choose_model
from wsiproc.pipeline.progress import Event, OnEvent, Outcome, ignore
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.slide import SlideRequest, run_slide
from wsiproc.pipeline.workers import SharedWorkers
from wsiproc.results.cohort_table import HTML, failed_before, has_cohort, write_cohort
from wsiproc.results.folder import locked, storage_explained
from wsiproc.results.run_log import net, recorded

# While the cells of one slide are merged, rendered and reported, workers process the next.
_AT_ONCE = 2
# What each reported stage does, for messages about what went wrong in it.
_STEPS = {
    "plan": "detecting tissue and calibrating",
    "cells": "finding cells",
    "merge": "merging cells",
    "render": "rendering labels and exporting",
    "report": "writing the report",
}


@dataclass(frozen=True)
class _Queue:
    """What the slides of a run have in common; ``names``: of their folders."""

    paths: Sequence[Path]
    out: Path
    settings: Settings
    phenotypes: Phenotypes | None
    overwrite: bool
    at_once: int
    workers: SharedWorkers
    names: Sequence[str]

    def request(self, index: int) -> SlideRequest:
        """The request for one of the slides; a lower index has priority."""
        cohort = f"../{HTML}" if len(self.paths) > 1 or has_cohort(self.out) else None
        folder = self.out / self.names[index]
        shared = (self.settings, self.phenotypes, self.overwrite, self.workers)
        return SlideRequest(self.paths[index], folder, *shared, priority=index, at_once=self.at_once, cohort=cohort)


def run_slides(
    paths: Sequence[Path], out: Path, settings: Settings, overwrite: bool = False, on_progress: OnEvent = ignore
) -> Iterator[Outcome]:
    """Run slides into ``out``/<slide name>, the largest first, two at a time; yields the outcome of each.

    A slide that fails does not affect the others. Folders of slides with the same name are distinguished by the part
    of their paths that differs. A table of all slides, including those already in ``out``, is kept there if there are
    several. Closing the iterator early cancels the slides in flight; the same call resumes them. ``on_progress`` is
    called from the caller's thread.
    """
    paths = list(dict.fromkeys(map(absolute, paths)))
    out = output_folder(out, paths)
    choose_model(settings)  # an unknown name is reported once, not once per slide
    title = paths[0].name if len(paths) == 1 else f"{len(paths)} slides"
    with net(f"{title}: discovering phenotypes", out):
        phenotypes = find_phenotypes(
            paths, out, settings, lambda done, total: on_progress(Event(title, "classes", done, total))
        )
    in_this_process = settings.executor == "loop" or settings.workers == 1
    at_once = 1 if in_this_process and settings.scheduler is None else min(_AT_ONCE, len(paths))
    largest_first = sorted(paths, key=_file_bytes, reverse=True)
    failed = failed_before(out) if len(paths) == 1 else {}
    with net(f"{title}: between slides", out), ExitStack() as stack:
        if len(paths) > 1 or has_cohort(out):
            stack.callback(_write_cohort, out, failed)
        workers = stack.enter_context(SharedWorkers(settings, len(paths)))
        queue = _Queue(
            largest_first, out, settings, phenotypes, overwrite, at_once, workers, name_folders(largest_first, out)
        )
        for outcome in concurrently(range(len(paths)), at_once, partial(_outcome, queue), on_progress, workers.cancel):
            if outcome.error is not None:
                failed[str(outcome.path)] = sentence(outcome.error)
            yield outcome


def _write_cohort(out: Path, failed: Mapping[str, str]) -> None:
    with storage_explained(out), net(f"{out}: the table of all slides", out):
        write_cohort(out, failed)


def _file_bytes(path: Path) -> int:
    """Total size of a slide's files, a proxy for the amount of work; 0 if it cannot be determined."""
    try:
        return sum(file.stat().st_size for file in slide_files(path))
    except OSError:
        return 0


def _outcome(queue: _Queue, index: int, on_progress: OnEvent) -> Outcome:
    """Run the slide at ``index``; its outcome."""
    path, name = queue.paths[index], queue.names[index]
    folder = queue.out / name
    step = "opening the slide"

    def noted(event: Event) -> None:
        nonlocal step
        step = _STEPS[event.stage]
        on_progress(event)

    try:
        with storage_explained(folder), locked(folder):
            return run_slide(queue.request(index), noted)
    except Abandoned:
        raise
    except Exception as error:
        home = folder if folder.is_dir() else queue.out
        return Outcome(path, name, "failed", error=recorded(error, f"{path}: while {step}", home))
