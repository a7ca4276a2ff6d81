"""Hostile input as a user meets it: a whole run, on the command line or in a program."""

from __future__ import annotations

import ast
import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile

from tests.command import CPU, words, wsiproc
from tests.io.slides.slide_writers import write_ome_zarr
from wsiproc.cli.result_commands.view import view_command
from wsiproc.core.geometry import Box
from wsiproc.executors import worker_pool
from wsiproc.io.cells.parquet import read_cells
from wsiproc.models import load_model
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.planning.plan import plan_slide
from wsiproc.pipeline.planning.survey import survey_slide
from wsiproc.pipeline.progress import Outcome
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide
from wsiproc.synthetic.scene import Scene

PACKAGE = Path(__file__).parents[2] / "wsiproc"
QUICK: dict[str, Any] = {"model": "classical", "executor": "loop", "device": "cpu", "region": 512, "tissue": "all"}


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1300 × 1500 px at 0.5 µm/px, three levels, tissue everywhere: nine regions of 512 px."""
    path = tmp_path_factory.mktemp("slides") / "good.tif"
    write_synthetic_slide(path, (1300, 1500), mpp=0.5, seed=11, tissue_fraction=1.0)
    return path


def run_one(path: Path, out: Path, **settings: Any) -> Outcome:
    (outcome,) = run_slides([path], out, Settings(**QUICK | settings))
    if outcome.error is not None:
        raise outcome.error
    return outcome


# --- one damaged tile ------------------------------------------------------------------------------------------------


def damage(slide: Path, copy: Path, level: int, y: int, x: int) -> None:
    """A copy whose tile at (y, x), px of that level, is noise."""
    data = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[level].aspage()
        index = y // page.tilelength * -(-page.imagewidth // page.tilewidth) + x // page.tilewidth
        offset, size = page.dataoffsets[index], page.databytecounts[index]
    data[offset : offset + size] = b"\xff" * size
    copy.write_bytes(data)


def untouched_place(slide: Path) -> tuple[int, int]:
    """A place, px of level 0, that no sample for calibration reads."""
    seen = survey_slide(source_of(slide), load_model("classical"), "all", None)
    h, w = seen.frame.grid
    taken = np.zeros((h, w), bool)
    for box in seen.boxes:
        taken[box.pad(64).clip((h, w)).slices] = True
    y, x = np.argwhere(~taken[: h - 256, : w - 256])[0]
    return int(y), int(x)


def source_of(slide: Path) -> Any:
    from wsiproc.pipeline.planning.plan import slide_source

    return slide_source(slide, Settings(**QUICK))


def test_one_damaged_tile_costs_its_regions_and_no_byte_of_the_others(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "wsiproc.pipeline.planning.survey.SAMPLE_WINDOWS", 2
    )  # on a large slide, most places are in no sample
    y, x = untouched_place(slide)
    (tmp_path / "bad").mkdir()
    bad = tmp_path / "bad" / "good.tif"
    damage(slide, bad, 0, y, x)
    whole, part = run_one(slide, tmp_path / "a"), run_one(bad, tmp_path / "b")
    assert (part.status, whole.status) == ("done", "done")
    assert whole.folder is not None
    assert part.folder is not None
    assert part.run is not None
    failed = part.run["regions"]["failed"]
    assert 1 <= len(failed) <= 4
    assert any(Box(*f["box"]).intersect(Box(y, x, 1, 1)).area for f in failed)
    assert all(
        "good.tif: cannot decode tile" in f["reason"] and "copy or export it again" in f["reason"] for f in failed
    )
    assert any("could not be read and hold no cells" in warning for warning in part.run["warnings"])
    # Cells next to a region without maps are cut out of less; all others are the same to the byte.
    margin = load_model("classical").margin
    lost = [Box(*f["box"]).pad(margin) for f in failed]
    rings = []
    for outcome in (whole, part):
        assert outcome.folder is not None
        cells = read_cells(outcome.folder / "cells.parquet")[1]
        near = np.array(
            [any(box.y <= cy < box.y1 and box.x <= cx < box.x1 for box in lost) for cy, cx in cells.centroids]
        )
        kept = cells.take(np.flatnonzero(~near))
        rings.append([kept.rings[i].tobytes() + kept.scores[i].tobytes() for i in range(len(kept))])
    assert rings[0] == rings[1]
    assert len(rings[0]) > 200


def test_damage_in_a_sample_and_in_the_overview_costs_no_slide(slide: Path, tmp_path: Path) -> None:
    seen = survey_slide(source_of(slide), load_model("classical"), "all", None)
    box = seen.boxes[0]
    damage(slide, tmp_path / "sample.tif", 0, box.y + 100, box.x + 100)
    damage(slide, tmp_path / "overview.tif", 2, 0, 0)
    sample = run_one(tmp_path / "sample.tif", tmp_path / "a", region=1024).run
    overview = run_one(tmp_path / "overview.tif", tmp_path / "a", region=1024).run
    assert sample is not None
    assert overview is not None
    assert sample["regions"]["failed"]
    assert sample["counts"]["cells"] > 200
    assert overview["regions"]["failed"] == []
    assert any("of the overview of overview.tif cannot be read" in warning for warning in overview["warnings"])
    again = survey_slide(source_of(tmp_path / "sample.tif"), load_model("classical"), "all", None)
    assert len(again.boxes) == len(again.samples) < len(seen.boxes)


def test_damaged_glass_is_looked_at_and_told(tmp_path: Path) -> None:
    """A slide of one level, whose overview is made of the same tiles: what cannot be seen is not taken for glass."""
    picture = Scene((1100, 1200), 0.5, seed=4, tissue_fraction=1.0).render(Box(0, 0, 1100, 1200))
    scale: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    path = tmp_path / "one level.tif"
    tifffile.imwrite(path, picture, photometric="rgb", compression="jpeg", tile=(256, 256), metadata=None, **scale)
    damage(path, tmp_path / "bad.tif", 0, 600, 600)
    plan = plan_slide(tmp_path / "bad.tif", tmp_path, Settings(**QUICK | {"tissue": "auto"}))
    assert any(region.box.intersect(Box(600, 600, 1, 1)).area for region in plan.infer)
    run = run_one(tmp_path / "bad.tif", tmp_path / "out", tissue="auto").run
    assert run is not None
    assert any(Box(*f["box"]).intersect(Box(600, 600, 1, 1)).area for f in run["regions"]["failed"])
    assert run["counts"]["cells"] > 50


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_ones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that are no slides, and two small good ones with odd names."""
    folder = tmp_path_factory.mktemp("odd") / 'it\'s a "folder" 🔬'
    folder.mkdir()
    for name in ("[red]good[_red] 🔬.tif", "-rf $(touch x).tif"):
        write_synthetic_slide(folder / "drawn.tif", (420, 520), mpp=0.5, seed=2, tissue_fraction=1.0)
        (folder / "drawn.tif").rename(folder / name)
    (folder / "drawn.truth.parquet").unlink()
    (folder / "empty.svs").touch()
    (folder / "link.svs").symlink_to("gone.svs")
    (folder / "folder.svs").mkdir()
    os.mkfifo(folder / "pipe.svs")
    write_ome_zarr(folder / "huge.ome.zarr", [np.zeros((300, 400, 3), np.uint8)], "0.5")
    array = folder / "huge.ome.zarr" / "0" / "zarr.json"
    array.write_text(json.dumps(json.loads(array.read_text()) | {"shape": [3, 10**6, 10**6]}))
    (folder / "cut.tif").write_bytes((folder / "-rf $(touch x).tif").read_bytes()[:3000])
    return folder


BAD = ("empty.svs", "link.svs", "folder.svs", "pipe.svs", "huge.ome.zarr", "cut.tif")


def test_every_bad_slide_is_named_once_and_every_good_one_done(bad_ones: Path, tmp_path: Path) -> None:
    before = sorted(os.listdir(bad_ones))
    paths = sorted(bad_ones.iterdir())
    options = ("-o", "out", "--executor", "loop", "--tissue", "all", "--region", 512, *CPU, "--")
    done = wsiproc("run", *options, *paths, cwd=tmp_path)
    assert done.returncode == 1
    failures = [line for line in done.stdout.splitlines() if line.startswith("Failed, ")]
    for name in BAD:
        (line,) = [line for line in failures if line.startswith(f"Failed, {name}: {bad_ones / name}: ")]
        assert len(line) > len(f"Failed, {name}: {bad_ones / name}: ") + 20
    assert len(failures) == len(BAD)
    assert sorted(os.listdir(bad_ones)) == before
    assert os.listdir(tmp_path) == ["out"]
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == ["-rf $(touch x)", "[red]good[_red] 🔬"]
    for folder in folders:
        assert json.loads((tmp_path / "out" / folder / "run.json").read_text())["counts"]["cells"] > 10


def test_info_has_a_sentence_for_each(bad_ones: Path) -> None:
    done = wsiproc("info", *(bad_ones / name for name in BAD))
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["Error", str(bad_ones / name)] for name in BAD]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("regoin = 512", "unknown setting 'regoin'"),
        ("[run]\nmodel = 'x'", "unknown setting 'run'"),
        ("__class__ = 'x'", "unknown setting '__class__'"),
        ("region = '512'", "should be of type int"),
        ("region = -5", "region is -5"),
        ("workers = 100000000000", "one machine can start 1024 at most"),
        ("memory_gb = nan", "memory_gb is nan"),
        ("memory_gb = -1", "memory_gb is -1"),
        ("a = " + "[" * 5000, "config.toml: settings cannot be read"),
        ("a = \x00", "config.toml: settings cannot be read"),
    ],
)
def test_a_config_that_makes_no_sense_is_one_sentence(tmp_path: Path, config: str, said: str) -> None:
    (tmp_path / "config.toml").write_text(config)
    done = wsiproc("run", "a.svs", "--config", "config.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert said in words(done.stderr)
    assert os.listdir(tmp_path) == ["config.toml"]


@pytest.mark.parametrize(
    ("roi", "said"),
    [
        ({"type": "Polygon", "coordinates": [[[9e9, 0], [9e9, 9], [9.1e9, 9], [9e9, 0]]]}, "far beyond any slide"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [20, 0], [0, 0]]]}, "no area"),
        ({"type": "Polygon", "coordinates": [[[9000, 0], [9999, 0], [9999, 99], [9000, 0]]]}, "outside the slide"),
        ({"type": "FeatureCollection", "crs": {"properties": {"name": "EPSG:4326"}}, "features": []}, "EPSG:4326"),
    ],
)
def test_a_region_of_another_picture_is_refused_and_nothing_written(
    bad_ones: Path, tmp_path: Path, roi: object, said: str
) -> None:
    (tmp_path / "roi.geojson").write_text(json.dumps(roi))
    good = bad_ones / "[red]good[_red] 🔬.tif"
    done = wsiproc("run", good, "--roi", "roi.geojson", "-o", "out", *CPU, cwd=tmp_path)
    assert done.returncode == 1
    assert said in words(done.stdout)
    assert "roi.geojson" in done.stdout
    assert os.listdir(tmp_path) == ["roi.geojson"]


def test_a_model_folder_with_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m" / "model.toml")
    done = wsiproc("run", "a.svs", "--model", "m", cwd=tmp_path)
    assert done.returncode == 2
    assert "model.toml cannot be read: a pipe" in words(done.stderr)


# --- safety ----------------------------------------------------------------------------------------------------------


def test_workers_listen_on_loopback_only() -> None:
    with worker_pool("dask", workers=1):
        me = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_nothing_but_the_scheduler_and_the_viewer_listens() -> None:
    """In the whole package, sockets are opened by Dask and by the server of ``wsiproc view``, both on loopback."""
    needed = {"socket", "socketserver", "http", "uvicorn"}
    users = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if imported(path) & needed}
    assert users == {"results/viewer/app.py"}
    assert inspect.signature(view_command).parameters["host"].default == "127.0.0.1"


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_runs_what_a_file_says(path: Path) -> None:
    """No pickle, no eval: not from configs, not from models, not from slides."""
    assert not imported(path) & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
            assert called != "torch.load" or given["weights_only"] == "True"
            assert not given.keys() & {"allow_pickle", "shell"}
