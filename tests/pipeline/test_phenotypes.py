"""Kinds of cells: found without labels, the same over a cohort, seamless, and in every output."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import geojson
import geopandas
import numpy as np
import pyarrow.parquet
import pytest
import zarr
from scipy.spatial import cKDTree

import wsiproc.pipeline.stages.segment
from tests.runs import Stop, assert_same_cells
from wsiproc.errors import OutputError, PlanError, SettingsError
from wsiproc.io.atomic import write_json
from wsiproc.io.cells.parquet import read_cells
from wsiproc.io.cells.phenotypes import read_phenotypes
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.progress import Outcome
from wsiproc.pipeline.settings import Settings
from wsiproc.results.validate import check_output
from wsiproc.synthetic import write_synthetic_slide


def run_all(paths: list[Path], out: Path, **settings: Any) -> list[Outcome]:
    """Outcomes of slides, whose errors are raised."""
    given: dict[str, Any] = {"model": "classical", "executor": "loop", "region": 1024} | settings
    outcomes = list(run_slides(paths, out, Settings(**given)))
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return outcomes


def run_one(path: Path, out: Path, **settings: Any) -> Path:
    """Folder of one slide."""
    (outcome,) = run_all([path], out, **settings)
    assert outcome.folder is not None
    return outcome.folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two slides in haematoxylin and DAB, of two scanners, a third or a fifth of whose nuclei are brown."""
    folder = tmp_path_factory.mktemp("slides")
    for name, seed, look, positive in (("first", 1, "bright", 0.33), ("second", 2, "grey", 0.2)):
        write_synthetic_slide(
            folder / f"{name}.tif", (1600, 2200), mpp=0.25, seed=seed, tissue_fraction=0.7, stain="HDAB", look=look,
            positive_fraction=positive,
        )  # fmt: skip
    return sorted(folder.glob("*.tif"))


@pytest.fixture(scope="module")
def out(cohort: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both slides with two kinds found in them."""
    folder = tmp_path_factory.mktemp("out")
    run_all(cohort, folder, classes=2)
    return folder


@pytest.fixture(scope="module")
def renamed(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kinds of the cohort with a name and a colour of a person's choice."""
    text = (out / "classes.toml").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("kinds") / "brown.toml"
    path.write_text(text.replace("Kind 2", "Brown & round").replace("#e69f00", "#0a141e"), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["first", "second"])
def test_two_kinds_are_the_two_that_were_drawn(cohort: list[Path], out: Path, name: str) -> None:
    cells = geopandas.read_parquet(out / name / "cells.parquet")
    truth = pyarrow.parquet.read_table(cohort[0].with_name(f"{name}.truth.parquet")).to_pandas()
    distance, nearest = cKDTree(truth[["centroid_y", "centroid_x"]]).query(cells[["centroid_y", "centroid_x"]])
    matched = distance < 8  # px, 2 µm
    assert matched.sum() > 500
    positive = truth["class"].to_numpy()[nearest][matched] == "Positive"
    agreement = (cells["class"].to_numpy()[matched] == "Kind 2") == positive
    assert agreement.mean() > 0.98
    assert agreement[positive].mean() > 0.95


def test_a_cohort_has_one_file_of_kinds(out: Path) -> None:
    kinds = read_phenotypes(out / "classes.toml")
    assert kinds.names == ("Kind 1", "Kind 2")
    runs = [json.loads((out / name / "run.json").read_text()) for name in ("first", "second")]
    assert runs[0]["kinds"] == runs[1]["kinds"] == json.loads(json.dumps(kinds.as_dict()))
    assert [list(run["counts"]["classes"]) for run in runs] == [["Kind 1", "Kind 2"]] * 2
    assert [min(run["counts"]["classes"].values()) > 50 for run in runs] == [True, True]
    assert [run["model"]["classes"] for run in runs] == [["Nucleus"]] * 2
    names = {path.name for path in out.iterdir()}
    assert names == {"classes.toml", "cohort.csv", "cohort.html", "first", "second"}


def test_the_density_of_both_stains_is_measured_in_each_cell(out: Path) -> None:
    cells = read_cells(out / "first/cells.parquet")[1]
    brown, blue = (cells.classes == kind for kind in (1, 0))
    dab = cells.measurements["dab_od_mean"]
    assert dab[brown].min() > 0.15 > np.median(dab[blue])
    assert (cells.measurements["hematoxylin_od_mean"] > 0).all()
    with gzip.open(out / "first/cells.geojson.gz") as file:
        some = geojson.load(file)["features"][0]["properties"]["measurements"]
    assert some["DAB OD mean"] == pytest.approx(float(dab[0]), rel=1e-6)
    assert some["Hematoxylin OD mean"] == pytest.approx(float(cells.measurements["hematoxylin_od_mean"][0]), rel=1e-6)


def test_a_new_name_and_colour_are_in_every_output(
    cohort: list[Path], out: Path, renamed: Path, tmp_path: Path
) -> None:
    folder = run_one(cohort[0], tmp_path, classes=renamed)
    run = json.loads((folder / "run.json").read_text())
    before = json.loads((out / "first/run.json").read_text())["counts"]["classes"]
    count = before["Kind 2"]
    assert run["classes"] == {"Kind 1": [0, 114, 178], "Brown & round": [10, 20, 30]}
    assert run["counts"]["classes"] == {"Kind 1": before["Kind 1"], "Brown & round": count}
    assert (geopandas.read_parquet(folder / "cells.parquet")["class"] == "Brown & round").sum() == count
    with gzip.open(folder / "cells.geojson.gz") as file:
        classes = [feature["properties"]["classification"] for feature in geojson.load(file)["features"]]
    assert classes.count({"name": "Brown & round", "color": [10, 20, 30]}) == count
    group: Any = zarr.open_group(folder / "slide.ome.zarr/labels/classes", mode="r")
    label = group.attrs["ome"]["image-label"]
    assert {"label-value": 2, "name": "Brown & round"} in label["properties"]
    assert [row["rgba"][:3] for row in label["colors"] if row["label-value"] == 2] == [[10, 20, 30]]
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "Brown &amp; round" in report
    assert "#0a141e" in report
    assert "Kind 2" not in report
    assert [finding for finding in check_output(folder) if finding.level != "ok"] == []


@pytest.mark.parametrize(("region", "executor"), [(512, "loop"), (2048, "threads")])
def test_cutting_changes_no_byte(cohort: list[Path], out: Path, tmp_path: Path, region: int, executor: str) -> None:
    folder = run_one(cohort[0], tmp_path, classes=out / "classes.toml", region=region, executor=executor, workers=2)
    assert_same_cells(out / "first", folder)


def test_a_run_that_was_stopped_goes_on_with_the_kinds_that_were_found(
    cohort: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = run_one(cohort[1], tmp_path / "reference", classes=3)
    written = 0

    def write_some(path: Path, value: object) -> None:
        nonlocal written
        written += "segment" in path.name
        if written == 3:
            raise Stop
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(wsiproc.pipeline.stages.segment, "write_json", write_some)
        with pytest.raises(Stop):
            run_one(cohort[1], tmp_path / "out", classes=3, region=512)
    found = (tmp_path / "out/classes.toml").stat().st_mtime_ns
    (outcome,) = run_all([cohort[1]], tmp_path / "out", classes=3, region=512)
    assert outcome.run is not None
    assert outcome.run["resumed"] > 0
    assert (tmp_path / "out/classes.toml").stat().st_mtime_ns == found
    assert_same_cells(reference, tmp_path / "out/second")


def test_a_changed_file_is_other_work(cohort: list[Path], out: Path, tmp_path: Path) -> None:
    path = tmp_path / "kinds.toml"
    shutil.copy(out / "classes.toml", path)
    (again,) = run_all([cohort[0]], out, classes=path)
    assert again.status == "already done"
    path.write_text("# a comment decides nothing\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert run_all([cohort[0]], out, classes=path)[0].status == "already done"
    path.write_text(path.read_text(encoding="utf-8").replace("Kind 2", "Brown"), encoding="utf-8")
    with pytest.raises(OutputError, match="kinds of cells"):
        run_one(cohort[0], out, classes=path)


def test_kinds_that_are_there_are_neither_replaced_nor_misused(cohort: list[Path], out: Path, tmp_path: Path) -> None:
    path = out / "classes.toml"
    with pytest.raises(SettingsError) as error:
        run_one(cohort[0], out, classes=5)
    assert f"{path} holds 2 phenotypes, but --classes asks for 5. Pass --classes {path}" in str(error.value)
    other = tmp_path / "other.toml"
    other.write_text(path.read_text(encoding="utf-8").replace('"classical"', '"mine"'), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"'mine' at 0\.5 µm/px.*'classical' at 0\.5 µm/px"):
        run_one(cohort[0], tmp_path / "out", classes=other)
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        run_one(cohort[0], tmp_path / "out", classes=tmp_path / "gone.toml")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def pink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide in haematoxylin and eosin."""
    path = tmp_path_factory.mktemp("slides") / "pink.tif"
    write_synthetic_slide(path, (1200, 1200), mpp=0.5, seed=3, tissue_fraction=0.7)
    return path


def test_another_stain_has_other_kinds(cohort: list[Path], pink: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pink\.tif: its stains are hematoxylin and eosin.*by dab_od_mean"):
        run_one(pink, tmp_path, classes=out / "classes.toml")
    with pytest.raises(SettingsError, match=r"first\.tif in hematoxylin and dab; .*pink\.tif in hematoxylin and eosin"):
        run_all([cohort[0], pink], tmp_path, classes=2)
    assert not (tmp_path / "classes.toml").exists()


def test_kinds_of_one_stain_are_numbered_by_size(pink: Path, tmp_path: Path) -> None:
    run_one(pink, tmp_path, classes=4)
    kinds = read_phenotypes(tmp_path / "classes.toml")
    assert kinds.features == (
        "area_um2", "eccentricity", "hematoxylin_od_mean", "hematoxylin_od_std", "eosin_od_mean",
    )  # fmt: skip
    areas = [centre[0] for centre in kinds.centres]
    assert areas == sorted(areas)
    assert len(set(kinds.colours)) == 4


def test_slides_that_fail_cost_no_other_and_too_few_cells_are_refused(
    cohort: list[Path], pink: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"not a slide")
    outcomes = list(run_slides([bad, pink], tmp_path / "out", Settings(model="classical", executor="loop", classes=2)))
    assert {outcome.path: outcome.status for outcome in outcomes} == {bad: "failed", pink: "done"}
    with pytest.raises(PlanError, match=r"none can be read: .*bad\.svs"):
        run_all([bad], tmp_path / "none", classes=2)
    tiny = tmp_path / "tiny.tif"
    write_synthetic_slide(tiny, (150, 150), mpp=0.5, seed=2, tissue_fraction=1.0)
    with pytest.raises(PlanError, match=r"12 phenotypes .* at least 240 sampled cells.*are \d+ cells of 1 slide\."):
        run_one(tiny, tmp_path / "few", classes=12, tissue="all")
    assert not (tmp_path / "few").exists()


@pytest.mark.parametrize("number", [-1, 0, 1, 13])
def test_a_number_of_kinds_that_makes_no_sense_is_refused(number: int) -> None:
    with pytest.raises(SettingsError, match=f"classes is {number}; give a number of phenotypes .*, 2 to 12"):
        Settings(classes=number)
