"""When something goes wrong from outside: kills, a second run, full and vanished disks, too little memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import wsiproc.pipeline.cohort
import wsiproc.pipeline.slide
import wsiproc.pipeline.stages.infer
import wsiproc.pipeline.workers
from tests.runs import SIX, assert_same_cells, run_one
from wsiproc.errors import MemoryLimitError, OutputError, SlideError, SlideReadError
from wsiproc.executors import memory_limits
from wsiproc.io.slides import open as slides
from wsiproc.io.slides.pixels import resample
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

PROJECT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {name: SIX[name] for name in ("region", "tissue")}


def names(folder: Path) -> set[str]:
    """All files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def start(six: Path, out: Path) -> subprocess.Popen[bytes]:
    """The command with two worker processes, in a process group of its own."""
    command = [sys.executable, "-m", "wsiproc.cli.main", "run", str(six), "-o", str(out), "-m", "classical"]
    command += ["--region", "512", "--tissue", "all", "--executor", "processes", "--workers", "2", "-q"]
    return subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` of the process and all its descendants at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family[1:], timeout=20)


@pytest.mark.parametrize("reached", ["*.segmented.json", "merged-*.part"])
def test_killed_at_any_stage_it_goes_on_and_no_byte_differs(
    six: Path, whole: Path, tmp_path: Path, reached: str
) -> None:
    process = start(six, tmp_path)
    work = tmp_path / "six" / ".work"
    deadline = time.monotonic() + 120
    while not list(work.glob(reached)):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_tree(process)
    assert not (tmp_path / "six" / "run.json").exists()
    done = len(list(work.glob("*.inferred.json"))) + len(list(work.glob("*.segmented.json")))
    run = run_one(six, tmp_path, **SETTINGS).run
    assert run is not None
    assert run["resumed"] >= done
    assert_same_cells(whole, tmp_path / "six")
    assert names(tmp_path / "six") == names(whole)
    assert names(tmp_path) == {f"six/{name}" for name in names(whole)}


def test_killed_between_the_last_file_and_the_tidying_up_it_is_done_and_gets_tidied(
    six: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "six")
    (tmp_path / "six" / ".work").mkdir()
    (tmp_path / "six" / ".work" / "plan.json").write_text("{}")
    (outcome,) = run_slides([six], tmp_path, Settings(model="classical", executor="loop", **SETTINGS))
    assert outcome.status == "already done"
    assert names(tmp_path / "six") == names(whole)


# --- two runs, other settings ----------------------------------------------------------------------------------------


@pytest.fixture
def occupied(tmp_path: Path) -> Iterator[None]:
    """Another process that holds the folder of the slide."""
    code = (
        "import sys, time; from pathlib import Path; from wsiproc.results.folder import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "six")], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
        other.kill()


@pytest.mark.usefixtures("occupied")
def test_a_second_run_on_the_same_folder_says_so_and_stops(six: Path, tmp_path: Path) -> None:
    (outcome,) = run_slides([six], tmp_path, Settings(model="classical", executor="loop", **SETTINGS))
    assert isinstance(outcome.error, OutputError)
    assert "another run is writing to" in str(outcome.error)
    assert str(tmp_path / "six") in str(outcome.error)
    assert not (tmp_path / "six").exists()


def test_unfinished_work_of_other_settings_is_named_and_not_mixed_in(
    six: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wsiproc.pipeline.slide, "number_blocks", stop)
        with pytest.raises(KeyboardInterrupt):
            run_one(six, tmp_path, region=1024, tissue="all")
    (tmp_path / "six" / "thoughts.txt").write_text("mine")
    run = run_one(six, tmp_path, **SETTINGS).run
    assert run is not None
    assert run["warnings"] == ["unfinished work was started over, since it was made with another region"]
    assert run["resumed"] == 0
    assert_same_cells(whole, tmp_path / "six")
    assert names(tmp_path / "six") == names(whole) | {"thoughts.txt"}


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_finished_work_of_other_settings_is_named_and_kept(six: Path, whole: Path) -> None:
    before = (whole / "run.json").read_bytes()
    settings = Settings(model="classical", executor="loop", region=1024, tissue="all", mpp=0.45)
    (outcome,) = run_slides([six], whole.parent, settings)
    assert "made with another mpp and region" in str(outcome.error)
    assert (whole / "run.json").read_bytes() == before


def test_results_are_kept_if_what_should_replace_them_cannot_begin(six: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "six")
    settings = Settings(model="classical", executor="loop", memory_gb=0.1, **SETTINGS)
    (outcome,) = run_slides([six], tmp_path, settings, overwrite=True)
    assert outcome.status == "failed"
    assert_same_cells(whole, tmp_path / "six")
    assert names(tmp_path / "six") == names(whole)


# --- disks -----------------------------------------------------------------------------------------------------------


def mounted(folder: Path, *options: str) -> bool:
    """Mount a small file system of memory, where that is allowed."""
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    if mount is None:
        return False
    command = [mount, "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    if not mounted(folder, "size=1m"):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_next_run_goes_on(
    six: Path, whole: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiproc.pipeline.planning.plan.disk_bytes", lambda *_: 0)  # it looked as if there were room
    with pytest.raises(OutputError, match=r"the disk is full: make room on it.*run the same command to resume"):
        run_one(six, disk, **SETTINGS)
    subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
    run = run_one(six, disk, **SETTINGS).run
    assert run is not None
    assert run["resumed"] > 0
    assert_same_cells(whole, disk / "six")
    assert names(disk / "six") == names(whole)


def test_a_folder_that_cannot_be_written_is_named(six: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OutputError, match="cannot be written: make the file system writable, or write to another"):
        run_one(six, disk, **SETTINGS)


def test_a_slide_whose_drive_goes_away_stops_and_is_finished_later(
    six: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    shutil.copy(six, drive)
    real, calls = wsiproc.pipeline.stages.infer.predict_windows, []

    def lose_the_third(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            drive.rename(tmp_path / "away")
            raise SlideReadError("cannot be decoded")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(wsiproc.pipeline.stages.infer, "predict_windows", lose_the_third)
        with pytest.raises(SlideError, match=r"six.tif is out of reach.*run the same command to resume"):
            run_one(drive / "six.tif", tmp_path / "out", **SETTINGS)
    (tmp_path / "away").rename(drive)
    run = run_one(drive / "six.tif", tmp_path / "out", **SETTINGS).run
    assert run is not None
    assert run["resumed"] >= 2
    assert (tmp_path / "out/six/cells.parquet").read_bytes() == (whole / "cells.parquet").read_bytes()


# --- places that cannot be read --------------------------------------------------------------------------------------


def test_strict_stops_at_the_first_place_that_cannot_be_read(
    six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsiproc.pipeline.stages.infer, "predict_windows", unreadable)
    with pytest.raises(SlideReadError, match="cannot be decoded"):
        run_one(six, tmp_path, strict=True, **SETTINGS)


def unreadable(*_: object) -> None:
    raise SlideReadError("cannot be decoded")


def test_cells_beside_a_place_that_could_not_be_read_are_cut_again_once_it_can(
    six: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segmentation that saw empty maps must not be taken for done by the run that goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(wsiproc.pipeline.stages.infer, "predict_windows", unreadable)
        patch.setattr(wsiproc.pipeline.slide, "number_blocks", stop)
        with pytest.raises(KeyboardInterrupt):
            run_one(six, tmp_path, **SETTINGS)
    run_one(six, tmp_path, **SETTINGS)
    assert_same_cells(whole, tmp_path / "six")


def test_a_read_that_hangs_costs_its_region_after_the_time_allowed(
    six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, hang = resample.read_grid, threading.Event()

    def read(level: Any, shape: Any, origin: Any, scale: Any, box: Any) -> Any:
        if scale == (1.0, 1.0) and box.y == 0 and box.h > 512:  # a strip of the upper regions, with its halo
            hang.wait(30)
        return real(level, shape, origin, scale, box)

    with monkeypatch.context() as patch:
        patch.setattr("wsiproc.io.slides.pyramid.read_grid", read)
        run = run_one(six, tmp_path, executor="threads", workers=3, read_timeout_s=1.0, **SETTINGS).run
    hang.set()
    assert run is not None
    failed = run["regions"]["failed"]
    assert {f["key"] for f in failed} == {"r0000c0000", "r0000c0001", "r0000c0002"}
    assert all(re.search(r"six.tif: a read did not finish within 1 s", f["reason"]) for f in failed)
    assert run["counts"]["cells"] > 0


def test_a_slide_that_hangs_from_the_start_costs_no_other(
    six: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "stuck.tif"
    shutil.copy(six, stuck)
    real, hang = slides.open_slide, threading.Event()

    def open_slide(path: Path, *others: Any) -> Any:
        if path == stuck:
            hang.wait(30)
        return real(path, *others)

    with monkeypatch.context() as patch:
        patch.setattr(slides, "open_slide", open_slide)
        settings = Settings(model="classical", executor="loop", read_timeout_s=2.0, **SETTINGS)
        bad, good = sorted(run_slides([stuck, six], tmp_path, settings), key=lambda outcome: outcome.status)[::-1]
    hang.set()
    assert re.search(r"stuck.tif: a read did not finish within 2 s", str(bad.error))
    assert good.error is None
    assert_same_cells(whole, tmp_path / "six")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_more_memory_than_allowed_goes_on_with_fewer_workers(
    six: Path, whole: Path, tmp_path: Path, memory_for: Callable[[int], list[int]]
) -> None:
    """Two threads are over the limit, as far as the watch can tell; one is not."""
    sizes = memory_for(1)
    run = run_one(six, tmp_path, executor="threads", workers=2, **SETTINGS).run
    assert sizes == [2, 1]
    assert run is not None
    assert run["resumed"] > 0
    assert_same_cells(whole, tmp_path / "six")


def test_a_run_that_needs_too_much_alone_says_both_numbers(
    six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiproc.pipeline.planning.plan.require", lambda *_: None)  # it looked as if it would fit
    with pytest.raises(MemoryLimitError, match=r"six.tif: \d\.\d\d GB in use, 0.05 GB allowed.*--memory"):
        run_one(six, tmp_path, memory_gb=0.05, **SETTINGS)


def test_a_run_writes_down_what_it_held(whole: Path) -> None:
    memory = json.loads((whole / "run.json").read_text())["memory"]
    assert 50e6 < memory["peak_bytes"] < 100e9
    assert (memory["limit_bytes"] is None) == (not memory_limits())


def test_shared_pages_of_children_count_once() -> None:
    """A child that was forked off a large parent, and touches nothing, adds little; what it fills adds itself."""
    from wsiproc.executors.memory import bytes_held

    code = "import os, sys, time; import numpy as np; a = np.ones(25_000_000)\n"
    code += "if os.fork() == 0:\n    b = np.ones(12_500_000)\nprint(flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        held = bytes_held(psutil.Process(process.pid))
        assert 300e6 < held < 400e6
    finally:
        kill_tree(process)
        process.communicate()


def test_what_other_programs_hold_does_not_count() -> None:
    from wsiproc.executors.memory import bytes_held

    mine = bytes_held(psutil.Process(os.getpid()))
    ballast = np.ones(12_500_000)
    assert 80e6 < bytes_held(psutil.Process(os.getpid())) - mine < 140e6
    assert ballast.sum() == 12_500_000
