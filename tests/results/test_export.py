"""Exports, each read back with the library that its users use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
import zarr
from ome_zarr_models.v04 import Image, ImageLabel, Labels

import wsiproc
from tests.command import wsiproc as command
from tests.results.qupath.finished_slide import draw_cells, finished
from wsiproc.cli.result_commands.export import ExportFormat
from wsiproc.errors import SettingsError
from wsiproc.io.geojson.areas import mask_shape
from wsiproc.io.geojson.write import find_geojson_problems, iter_features
from wsiproc.results.export.export import FORMATS, export
from wsiproc.results.record import RunRecord
from wsiproc.results.result import Result


@pytest.fixture(scope="module")
def exported(result: Result, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """All that needs no library beside those of the package, by the name of the format."""
    folder = tmp_path_factory.mktemp("export")
    return {name: list(export(result, [name], folder)) for name in FORMATS if name != "annotation-store"}


def test_the_command_offers_every_format() -> None:
    assert [each.value for each in ExportFormat] == list(FORMATS)


def test_csv_has_a_row_a_cell(result: Result, exported: dict[str, list[Path]]) -> None:
    (path,) = exported["csv"]
    table, cells = pd.read_csv(path), result.table()
    places = ["centroid_x", "centroid_y", "centroid_x_um", "centroid_y_um"]
    assert list(table) == ["id", "class", "score", *places, *result.measurements]
    assert list(table["class"]) == list(cells["class"])
    for name in ("id", "score", "centroid_x", *result.measurements):
        assert np.allclose(table[name], cells[name], rtol=1e-6), name
    assert np.allclose(table.centroid_y_um, cells.centroid_y * 0.25)


def test_csv_of_no_cells_has_its_header(tmp_path: Path) -> None:
    some, _ = draw_cells((40, 40))
    (path,) = export(
        wsiproc.open(finished(tmp_path / "s", some.take(np.zeros(0, int)), (40, 40), 1.0)), ["csv"], tmp_path
    )
    table = pd.read_csv(path)
    assert len(table) == 0
    assert list(table)[:3] == ["id", "class", "score"]


def test_h5ad_is_the_anndata(result: Result, exported: dict[str, list[Path]]) -> None:
    (path,) = exported["h5ad"]
    read, cells = anndata.read_h5ad(path), result.anndata()
    assert np.array_equal(read.X, cells.X)
    assert list(read.obs["class"]) == list(cells.obs["class"])
    assert list(read.obs_names) == list(cells.obs_names)
    assert np.array_equal(read.obsm["spatial"], cells.obsm["spatial"])
    assert list(read.uns["class_colors"]) == list(cells.uns["class_colors"])
    assert read.uns["wsiproc"]["slide_fingerprint"] == result.run["slide"]["fingerprint"]


def test_spatialdata_is_read_back(result: Result, exported: dict[str, list[Path]]) -> None:
    import spatialdata

    (path,) = exported["spatialdata"]
    read = spatialdata.read_zarr(path)
    for there, here in (
        (read["cell_labels"]["scale0"], result.labels["cells"].levels[0]),
        (read["class_labels"]["scale1"], result.labels["classes"].levels[1]),
        (read["image"]["scale0"], result.image.levels[0]),
    ):
        assert np.array_equal(np.asarray(there.image), np.asarray(here))
    assert read["cells"].geometry.geom_equals(result.cells().set_index("id").geometry).all()
    assert read["table"].uns["spatialdata_attrs"]["region"] == "cells"
    assert len(spatialdata.get_extent(read)) == 2


@pytest.mark.parametrize("name", ["slide", "maps"])
def test_ome_zarr_04_has_the_same_pixels(result: Result, exported: dict[str, list[Path]], name: str) -> None:
    (path,) = [path for path in exported["ome-zarr-0.4"] if path.name.startswith(name)]
    group: Any = zarr.open_group(path, mode="r", zarr_format=2)
    image = Image.from_zarr(group)
    source = result.image if name == "slide" else result.maps
    assert [axis.name for axis in image.attributes.multiscales[0].axes] == ["c", "y", "x"]
    omero: Any = image.attributes.omero
    assert tuple(channel.label for channel in omero.channels) == source.channels
    for level, pixels in enumerate(source.levels):
        assert np.array_equal(group[str(level)][...], np.asarray(pixels))
    assert not list(path.rglob("zarr.json"))


def test_ome_zarr_04_has_the_labels(result: Result, exported: dict[str, list[Path]]) -> None:
    path = exported["ome-zarr-0.4"][0]
    group: Any = zarr.open_group(path / "labels", mode="r", zarr_format=2)
    assert sorted(Labels.from_zarr(group).attributes.labels) == sorted(result.labels)
    for name, pyramid in result.labels.items():
        label = ImageLabel.from_zarr(group[name])
        assert {row.label_value for row in label.attributes.image_label.properties or ()} == {
            v for _, v in pyramid.values
        }
        for level, pixels in enumerate(pyramid.levels):
            assert np.array_equal(group[name][str(level)][...], np.asarray(pixels))


def test_ome_zarr_04_is_read_by_ome_zarr_py(exported: dict[str, list[Path]]) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    nodes = list(Reader(parse_url(str(exported["ome-zarr-0.4"][0])))())
    shapes = [node.data[0].shape for node in nodes if node.data]
    assert shapes[0][0] == 3
    assert (700, 1100) in shapes


def test_regions_are_the_tissue_with_its_cells(result: Result, exported: dict[str, list[Path]]) -> None:
    (path,) = exported["regions"]
    assert list(find_geojson_problems(path, 20)) == []
    areas = geopandas.read_file(path).set_crs(None, allow_override=True)
    assert (areas.geometry.is_valid & (areas.area > 0)).all()
    assert areas.area.sum() * 0.25**2 / 1e6 == pytest.approx(result.run["tissue_mm2"], rel=0.01)
    features = list(iter_features(path))
    assert {each["properties"]["objectType"] for each in features} == {"annotation"}
    measured = [each["properties"]["measurements"] for each in features]
    assert [each["Area mm^2"] for each in measured] == sorted((m["Area mm^2"] for m in measured), reverse=True)
    cells = result.cells()
    for area, numbers in zip(areas.geometry, measured, strict=True):
        centres = shapely.points(cells.centroid_x, cells.centroid_y)
        inside = shapely.contains(area, centres)
        assert numbers["Cells"] == inside.sum()
        assert numbers["Cells: Positive"] == (inside & (cells["class"] == "Positive")).sum()
        assert numbers["Cells per mm^2"] == pytest.approx(numbers["Cells"] / numbers["Area mm^2"], rel=1e-3)


def test_failed_regions_are_marked(result: Result, tmp_path: Path) -> None:
    failed = {"key": "r0c1", "box": [0, 512, 512, 512], "reason": "cannot be read"}
    run = result.run | {"regions": result.run["regions"] | {"failed": [failed]}}
    (path,) = export(Result(result.folder, RunRecord.model_validate(run)), ["regions"], tmp_path)
    feature = list(iter_features(path))[-1]
    assert feature["properties"]["classification"]["name"] == "Failed"
    assert shapely.geometry.shape(feature["geometry"]).bounds == (1024, 0, 2048, 1024)


def test_a_file_a_class_holds_its_cells(result: Result, exported: dict[str, list[Path]]) -> None:
    cells = result.cells()
    assert [path.name for path in exported["classes"]] == ["cells-Negative.geojson.gz", "cells-Positive.geojson.gz"]
    whole = {feature["id"]: feature for feature in iter_features(result.folder / "cells.geojson.gz")}
    found = [list(iter_features(path)) for path in exported["classes"]]
    for name, features in zip(result.classes, found, strict=True):
        assert len(features) == (cells["class"] == name).sum() > 0
        assert all(feature == whole[feature["id"]] for feature in features)
    for path in exported["classes"]:
        assert list(find_geojson_problems(path, 20)) == []


def test_a_mask_becomes_its_outline_with_holes() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:5, 1:5] = True
    mask[2:4, 2:4] = False
    mask[5, 7] = True
    shape = mask_shape(mask, (10, 2), (3, 1))
    assert shape.area == mask.sum() * 20
    assert shape.bounds == (4, 40, 18, 90)
    holes = [len(part.interiors) for part in shape.geoms]
    corners = [len(part.exterior.coords) for part in shape.geoms]
    assert sorted(holes) == [0, 1]
    assert corners == [5, 5]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_exports_beside_the_cells_or_elsewhere(result: Result, tmp_path: Path) -> None:
    done = command("export", result.folder, "--to", "csv", "--to", "regions", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    there = tmp_path / result.folder.name
    assert done.stdout.split() == [str(there / "cells.csv.gz"), str(there / "regions.geojson")]
    done = command("export", result.folder.parent, "-t", "csv")
    assert done.stdout.split() == [str(result.folder / "export/cells.csv.gz")]
    assert command("check", result.folder).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "{out}", "--to", "xls"), "'xls' is not one of 'csv'"),
        (("export", "{out}"), "Missing option '--to'"),
        (("export", "{out}", "--to", "csv", "--corrected"), "there are no corrected cells"),
        (("export", "nowhere", "--to", "csv"), "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_exported_is_said(result: Result, arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = command(*(text.format(out=result.folder) for text in arguments), cwd=tmp_path)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_a_failed_export_leaves_the_one_before(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = export(result, ["h5ad"], tmp_path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("anndata.io.write_elem", fail)
    with pytest.raises(OSError, match="disk full"):
        list(export(result, ["h5ad"], tmp_path))
    assert [each.name for each in tmp_path.iterdir()] == ["cells.h5ad"]
    assert path.read_bytes() == before
    with pytest.raises(SettingsError, match="unknown format 'xml'; choose from csv, h5ad"):
        list(export(result, ["xml"], tmp_path))


def test_without_spatialdata_the_extra_is_named(result: Result, tmp_path: Path) -> None:
    code = "import sys; sys.modules['spatialdata'] = None; from wsiproc.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(result.folder), "--to", "spatialdata", "--out", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'wsiproc[spatialdata]'" in done.stderr
    assert list((tmp_path / result.folder.name).iterdir()) == []
