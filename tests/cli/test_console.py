"""What is shown: true numbers, every warning and failure, and file names letter by letter."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.records import record
from wsiproc.cli import console as progress
from wsiproc.errors import SlideError
from wsiproc.pipeline.progress import Event, Outcome
from wsiproc.results.validate import Finding

MARKUP = "[red]x[b] :heart:.svs"  # a good file name; read as markup, little of it is left


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Stands for ``time.monotonic``."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def done(name: str = "a.svs", cells: int = 12345, tissue_mm2: float = 2.5, warnings: tuple[str, ...] = ()) -> Outcome:
    run = record(
        counts={"cells": cells, "classes": {"Nucleus": cells}, "in_tissue": {"Nucleus": cells}},
        tissue_mm2=tissue_mm2,
        seconds={"total": 61.4},
        warnings=list(warnings),
    )
    return Outcome(Path(name), Path(name).stem, "done", Path("out") / Path(name).stem, run)


def failed(name: str = "b.svs", error: Exception | None = None) -> Outcome:
    return Outcome(Path(name), Path(name).stem, "failed", error=error or SlideError(f"{name}: damaged"))


def live(slides: int = 1) -> tuple[progress._Live, io.StringIO]:
    """A live display on a terminal made of text."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150, color_system=None, legacy_windows=False)
    return progress._Live(progress._bars(console), slides), screen


def drawn(display: progress._Live, screen: io.StringIO) -> str:
    """What the bars look like now."""
    display._progress.refresh()
    display._progress.console.print(display._progress.get_renderable())
    return screen.getvalue()


def test_lines_tell_each_stage_once_and_then_at_most_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = progress._Lines(slides=2)
    lines.on_progress(Event("a", "plan", 0, 1))
    for second in range(25):
        clock.now = 100 + second
        lines.on_progress(Event("a", "cells", 1 + second, 100, cells=1000 * second, mpx=50.0 * second))
    assert capsys.readouterr().err.splitlines() == [
        "a: detecting tissue, calibrating",
        "a: finding cells",
        "a: 11/100, 10,000 cells, 50.0 Mpx/s, 81 s left",
        "a: 21/100, 20,000 cells, 50.0 Mpx/s, 75 s left",
    ]


def test_lines_begin_anew_with_each_slide(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress._Lines(slides=2)
    lines.on_progress(Event("a", "plan", 0, 1))
    lines.finished(failed("a.svs", SlideError("a.svs: damaged")))
    lines.on_progress(Event("b", "plan", 0, 1))
    lines.finished(done("b.svs"))
    assert capsys.readouterr().err.splitlines() == [
        "a: detecting tissue, calibrating",
        "[1/2] a.svs: failed: a.svs: damaged",
        "b: detecting tissue, calibrating",
        "[2/2] b.svs: done, 12,345 cells in 61 s",
    ]


def test_lines_survive_a_stage_of_which_nothing_is_done_yet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress._Lines(slides=1)
    lines.on_progress(Event("a", "render", 0, 8))
    clock.now += 11
    lines.on_progress(Event("a", "render", 0, 8))
    assert capsys.readouterr().err.splitlines()[-1] == "a: 0/8, 88 s left"


def test_live_shows_progress_cells_and_speed(clock: Clock) -> None:
    display, screen = live()
    display.on_progress(Event("a", "cells", 0, 40))
    clock.now += 4
    display.on_progress(Event("a", "cells", 10, 40, cells=2500, mpx=100.0))
    text = drawn(display, screen)
    assert "a  finding cells" in text
    assert "10/40" in text
    assert "2,500 cells  25.0 Mpx/s" in text


def test_live_survives_an_event_in_no_time(clock: Clock) -> None:
    display, screen = live()
    display.on_progress(Event("a", "cells", 1, 4, cells=5, mpx=1.0))
    assert "5 cells" in drawn(display, screen)


@pytest.mark.parametrize("slides", [1, 2])
def test_live_clears_its_bars_after_each_slide_and_tells_of_it_among_many(clock: Clock, slides: int) -> None:
    display, screen = live(slides)
    display.on_progress(Event("a", "plan", 0, 1))
    display.on_progress(Event("a", "cells", 1, 4))
    display.finished(done())
    assert display._progress.tasks == []
    assert ("[1/2] a.svs: done, 12,345 cells in 61 s" in screen.getvalue()) == (slides == 2)


def test_slides_side_by_side_are_told_apart(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines, (display, screen) = progress._Lines(slides=2), live(slides=2)
    for shown in (lines, display):
        clock.now = 100
        shown.on_progress(Event("a", "cells", 0, 40))
        clock.now += 5
        shown.on_progress(Event("b", "cells", 0, 40))
        clock.now += 5
        shown.on_progress(Event("a", "cells", 10, 40, cells=2500, mpx=100.0))
        shown.on_progress(Event("b", "cells", 10, 40, cells=2500, mpx=100.0))
    text = drawn(display, screen)
    assert ("10.0 Mpx/s" in text, "20.0 Mpx/s" in text) == (True, True)
    for shown in (lines, display):
        shown.finished(done("b.svs"))
        clock.now += 5
        shown.on_progress(Event("a", "cells", 20, 40, cells=5000, mpx=150.0))
    assert capsys.readouterr().err.splitlines() == [
        "a: finding cells",
        "b: finding cells",
        "a: 10/40, 2,500 cells, 10.0 Mpx/s, 30 s left",
        "[1/2] b.svs: done, 12,345 cells in 61 s",
    ]
    assert [task.description for task in display._progress.tasks] == ["a  finding cells"]


def test_live_prints_names_letter_by_letter(clock: Clock) -> None:
    display, screen = live(slides=2)
    display.on_progress(Event(MARKUP, "cells", 1, 4))
    assert f"{MARKUP}  finding cells" in drawn(display, screen)
    display.finished(failed(MARKUP))
    assert f"[1/2] {MARKUP}: failed: {MARKUP}: damaged" in screen.getvalue()


def test_lines_and_summary_print_names_letter_by_letter(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress._Lines(slides=1)
    lines.on_progress(Event(MARKUP, "plan", 0, 1))
    lines.finished(done(MARKUP))
    assert all(MARKUP in line for line in capsys.readouterr().err.splitlines())
    progress.print_summary([done(MARKUP, warnings=(f"{MARKUP} is pale",)), failed(MARKUP)])
    printed = capsys.readouterr().out
    assert f"Warning, {MARKUP}: {MARKUP} is pale" in printed
    assert f"Failed, {MARKUP}: {MARKUP}: damaged" in printed
    assert printed.count(MARKUP) == 6


def test_the_summary_has_a_row_a_slide_and_every_warning_and_failure(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [done("a.svs", warnings=("pale", "torn")), failed("b.svs"), done("c.svs", cells=7, tissue_mm2=0.5)]
    progress.print_summary(outcomes)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:4] == ["a.svs done 12,345 2.50 4,938 61.4", "b.svs failed – – – –", "c.svs done 7 0.50 14 61.4"]
    assert {"Warning, a.svs: pale", "Warning, a.svs: torn", "Failed, b.svs: b.svs: damaged"} <= set(lines)
    assert [line.partition(":")[0] for line in lines if "report.html" in line] == ["out/a", "out/c"]


def test_the_summary_of_a_slide_without_tissue_has_no_density(capsys: pytest.CaptureFixture[str]) -> None:
    progress.print_summary([done(cells=0, tissue_mm2=0.0)])
    assert " ".join(capsys.readouterr().out.splitlines()[1].split()) == "a.svs done 0 0.00 – 61.4"


def test_an_error_nobody_foresaw_says_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    progress.print_summary([failed("b.svs", KeyError("levels"))])
    assert "Failed, b.svs: KeyError: 'levels'" in capsys.readouterr().out
    progress.print_error(SlideError("b.svs: damaged"))
    assert capsys.readouterr().err == "Error: b.svs: damaged\n"


def test_sentences_and_paths_are_not_broken_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is cut in a log can be neither searched for nor copied."""
    path = "/".join(["a folder with a long name"] * 9) + "/slide.svs"
    progress.print_error(SlideError(f"{path}: damaged"))
    progress.print_summary([done(path), failed(path)])
    both = capsys.readouterr()
    assert both.err == f"Error: {path}: damaged\n"
    assert f"Failed, slide.svs: {path}: damaged" in both.out.splitlines()


def test_findings_are_listed_with_their_level(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("ok", "run.json", "as it should be"), Finding("error", MARKUP, "missing")]
    progress.print_findings(Path("out") / MARKUP, findings)
    assert capsys.readouterr().out.splitlines() == [
        f"out/{MARKUP}",
        "  ok      run.json: as it should be",
        f"  error   {MARKUP}: missing",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text


def test_the_display_suits_where_the_output_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.display(1, quiet=True) as quiet:
        assert isinstance(quiet, progress._Silent)
    with progress.display(1, quiet=False) as lines:
        assert isinstance(lines, progress._Lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.display(1, quiet=False) as bars:
        assert isinstance(bars, progress._Live)
