"""Other classes for finished slides: the same files as a run with the same settings, whatever stops it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wsiproc.errors import OutputError, SettingsError
from wsiproc.pipeline import reclassify as module
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.reclassify import reclassify
from wsiproc.pipeline.settings import Settings
from wsiproc.results import record
from wsiproc.results.cohort_table import write_cohort
from wsiproc.results.validate import check_output
from wsiproc.synthetic import write_synthetic_slide

THREE = (0.1, 0.2, 0.3)
SETTINGS_OF_THREE = Settings(model="classical", executor="loop", region=1024, positive_dab=THREE)
OF_A_RUN = ("seconds", "memory", "profile", "workers", "resumed")  # differ from run to run


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "ki67.tif"
    write_synthetic_slide(path, (1200, 1500), seed=4, stain="HDAB", tissue_fraction=0.5)
    return path


def run(slide: Path, out: Path, region: int = 1024, **settings: Any) -> Path:
    (outcome,) = run_slides([slide], out, Settings(model="classical", executor="loop", region=region, **settings))
    assert outcome.folder is not None, outcome.error
    return outcome.folder


@pytest.fixture(scope="module")
def finished(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the cut found in the slide."""
    return run(slide, tmp_path_factory.mktemp("auto"))


@pytest.fixture(scope="module")
def wanted(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with three cuts gives."""
    return run(slide, tmp_path_factory.mktemp("three"), positive_dab=THREE)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run, to be changed."""
    copy = tmp_path / "out" / finished.name
    shutil.copytree(finished, copy)
    yield copy
    assert not (copy / ".reclassified").exists()


def told(folder: Path) -> dict[str, Any]:
    """``run.json`` but for what differs from run to run."""
    found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name not in OF_A_RUN}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but report and ``run.json``, which tell of times."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("run.json", "report.html")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def assert_same(folder: Path, wanted: Path) -> None:
    assert told(folder) == told(wanted)
    ours, theirs = contents(folder), contents(wanted)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert {finding.level for finding in check_output(folder)} == {"ok"}


def test_the_result_is_that_of_a_run_with_the_same_settings(folder: Path, wanted: Path, slide: Path) -> None:
    done = reclassify(folder, None, THREE)
    assert_same(folder, wanted)
    assert done.before.keys() == {"Negative", "Positive"}
    assert min(done.after.values()) > 0
    assert "H-score" in (folder / "report.html").read_text(encoding="utf-8")
    (outcome,) = run_slides([slide], folder.parent, SETTINGS_OF_THREE)
    assert outcome.status == "already done"


def test_there_and_back_again(folder: Path, finished: Path) -> None:
    """The cut that was found, given by hand, makes the same cells positive."""
    found = told(finished)["immuno"]["positive_dab_od"][0]
    reclassify(folder, "membrane", THREE)
    reclassify(folder, "nucleus", found)
    assert told(folder)["counts"] == told(finished)["counts"]
    same = {name for name, data in contents(finished).items() if contents(folder)[name] == data}
    assert same == contents(finished).keys()


@pytest.mark.parametrize(
    ("beside", "refused", "accepted"), [(False, "membrane", "nucleus"), (True, "nucleus", "cytoplasm")]
)
def test_nuclei_that_a_run_would_detect_otherwise_are_refused(
    folder: Path, beside: bool, refused: Any, accepted: Any
) -> None:
    """Models that detect nuclei beside DAB need another run for the other side."""
    path = folder / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["model"]["calibration"]["dab_outside_nuclei"] = beside
    path.write_text(json.dumps(facts), encoding="utf-8")
    before = contents(folder)
    with pytest.raises(OutputError, match=f"again with --compartment {refused} --overwrite"):
        reclassify(folder, refused, THREE)
    assert contents(folder) == before
    assert sum(reclassify(folder, accepted, THREE).after.values()) > 0


def test_cut_and_rings_do_not_depend_on_regions(finished: Path, slide: Path, tmp_path: Path) -> None:
    small = run(slide, tmp_path, region=512)
    assert told(small)["immuno"] == told(finished)["immuno"]
    assert told(small)["regions"]["total"] > told(finished)["regions"]["total"]
    for name in ("cells.parquet", "cells.geojson.gz"):
        assert (small / name).read_bytes() == (finished / name).read_bytes()


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survived", [0, 2, 3, 5])
def test_killed_anywhere_the_same_command_goes_on(
    folder: Path, wanted: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    left = [survived]

    def dying(name: str, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0:
                raise KilledError(name)
            left[0] -= 1
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patched:
        for where, name in ((module, "write_classes"), (module, "write_report"), (record, "write_json")):
            patched.setattr(where, name, dying(name, getattr(where, name)))
        patched.setattr(module, "os", SimpleNamespace(replace=dying("replace", os.replace)))
        with pytest.raises(KilledError):
            reclassify(folder, None, THREE)
    if (folder / "run.json").exists():
        assert {finding.level for finding in check_output(folder)} == {"ok"}
    reclassify(folder, None, THREE)
    assert_same(folder, wanted)


def test_the_command_takes_one_density_or_three(folder: Path) -> None:
    from typer.testing import CliRunner

    from wsiproc.cli.main import app

    for written in (["0.1,0.2,0.3"], ["0.1", "0.2", "0.3"]):
        done = CliRunner().invoke(app, ["reclassify", str(folder), "--positive-dab", *written])
        assert done.exit_code == 0, done.output
        assert "1+" in done.output
        assert told(folder)["immuno"]["positive_dab_od"] == [0.1, 0.2, 0.3]
    assert CliRunner().invoke(app, ["reclassify", str(folder), "--positive-dab", "much"]).exit_code == 2


def test_the_cohort_is_told_once_also_if_a_slide_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from wsiproc.cli.main import app

    out = folder.parent
    for name in ("other", "without_dab"):
        shutil.copytree(folder, out / name)
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (out / "without_dab/run.json").write_text(json.dumps(facts | {"immuno": None}), encoding="utf-8")
    write_cohort(out, {"/slides/broken.svs": "cannot be read"})
    written: list[Path] = []

    def counted(out: Path, failed: dict[str, str]) -> None:
        written.append(out)
        write_cohort(out, failed)

    monkeypatch.setattr(module, "write_cohort", counted)
    done = CliRunner().invoke(app, ["reclassify", str(out), "--positive-dab", "0.3"])
    assert done.exit_code == 1, done.output
    assert written == [out]
    with (out / "cohort.csv").open(encoding="utf-8", newline="") as file:
        cuts = {row["folder"] or row["path"]: row["positive_dab_od"] for row in csv.DictReader(file)}
    assert cuts == {folder.name: "0.3", "other": "0.3", "without_dab": "", "/slides/broken.svs": ""}


def test_without_its_slide_the_report_has_no_samples_and_says_so(folder: Path) -> None:
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    facts["slide"]["path"] = "/nowhere/ki67.tif"
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    done = reclassify(folder, None, 0.3)
    assert "no samples" in done.warnings[0]


def test_what_cannot_be_reclassified_is_refused_and_stays(folder: Path) -> None:
    before = contents(folder) | {"run.json": (folder / "run.json").read_bytes()}
    with pytest.raises(SettingsError, match="positive_dab"):
        reclassify(folder, None, (0.3, 0.2, 0.1))
    with pytest.raises(SettingsError, match="compartment is 'stroma'; choose one of auto, nucleus"):
        reclassify(folder, "stroma", None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="--positive-dab"):
        reclassify(folder, None, None)
    assert before == contents(folder) | {"run.json": (folder / "run.json").read_bytes()}
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(facts | {"immuno": None}), encoding="utf-8")
    with pytest.raises(OutputError, match="--stain hdab"):
        reclassify(folder, None, 0.3)
