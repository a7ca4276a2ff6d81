"""Each example runs as its first lines say, and prints what is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from tests.example_runs import EXAMPLES, example
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "drawn slide.tif"
    write_synthetic_slide(path, (1100, 1300), mpp=0.25, tissue_fraction=0.7)
    return path


@pytest.fixture(scope="module")
def folder(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a run in this process."""
    (outcome,) = run_slides([slide], tmp_path_factory.mktemp("out"), Settings(executor="loop"))
    assert outcome.error is None
    assert outcome.folder is not None
    return outcome.folder


@pytest.fixture(scope="module")
def run(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return facts


def test_every_example_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"neighbours.py": "results/test_squidpy.py"}
    assert [path.name for path in EXAMPLES.glob("*.py") if f'example("{path.name}"' not in text] == list(elsewhere)
    assert all(name in (Path(__file__).parent / path).read_text(encoding="utf-8") for name, path in elsewhere.items())


def test_cells_to_pandas_counts_each_class_and_its_density(folder: Path, run: dict[str, Any], tmp_path: Path) -> None:
    printed = example("cells_to_pandas.py", folder, tmp_path / "table.csv")
    header, *rows = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert header.startswith("class,cells,cells/mm²,mean area_um2,")
    cells = {row.split(",")[0]: row.split(",")[1:4] for row in rows}
    assert {name: int(values[0]) for name, values in cells.items()} == run["counts"]["classes"]
    for name, (_, density, area) in cells.items():
        assert name in printed
        assert float(density) == pytest.approx(run["counts"]["in_tissue"][name] / run["tissue_mm2"])
        assert 5 < float(area) < 200


def test_labels_with_zarr_finds_the_cells_of_a_box(folder: Path, run: dict[str, Any]) -> None:
    y, x, h, w = 400, 500, 600, 700
    labels = zarr.open_array(folder / "slide.ome.zarr/labels/cells/0", mode="r")
    (zoom, _) = map(int, run["grid"]["scale"])
    assert run["grid"]["scale"] == [zoom, zoom]
    box = np.asarray(labels[y // zoom : (y + h) // zoom, x // zoom : (x + w) // zoom])
    ids = np.unique(box[box > 0])
    assert len(ids) > 20
    first, *rows = example("labels_with_zarr.py", folder, y, x, h, w).splitlines()
    assert first == f"{len(ids)} cells cover {(box > 0).mean():.0%} of {h // zoom} × {w // zoom} px"
    assert all(f"'id': {number}," in row for number, row in zip(ids[:10], rows, strict=True))


def test_run_on_dask_cluster_gives_the_bytes_of_a_run_at_home(slide: Path, folder: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    options = {"processes": True, "host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0}
    with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster:
        printed = example("run_on_dask_cluster.py", cluster.scheduler_address, tmp_path, slide)
    assert printed.startswith(f"{slide.name}: done, ")
    there = tmp_path / folder.name / "cells.parquet"
    assert there.read_bytes() == (folder / "cells.parquet").read_bytes()


def test_picture_of_cells_shows_overview_and_outlines(folder: Path, tmp_path: Path) -> None:
    example("picture_of_cells.py", folder, tmp_path / "picture.png")
    picture = np.asarray(Image.open(tmp_path / "picture.png"))
    close_look = picture[:, -900:]
    outline = np.abs(close_look.astype(int) - outline_colour(folder)).max(axis=2) == 0
    assert 0.005 < outline.mean() < 0.5


def test_picture_of_maps_shows_slide_maps_and_outlines(folder: Path, tmp_path: Path) -> None:
    example("picture_of_maps.py", tmp_path / "picture.png", 500, 600, 400, folder, folder)
    picture = np.asarray(Image.open(tmp_path / "picture.png"))
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    slide, first, second, cells = (picture[y : y + height, x : x + width] for y in (0, height) for x in (0, width))
    outline = np.abs(cells.astype(int) - outline_colour(folder)).max(axis=2) < 40
    assert 0.005 < outline.mean() < 0.5
    maps = first[60:-40, 60:-40].astype(int), second[20:-60, 60:-40].astype(int)
    assert all(set(np.unique(panel[..., 0])) >= {15, 240} for panel in maps), "nothing and certain"
    assert not (slide[60:-40, 60:-40] == 15).any()


def outline_colour(folder: Path) -> np.ndarray:
    """Colour of the first class in the label image's own legend."""
    attributes: Any = zarr.open_group(folder / "slide.ome.zarr/labels/classes", mode="r").attrs.asdict()
    colours = {entry["label-value"]: entry["rgba"] for entry in attributes["ome"]["image-label"]["colors"]}
    return np.array(colours[1][:3])


def test_make_demo_slides_writes_two_slides_that_open(tmp_path: Path) -> None:
    from wsiproc.io.slides.open import open_slide

    example("make_demo_slides.py", tmp_path)
    for name, shape in (("skin.tif", (760, 1000)), ("synthetic.tif", (4096, 4096))):
        with open_slide(tmp_path / name) as slide:
            assert slide.shape == shape
            assert slide.mpp == pytest.approx(0.499 if name == "skin.tif" else 0.25)
    assert (tmp_path / "synthetic.truth.parquet").exists()
