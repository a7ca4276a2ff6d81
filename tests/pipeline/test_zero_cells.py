"""A slide in which no cell was found is a result like any other: for every command, export and call, beside others."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
import tifffile

import wsiproc as package
from tests.command import CPU, wsiproc
from wsiproc.errors import SettingsError
from wsiproc.io.geojson.write import iter_features
from wsiproc.results.export.export import FORMATS
from wsiproc.results.result import Result
from wsiproc.results.viewer.colouring import Look
from wsiproc.results.viewer.shown import find_slides
from wsiproc.synthetic import write_synthetic_slide

OFFERED = [name for name in FORMATS if name != "annotation-store"]  # that one needs TIAToolbox


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a slide without cells, which comes first, and of one with some, as one call leaves them."""
    home = tmp_path_factory.mktemp("zero")
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    pixels = np.full((500, 600, 3), 243, np.uint8)
    tifffile.imwrite(home / "a none.tif", pixels, photometric="rgb", tile=(256, 256), **resolution)  # type: ignore[arg-type]
    write_synthetic_slide(home / "b some.tif", (300, 300), mpp=0.5, seed=4, tissue_fraction=1.0)
    slides = (home / "a none.tif", home / "b some.tif")
    done = wsiproc("run", *slides, "-o", home / "out", "--tissue", "all", "--executor", "loop", *CPU)
    assert done.returncode == 0, done.stderr
    assert "no cells were found" in done.stdout
    return home / "out"


@pytest.fixture(scope="module")
def none(results: Path) -> Result:
    found = package.open_all(results)
    assert [len(result) > 0 for result in found.values()] == [False, True]
    return found["a none"]


def test_every_format_is_written_for_both(results: Path, tmp_path: Path) -> None:
    formats = [word for name in OFFERED for word in ("-t", name)]
    done = wsiproc("export", results, *formats, "-o", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    written = [{path.name for path in (tmp_path / name).iterdir()} for name in ("a none", "b some")]
    assert written[0] == written[1]
    assert len(written[0]) >= len(OFFERED)
    folder = tmp_path / "a none"
    assert len(pd.read_csv(folder / "cells.csv.gz")) == 0
    assert anndata.read_h5ad(folder / "cells.h5ad").shape[0] == 0
    assert list(iter_features(folder / "cells-Nucleus.geojson.gz")) == []
    (tissue,) = json.loads((folder / "regions.geojson").read_text())["features"]
    assert tissue["properties"]["measurements"]["Cells"] == 0


def test_spatialdata_has_pictures_labels_and_an_empty_table(results: Path, tmp_path: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    assert wsiproc("export", results, "-t", "spatialdata", "-o", tmp_path).returncode == 0
    empty = spatialdata.read_zarr(tmp_path / "a none" / "spatialdata.zarr")
    full = spatialdata.read_zarr(tmp_path / "b some" / "spatialdata.zarr")
    assert (len(empty.tables["table"]), list(empty.shapes)) == (0, [])
    assert list(empty.tables["table"].var_names) == list(full.tables["table"].var_names)
    assert set(empty.labels) == set(full.labels)
    assert len(full.tables["table"]) == len(full.shapes["cells"]) > 50


@pytest.mark.parametrize("command", ["check", "profile", "qupath"])
def test_commands_over_both(command: str, results: Path) -> None:
    done = wsiproc(command, results)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a none" in done.stdout
    assert "b some" in done.stdout


def test_there_is_nothing_to_correct_and_a_sentence_says_so(results: Path, tmp_path: Path) -> None:
    ring = [[100, 100], [120, 100], [120, 120], [100, 120], [100, 100]]
    drawn = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "detection", "classification": {"name": "Nucleus"}},
    }
    (tmp_path / "one.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [drawn]}))
    done = wsiproc("import", tmp_path / "one.geojson", results / "a none")
    assert done.returncode == 2
    assert "no cells were found on this slide, so that there is nothing to correct" in done.stderr


def test_scores_of_nothing_against_nothing(results: Path) -> None:
    done = wsiproc("evaluate", results / "a none", results / "a none")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_call_in_python(none: Result) -> None:
    assert repr(none).startswith("Result('a none', 0 cells")
    for cells in (none.cells(), none.cells(["id"], (0, 0, 99, 99), list(none.classes)), none.table()):
        assert len(cells) == 0
    assert isinstance(none.cells(), geopandas.GeoDataFrame)
    assert none.cells().groupby("class", observed=True)["area_um2"].mean().empty
    assert none.anndata().shape == (0, len(none.measurements))
    assert none.thumbnail().shape[2] == 3
    assert {name: int(label.levels[0].max().compute()) for name, label in none.labels.items()} == {
        "cells": 0, "classes": 0, "tissue": 1,
    }  # fmt: skip
    assert none.maps.levels[0].compute().shape[1:] == none.labels["cells"].levels[0].shape
    with pytest.raises(SettingsError, match="there is no cell 1"):
        none.crop(1)


def test_the_viewer_shows_it(results: Path) -> None:
    found, problems = find_slides([results], None)
    assert problems == []
    shown = found["a none"]
    assert shown.facts()["cells"] == 0
    assert [shown.cell_tile(level, 0, 0, Look(), 0) for level in (-2, 0, 1, 3)] == [None] * 4
    assert shown.cell_at(50.0, 50.0) == 0
    assert shown.describe_cell(1) is None
    assert shown.density()[0].shape[2] == shown.tissue().shape[2] == 4


def test_the_table_of_slides_and_the_report_say_none(results: Path) -> None:
    first = (results / "cohort.csv").read_text().splitlines()[1]
    assert first.startswith("a none,done,0,")
    assert "no cells were found" in (results / "a none" / "report.html").read_text()
