"""``import wsiproc``: what a run found, in the objects that people compute with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest

import wsiproc
from tests.results.qupath.finished_slide import draw_cells, features, finished, save
from wsiproc.core.geometry import Box
from wsiproc.core.numbers import mm2_text
from wsiproc.core.palette import css_colour
from wsiproc.errors import OutputError, SettingsError, SlideError
from wsiproc.io.slides.open import open_slide
from wsiproc.results.qupath.import_corrections import import_corrections
from wsiproc.results.result import Result
from wsiproc.synthetic import write_synthetic_slide

CLASSES = ["Negative", "Positive"]


@pytest.fixture(scope="module")
def reference(result: Result) -> geopandas.GeoDataFrame:
    """The table as GeoPandas reads it."""
    return geopandas.read_parquet(result.folder / "cells.parquet")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, wsiproc; print(sorted({'torch', 'dask', 'pandas', 'zarr', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- run and open ----------------------------------------------------------------------------------------------------


def test_run_says_what_became_of_each_slide(drawn_slide: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    events: list[object] = []
    outcomes = wsiproc.run(
        [str(drawn_slide), tmp_path / "broken.svs"], tmp_path / "out", model="classical", executor="loop",
        mpp=None, on_progress=events.append,
    )  # fmt: skip
    by_name = {outcome.path.name: outcome for outcome in outcomes}
    assert by_name["drawn.tif"].error is None
    assert isinstance(by_name["broken.svs"].error, SlideError)
    assert events
    assert list(wsiproc.open_all(tmp_path / "out")) == ["drawn"]
    # Finished: nothing is done again.
    (again,) = wsiproc.run(drawn_slide, tmp_path / "out", model="classical", executor="loop")
    assert again.status == "already done"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modle": "classical"}, "unknown setting 'modle'; known are model, mpp"),
        ({"workers": "4"}, "workers = '4' should be of type int"),
        ({"workers": 0}, "at least 1 is needed"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        wsiproc.run("slide.svs", **settings)
    with pytest.raises(SettingsError, match="no slide was given"):
        wsiproc.run([])


def test_a_folder_without_a_result_says_what_to_do(result: Result, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no output of wsiproc"):
        wsiproc.open(tmp_path)
    with pytest.raises(OutputError, match="no such folder"):
        wsiproc.open_all(tmp_path / "missing")
    shutil.copytree(result.folder, tmp_path / "a")
    shutil.copytree(result.folder, tmp_path / "b")
    with pytest.raises(OutputError, match=r"2 results.*wsiproc\.open_all"):
        wsiproc.open(tmp_path)
    (tmp_path / "b" / "run.json").unlink()
    with pytest.raises(OutputError, match="unfinished"):
        wsiproc.open(tmp_path / "b")
    with pytest.warns(UserWarning, match="left out, since unfinished: b"):
        assert list(wsiproc.open_all(tmp_path)) == ["a"]
    (tmp_path / "a" / "run.json").write_text("{}")
    with pytest.raises(OutputError, match=r"run\.json: not what"):
        wsiproc.open(tmp_path / "a")
    (tmp_path / "a" / "run.json").unlink()
    with pytest.raises(OutputError, match="unfinished"):
        wsiproc.open_all(tmp_path)


# --- cells -----------------------------------------------------------------------------------------------------------


def test_cells_are_those_of_the_table(result: Result, reference: geopandas.GeoDataFrame) -> None:
    cells = result.cells()
    assert len(result) == len(cells) == len(reference) > 100
    assert cells.geometry.geom_equals(reference.geometry).all()
    assert list(cells["class"].cat.categories) == list(result.classes) == CLASSES
    for name in cells.columns.drop(["geometry", "class"]):
        assert np.array_equal(cells[name], reference[name]), name
    assert list(cells["class"]) == list(reference["class"])
    assert repr(result) == f"Result('drawn', {len(cells):,} cells, {mm2_text(result.run['tissue_mm2'])} mm² of tissue)"
    assert result.table().equals(cells.drop(columns="geometry"))
    assert set(result.measurements) < set(cells.columns)


def test_cells_by_box_class_and_column(result: Result, reference: geopandas.GeoDataFrame) -> None:
    box = (300.0, 200.0, 1300.0, 900.0)
    bounds = reference.geometry.bounds
    touching = reference[
        (bounds.minx <= box[2]) & (bounds.maxx >= box[0]) & (bounds.miny <= box[3]) & (bounds.maxy >= box[1])
    ]
    assert 10 < len(touching) < len(reference)
    assert list(result.cells(bbox=box).id) == list(touching.id)
    positive = result.cells(["id", "area_um2"], classes=["Positive"])
    assert list(positive.columns) == ["id", "area_um2", "geometry"]
    assert list(positive.id) == list(reference[reference["class"] == "Positive"].id)
    assert len(result.table(classes=[])) == 0
    assert len(result.cells(bbox=(-9.0, -9.0, -5.0, -5.0))) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"columns": ["area"]}, r"no column 'area'; it has id, class, score"),
        ({"classes": ["Tumor"]}, "no class 'Tumor'; it has Negative, Positive"),
        ({"classes": "Positive"}, r"'Positive' is a string where a list"),
    ],
)
def test_columns_and_classes_that_are_not_there(result: Result, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        result.table(**arguments)


def test_anndata_holds_the_measurements(result: Result, reference: geopandas.GeoDataFrame) -> None:
    cells = result.anndata()
    assert cells.X.dtype == np.float32
    assert list(cells.var_names) == result.measurements
    assert np.array_equal(cells.X, reference[result.measurements].to_numpy(np.float32))
    assert list(cells.obs_names) == list(map(str, reference.id))
    assert list(cells.obs["class"]) == list(reference["class"])
    assert np.array_equal(cells.obsm["spatial"], reference[["centroid_x", "centroid_y"]])
    # scanpy and squidpy colour by these, in the order of the categories.
    assert list(cells.uns["class_colors"]) == [css_colour(result.classes[name]) for name in CLASSES]
    assert cells.uns["wsiproc"]["slide"] == "drawn"
    assert cells.uns["wsiproc"]["mpp"] == 0.25


def test_corrected_cells_are_opened_on_request(tmp_path: Path) -> None:
    table, _ = draw_cells((160, 160))
    folder = finished(tmp_path / "s", table, (160, 160), 2.0)
    with pytest.raises(OutputError, match="no corrected cells"):
        wsiproc.open(folder, corrected=True)
    other = {"name": "Positive"}
    kept = [
        {"type": "Feature", "id": cell["id"], "geometry": cell["geometry"],
         "properties": {"objectType": "detection", "classification": other}}
        for cell in features(folder / "cells.geojson.gz")[:5]
    ]  # fmt: skip
    import_corrections(save(tmp_path / "c.geojson", kept), folder, exclude=[], missing="delete", dry_run=False)
    corrected = wsiproc.open(folder, corrected=True)
    assert len(corrected) == 5 < len(wsiproc.open(folder))
    assert set(corrected.table()["class"]) == {"Positive"}


# --- pictures --------------------------------------------------------------------------------------------------------


def test_labels_hold_the_cells_of_the_table(result: Result) -> None:
    labels, classes = result.labels["cells"], result.labels["classes"]
    ids, counts = np.unique(np.asarray(labels.levels[0]), return_counts=True)
    cells = result.cells()
    assert list(ids[1:]) == list(cells.id)
    scale = np.prod(np.divide(result.run["slide"]["shape"], labels.levels[0].shape))
    assert np.allclose(counts[1:] * scale, cells.area, rtol=1e-6)
    values = dict(classes.values)
    first = cells.iloc[0]
    inside = np.asarray(labels.levels[0]) == first.id
    assert set(np.asarray(classes.levels[0])[inside]) == {values[first["class"]]}
    assert labels.mpp[0] == pytest.approx((0.5, 0.5))
    assert repr(labels).startswith("Pyramid(2 levels, the finest (700, 1100) uint32")


def test_maps_and_overview_are_lazy(result: Result) -> None:
    assert result.maps.channels[0] == "nucleus"
    assert result.maps.levels[0].shape == (len(result.maps.channels), 700, 1100)
    assert result.image.levels[0].dtype == np.uint8
    assert type(result.maps.levels[0]).__module__.startswith("dask.")


def test_thumbnail_is_as_large_as_asked(result: Result) -> None:
    for longest in (64, 100):
        thumbnail = result.thumbnail(longest)
        assert max(thumbnail.shape) == longest
        assert thumbnail.shape[2] == 3
    assert thumbnail.shape[0] / thumbnail.shape[1] == pytest.approx(1400 / 2200, abs=0.01)
    assert thumbnail.std() > 5
    with pytest.raises(SettingsError, match="max_px is 0"):
        result.thumbnail(0)


def test_crop_has_the_cell_in_its_middle(result: Result, drawn_slide: Path) -> None:
    cells = result.cells()
    middle = cells.iloc[np.hypot(cells.centroid_x - 1100, cells.centroid_y - 700).argmin()]
    crop = result.crop(middle.id, 24, mpp=0.25)
    with open_slide(drawn_slide) as slide:
        whole = slide.read(box_around(middle, 96), 0.25)
    assert np.array_equal(crop, whole)
    drawn = result.crop(middle.id, 24, mpp=0.25, outline=True)
    colour = result.classes[middle["class"]]
    on_line = (drawn == colour).all(axis=2)
    ring = np.asarray(middle.geometry.exterior.coords)
    y, x = np.nonzero(on_line)
    assert on_line.sum() > 50
    box = box_around(middle, 96)
    assert x.mean() + box.x == pytest.approx(np.mean(ring[:, 0]), abs=3)
    assert y.mean() + box.y == pytest.approx(np.mean(ring[:, 1]), abs=3)
    assert np.array_equal(drawn[~on_line], crop[~on_line])


def box_around(cell: Any, side: int) -> Box:
    """Level-0 px around a cell's centre."""
    return Box(round(cell.centroid_y - side / 2), round(cell.centroid_x - side / 2), side, side)


def test_a_cell_at_the_edge_has_a_crop_of_full_size(result: Result) -> None:
    cells = result.table()
    edge = cells.iloc[cells.centroid_x.argmin()]
    assert result.crop(edge.id, 400).shape == (800, 800, 3)


def test_crops_that_cannot_be(result: Result, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no cell 0"):
        result.crop(0)
    with pytest.raises(SettingsError, match=r"size_um is 0\.1"):
        result.crop(1, 0.1)
    with pytest.raises(SlideError, match=r"is not there.*slide=PATH"):
        result.crop(1, slide=tmp_path / "moved.tif")
    other = tmp_path / "other.tif"
    write_synthetic_slide(other, (300, 300), seed=9)
    with pytest.raises(SlideError, match="another slide"):
        result.crop(1, slide=other)


def test_spatialdata_puts_everything_in_one_place(result: Result) -> None:
    spatialdata = pytest.importorskip("spatialdata")
    data = result.spatialdata()
    assert set(data.labels) == {"cell_labels", "class_labels", "tissue_labels"}
    cells = result.cells()
    assert np.array_equal(data["table"].obs["id"], cells.id)
    for system, scale in (("global", 1.0), ("micrometers", 0.25)):
        extents = [spatialdata.get_extent(data[name], coordinate_system=system) for name in ("image", "cell_labels")]
        for extent in extents:
            assert extent["x"] == pytest.approx((0, 2200 * scale))
            assert extent["y"] == pytest.approx((0, 1400 * scale))
        shapes = spatialdata.transform(data["cells"], to_coordinate_system=system)
        assert np.allclose(shapes.geometry.area, cells.area * scale**2)
    # The labels under the centre of a convex cell are the cell's own.
    solid = cells[cells.solidity > 0.95].iloc[0]
    labels = np.asarray(data["cell_labels"]["scale0"].image)
    assert labels[int(solid.centroid_y / 2), int(solid.centroid_x / 2)] == solid.id


def test_spatialdata_links_the_slide_at_full_resolution(result: Result, drawn_slide: Path, tmp_path: Path) -> None:
    pytest.importorskip("spatialdata")
    data = result.spatialdata(full_resolution=True)
    assert set(data.images) == {"image", "slide"}
    finest = data["slide"]["scale0"].image
    assert finest.shape == (3, 1400, 2200)
    with open_slide(drawn_slide) as slide:
        part = slide.read(Box(300, 1000, 200, 150), 0.25)
        coarse = slide.read(Box(0, 0, 700, 1100), 0.5)
    assert np.array_equal(finest[:, 300:500, 1000:1150].compute().values.transpose(1, 2, 0), part)
    assert np.array_equal(np.asarray(data["slide"]["scale1"].image).transpose(1, 2, 0), coarse)
    # Nothing was copied: without the file, there are no pixels.
    moved = tmp_path / "moved.tif"
    shutil.copy(drawn_slide, moved)
    there = result.pixels(moved).levels[0]
    moved.unlink()
    moved.write_bytes(b"gone")
    from wsiproc.io.slides.arrays import opened

    opened.cache_clear()
    with pytest.raises(SlideError):
        there[:, :10, :10].compute()


def test_the_slide_that_is_linked_must_be_there_and_the_same(result: Result, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"is not there .*slide=PATH"):
        result.pixels(tmp_path / "gone.tif")
