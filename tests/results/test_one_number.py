"""One run, every output: cells, cells in tissue, areas, density, index and H-score are the same numbers everywhere."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from collections import Counter
from dataclasses import fields
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pytest
import shapely
import skimage.data
import tifffile
import zarr

import wsiproc
from wsiproc.cli.console import print_summary
from wsiproc.cli.documents.slides import RunSlide
from wsiproc.core.numbers import SlideNumbers, mm2_text
from wsiproc.pipeline.progress import Outcome
from wsiproc.pipeline.reclassify import reclassify
from wsiproc.results.cohort_table import write_cohort
from wsiproc.results.export.export import export
from wsiproc.results.record import RunRecord
from wsiproc.results.result import Result
from wsiproc.results.validate import check_output
from wsiproc.results.viewer.analysis import measure_area, parse_area, stain_share, suggested_areas
from wsiproc.results.viewer.colouring import Look
from wsiproc.results.viewer.marks import Marks
from wsiproc.results.viewer.shown import ShownSlide

CUTS = (0.08, 0.16, 0.3)
ROI = shapely.Polygon([(190.3, 420), (520, 130.7), (905, 505), (560, 760), (430, 560)])


class Done(NamedTuple):
    """A finished run, and its numbers as they are counted here."""

    outcome: Outcome
    folder: Path
    roi: shapely.Polygon | None
    truth: SlideNumbers
    by_class: dict[str, int]
    in_tissue: dict[str, int]


def photograph(path: Path) -> Path:
    """Real tissue with DAB (scikit-image, CC0) on glass, and crumbs around it that are too small to be tissue."""
    canvas = np.full((1000, 1100, 3), 240, np.uint8)
    picture = skimage.data.immunohistochemistry()
    y, x = np.mgrid[:512, :512] - 255.5
    disc = np.hypot(y, x) < 250
    canvas[200:712, 300:812][disc] = picture[disc]
    crumb = np.hypot(y[236:276, 236:276], x[236:276, 236:276]) < 18
    for turn in range(14):
        angle = 2 * np.pi * turn / 14
        top, left = int(436 + 305 * np.sin(angle)), int(536 + 305 * np.cos(angle))
        source = picture[20 + 30 * turn : 60 + 30 * turn, 60 + 25 * turn : 100 + 25 * turn]
        canvas[top : top + 40, left : left + 40][crumb] = source[crumb]
    resolution: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, canvas, tile=(256, 256), photometric="rgb", **resolution)
    return path


def counted(run: dict[str, Any], folder: Path, roi: shapely.Polygon | None) -> tuple[SlideNumbers, Any, Any]:
    """The numbers from the table of cells and the picture of tissue alone."""
    cells = geopandas.read_parquet(folder / "cells.parquet")
    tissue = np.asarray(zarr.open_array(folder / "slide.ome.zarr/labels/tissue/0", mode="r")) > 0
    h, w = run["slide"]["shape"]
    fy, fx = h / tissue.shape[0], w / tissue.shape[1]
    inside = tissue[(cells["centroid_y"] / fy).astype(int), (cells["centroid_x"] / fx).astype(int)]
    share = np.ones(tissue.shape)
    if roi is not None:  # of each px, by 100 points in it
        y, x = ((np.arange(10 * side) + 0.5) / 10 for side in tissue.shape)
        points = shapely.contains_xy(roi, *np.meshgrid(x * fx, y * fy))
        share = points.reshape(tissue.shape[0], 10, tissue.shape[1], 10).mean(axis=(1, 3))
    mm2 = float((tissue * share).sum() * fy * fx * run["slide"]["mpp"] ** 2 / 1e6)
    names = list(run["classes"])
    every, within = (some["class"].value_counts().reindex(names).to_dict() for some in (cells, cells[inside]))
    grade = cells["class"].map({"Negative": 0, "1+": 1, "2+": 2, "3+": 3}).astype(float)
    scored = "Negative" in names
    index, h_score = (float((grade > 0).mean()), float(100 * grade.mean())) if scored else (None, None)
    density = float(inside.sum() / mm2)
    return SlideNumbers(len(cells), int(inside.sum()), mm2, density, index, h_score), every, within


@pytest.fixture(scope="module", params=["DAB", "DAB in a region", "H&E in a region"])
def done(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A small real slide that was run."""
    home = tmp_path_factory.mktemp("one number")
    options: dict[str, Any] = {"compartment": "cytoplasm", "positive_dab": CUTS}
    if request.param.startswith("DAB"):
        slide, roi = photograph(home / "brown.tif"), ROI if "region" in request.param else None
    else:
        slide = request.getfixturevalue("data") / "slides/CMU-1-Small-Region.svs"
        options, roi = {}, shapely.Polygon([(100, 1200.5), (1100, 1100), (1300.25, 2400), (150, 2500)])
    if roi is not None:
        options["roi"] = home / "roi.geojson"
        options["roi"].write_text(shapely.to_geojson(roi))
    (outcome,) = wsiproc.run(slide, home / "out", model="classical", executor="loop", **options)
    assert outcome.error is None
    assert outcome.folder is not None
    assert outcome.run is not None
    write_cohort(home / "out", {})
    return Done(outcome, outcome.folder, roi, *counted(outcome.run, outcome.folder, roi))


def same(found: SlideNumbers, truth: SlideNumbers) -> None:
    assert (found.cells, found.cells_in_tissue) == (truth.cells, truth.cells_in_tissue)
    for name in ("tissue_mm2", "cells_per_mm2"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=2e-3)  # of the points that are tried
    assert found.positive_index == pytest.approx(truth.positive_index)
    assert found.h_score == pytest.approx(truth.h_score)


def test_the_cells_are_worth_comparing(done: Done) -> None:
    """Some lie beyond the tissue, and the border of the region cuts px of the tissue."""
    assert done.truth.cells > 100
    if done.roi is None:
        assert (done.truth.cells_in_tissue or 0) < done.truth.cells
    else:
        run = json.loads((done.folder / "run.json").read_text())
        tissue = np.asarray(zarr.open_array(done.folder / "slide.ome.zarr/labels/tissue/0", mode="r")) > 0
        px = np.divide(run["slide"]["shape"], tissue.shape).prod() * run["slide"]["mpp"] ** 2
        assert run["tissue_mm2"] < 0.999 * tissue.sum() * px / 1e6


def test_run_json_and_python(done: Done) -> None:
    run = json.loads((done.folder / "run.json").read_text())
    told = SlideNumbers(**run["numbers"])
    same(told, done.truth)
    assert run["tissue_mm2"] == told.tissue_mm2
    assert (run["counts"]["classes"], run["counts"]["in_tissue"]) == (done.by_class, done.in_tissue)
    result = wsiproc.open(done.folder)
    assert result.numbers == told
    assert f"{told.cells:,} cells, {mm2_text(told.tissue_mm2)} mm²" in repr(result)
    shutil.copy(done.folder / "cells.parquet", done.folder / "cells.corrected.parquet")
    assert Result(done.folder, RunRecord.model_validate(run), corrected=True).numbers == told
    (done.folder / "cells.corrected.parquet").unlink()
    assert [finding for finding in check_output(done.folder) if finding.level == "error"] == []


def text_of(html: str) -> str:
    """What a reader sees, without the spaces between elements."""
    return unescape(re.sub(r"<[^>]+>", "", html))


def test_the_report(done: Done) -> None:
    page = (done.folder / "report.html").read_text()
    told = dict(re.findall(r"<dt>(.+?)</dt><dd>(.+?)</dd>", page))
    numbers = wsiproc.open(done.folder).numbers
    assert told["Cells"] == f"{numbers.cells:,}"
    assert text_of(told["Cell density"]) == f"{numbers.cells_per_mm2:,.0f} cells/mm²"
    assert text_of(told["Tissue"]) == f"{mm2_text(numbers.tissue_mm2)} mm²"
    assert f"{numbers.cells_in_tissue:,} of {numbers.cells:,}" in page or numbers.cells_in_tissue == numbers.cells
    assert ("Positive index" in told, "H-score" in told) == (numbers.h_score is not None,) * 2
    if numbers.positive_index is not None:
        assert text_of(told["Positive index"]) == f"{100 * numbers.positive_index:.1f} %"
        assert text_of(told["H-score"]) == f"{numbers.h_score:.0f} of 300"
    rows = {text_of(name): cells for name, cells in re.findall(r"<tr><th>(.+?)</th>(.+?)</tr>", page)}
    for name, count in done.by_class.items():
        shown = [text_of(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", rows[name])]
        density = done.in_tissue[name] / numbers.tissue_mm2
        assert shown[:3] == [f"{count:,}", f"{100 * count / numbers.cells:.1f} %", f"{density:,.0f}"]


def test_the_cohort(done: Done) -> None:
    numbers = wsiproc.open(done.folder).numbers
    with (done.folder.parent / "cohort.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [int(row[name]) for name in ("cells", "cells_in_tissue")] == [numbers.cells, numbers.cells_in_tissue]
    assert float(row["tissue_mm2"]) == round(numbers.tissue_mm2, 4)
    assert float(row["cells_per_mm2"]) == round(numbers.cells_per_mm2 or 0, 2)
    assert row["positive_index"] == ("" if numbers.positive_index is None else str(round(numbers.positive_index, 4)))
    assert row["h_score"] == ("" if numbers.h_score is None else str(round(numbers.h_score, 1)))
    assert {name: int(row[f"cells_{name}"]) for name in done.by_class} == done.by_class
    page = text_of((done.folder.parent / "cohort.html").read_text().split("<tbody>")[1])
    wanted = [f"{numbers.cells:,}", mm2_text(numbers.tissue_mm2), f"{numbers.cells_per_mm2:,.0f}"]
    wanted += (
        [] if numbers.h_score is None else [f"{100 * (numbers.positive_index or 0):.1f} %", f"{numbers.h_score:.1f}"]
    )
    assert all(text in page for text in wanted)


def test_the_viewer(done: Done) -> None:
    shown, numbers = ShownSlide(done.folder, "slide"), wsiproc.open(done.folder).numbers
    card = shown.card()
    assert SlideNumbers(**{name: card[name] for name in SlideNumbers.__dataclass_fields__}) == numbers
    assert {kind["name"]: kind["cells"] for kind in shown.facts()["classes"]} == done.by_class
    if numbers.h_score is not None:
        told = stain_share(shown, Look())
        assert (told["index"], told["h_score"]) == (numbers.positive_index, numbers.h_score)
    areas = {area["name"]: area["geometry"] for area in suggested_areas(shown)}
    found = {name: measure_area(shown, parse_area(shape, shown)).numbers for name, shape in areas.items()}
    pieces = [found[name] for name in found if name.startswith("Tissue")]
    assert sum(piece.cells for piece in pieces) == numbers.cells_in_tissue
    assert sum(piece.area_mm2 for piece in pieces) == pytest.approx(numbers.tissue_mm2)
    if done.roi is not None:
        assert found["Region of interest"].cells == numbers.cells
        assert found["Region of interest"].positive_index == numbers.positive_index
    state = Marks(shown).save_areas([{"name": name, "geometry": shape} for name, shape in areas.items()], "")
    kept = json.loads((done.folder / "areas.geojson").read_text())["features"]
    Marks(shown).save_areas([], state["state"])
    for feature in kept:
        expected = found[feature["properties"]["name"]].measurements()
        assert expected.items() <= feature["properties"]["measurements"].items()


def test_files_for_other_programs(done: Done, tmp_path: Path) -> None:
    result = wsiproc.open(done.folder)
    table, regions = export(result, ["csv", "regions"], tmp_path)
    with gzip.open(table, "rt", newline="") as file:
        assert Counter(row["class"] for row in csv.DictReader(file)) == Counter(done.by_class)
    with gzip.open(done.folder / "cells.geojson.gz", "rt") as file:
        features = json.load(file)["features"]
    assert Counter(each["properties"]["classification"]["name"] for each in features) == Counter(done.by_class)
    frame = geopandas.read_file(regions)
    measured = [each["properties"]["measurements"] for each in json.loads(regions.read_text())["features"]]
    assert sum(piece["Cells"] for piece in measured) == result.numbers.cells_in_tissue
    assert sum(piece["Area mm^2"] for piece in measured) == pytest.approx(result.numbers.tissue_mm2, abs=1e-5)
    for name, count in done.in_tissue.items():
        assert sum(piece[f"Cells: {name}"] for piece in measured) == count
    for shape, piece in zip(frame.geometry, measured, strict=True):
        assert piece["Area mm^2"] == pytest.approx(shape.area * result.mpp**2 / 1e6, abs=2e-6)
        assert piece["Cells per mm^2"] == pytest.approx(piece["Cells"] / piece["Area mm^2"], rel=1e-2)
        assert ("Positive %" in piece) == (result.numbers.positive_index is not None and piece["Cells"] > 0)


def test_the_json_of_the_command(done: Done) -> None:
    told = RunSlide.of(done.outcome)
    same(SlideNumbers(**{field.name: getattr(told, field.name) for field in fields(SlideNumbers)}), done.truth)
    assert told.classes == done.by_class


def test_the_summary_of_the_command(done: Done, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = wsiproc.open(done.folder).numbers
    print_summary([done.outcome])
    line = capsys.readouterr().out.splitlines()[1]
    shown = [f"{numbers.cells:,}", mm2_text(numbers.tissue_mm2), f"{numbers.cells_per_mm2:,.0f}"]
    assert line.split()[-4:-1] == shown


def test_classes_that_are_told_anew_are_counted_anew(done: Done, tmp_path: Path) -> None:
    if not done.outcome.run or not done.outcome.run["immuno"]:
        pytest.skip("H&E has no cut")
    folder = Path(shutil.copytree(done.folder, tmp_path / done.folder.name))
    reclassify(folder, None, (0.1, 0.2, 0.35))
    run = json.loads((folder / "run.json").read_text())
    truth, by_class, in_tissue = counted(run, folder, done.roi)
    assert by_class != done.by_class
    same(SlideNumbers(**run["numbers"]), truth)
    assert (run["counts"]["classes"], run["counts"]["in_tissue"]) == (by_class, in_tissue)
