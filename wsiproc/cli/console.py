"""What a user sees while work goes on and when it is done: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wsiproc.core.numbers import mm2_text
from wsiproc.errors import sentence
from wsiproc.evaluate.tables import upright_table
from wsiproc.executors.limits import GB
from wsiproc.results.profile import advice
from wsiproc.results.profile import lines as profile_lines

if TYPE_CHECKING:
    from wsiproc.cli.diagnostics import Diagnosis
    from wsiproc.evaluate.benchmark import Benchmark, ImageResult
    from wsiproc.evaluate.layouts import Dataset
    from wsiproc.pipeline.planning.plan import Forecast, Plan
    from wsiproc.pipeline.progress import Event, Outcome
    from wsiproc.results.record import RunRecord
    from wsiproc.results.validate import Finding

STAGES = {
    "classes": "looking for kinds of cells",
    "plan": "detecting tissue, calibrating",
    "cells": "finding cells",
    "merge": "merging",
    "render": "drawing labels, exporting",
    "report": "writing the report",
}
_LINE_EVERY_S, _FIT_LINE_EVERY_S = 10.0, 60.0
_TITLE = TextColumn("{task.description}", style="bold", markup=False)  # brackets in file names are no markup


class Display(Protocol):
    """Something that shows events and outcomes."""

    def on_progress(self, event: Event) -> None:
        """Show progress."""

    def finished(self, outcome: Outcome) -> None:
        """Show what became of a slide."""


@contextmanager
def display(slides: int, quiet: bool) -> Iterator[Display]:
    """The display that suits where the output goes: bars on a terminal, lines in a log, nothing when quiet."""
    console = Console(stderr=True)
    if quiet:
        yield _Silent()
    elif console.is_terminal:
        with _bars(console) as progress:
            yield _Live(progress, slides)
    else:
        yield _Lines(slides)


class _Silent:
    def on_progress(self, event: Event) -> None:
        """Nothing."""

    def finished(self, outcome: Outcome) -> None:
        """Nothing."""


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        _TITLE,
        BarColumn(bar_width=28),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


class _Live:
    """Bars: one a stage of each slide that is under way."""

    def __init__(self, progress: Progress, slides: int) -> None:
        self._progress, self._slides, self._done = progress, slides, 0
        self._bars: dict[tuple[str, str], tuple[TaskID, float]] = {}

    def on_progress(self, event: Event) -> None:
        stage = (event.slide, event.stage)
        if stage not in self._bars:
            title = f"{event.slide}  {STAGES[event.stage]}"
            self._bars[stage] = self._progress.add_task(title, total=event.total, facts=""), time.monotonic()
        bar, started = self._bars[stage]
        rate = event.mpx / max(1e-9, time.monotonic() - started)
        facts = f"{event.cells:,} cells" * bool(event.cells) + f"  {rate:.1f} Mpx/s" * bool(event.mpx)
        facts += f"  {event.most}" * bool(event.most)
        self._progress.update(bar, completed=event.done, total=event.total, facts=facts)

    def finished(self, outcome: Outcome) -> None:
        self._done += 1
        for slide, stage in list(self._bars):
            if slide == outcome.slide or stage == "classes":
                self._progress.remove_task(self._bars.pop((slide, stage))[0])
        if self._slides > 1:
            self._progress.console.print(_outcome_line(outcome, self._done, self._slides))


@dataclass
class _Stage:
    name: str
    started: float
    printed: float


class _Lines:
    """A line at the start of each stage of a slide, then at most one every ten seconds."""

    def __init__(self, slides: int) -> None:
        self._slides, self._done = slides, 0
        self._stages: dict[str, _Stage] = {}
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)

    def on_progress(self, event: Event) -> None:
        now = time.monotonic()
        stage = self._stages.get(event.slide)
        if stage is None or event.stage != stage.name:
            self._stages[event.slide] = _Stage(event.stage, now, now)
            self._console.print(Text(f"{event.slide}: {STAGES[event.stage]}"))
        elif now - stage.printed >= _LINE_EVERY_S:
            stage.printed = now
            spent = now - stage.started
            left = spent / max(event.done, 1) * (event.total - event.done)
            most = f"{event.most}, " if event.most else ""
            facts = f"{event.cells:,} cells, {event.mpx / spent:.1f} Mpx/s, {most}" if event.mpx else ""
            self._console.print(Text(f"{event.slide}: {event.done}/{event.total}, {facts}{left:.0f} s left"))

    def finished(self, outcome: Outcome) -> None:
        self._done += 1
        self._stages.pop(outcome.slide, None)
        if self._slides == 1 and outcome.error is not None:
            return  # the summary, which follows at once, has the reason
        self._console.print(_outcome_line(outcome, self._done, self._slides))


@contextmanager
def tile_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for (tiles done, tiles in all); silent where the output is no terminal."""
    console = Console(stderr=True)
    columns = (_TITLE, *Progress.get_default_columns()[1:])
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@contextmanager
def fit_progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar a stage of a fit, with the time left; without a terminal a line a minute and at the end of each stage."""
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:
        yield _fit_lines(console)
        return
    with _bars(console) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, facts="")
            bars.update(tasks[stage], completed=done)

        yield on_progress


def _fit_lines(console: Console) -> Callable[[str, int, int], None]:
    printed = time.monotonic()

    def on_progress(stage: str, done: int, total: int) -> None:
        nonlocal printed
        if done == total or time.monotonic() - printed >= _FIT_LINE_EVERY_S:
            printed = time.monotonic()
            console.print(Text(f"{stage}: {done}/{total}"))

    return on_progress


@contextmanager
def image_progress(dataset: Dataset) -> Iterator[Callable[[int, int, ImageResult], None]]:
    """What is compared, then a line per image, above a bar on a terminal."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    count, without = len(dataset.images), len(dataset.without)
    left_out = f"; {without} more have no truth and are left out" if without else ""
    console.print(Text(f"{dataset.name}: {count} images with {dataset.kind} in {dataset.folder}{left_out}"))
    columns = (_TITLE, *Progress.get_default_columns()[1:])
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("images", total=None)

        def on_progress(done: int, total: int, result: ImageResult) -> None:
            progress.update(bar, completed=done, total=total)
            console.print(_result_line(result, f"[{done}/{total}] {result.work.label}, {result.work.labelled.name}"))

        yield on_progress


_SCORES = {"labels": "AJI", "points": "F1", "areas": "false cells per mm²"}


def _result_line(result: ImageResult, head: str) -> Text:
    """One line about one image of a benchmark."""
    if result.error:
        return Text(f"{head}: failed: {result.error}", style="red")
    score = f"{_SCORES[result.work.kind]} {abs(result.rank):.3f}"
    return Text(f"{head}: {result.status}, {score}, {result.cells:,} cells in {result.seconds:.1f} s")


def print_benchmark(done: Benchmark, out: Path) -> None:
    """The table of models, what failed, and where everything is."""
    console = Console(soft_wrap=True)
    console.print(upright_table(done.lines, done.dataset.name))
    for failure in done.failures:
        console.print(Text(f"Failed, {failure}", style="red"))
    console.print(
        Text(f"{out}: table.md, scores.csv, and for each model figures/ (worst first) and runs/", style="dim")
    )


def _outcome_line(outcome: Outcome, number: int, total: int) -> Text:
    """One line about one slide."""
    head = f"[{number}/{total}] {outcome.label}: {outcome.status}"
    run = outcome.record
    if run is None:
        return Text(f"{head}: {sentence(outcome.error)}", style="red")
    return Text(f"{head}, {run.counts.cells:,} cells in {run.seconds['total']:.0f} s")


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Table of all slides, warnings, and where the results are."""
    console = Console(soft_wrap=True)  # a path that is cut in a log can be neither searched for nor copied
    table = Table("slide", "status", "cells", "tissue mm²", "cells/mm²", "seconds", box=None, header_style="bold")
    for outcome in outcomes:
        table.add_row(Text(outcome.label), outcome.status, *_figures(outcome.record))
    console.print(table)
    for outcome in outcomes:
        for warning in outcome.record.warnings if outcome.record else ():
            console.print(Text(f"Warning, {outcome.label}: {warning}", style="yellow"))
        if outcome.error is not None:
            console.print(Text(f"Failed, {outcome.label}: {sentence(outcome.error)}", style="red"))
        if outcome.folder is not None:
            console.print(
                Text(f"{outcome.folder}: report.html, cells.parquet, cells.geojson.gz, *.ome.zarr", style="dim")
            )
    folders = [outcome.folder.parent for outcome in outcomes if outcome.folder is not None]
    if folders and len(outcomes) > 1:
        console.print(Text(f"{folders[0]}: cohort.html, cohort.csv", style="dim"))


def _figures(run: RunRecord | None) -> list[str]:
    if run is None:
        return ["–"] * 4
    told = run.slide_numbers()
    density = "–" if told.cells_per_mm2 is None else f"{told.cells_per_mm2:,.0f}"
    return [f"{told.cells:,}", mm2_text(told.tissue_mm2), density, f"{run.seconds['total']:.1f}"]


def print_plan(plan: Plan, expected: Forecast) -> None:
    """What a run would do and need."""
    job = plan.job
    h, w = plan.slide["shape"]
    facts = {
        "slide": f"{w:,} × {h:,} px, {plan.slide['mpp']:.4g} µm/px, {plan.slide['format']}, "
        f"read by {plan.slide['reader']}",
        "grid": f"{job.frame.grid[1]:,} × {job.frame.grid[0]:,} px at {job.model.mpp:g} µm/px ({job.model.name})",
        "tissue": f"{plan.tissue_mm2:.2f} mm²",
        "regions": f"{len(plan.segment):,} of {job.region_px} px with tissue, {plan.windows:,} windows, "
        f"{plan.mpx:.1f} Mpx",
        "workers": f"{plan.workers} on {job.device}",
        "memory": f"{plan.memory_bytes / GB:.2f} GB at the peak, all processes",
        "disk": f"{plan.disk_bytes / GB:.2f} GB",
        "cells": f"about {expected.cells:,.0f}",
        "time": f"about {_duration(expected.seconds)}",
        "calibration": ", ".join(f"{k} {v}" for k, v in job.model.calibration().items()),
    }
    if plan.scoring is not None:
        facts["scoring"] = plan.scoring.in_words()
    print_facts(plan.slide["path"], facts)
    for warning in plan.warnings:
        Console(soft_wrap=True).print(Text(f"Warning: {warning}", style="yellow"))


def print_profile(output: Path, run: RunRecord) -> None:
    """Where the time of a finished slide went, and what to do about it."""
    console = Console(soft_wrap=True)
    profile = run.profile
    if profile is None:
        console.print(Text(f"{output}: made by an earlier version that kept no profile; run it again with --overwrite"))
        return
    table = Table(title=Text(f"{output.name}: {_duration(run.seconds['total'])}, {profile.workers} workers"))
    for name in ("busy with", "seconds", "share", "read", "written", "rate"):
        table.add_column(name, justify="left" if name == "busy with" else "right")
    for line in profile_lines(profile):
        moved = [f"{n / 1e6:,.0f} MB" if n else "" for n in (line.read_bytes, line.written_bytes)]
        table.add_row(line.what, f"{line.seconds:.1f}", f"{line.share:.0%}", *moved, line.rate)
    table.add_section()
    for stage, seconds in run.seconds.items():
        if stage != "total":
            table.add_row(f"{stage}, by the clock", f"{seconds:.1f}")
    console.print(table)
    if share := profile.device_busy:
        console.print(Text(f"The {run.device} was busy with the network {share:.0%} of the time that cells took."))
    for sentence_ in advice(run):
        console.print(Text(sentence_))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """A two-column table."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(str(value)))
    Console().print(table)


def print_slide(facts: Mapping[str, Any]) -> None:
    """What is known about a slide: width before height, numbers as people read them."""
    (height, width), size_mm, mpp = facts["size_px"], facts["size_mm"], facts["mpp"]
    size = f"{width:,} × {height:,} px"
    if size_mm is not None:
        size += f", {size_mm[1]:.3g} × {size_mm[0]:.3g} mm"
    objective = f", objective {facts['objective']:g}x" if facts["objective"] else ""
    levels = ", ".join(f"{downsample:.4g}" for downsample in facts["levels"])
    told = {
        "format": facts["format"],
        "width × height": f"{size}, {facts['gigapixels']:.3g} gigapixels",
        "pixel size": ("not known" if mpp is None else f"{mpp:.4g} µm") + objective,
        "levels": f"{len(facts['levels'])}, px of level 0 per px: {levels}",
        "file": f"{facts['file_bytes'] / 1e6:,.1f} MB",
    }
    known = {"name", "path", "size_px", "gigapixels", "mpp", "objective", "size_mm", "file_bytes", *_LOOKS}
    told |= {name.replace("_", " "): value for name, value in facts.items() if name not in known | told.keys()}
    told |= {f"looks {what}": "yes: `run` refuses it" for look, what in _LOOKS.items() if facts[look]}
    print_facts(facts["path"], told)


_LOOKS = {"looks_fluorescent": "fluorescent", "looks_grey": "grey"}


def print_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """What a check found."""
    console = Console(soft_wrap=True)
    console.print(Text(str(folder), style="bold"))
    for finding in findings:
        style = {"error": "red", "warning": "yellow"}.get(finding.level, "green")
        console.print(Text(f"  {finding.level:7} ", style=style) + Text(f"{finding.what}: {finding.detail}"))


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """A line about one thing that was tried; the remedy, where there is one, under it."""
    console = Console(soft_wrap=True)
    style = {"problem": "red", "warning": "yellow"}.get(diagnosis.level, "green")
    console.print(Text(f"{diagnosis.level:7}  ", style=style) + Text(f"{diagnosis.what:24}  {diagnosis.found}"))
    if diagnosis.remedy:
        console.print(Text(f"{'':35}→ {diagnosis.remedy}", style=style))


def print_error(error: Exception) -> None:
    """One sentence on the standard error."""
    Console(stderr=True, soft_wrap=True).print(Text(f"Error: {sentence(error)}", style="red"))
