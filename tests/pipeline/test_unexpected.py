"""No error of a library reaches a user raw: what nobody foresaw is a sentence, with its traceback in a file."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wsiproc.cli.main
from tests.runs import SIX
from wsiproc.errors import OutputError, UnexpectedError, WsiprocError
from wsiproc.executors import Task, worker_pool
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.results.run_log import LOG, net, recorded
from wsiproc.synthetic import write_synthetic_slide

SEAMS = {
    "wsiproc.pipeline.planning.plan.survey_slide": "detecting tissue and calibrating",
    "wsiproc.pipeline.stages.infer.predict_windows": "finding cells",
    "wsiproc.pipeline.stages.segment.segment_region": "finding cells",
    "wsiproc.pipeline.slide.read_part": "merging cells",
    "wsiproc.pipeline.stages.render.render_labels": "rendering labels and exporting",
    "wsiproc.pipeline.stages.export.join_geojson": "rendering labels and exporting",
    "wsiproc.pipeline.slide.write_report": "writing the report",
    "wsiproc.pipeline.slide._finish": "writing the report",
}
"""Where a library may fail, and what the slide is at then."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One that will fail, and one that will not."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("bad", "good"):
        write_synthetic_slide(folder / f"{name}.tif", (300, 300), mpp=0.5, seed=len(name), tissue_fraction=1.0)
    return [folder / "bad.tif", folder / "good.tif"]


def failing(patch: pytest.MonkeyPatch, seam: str, error: Exception) -> None:
    """From now on, ``seam`` raises where it is about the bad slide."""
    module, _, name = seam.rpartition(".")
    real = getattr(sys.modules[module], name)

    def fail(*arguments: Any, **named: Any) -> Any:
        if "bad" in repr(arguments):
            raise error
        return real(*arguments, **named)

    patch.setattr(sys.modules[module], name, fail)


@pytest.mark.parametrize("number", range(len(SEAMS)), ids=list(SEAMS))
def test_a_slide_that_a_library_fails_on_is_named_and_costs_no_other(
    number: int, slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seam, step = list(SEAMS.items())[number]
    raised = [RuntimeError("boom"), ValueError("boom"), KeyError("boom"), MemoryError("boom")][number % 4]
    with monkeypatch.context() as patch:
        failing(patch, seam, raised)
        bad, good = sorted(run_slides(slides, tmp_path, Settings(**SIX)), key=lambda outcome: outcome.slide)
    assert good.error is None
    assert isinstance(bad.error, UnexpectedError)
    log = (tmp_path / "bad" if (tmp_path / "bad").is_dir() else tmp_path) / LOG
    said = str(bad.error)
    assert said.startswith(f"{slides[0]}: while {step}: {type(raised).__name__}: ")
    assert f"the traceback is in {log}" in said
    assert "the same command again" in said
    assert "fewer --workers" in said or not isinstance(raised, MemoryError)
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert "in fail" in text
    assert text.rstrip().endswith(f"{type(raised).__name__}: {raised}")
    # Once the library is well again, the same command ends as if nothing had been, and the log goes.
    (again,) = run_slides(slides[:1], tmp_path, Settings(**SIX))
    assert again.error is None
    assert not (tmp_path / "bad" / LOG).exists()


def test_a_table_of_slides_that_cannot_be_written_loses_no_summary(
    slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "cohort.csv" / "in the way").mkdir(parents=True)
    options = ["-o", str(tmp_path / "out"), "-m", "classical", "--executor", "loop", "--tissue", "all"]
    monkeypatch.setattr(sys, "argv", ["wsiproc", "run", *map(str, slides), *options])
    with pytest.raises(SystemExit) as end:
        wsiproc.cli.main.main()
    told = capsys.readouterr()
    assert end.value.code == 1
    assert told.out.count("done") == 2
    assert told.err.splitlines()[-1].startswith(f"Error: {tmp_path / 'out'}: the table of all slides: ")
    assert (tmp_path / "out" / LOG).exists()


COMMANDS: dict[str, tuple[str, ...]] = {
    "wsiproc.io.slides.open.describe": ("info", "{slide}"),
    "wsiproc.pipeline.planning.plan.forecast": ("plan", "{slide}", "-m", "classical"),
    "wsiproc.pipeline.cohort.find_phenotypes": ("run", "{slide}", "-o", "{out}", "-m", "classical"),
    "wsiproc.psm.fit.fit": ("fit", "{slide}", "-o", "{out}/model"),
    "wsiproc.results.validate.check_output": ("check", "{result}"),
    "wsiproc.results.export.export.export": ("export", "{result}", "-t", "csv"),
    "wsiproc.results.qupath.split.split_cells": ("qupath", "{result}"),
    "wsiproc.cli.console.print_profile": ("profile", "{result}"),
    "wsiproc.results.qupath.import_corrections.import_corrections": ("import", "{result}/cells.geojson.gz", "{result}"),
    "wsiproc.evaluate.compare.evaluate_paths": ("evaluate", "{result}", "{result}"),
    "wsiproc.results.viewer.shown.find_slides": ("view", "{result}", "--no-browser"),
    "wsiproc.cli.diagnostics.examine": ("doctor", "--quick"),
    "wsiproc.evaluate.layouts.find_dataset": ("benchmark", "{out}"),
    "wsiproc.synthetic.write_synthetic_slide": ("synth", "{out}/a.tif"),
}
"""What each command calls first, and how the command is given."""


@pytest.mark.parametrize("seam", COMMANDS)
def test_a_command_that_a_library_fails_in_ends_with_a_sentence(
    seam: str,
    slides: list[Path],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    importlib.import_module(seam.rpartition(".")[0])

    def fail(*_: object, **__: object) -> None:
        raise KeyError("boom")

    monkeypatch.setattr(seam, fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = [text.format(slide=slides[1], out=tmp_path / "out", result=whole) for text in COMMANDS[seam]]
    monkeypatch.setattr(sys, "argv", ["wsiproc", *words])
    with pytest.raises(SystemExit) as end:
        wsiproc.cli.main.main()
    told = capsys.readouterr().err
    log = Path(told.rsplit("the traceback is in ", 1)[1].rstrip().rstrip(")"))
    text = log.read_text()
    log.unlink()
    assert end.value.code == 1
    assert told.startswith("Error: ")
    assert told.count("\n") == 1
    assert "KeyError: 'boom'" in told
    assert "Traceback" not in told
    assert "in fail" in text


def test_where_nothing_can_be_written_the_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert "no file could be written" in str(recorded(ValueError("boom"), "a slide", tmp_path / "file"))
    with pytest.raises(UnexpectedError, match="a slide: ValueError: boom") as caught, net("a slide", tmp_path):
        raise ValueError("boom")
    assert isinstance(caught.value.__cause__, ValueError)


def raise_odd() -> None:
    raise importlib.import_module("tests.odd_error").OddError(7, "boom")


def raise_odd_with_causes_pickled() -> None:
    """Where Dask is imported, errors that were there or are built in are pickled with their causes."""
    importlib.import_module("distributed")
    raise_odd()


@pytest.mark.parametrize("call", [raise_odd, raise_odd_with_causes_pickled])
def test_an_error_that_cannot_travel_is_no_death_of_a_worker(call: Callable[[], None]) -> None:
    with worker_pool("processes", 1) as workers, pytest.raises(RuntimeError, match="OddError: 7: boom") as caught:
        list(workers.run([Task("odd", call, ())]))
    assert "in raise_odd" in caught.value.__notes__[0]


def test_what_a_worker_cannot_import_is_an_error_and_no_death(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("def call():\n    return 1", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with worker_pool("processes", 1) as workers, pytest.raises(ModuleNotFoundError, match="only_here"):
        list(workers.run([Task("stranger", module.call, ())]))


# --- limits of the shell ---------------------------------------------------------------------------------------------


def under(limit: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a shell with such a ``ulimit``."""
    shell = ["bash", "-c", f'ulimit {limit}; exec "$@"', "-", sys.executable, "-m", "wsiproc"]
    return subprocess.run([*shell, *map(str, arguments)], capture_output=True, text=True, timeout=200, check=False)


needs_shell_limits = pytest.mark.skipif(sys.platform != "linux", reason="ulimit as on Linux")


@needs_shell_limits
@pytest.mark.parametrize("executor", ["loop", "processes"])
def test_a_limit_on_file_size_is_named_and_the_next_run_goes_on(
    executor: str, slides: list[Path], tmp_path: Path
) -> None:
    options = ("-m", "classical", "--tissue", "all", "-w", 2, "--executor", executor, "-q")
    done = under("-f 15", "run", *slides, "-o", tmp_path / "out", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    failed = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Failed, ")]
    assert len(failed) == 2, "each slide was tried"
    for line in failed:
        assert "the limit on files allows, which is 15,360 bytes here: raise it with `ulimit -f unlimited`" in line
        assert "run the same command to resume" in line
    settings = Settings(model="classical", tissue="all", executor="loop")
    assert all(outcome.error is None for outcome in run_slides(slides, tmp_path / "out", settings))
    assert all(outcome.error is None for outcome in run_slides(slides, tmp_path / "right", settings))
    for name in ("good", "bad"):
        table = (tmp_path / "out" / name / "cells.parquet").read_bytes()
        assert table == (tmp_path / "right" / name / "cells.parquet").read_bytes()


@needs_shell_limits
@pytest.mark.parametrize("name", ["h5ad", "csv", "classes", "ome-zarr-0.4"])
def test_an_export_that_cannot_be_written_in_full_is_an_error_and_no_death(
    name: str, whole: Path, tmp_path: Path
) -> None:
    done = under("-f 2", "export", whole, "-t", name, "-o", tmp_path / "out")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"Error: {whole}: while exporting it: a file became larger than the limit on files")
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@needs_shell_limits
@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("run {slide} -o {out}", 3.0),
        ("plan {slide} -o {out}", 3.0),
        ("fit {slide} -o {out}", 3.0),
        ("benchmark {slide} -o {out}", 3.0),
        ("check {result}", 3.0),
        ("export {result} -t h5ad -o {out}", 3.0),
        ("evaluate {result} {result} --figures {out}", 3.0),
        ("reclassify {result} --positive-dab 0.2", 3.0),
        ("view {result} --no-browser --port 0", 3.0),
        ("qupath {result}", 1.5),
        ("import {result}/cells.geojson.gz {result}", 1.5),
        ("info {slide}", 1.5),
        ("synth {out}/a.tif", 1.5),
    ],
)
def test_too_little_address_space_is_refused_before_libraries_end_the_process(
    command: str, needed: float, slides: list[Path], whole: Path, tmp_path: Path
) -> None:
    before = sorted(whole.rglob("*"))
    filled = command.format(slide=slides[1], result=whole, out=tmp_path / "out").split()
    for limit, gb in ((800_000, "0.82"), (250_000, "0.26")):
        done = under(f"-v {limit}", *filled)
        assert done.returncode == 2
        assert f"Address space of each process (`ulimit -v`): {needed:.2f} GB needed, {gb} GB available" in done.stderr
        assert "Raise it with `ulimit -v unlimited`" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert sorted(whole.rglob("*")) == before


@needs_shell_limits
@pytest.mark.parametrize("command", ["run", "import"])
def test_help_needs_no_libraries(command: str) -> None:
    done = under("-v 800000", command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout


@needs_shell_limits
def test_the_doctor_names_too_little_address_space_and_looks_no_further() -> None:
    done = under("-v 800000", "doctor", "--quick")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2].startswith("problem  memory                    Address space of each process")
    assert done.stdout.splitlines()[-1].strip() == "→ ulimit -v unlimited"
    assert done.stderr == ""


@needs_shell_limits
def test_with_the_address_space_that_is_asked_for_results_are_read(whole: Path, tmp_path: Path) -> None:
    result = shutil.copytree(whole, tmp_path / "result")
    for command in ("check {result}", "evaluate {result} {result} --figures {out}", "export {result} -t h5ad -o {out}"):
        done = under("-v 2930000", *command.format(result=result, out=tmp_path).split())  # 3.0 GB
        assert done.returncode == 0, done.stderr
    for command in ("qupath {result}", "info {result}/slide.ome.zarr", "synth {out}/a.tif --height 512 --width 512"):
        done = under("-v 1465000", *command.format(result=result, out=tmp_path).split())  # 1.5 GB
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Allocation failed (probably too large)."),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("can't start new thread"),
    ],
)
def test_too_little_memory_is_told_with_the_limit_that_binds(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiproc.results.run_log.address_space_limit", lambda: None)
    alone = "fewer --workers or a smaller --region" in str(recorded(error, "a slide", tmp_path))
    assert alone == ("thread" not in str(error)), "threads have limits of their own"
    monkeypatch.setattr("wsiproc.results.run_log.address_space_limit", lambda: 3_000_000_000)
    said = str(recorded(error, "a slide", tmp_path))
    assert "`ulimit -v` allows each process 3.00 GB of address space; raise it with `ulimit -v unlimited`" in said
    assert f"the traceback is in {tmp_path / LOG}" in said


@pytest.mark.parametrize(("limit", "remedy"), [(None, "the disk is full"), (1024, "`ulimit -f unlimited`")])
def test_arrays_that_were_written_in_part_are_told_with_their_cause(
    limit: int | None, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiproc.results.folder.file_size_limit", lambda: limit)
    told: WsiprocError = recorded(OSError("35344 requested and 1920 written"), "a slide", tmp_path)
    assert isinstance(told, OutputError)
    assert remedy in str(told)
    too_large = recorded(OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "a slide", tmp_path)
    assert ("FAT32" if limit is None else remedy) in str(too_large)
    assert not (tmp_path / LOG).exists()
