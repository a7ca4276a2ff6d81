"""No error of a library reaches a user raw: what nobody foresaw is a sentence, with its traceback in a file."""

from __future__ import annotations

import importlib
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wsiproc.cli.main
from tests.runs import SIX
from wsiproc.errors import UnexpectedError
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
