"""Benchmarks that score models on labelled pictures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.benchmarks.command import printed_here
from tests.evaluate.datasets_on_disk import picture, write_masks, write_points
from wsiproc.cli.main import app
from wsiproc.models import load_model
from wsiproc.psm.corrections import tuning
from wsiproc.results.folder import find_outputs
from wsiproc.results.qupath.import_corrections import FACTS


def test_the_floor_is_scored_on_every_labelled_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_masks(tmp_path, ["one", "two"])
    printed = printed_here(capfd, "classical_floor.py", str(tmp_path))
    assert all(f"│ {name} " in printed for name in ("one", "two", "mean"))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("psm_agreement.py", ["| none: random weights | ", "| similarity | ", "times faster"]),
        ("psm_ablation.py", ["| similarity | layer1 | ", "| similarity | layer4 | ", "| none: colour alone | "]),
    ],
)
def test_the_published_method_is_measured(
    script: str, said: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_masks(tmp_path / "monuseg_train", ["one"])
    folder = tmp_path / "corpus" / "breast_HE"
    folder.mkdir(parents=True)
    picture(5).save(folder / "a.png")
    printed = printed_here(capfd, script, str(tmp_path), "--objective", "similarity", "--steps", "1", "--crop-px", "32")
    assert all(words in printed for words in said)


def test_quality_and_cost_of_models_stand_side_by_side(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)  # other tests keep their cores
    write_masks(tmp_path, ["one", "two"])
    printed = printed_here(capfd, "quality_per_second.py", str(tmp_path), "--limit", "1", "--model", "psm")
    assert "1 pictures, 0.2 Mpx, one core" in printed
    assert all(f"| {model} | 1 | " in printed for model in ("classical", "psm"))


def test_judges_are_asked_together_and_told_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The one that is missing is named; a line each, means of organs, gains over the baseline, and the worst drawn."""
    write_masks(tmp_path / "monuseg_train", ["TCGA-B0-5698-01Z-00-DX1", "TCGA-KB-A93J-01A-01-TS1"])
    (tmp_path / "judges" / "brca_m2c" / "images").mkdir(parents=True)
    picture(7).save(tmp_path / "judges" / "brca_m2c" / "images" / "a.png")
    write_points(tmp_path / "judges" / "brca_m2c" / "points" / "a.csv", [(50, 60, "nucleus")])
    write_masks(tmp_path / "judges" / "tnbc", ["the same as the first"])
    names = [part for name in ("monuseg", "tnbc", "nucls", "brca-m2c") for part in ("--judge", name)]
    printed = printed_here(
        capfd, "judges.py", str(tmp_path), "-m", "psm", "-w", "1", *names, "--overlays", str(tmp_path / "worst"),
        "--worst", "1", "--reliability", str(tmp_path / "reliability.svg"),
    )  # fmt: skip
    assert "Left out: nucls, there is no " in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    judged = [row for row in rows if row[1] in {"chosen on", "unseen"}]
    assert [(row[0], row[1], row[3]) for row in judged] == [
        (judge, role, model)
        for judge, role in (("monuseg", "chosen on"), ("tnbc", "unseen"), ("brca-m2c", "unseen"))
        for model in ("classical", "psm")
    ]
    organs = [row for row in rows if row[0] == "monuseg" and row[1] in {"kidney", "stomach"}]
    assert [row[1:4] for row in organs] == [
        [organ, "1", model] for organ in ("kidney", "stomach") for model in ("classical", "psm")
    ]
    aji = {(row[0], row[3]): float(row[4]) for row in judged if row[4]}
    assert float(organs[0][4]) == aji["tnbc", "classical"] > 0.2
    (gains,) = (row for row in rows if row[0] == "psm")
    assert float(gains[1]) == pytest.approx(aji["monuseg", "psm"] - aji["monuseg", "classical"], abs=0.0011)
    assert float(gains[-1].split()[0]) == min(float(gain) for gain in gains[1:4])
    assert "share of cells that are true" in (tmp_path / "reliability.svg").read_text(encoding="utf-8")
    overlays = sorted(path.relative_to(tmp_path / "worst").as_posix() for path in (tmp_path / "worst").rglob("*.png"))
    assert [path.rsplit("/", 1)[0] for path in overlays] == [
        f"{judge}/{model}" for judge in ("brca-m2c", "monuseg", "tnbc") for model in ("classical", "psm")
    ]


def run_in_process(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """``python -m wsiproc …`` in this process."""
    done = CliRunner().invoke(app, command[3:])
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)


def test_what_corrections_teach_is_scored_outside_the_corrected_areas(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", run_in_process)  # commands as typed, but a training of six steps
    monkeypatch.setattr(tuning, "training_steps", lambda _: 6)
    monkeypatch.setattr(tuning, "_BATCH", 2)
    write_masks(tmp_path / "monuseg_train", ["one", "two"])
    out = tmp_path / "out"
    printed = printed_here(capfd, "corrections.py", str(tmp_path), "--cells", "12", "--out", str(out))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    title, _, before, after = rows[-4:]
    assert (before[title.index("corrected cells")], before[title.index("AJI +")]) == ("0", "+0.000")
    assert int(after[title.index("corrected cells")]) >= 12
    assert float(after[title.index("AJI")]) - float(before[title.index("AJI")]) == pytest.approx(
        float(after[title.index("AJI +")]), abs=0.0011
    )
    outputs = find_outputs(out / "monuseg" / "base")
    assert all((output / FACTS).exists() for output in outputs)
    assert load_model(str(out / "monuseg" / "model-12")).name == "model-12"
