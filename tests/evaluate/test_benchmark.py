"""Models over datasets: the cells of a run, scored against truth that is known, worst first."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wsiproc.evaluate.benchmark
import wsiproc.pipeline.planning.plan
from tests.evaluate.datasets_on_disk import picture, true_labels, write_masks, write_points
from wsiproc.errors import ModelError, ResolutionError, SettingsError
from wsiproc.evaluate.benchmark import Benchmark, ImageResult, run_benchmark
from wsiproc.evaluate.compare import evaluate, evaluate_paths
from wsiproc.evaluate.datasets import load_labels
from wsiproc.evaluate.layouts import find_dataset
from wsiproc.evaluate.points import Points, cell_points
from wsiproc.models import load_model
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.device import Device
from wsiproc.models.inference import predict
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

LOOP = Settings(model="classical", device="cpu", workers=1)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures; the truth of *shifted* is 6 px beside its nuclei."""
    folder = tmp_path_factory.mktemp("masks")
    write_masks(folder, ["good", "other", "shifted"])
    Image.fromarray(np.roll(true_labels(2), 6, axis=1)).save(folder / "labels" / "shifted.png")
    return folder


@pytest.fixture(scope="module")
def scored(masks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, Path]:
    """Results of ``classical``, two pictures at a time, and their folder."""
    out = tmp_path_factory.mktemp("out")
    settings = dataclasses.replace(LOOP, workers=2)
    return run_benchmark(find_dataset("monuseg", masks), ["classical"], out, settings), out


def test_the_cells_are_those_of_a_plain_run(scored: tuple[Benchmark, Path], masks: Path, tmp_path: Path) -> None:
    images = sorted((masks / "images").iterdir())
    for outcome in run_slides(images, tmp_path, Settings(model="classical", mpp=0.25, tissue="all", device="cpu")):
        assert outcome.folder is not None
        there = scored[1] / "classical" / "runs" / outcome.folder.name
        for name in ("cells.parquet", "cells.geojson.gz"):
            assert (outcome.folder / name).read_bytes() == (there / name).read_bytes()


def test_the_scores_are_those_of_evaluate(scored: tuple[Benchmark, Path], masks: Path) -> None:
    done, out = scored
    rows = evaluate_paths(out / "classical" / "runs", masks / "labels")
    lines = read_csv(out / "scores.csv")
    assert [(line["model"], line["picture"]) for line in lines] == [("classical", row.name) for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert {name: float(line[name]) for name in row.scores.__dict__} == row.scores.__dict__
    (model,) = done.lines
    assert (model["model"], model["pictures"], done.failures) == ("classical", 3, [])
    assert model["aji"] == pytest.approx(np.mean([row.scores.aji for row in rows]))
    assert rows[0].scores.f1 > 0.5
    assert model["mpp"] == 0.5
    assert float(model["s_per_Mpx_1_thread"]) > 0


def test_overlays_lie_on_the_picture_the_worst_first(scored: tuple[Benchmark, Path], masks: Path) -> None:
    done, out = scored
    figures = sorted((out / "classical" / "figures").iterdir())
    aji = {str(line["picture"]): float(line["aji"]) for line in done.images}
    assert [path.stem[3:] for path in figures] == sorted(aji, key=aji.__getitem__)
    assert figures[0].name == "01_shifted.png"
    with Image.open(figures[0]) as figure:
        drawn, before = np.asarray(figure), np.asarray(picture(2)).repeat(2, axis=0).repeat(2, axis=1)
    changed = (drawn != before).any(axis=2)
    assert 0.01 < changed.mean() < 0.5
    colours = {tuple(colour) for colour in drawn[changed].tolist()}
    assert colours == {(0, 255, 0), (255, 255, 0), (255, 255, 255)}


def test_the_table_of_models_is_written_with_what_one_must_know(scored: tuple[Benchmark, Path], masks: Path) -> None:
    text = (scored[1] / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# monuseg\n\n3 images of ")
    assert "0.25 µm/px" in text
    assert f"| classical | 3 | {scored[0].lines[0]['dice']:.3f} |" in text


def test_what_is_done_is_not_done_again(scored: tuple[Benchmark, Path], masks: Path) -> None:
    done, out = scored
    before = {path: path.stat().st_mtime_ns for path in out.glob("classical/runs/*/run.json")}
    heard: list[ImageResult] = []
    again = run_benchmark(
        find_dataset("monuseg", masks), [], out, LOOP, on_progress=lambda done, total, result: heard.append(result)
    )
    assert [result.status for result in heard] == ["already done"] * 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.images == done.images


def test_the_baseline_stands_beside_every_model(masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, _: float | None = None) -> Any:
        return Classical(name="fine", mpp=0.25, window=384) if name == "models/fine" else load_model(name)

    def predicted(model: Any, windows: Any, device: Device) -> Any:
        assert device == Device()  # full precision: these models need it
        return predict(model, windows, device)

    monkeypatch.setattr("wsiproc.models.device.cpu_has", lambda feature: True)
    monkeypatch.setattr(wsiproc.evaluate.benchmark, "predict", predicted)
    for module in (wsiproc.evaluate.benchmark, wsiproc.pipeline.planning.plan):
        monkeypatch.setattr(module, "load_model", load)
    done = run_benchmark(
        find_dataset(str(masks), limit=1), ["models/fine"] * 2, tmp_path, dataclasses.replace(LOOP, mpp=0.25)
    )
    assert [line["model"] for line in done.lines] == ["classical", "fine"]
    assert done.failures == []
    assert [line["mpp"] for line in done.lines] == [0.5, 0.25]
    for label in ("classical", "fine"):
        scores = evaluate(load_labels(tmp_path / label / "runs" / "good"), true_labels(0))
        assert [line["aji"] for line in done.images if line["model"] == label] == [scores.aji]
        assert [path.name for path in (tmp_path / label / "figures").iterdir()] == ["01_good.png"]


def test_a_picture_that_fails_is_named_and_costs_no_other(masks: Path, tmp_path: Path) -> None:
    write_masks(tmp_path / "set", ["a", "b", "c"])
    (tmp_path / "set" / "images" / "b.png").write_bytes(b"torn")
    Image.fromarray(true_labels(2)[:-1]).save(tmp_path / "set" / "labels" / "c.png")
    done = run_benchmark(find_dataset("monuseg", tmp_path / "set"), [], tmp_path / "out", LOOP)
    assert [line["picture"] for line in done.images] == ["a"]
    assert done.lines[0]["pictures"] == 1
    assert len(done.failures) == 2
    assert done.failures[0].startswith("classical, b: ")
    assert "b.png: not a slide" in done.failures[0]
    assert "(399, 400) px (h, w), but its counterpart has (400, 400)" in done.failures[1]
    assert f"- {done.failures[1]}" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_what_makes_no_sense_is_said_before_anything_starts(masks: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown model 'psychic'"):
        run_benchmark(find_dataset("monuseg", masks), ["psychic"], tmp_path / "out", LOOP)
    with pytest.raises(ResolutionError, match=r"good\.png: .*pass --mpp"):
        run_benchmark(find_dataset(str(masks)), [], tmp_path / "out", LOOP)
    assert not (tmp_path / "out").exists()


def test_two_models_of_one_name_are_refused(masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsiproc.evaluate.benchmark, "load_model", lambda name: Classical())
    with pytest.raises(SettingsError, match=r"one/net and two/net have the same name"):
        run_benchmark(find_dataset("monuseg", masks), ["one/net", "two/net"], tmp_path, LOOP)


# --- points ----------------------------------------------------------------------------------------------------------


def _far_from(cells: Points, count: int) -> list[tuple[float, float]]:
    """Places more than 24 px from every cell and from one another."""
    places: list[tuple[float, float]] = []
    for yx in np.argwhere(np.ones((400, 400), bool))[::7].tolist():
        others = np.concatenate([cells.yx, np.array(places).reshape(-1, 2)])
        if len(places) < count and np.hypot(*(others - yx).T).min() > 24:
            places.append((yx[0], yx[1]))
    assert len(places) == count
    return places


def test_points_from_cells_to_the_table(tmp_path: Path) -> None:
    """The truth is made of the cells found, less some, plus some: all counts are known."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    picture(7, "HDAB").save(folder / "images" / "0.png")
    write_points(folder / "points" / "0.csv", [(5, 5, "positive")])
    run_benchmark(find_dataset("bcdata", folder), [], tmp_path / "out", LOOP)

    cells = cell_points(tmp_path / "out" / "classical" / "runs" / "0")
    positive, negative = (cells.yx[cells.classes == kind].tolist() for kind in ("positive", "negative"))
    p, n = len(positive), len(negative)
    assert min(p, n) > 5
    truth = [(y + 3, x - 3, "positive") for y, x in positive[2:]]
    truth += [(y, x + 4, "negative") for y, x in negative[1:]]
    truth += [(y, x, "negative") for y, x in _far_from(cells, 4)]
    write_points(folder / "points" / "0.csv", truth)
    done = run_benchmark(find_dataset("bcdata", folder), [], tmp_path / "out", LOOP)

    (line,) = done.lines
    positive_f1, negative_f1 = 2 * (p - 2) / (p + p - 2), 2 * (n - 1) / (n + n + 3)
    assert line["positive_f1"] == pytest.approx(positive_f1)
    assert (line["positive_precision"], line["positive_recall"]) == ((p - 2) / p, 1)
    assert line["negative_f1"] == pytest.approx(negative_f1)
    assert line["f1"] == line["mean_picture_f1"] == pytest.approx((positive_f1 + negative_f1) / 2)
    assert line["detection_f1"] == pytest.approx(2 * (p + n - 3) / (p + n + p + n + 1))
    assert [line[f"{name}_count_error"] for name in ("positive", "negative", "all")] == [2, 3, 1]
    assert line["ki67_error"] == pytest.approx(abs(p / (p + n) - (p - 2) / (p + n + 1)))
    assert read_csv(tmp_path / "out" / "scores.csv")[0]["positive_matched"] == str(p - 2)
    with Image.open(tmp_path / "out" / "classical" / "figures" / "01_0.png") as figure:
        shown = {colour for _, colour in figure.getcolors(1 << 20) or ()}
    assert {(0, 114, 178), (230, 159, 0), (0, 0, 0)} <= shown
