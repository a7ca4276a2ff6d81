"""Learned models through the whole of ``wsiproc run``."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs import assert_same_cells, run_one
from wsiproc.errors import OutputError
from wsiproc.io.cells.parquet import read_cells
from wsiproc.models import load_model
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.models.doubt import ColourRule, NeighbourRule, count_steps
from wsiproc.pipeline.planning.plan import plan_slide
from wsiproc.pipeline.record import DOUBTFUL
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1700 × 2300 px of crowded tissue at 0.25 µm a px: two by three windows of the models."""
    path = tmp_path_factory.mktemp("slides") / "small.tif"
    write_synthetic_slide(path, (1700, 2300), mpp=0.25, seed=8, tissue_fraction=0.8, crowding=0.8)
    return path


@pytest.mark.parametrize(
    ("kind", "by"), [("distilled", {"executor": "dask", "workers": 2}), ("activation", {"executor": "loop"})]
)
def test_cutting_and_workers_change_no_byte(
    slide: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str, by: dict[str, Any]
) -> None:
    model = request.getfixturevalue(kind)
    whole = run_one(slide, tmp_path / "whole", model=str(model), region=2048).folder
    cut = run_one(slide, tmp_path / "cut", model=str(model), region=512, **by).folder
    assert whole is not None
    assert cut is not None
    assert_same_cells(whole, cut)
    assert len(read_cells(whole / "cells.parquet")[0]) > 300
    run = json.loads((whole / "run.json").read_text())
    assert run["model"]["weights_sha256"] == load_model(str(model)).weights_sha256


def test_cells_among_doubtful_ones_are_the_same_however_the_slide_was_cut(
    slide: Path, tmp_path: Path, distilled: Path
) -> None:
    doubting = tmp_path / "doubting"
    shutil.copytree(distilled, doubting)
    rules: dict[str, NeighbourRule | ColourRule] = {
        "neighbours": NeighbourRule(reach_um=30, tolerance=0, highest=6, weight=100, clear=1),
        "colour": ColourRule(clear=0.5, tolerance=0, weight=0.5),
    }
    with (doubting / "model.toml").open("a") as facts:
        for table, rule in rules.items():
            facts.writelines([f"\n[{table}]\n", *(f"{name} = {value}\n" for name, value in asdict(rule).items())])
    options = {"model": str(doubting), "min_score": 0.5}
    whole = run_one(slide, tmp_path / "whole", region=2048, **options)
    cut = run_one(slide, tmp_path / "cut", region=512, **options)
    assert whole.folder is not None
    assert cut.folder is not None
    assert_same_cells(whole.folder, cut.folder)
    # The same cells are left out of a run that keeps all, by the rule applied to all of them at once.
    kept_all = run_one(slide, tmp_path / "all", model=str(distilled), min_score=0.5, region=2048).folder
    assert kept_all is not None
    every, left = (read_cells(folder / "cells.parquet")[1] for folder in (kept_all, whole.folder))
    model = load_model(str(doubting), 0.5)
    assert isinstance(model, Distilled)
    assert model.doubt is not None
    assert model.doubt.colour is not None
    scores, shares = count_steps(every.scores), model.doubt.colour.counts(every)
    believed = model.doubt.on(np.array(scores), np.array(shares)).believed(every, model.mpp)
    by_neighbours = replace(model.doubt, colour=None).on(np.array(scores), np.array(shares)).believed(every, model.mpp)
    assert (by_neighbours & ~believed).sum() > 0
    assert 0 < believed.sum() < len(every)
    np.testing.assert_array_equal(every.centroids[believed], left.centroids)
    for folder in (whole.folder, cut.folder):
        run = json.loads((folder / "run.json").read_text())
        assert run["counts"]["dropped"][DOUBTFUL] == (~believed).sum()
    assert run["seams"]["cells"] > 0  # of the one with borders
    assert run["seams"]["per_1000"] == {"doubled": 0.0, "cut": 0.0, "lost": 0.0}


def test_a_moved_model_is_the_same_model_and_a_changed_one_is_not(slide: Path, tmp_path: Path, distilled: Path) -> None:
    run_one(slide, tmp_path / "out", model=str(distilled), region=2048)
    moved = tmp_path / "moved"
    shutil.copytree(distilled, moved)
    assert run_one(slide, tmp_path / "out", model=str(moved), region=2048).status == "already done"
    facts = moved / "model.toml"
    facts.write_text(facts.read_text().replace("threshold = 0.5", "threshold = 0.7"))
    with pytest.raises(OutputError, match="made with another model"):
        run_one(slide, tmp_path / "out", model=str(moved), region=2048)


def test_what_a_model_holds_is_projected_for_each_worker(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(held: int) -> int:
        monkeypatch.setattr("wsiproc.pipeline.planning.plan.load_model", lambda *_: Classical(memory_bytes=held))
        return plan_slide(slide, tmp_path, Settings(model="classical", region=512, workers=2)).memory_bytes

    assert planned(10**7) == planned(0) + 2 * 10**7
