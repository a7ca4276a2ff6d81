"""Slides of one call are one queue: the workers go on with the next while the end of the one before is drawn."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wsiproc.pipeline.slide
import wsiproc.pipeline.stages.infer
import wsiproc.pipeline.workers
from wsiproc.core.choices import Executor
from wsiproc.core.threads import Abandoned, concurrently, in_background
from wsiproc.errors import WorkerError
from wsiproc.executors import EXECUTORS, Task, worker_pool
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.progress import Event
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide

SETTINGS: dict[str, Any] = {"model": "classical", "region": 512}


# --- side by side ----------------------------------------------------------------------------------------------------


def test_what_is_told_arrives_in_the_thread_that_asked_and_results_come_as_they_end() -> None:
    here, slow = threading.get_ident(), threading.Event()
    told: list[tuple[int, bool]] = []

    def work(item: int, tell: Callable[[int], None]) -> tuple[int, bool]:
        tell(item)
        if item == 0:
            slow.wait(10)
        return item, threading.get_ident() == here

    results = concurrently(range(5), 2, work, lambda item: told.append((item, threading.get_ident() == here)), fail)
    first = [next(results) for _ in range(4)]
    slow.set()
    assert [*first, *results] == [(item, False) for item in (1, 2, 3, 4, 0)]
    assert sorted(told) == [(item, True) for item in range(5)]


def fail(*_: object) -> None:
    pytest.fail("nobody asked for this")


def test_one_at_a_time_needs_no_thread() -> None:
    results = concurrently("abc", 1, lambda item, _: (item, threading.get_ident()), fail, fail)
    assert list(results) == [(item, threading.get_ident()) for item in "abc"]


def test_whoever_leaves_early_ends_what_is_under_way() -> None:
    dismissed, ended = threading.Event(), []

    def work(item: int, tell: Callable[[int], None]) -> int:
        if item == 0:
            return item
        dismissed.wait(10)
        try:
            tell(item)
        except Abandoned:
            ended.append(item)
            raise
        return item

    results = concurrently(range(9), 3, work, fail, dismissed.set)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert set(ended) <= {1, 2, 3}
    assert len(ended) == 3


def test_something_meanwhile_ends_before_the_block_does() -> None:
    go = threading.Event()
    with in_background(lambda: go.wait(10) and threading.get_ident()) as result:
        assert not result.done()
        go.set()
        assert result.result() != threading.get_ident()
    ended: list[int] = []

    def slowly() -> None:
        time.sleep(0.2)
        ended.append(1)

    with pytest.raises(ZeroDivisionError), in_background(slowly):
        1 / 0  # noqa: B018
    assert ended == [1]
    with in_background(lambda: 1 // 0) as result, pytest.raises(ZeroDivisionError):
        result.result()


def test_what_a_work_raises_ends_all() -> None:
    def work(item: int, tell: Callable[[int], None]) -> int:
        if item == 1:
            raise KeyboardInterrupt
        return item

    with pytest.raises(KeyboardInterrupt):
        list(concurrently(range(9), 2, work, fail, lambda: None))


# --- workers ---


@pytest.mark.parametrize("kind", [kind for kind in EXECUTORS if kind not in ("auto", "loop")])
def test_dismissed_workers_end_every_run(kind: str) -> None:
    with worker_pool(kind, 2) as workers:
        results = workers.run([Task(f"wait {number}", time.sleep, (0.2,)) for number in range(1000)])
        next(results)
        workers.cancel()
        with pytest.raises(WorkerError, match=r"closed|disconnected"):
            list(results)


@pytest.mark.parametrize("kind", ["dask", "processes"])
def test_the_list_whose_turn_is_earlier_goes_first(kind: str) -> None:
    """While the later list has all its tasks handed out already."""
    ended: list[str] = []
    started = threading.Event()

    def run(name: str, turn: int, count: int) -> None:
        for _ in workers.run([Task(f"{name} {n}", time.sleep, (0.05,)) for n in range(count)], turn):
            ended.append(name)
            started.set()

    with worker_pool(kind, 1) as workers:
        late = threading.Thread(target=run, args=("late", 1, 60))
        late.start()
        started.wait(60)
        run("early", 0, 20)
        late.join()
    first, last = ended.index("early"), len(ended) - 1 - ended[::-1].index("early")
    between = ended[first:last].count("late")
    assert between <= 6  # those that were with the worker already
    assert ended.count("late") == 60


# --- slides ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three, the largest last."""
    folder = tmp_path_factory.mktemp("slides")
    for number, side in enumerate((700, 900, 1500)):
        write_synthetic_slide(folder / f"{number}.tif", (side, side), mpp=0.5, tissue_fraction=0.8, seed=number)
    return sorted(folder.glob("*.tif"))


@pytest.fixture(scope="module")
def alone(slides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Cells of each, run one by one."""
    out = tmp_path_factory.mktemp("alone")
    list(run_slides(slides, out, Settings(executor="loop", **SETTINGS)))
    return cells(out)


def cells(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("*/cells.parquet"))}


@pytest.mark.parametrize("kind", ["dask", "processes", "threads"])
def test_slides_side_by_side_are_as_they_are_alone(
    kind: Executor, slides: list[Path], alone: dict[str, bytes], tmp_path: Path
) -> None:
    events: list[Event] = []
    outcomes = list(run_slides(slides, tmp_path, Settings(executor=kind, workers=2, **SETTINGS), False, events.append))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert cells(tmp_path) == alone
    assert (tmp_path / "cohort.csv").read_text().count("done") == 3
    begun = list(dict.fromkeys(event.slide for event in events))
    assert "2" in begun[:2]  # the largest is one of the two that begin
    last = max(place for place, event in enumerate(events) if event.slide == "2")
    assert any(event.slide != "2" for event in events[:last])
    assert {outcome.slide for outcome in outcomes} == set(begun)


@pytest.mark.parametrize("kind", ["dask", "processes", "threads"])
def test_an_interrupted_queue_ends_soon_and_goes_on(
    kind: Executor, slides: list[Path], alone: dict[str, bytes], tmp_path: Path
) -> None:
    settings = Settings(executor=kind, workers=2, **SETTINGS)
    seen: set[str] = set()

    def on_progress(event: Event) -> None:
        if event.stage == "cells" and event.done:
            seen.add(event.slide)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_slides(slides, tmp_path, settings, False, on_progress))
    assert not [thread for thread in threading.enumerate() if "_lane" in thread.name]
    outcomes = list(run_slides(slides, tmp_path, settings))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert sum(outcome.run["resumed"] for outcome in outcomes if outcome.run) > 0
    assert cells(tmp_path) == alone


INTERRUPTED = """
import io, os, signal, sys
from wsiproc.cli.main import main

class Watched(io.TextIOWrapper):
    interrupted = False

    def write(self, text):
        count = super().write(text)
        if "finding cells" in text and not self.interrupted:
            self.interrupted = True
            os.killpg(0, signal.SIGINT)  # a terminal interrupts the workers too
        return count

sys.stderr = Watched(sys.stderr.buffer, encoding="utf-8", line_buffering=True)
main()
"""
"""The command, interrupted as its first line of that stage is written: from outside, it might be done before."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_command_soon_and_says_how_to_go_on(
    slides: list[Path], alone: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = ["run", *map(str, slides), "-o", str(tmp_path), "-m", "classical", "--region", "512", "--workers", "2"]
    stopped = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments],
        capture_output=True, text=True, start_new_session=True, timeout=100, check=False,
    )  # fmt: skip
    assert stopped.returncode == 130, stopped.stderr
    assert "finding cells" in stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "Stopped. Run the same command to resume."
    assert "Traceback" not in stopped.stderr
    again = [sys.executable, "-m", "wsiproc.cli.main", *arguments, "-q"]
    assert subprocess.run(again, check=False, capture_output=True, timeout=200).returncode == 0
    assert cells(tmp_path) == alone


def test_too_much_memory_is_mended_for_all_slides_at_once(
    slides: list[Path], alone: dict[str, bytes], tmp_path: Path, memory_for: Callable[[int], list[int]]
) -> None:
    """Four workers are over the limit, as far as the watch can tell, and so are three; two are not."""
    sizes = memory_for(2)
    outcomes = list(run_slides(slides, tmp_path, Settings(executor="threads", workers=4, **SETTINGS)))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert sizes == [4, 2]
    assert cells(tmp_path) == alone


def test_where_memory_leaves_this_process_only_slides_take_turns(
    slides: list[Path], alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, overlaps = threading.Lock(), []
    real = wsiproc.pipeline.stages.infer.predict_windows

    def noted(*arguments: Any) -> Any:
        free = busy.acquire(blocking=False)
        overlaps.append(not free)
        try:
            return real(*arguments)
        finally:
            if free:
                busy.release()

    monkeypatch.setattr("wsiproc.pipeline.planning.plan.workers_that_fit", lambda *_: 1)
    monkeypatch.setattr(wsiproc.pipeline.stages.infer, "predict_windows", noted)
    outcomes = list(run_slides(slides, tmp_path, Settings(**SETTINGS)))
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert overlaps
    assert not any(overlaps)
    assert cells(tmp_path) == alone
