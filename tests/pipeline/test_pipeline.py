"""The promises of the whole: seamless, restartable, honest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr

import wsiproc.pipeline.stages.infer
from tests.io.slides.slide_writers import write_tiff
from tests.runs import Stop, assert_same_cells, run_one
from wsiproc.errors import PlanError, SettingsError, SlideReadError
from wsiproc.io.atomic import write_json
from wsiproc.io.cells.parquet import read_cells, slide_polygons
from wsiproc.models.builtin.classical import Classical
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.planning.estimate import driver_bytes, worker_bytes
from wsiproc.pipeline.planning.plan import plan_slide
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import truth_labels, write_synthetic_slide


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic slide of 3100 × 4200 px with tissue up to its edges and crowded nuclei."""
    path = tmp_path_factory.mktemp("slides") / "synthetic slide.tif"
    write_synthetic_slide(path, (3100, 4200), mpp=0.25, seed=5, tissue_fraction=0.5, crowding=0.9)
    return path


@pytest.fixture(scope="session")
def reference(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a plain run."""
    folder = run_one(slide, tmp_path_factory.mktemp("out")).folder
    assert folder is not None
    return folder


@pytest.mark.parametrize(
    ("region", "executor", "workers"),
    [(512, "loop", 1), (1536, "threads", 2), (2048, "dask", 2), (4096, "loop", 1)],
)
def test_cutting_and_workers_change_no_byte(
    slide: Path, reference: Path, tmp_path: Path, region: int, executor: str, workers: int
) -> None:
    outcome = run_one(slide, tmp_path, region=region, executor=executor, workers=workers)
    assert outcome.folder is not None
    assert_same_cells(reference, outcome.folder)


def test_glass_that_is_not_looked_at_costs_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "island.tif"  # tissue in the middle of glass
    write_synthetic_slide(path, (2600, 2600), mpp=0.5, seed=2, tissue_fraction=0.15, crowding=0.9)
    narrow = run_one(path, tmp_path / "narrow", region=512)
    monkeypatch.setattr("wsiproc.pipeline.stages.job.CONTEXT_UM", 1000.0)  # as far as any cell may depend on
    wide = run_one(path, tmp_path / "wide", region=512)
    assert narrow.run is not None
    assert wide.run is not None
    assert narrow.run["regions"]["windows"] < wide.run["regions"]["windows"]
    assert narrow.folder is not None
    assert wide.folder is not None
    assert_same_cells(narrow.folder, wide.folder)


def test_the_order_of_tasks_changes_no_byte(
    slide: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = wsiproc.pipeline.slide.cell_tasks

    def shuffled(*args: Any) -> list[Any]:
        tasks = ordered(*args)
        infer = [task for task in tasks if not task.depends_on]
        rest = [task for task in tasks if task.depends_on]
        rng = np.random.default_rng(1)
        return [*(infer[i] for i in rng.permutation(len(infer))), *(rest[i] for i in rng.permutation(len(rest)))]

    monkeypatch.setattr("wsiproc.pipeline.slide.cell_tasks", shuffled)
    folder = run_one(slide, tmp_path, region=512).folder
    assert folder is not None
    assert_same_cells(reference, folder)


def test_every_output_is_there_and_agrees(slide: Path, reference: Path) -> None:
    run = json.loads((reference / "run.json").read_text())
    ids, cells = read_cells(reference / "cells.parquet")
    labels = np.asarray(zarr.open_array(reference / "slide.ome.zarr/labels/cells/0", mode="r"))
    assert run["counts"]["cells"] == len(cells) == len(np.unique(labels)) - 1 > 500
    assert ids.tolist() == list(range(1, len(cells) + 1))
    assert (np.bincount(labels.ravel())[1:] * 0.25 == np.round(cells.measurements["area_um2"], 3)).all()
    assert sorted(p.name for p in reference.iterdir()) == [
        "cells.geojson.gz", "cells.parquet", "maps.ome.zarr", "report.html", "run.json", "slide.ome.zarr",
    ]  # fmt: skip


def test_no_cell_is_doubled_cut_or_lost_at_a_border(slide: Path, tmp_path: Path) -> None:
    """Against a run that knows no borders: the same outlines near every border, none touching another's inside."""
    cut, whole = (run_one(slide, tmp_path / str(px), region=px).folder for px in (512, 4096))
    assert cut is not None
    assert whole is not None
    frames = [read_cells(folder / "cells.parquet")[1] for folder in (cut, whole)]
    sets = []
    for cells in frames:
        edges = cells.boxes[:, :2] // 512 != (cells.boxes[:, :2] + cells.boxes[:, 2:] - 1) // 512
        at_border = np.flatnonzero(edges.any(axis=1))
        assert len(at_border) > 50
        sets.append({cells.rings[i].tobytes() for i in at_border.tolist()})
    assert sets[0] == sets[1]
    polygons = slide_polygons(frames[0].rings, (1.0, 1.0))
    pairs = shapely.STRtree(polygons).query(polygons, predicate="overlaps")
    assert pairs.shape[1] == 0


def test_most_true_nuclei_are_found(slide: Path, reference: Path) -> None:
    from wsiproc.core.geometry import Box
    from wsiproc.evaluate.compare import evaluate
    from wsiproc.evaluate.datasets import load_labels

    scores = evaluate(load_labels(reference), truth_labels(slide, Box(0, 0, 3100, 4200)))
    assert scores.f1 > 0.6
    assert scores.dice > 0.8


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_run_that_was_stopped_goes_on_where_it_was(
    slide: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls = 0

    def write_some(path: Path, value: object) -> None:
        nonlocal calls
        calls += "segment" in path.name
        if calls == at:
            raise Stop
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr("wsiproc.pipeline.stages.segment.write_json", write_some)
        with pytest.raises(Stop):
            run_one(slide, tmp_path, region=512)
    outcome = run_one(slide, tmp_path, region=512)
    assert outcome.run is not None
    assert outcome.run["resumed"] >= at
    assert outcome.folder is not None
    assert_same_cells(reference, outcome.folder)


def test_a_finished_slide_is_not_done_again_and_never_overwritten_unasked(slide: Path, tmp_path: Path) -> None:
    first = run_one(slide, tmp_path)
    again = run_one(slide, tmp_path)
    assert (first.status, again.status) == ("done", "already done")
    assert first.run == again.run
    (other,) = run_slides([slide], tmp_path, Settings(model="classical", executor="loop", region=512))
    assert "--overwrite" in str(other.error)
    (replaced,) = run_slides(
        [slide], tmp_path, Settings(model="classical", executor="loop", region=512), overwrite=True
    )
    assert replaced.status == "done"


def test_an_unreadable_place_costs_its_region_and_is_told(
    slide: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wsiproc.pipeline.stages.infer.predict_windows
    broken: list[list[int]] = []

    def fail_once(job: Any, box: Any, windows: Any, maps: Any) -> Any:
        if not broken:
            broken.append([box.y, box.x, box.h, box.w])
            raise SlideReadError(f"{job.source.path}: level 0 cannot be decoded")
        return real(job, box, windows, maps)

    monkeypatch.setattr(wsiproc.pipeline.stages.infer, "predict_windows", fail_once)
    outcome = run_one(slide, tmp_path)
    assert outcome.run is not None
    assert [f["box"] for f in outcome.run["regions"]["failed"]] == broken
    assert "cannot be decoded" in outcome.run["regions"]["failed"][0]["reason"]
    assert any("could not be read" in warning for warning in outcome.run["warnings"])
    whole = json.loads((reference / "run.json").read_text())["counts"]["cells"]
    assert 0 < outcome.run["counts"]["cells"] < whole


def test_one_bad_slide_costs_no_other(slide: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"not a slide")
    outcomes = list(
        run_slides(
            [bad, slide, tmp_path / "gone.svs", slide], tmp_path / "out", Settings(model="classical", executor="loop")
        )
    )
    # The largest first; what is given twice is done once.
    assert [o.path for o in outcomes] == [slide, bad, tmp_path / "gone.svs"]
    assert [o.status for o in outcomes] == ["done", "failed", "failed"]
    assert str(bad) in str(outcomes[1].error)


def test_a_slide_smaller_than_a_window(tmp_path: Path) -> None:
    path = tmp_path / "tiny.tif"
    write_synthetic_slide(path, (300, 420), mpp=0.5, seed=2, tissue_fraction=1.0)
    outcome = run_one(path, tmp_path / "out", tissue="all")
    assert outcome.run is not None
    assert outcome.run["grid"]["shape"] == [300, 420]


def test_a_region_of_interest_keeps_the_cells_inside(slide: Path, reference: Path, tmp_path: Path) -> None:
    whole = read_cells(reference / "cells.parquet")[1]
    middle = np.median(whole.centroids * 2, axis=0)  # slide px
    (y0, x0), (y1, x1) = middle - 400, middle + 400
    corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    (tmp_path / "roi.geojson").write_text(
        json.dumps(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [corners]},
                "properties": {"objectType": "annotation"},
            }
        )
    )
    folder = run_one(slide, tmp_path / "out", roi=tmp_path / "roi.geojson").folder
    assert folder is not None
    inside = (np.abs(whole.centroids * 2 - middle) < 400).all(axis=1)
    rings = {whole.rings[i].tobytes() for i in np.flatnonzero(inside).tolist()}
    cells = read_cells(folder / "cells.parquet")[1]
    # The stain is calibrated on the region alone, so a few outlines differ; the places do not.
    assert abs(len(cells) - inside.sum()) <= 0.2 * inside.sum()
    assert (np.abs(cells.centroids * 2 - middle) <= 400).all()
    assert rings


def test_what_does_not_fit_is_refused_with_both_numbers(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"memory: \d+\.\d+ GB needed, 0\.10 GB available"):
        plan_slide(slide, tmp_path, Settings(model="classical", memory_gb=0.1))
    with pytest.raises(SettingsError, match="needs a multiple of 512 px: try 512 or 1024"):
        plan_slide(slide, tmp_path, Settings(model="classical", region=1000))
    assert not list(tmp_path.iterdir())


def test_glass_alone_is_refused(tmp_path: Path) -> None:
    white = np.full((2000, 2000, 3), 245, np.uint8)
    write_tiff(tmp_path / "glass.tif", [white])
    with pytest.raises(PlanError, match="no tissue"):
        plan_slide(tmp_path / "glass.tif", tmp_path, Settings(model="classical"))


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_is_that_of_each_worker_with_its_model(
    slide: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiproc.pipeline.planning.plan.choose_model", lambda _: Classical(memory_bytes=10**8))
    plan = plan_slide(slide, tmp_path, Settings(model="classical", region=1024, workers=workers))
    model = plan.job.model
    zoom = max(1.0, model.mpp / plan.job.frame.slide_mpp)
    each = worker_bytes(1024, model.margin, model.window, model.halo, len(model.channels), zoom)
    assert plan.memory_bytes == driver_bytes(1) + workers * (each + 10**8)


def test_a_plan_is_a_value(slide: Path, tmp_path: Path) -> None:
    plan = plan_slide(slide, tmp_path, Settings(model="classical", region=1024))
    assert dataclasses.is_dataclass(plan)
    assert plan.memory_bytes > 3e8
    assert plan.windows > 10
    pixels = plan.job.frame.grid[0] * plan.job.frame.grid[1]
    assert 0.4 * pixels < plan.mpx * 1e6 <= pixels  # half of the slide is tissue, and its margins are inferred too
    everywhere = plan_slide(slide, tmp_path, Settings(model="classical", region=1024, tissue="all"))
    assert everywhere.mpx * 1e6 == pytest.approx(pixels)
    assert not list(tmp_path.iterdir())
