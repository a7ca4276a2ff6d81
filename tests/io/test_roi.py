"""Regions of interest as QuPath exports them, and files that are none."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from wsiproc.errors import SettingsError
from wsiproc.io.geojson.roi import read_roi

SHAPE = (100, 200)  # h, w
SQUARE = {"type": "Polygon", "coordinates": [[[10, 20], [50, 20], [50, 60], [10, 60], [10, 20]]]}
HOLE = [[20, 30], [30, 30], [30, 40], [20, 40], [20, 30]]
WITH_HOLE = {"type": "Polygon", "coordinates": [SQUARE["coordinates"][0], HOLE]}
FAR = [[[100, 20], [120, 20], [120, 40], [100, 40], [100, 20]]]
TWO = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"], FAR]}


def feature(geometry: object, kind: str | None = "annotation") -> dict[str, Any]:
    properties = {"objectType": kind, "classification": {"name": "Tumor", "color": [1, 2, 3]}} if kind else {}
    return {"type": "Feature", "id": "7", "geometry": geometry, "properties": properties}


def write(folder: Path, document: object) -> Path:
    path = folder / "roi 🔬.geojson"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("document", "area"),
    [
        (SQUARE, 1600),
        (WITH_HOLE, 1500),
        ({"type": "Polygon", "coordinates": [SQUARE["coordinates"][0][:-1]]}, 1600),  # a ring left open
        ({"type": "MultiPolygon", "coordinates": [[ring[:-1] for ring in WITH_HOLE["coordinates"]]]}, 1500),
        (TWO, 2000),
        (feature(SQUARE), 1600),
        (feature(SQUARE, None), 1600),
        ([feature(SQUARE), feature({"type": "Polygon", "coordinates": FAR})], 2000),
        ({"type": "FeatureCollection", "features": [feature(TWO), feature(SQUARE)]}, 2000),
        ({"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 2]}]}, 1600),
        ([feature(SQUARE), feature({"type": "Polygon", "coordinates": FAR}, "detection")], 1600),
        ([feature(SQUARE), feature({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}), feature(None)], 1600),
    ],
)
def test_every_form_of_geojson(tmp_path: Path, document: object, area: float) -> None:
    assert read_roi(write(tmp_path, document), SHAPE).area == area


def test_coordinates_are_x_y_and_cut_to_the_slide(tmp_path: Path) -> None:
    ring = [[[150, -10], [250, -10], [250, 50], [150, 50], [150, -10]]]
    roi = read_roi(write(tmp_path, {"type": "Polygon", "coordinates": ring}), SHAPE)
    assert roi.bounds == (150, 0, 200, 50)


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "roi.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(SQUARE).encode()))
    assert read_roi(path, SHAPE).area == 1600


def test_invalid_polygons_are_repaired_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [20, 20], [20, 0], [0, 20], [0, 0]]]}
    with caplog.at_level(logging.WARNING):
        roi = read_roi(write(tmp_path, [bow_tie, SQUARE]), SHAPE)
    assert roi.area == pytest.approx(1800)
    assert "repaired 1 of 2 polygons" in caplog.text


def test_a_region_that_reaches_over_the_edge_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half = {"type": "Polygon", "coordinates": [[[100, 0], [300, 0], [300, 100], [100, 100], [100, 0]]]}
    with caplog.at_level(logging.WARNING):
        read_roi(write(tmp_path, SQUARE), SHAPE)
        assert caplog.text == ""
        assert read_roi(write(tmp_path, half), SHAPE).area == 10_000
    assert "50.00 % of the region lies outside the slide of 200 × 100 px" in caplog.text


def test_a_small_file_that_unpacks_to_a_large_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "roi.geojson.gz"
    path.write_bytes(gzip.compress(bytes(2 << 20)))
    refused(path, "more than 1 MiB", most_bytes=1 << 20)


def refused(path: Path, words: str, **limits: int) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        read_roi(path, SHAPE, **limits)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"type": "Polygon", "coordinates": [[[900, 900], [950, 900], [950, 950], [900, 900]]]}, "outside the slide"),
        ([], "no polygon"),
        ({"type": "Point", "coordinates": [1, 2]}, "no polygon"),
        (feature(SQUARE, "cell"), "no polygon"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [20, 0], [0, 0]]]}, "no area"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1e308, 0], [1e308, 1e308], [0, 0]]]}, "far beyond any slide"),
        ({**SQUARE, "crs": {"type": "name", "properties": {"name": "EPSG:4326"}}}, "EPSG:4326"),
        ({**SQUARE, "crs": "metres"}, "metres"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}, "not GeoJSON of a region"),
        ({"type": "Blob"}, "not GeoJSON of a region: Unknown geometry type!"),
        ({"type": "FeatureCollection", "features": None}, "of a region: a member is missing, or of the wrong type"),
        (
            {"type": "Polygon", "coordinates": [[[8.1, 50.1], [8.2, 50.1], [8.2, 50.2], [8.1, 50.1]]]},
            "the region has 0.005 px² on the slide: is it in mm, or in degrees of a map?",
        ),
        ({"a": 1}, "not GeoJSON of a region"),
        ("text", "not GeoJSON of a region"),
        (7, "not GeoJSON of a region"),
    ],
)
def test_files_that_mark_nothing(tmp_path: Path, document: object, words: str) -> None:
    refused(write(tmp_path, document), words)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    refused(tmp_path / "none.geojson", "cannot be read")
    (tmp_path / "a.json").write_text("{")
    refused(tmp_path / "a.json", "not valid JSON")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"[]")[:-6])
    refused(tmp_path / "a.gz", "cannot be read")
    refused(tmp_path, "cannot be read")


# --- as QuPath has it ------------------------------------------------------------------------------------------------


def classed(geometry: object, *names: str) -> dict[str, Any]:
    kind = {"name": names[0], "color": [1, 2, 3]} if len(names) == 1 else {"names": list(names), "color": [1, 2, 3]}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", "classification": kind}}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("packed", [False, True])
def test_measurements_that_are_no_numbers_do_no_harm(tmp_path: Path, number: str, packed: bool) -> None:
    document = feature(SQUARE)
    document["properties"]["measurements"] = {"Positive %": 1.5, "Ratio": "?"}
    content = json.dumps(document).replace('"?"', number).encode()
    path = tmp_path / "roi.geojson"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_roi(path, SHAPE).area == 1600


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_corners_that_are_no_numbers_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "roi.geojson"
    path.write_text(json.dumps(SQUARE).replace("[10, 20]", f"[{number}, 20]"))
    with pytest.raises(SettingsError, match="roi"):
        read_roi(path, SHAPE)


@pytest.mark.parametrize("names", [("Ignore*",), ("ignore*",), ("Ignore*", "Fold"), ("Ignore*: Fold",)])
def test_areas_to_ignore_are_left_out_of_those_that_they_lie_in(tmp_path: Path, names: tuple[str, ...]) -> None:
    inner = {"type": "Polygon", "coordinates": [HOLE]}
    apart = {"type": "Polygon", "coordinates": FAR}
    for order in ([feature(SQUARE), classed(inner, *names)], [classed(inner, *names), feature(SQUARE)]):
        assert read_roi(write(tmp_path, [*order, classed(apart, *names)]), SHAPE).area == 1500
    assert read_roi(write(tmp_path, [classed(SQUARE, "Region*"), classed(apart, "Tumor")]), SHAPE).area == 2000


def test_nothing_but_areas_to_ignore_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"all its areas are of the class Ignore\*"):
        read_roi(write(tmp_path, classed(SQUARE, "Ignore*")), SHAPE)
    with pytest.raises(SettingsError, match="no area"):
        read_roi(write(tmp_path, [feature(SQUARE), classed(TWO, "Ignore*")]), SHAPE)
