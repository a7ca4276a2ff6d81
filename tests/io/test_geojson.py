"""GeoJSON that QuPath accepts: every rule on what is written, and every broken rule found."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import itertools
import json
import re
import uuid
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiproc.core.cells import CellTable, Rings
from wsiproc.errors import OutputError
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.write import (
    GeoJsonWriter,
    Piece,
    features_bytes,
    find_geojson_problems,
    iter_features,
    measurement_label,
)

CLASSES = ["Positive", "Negative", 'Odd "name".0, é']
COLOURS = [(213, 94, 0), (0, 114, 178), (0, 158, 115)]
FACTS = ("fingerprint", CLASSES, COLOURS)
L_SHAPE = np.array([[0, 0], [0, 4], [2, 4], [2, 2], [5, 2], [5, 0]], np.int32)


def cell_table(rings: list[np.ndarray], **measurements: list[float]) -> CellTable:
    n = len(rings)
    boxes = [[*ring.min(0), *np.ptp(ring, axis=0)] if len(ring) else [0, 0, 0, 0] for ring in rings]
    return CellTable(
        (np.arange(n) % len(CLASSES)).astype(np.uint8),
        np.linspace(0, 1, n, dtype=np.float32),
        np.array([ring.mean(0) if len(ring) else [0, 0] for ring in rings], np.float64).reshape(n, 2),
        np.array(boxes, np.int32).reshape(n, 4),
        {name: np.array(values, np.float32) for name, values in measurements.items()},
        Rings(
            np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]).astype(np.int64),
            np.concatenate([*rings, np.zeros((0, 2))]).astype(np.int32),
        ),
    )


def some_cells(n: int) -> CellTable:
    shift = [np.array([7 * i, 1000 - 11 * i], np.int32) for i in range(n)]
    return cell_table([L_SHAPE + by for by in shift], area_um2=np.linspace(1, 99, n).tolist())


def write(path: Path, *blocks: CellTable, scale: tuple[float, float] = (1.0, 1.0)) -> GeoJsonWriter:
    first = 1
    with GeoJsonWriter(path) as writer:
        for block in blocks:
            writer.append(Piece.of(*features_bytes(block, first, *FACTS, scale)))
            first += len(block)
    return writer


def load(path: Path) -> dict[str, Any]:
    return json.loads(gzip.decompress(path.read_bytes()))


def test_collection_is_valid_for_the_geojson_library_and_for_qupath(tmp_path: Path) -> None:
    path = tmp_path / "cells.geojson.gz"
    write(path, some_cells(5), some_cells(0), some_cells(3), scale=(2.0003, 1.9997))
    collection = geojson.loads(gzip.decompress(path.read_bytes()))
    assert collection.is_valid
    assert find_geojson_problems(path) == []
    assert list(iter_features(path)) == load(path)["features"]
    assert not path.with_name("cells.geojson.gz.tmp").exists()


def test_a_feature_is_exactly_this(tmp_path: Path) -> None:
    path = tmp_path / "cells.geojson.gz"
    write(path, cell_table([L_SHAPE], area_um2=[12.3456789], dab_od_mean=[float("nan")], solidity=[1.0]), scale=(2, 2))
    [feature] = load(path)["features"]
    assert feature == {
        "type": "Feature",
        "id": str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_OID, "fingerprint"), "1")),
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, 4], [4, 4], [4, 10], [0, 10], [0, 0]]]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": "Positive", "color": [213, 94, 0]},
            "measurements": {"Cell ID": 1, "Probability": 0.0, "Area µm^2": 12.34568, "Solidity": 1.0},
        },
    }


def test_no_cells_is_an_empty_collection(tmp_path: Path) -> None:
    path = tmp_path / "cells.geojson.gz"
    write(path)
    assert load(path) == {"type": "FeatureCollection", "features": []}
    assert find_geojson_problems(path) == []


def test_whole_numbers_carry_no_point_and_others_two_decimals() -> None:
    whole, _ = features_bytes(some_cells(3), 1, *FACTS, (4.0, 4.0))
    assert b"." not in whole.split(b'"coordinates"')[1].split(b'"properties"')[0]
    text, _ = features_bytes(some_cells(200), 1, *FACTS, (1.25, 0.3337))
    for line in text.split(b",\n"):
        coordinates = line.split(b'"coordinates":')[1].split(b'},"properties"')[0]
        for number in coordinates.replace(b"[", b"").replace(b"]", b"").split(b","):
            assert not number.endswith((b".0", b"."))
            assert len(number.partition(b".")[2]) <= 2


def test_a_line_is_exactly_this() -> None:
    cells = cell_table([L_SHAPE], area_um2=[12.3456789], dab_od_mean=[float("inf")], solidity=[1.0])
    text, _ = features_bytes(cells, 7, "fingerprint", ['Odd "name".0, é'], [(0, 158, 115)], (2.5, 2.0))
    assert text.decode() == (
        '{"type":"Feature","id":"1adbdc18-c8be-5803-9751-2c0594037c37","geometry":{"type":"Polygon","coordinates":'
        "[[[0,0],[8,0],[8,5],[4,5],[4,12.5],[0,12.5],[0,0]]]},"
        '"properties":{"objectType":"detection","classification":{"name":"Odd \\"name\\".0, é","color":[0,158,115]},'
        '"measurements":{"Cell ID":7,"Probability":0.0,"Area µm^2":12.34568,"Solidity":1.0}}}'
    )


@given(
    shifts=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=6),
    scale=st.tuples(st.floats(0.5, 8), st.floats(0.5, 8)) | st.just((2.0, 2.0)),
)
def test_coordinates_are_read_back_as_they_were_and_no_shorter_text_would_do(
    shifts: list[tuple[int, int]], scale: tuple[float, float]
) -> None:
    cells = cell_table([L_SHAPE + np.array(shift, np.int32) for shift in shifts])
    outlines = Outlines.of(cells.rings, scale)
    text, dropped = features_bytes(cells, 1, *FACTS, scale)
    assert dropped == 0
    for i, line in enumerate(text.split(b",\n")):
        ring = outlines.points[outlines.offsets[i] : outlines.offsets[i + 1]].tolist()
        assert json.loads(line)["geometry"]["coordinates"] == [ring]
        shortest = ",".join("[" + ",".join(repr(number).removesuffix(".0") for number in point) + "]" for point in ring)
        assert f'"coordinates":[[{shortest}]]' in line.decode()


def measurements_text(*values: float) -> list[str]:
    """How the numbers of a cell stand in the file."""
    names = {f"m{i}": [value] for i, value in enumerate(values)}
    text, _ = features_bytes(cell_table([L_SHAPE], **names), 1, *FACTS, (1.0, 1.0))
    shown = text.decode().split('"measurements":{')[1].rstrip("}").split(",")
    assert shown[:2] == ['"Cell ID":1', '"Probability":0.0']
    return [part.split(":")[1] for part in shown[2:]]


def test_measurements_are_as_short_as_they_can_be() -> None:
    numbers = [28.0, 0.5, 1234567.0, 12345678.0, 0.00001, 0.000001, 99999.995, -3.25, 0.1 + 0.2, 1e-9, 123456.7, -0.0]
    assert measurements_text(*numbers) == [
        "28.0", "0.5", "1234567.0", "12345680.0", "0.00001", "1e-6", "99999.99", "-3.25", "0.3", "1e-9", "123456.7",
        "0.0",
    ]  # fmt: skip


ODD = [0.0, -0.0, 1e-5, 9.9999999, 1e15, 1e16]


@given(st.lists(st.floats(width=32) | st.sampled_from(ODD), max_size=5))
def test_measurements_are_read_back_to_seven_digits(values: list[float]) -> None:
    shown = measurements_text(*values)
    finite = [float(np.float32(value)) for value in values if np.isfinite(value)]
    assert len(shown) == len(finite)
    for text, value in zip(shown, finite, strict=True):
        read = json.loads(text)
        assert isinstance(read, float)
        assert read == float(f"{value:.6e}") or abs(read - value) <= 5.0000001e-7 * abs(value)
        if 1e-16 <= abs(value) < 1e7:
            assert len(text.lstrip("-").split("e")[0].replace(".", "").strip("0")) <= 7


def test_a_piece_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    piece = Piece.of(b"some text, some text", dropped=3)
    piece.save(tmp_path / "piece")
    assert Piece.load(tmp_path / "piece") == piece
    assert [path.name for path in tmp_path.iterdir()] == ["piece"]


def test_class_names_are_left_as_they_are() -> None:
    text, _ = features_bytes(some_cells(3), 1, *FACTS, (1.5, 1.5))
    names = [json.loads(line)["properties"]["classification"]["name"] for line in text.split(b",\n")]
    assert names == CLASSES


def test_same_cells_same_text_however_cut_and_same_blocks_same_bytes(tmp_path: Path) -> None:
    cells = some_cells(4000)
    write(tmp_path / "a.geojson.gz", cells)
    cuts = [0, 1, 1500, 1501, 4000]
    pieces = [cells.take(np.arange(a, b)) for a, b in itertools.pairwise(cuts)]
    write(tmp_path / "b.geojson.gz", *pieces)
    data = (tmp_path / "a.geojson.gz").read_bytes()
    assert gzip.decompress(data) == gzip.decompress((tmp_path / "b.geojson.gz").read_bytes())
    write(tmp_path / "c.geojson.gz", cells)
    assert data == (tmp_path / "c.geojson.gz").read_bytes()
    assert data[3] == 0  # no file name
    assert data[4:8] == bytes(4)  # no time


def test_outlines_without_area_are_dropped_and_counted(tmp_path: Path) -> None:
    flat = np.array([[3, 3], [3, 9], [3, 3], [3, 6]])
    bow = np.array([[0, 0], [4, 4], [4, 0], [0, 4]])
    rings = [L_SHAPE, flat, L_SHAPE[:2], np.zeros((0, 2), np.int32), bow, L_SHAPE + 9]
    path = tmp_path / "cells.geojson.gz"
    writer = write(path, cell_table(rings))
    assert writer.dropped == 4
    assert [feature["properties"]["measurements"]["Cell ID"] for feature in load(path)["features"]] == [1, 6]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    strange = dataclasses.replace(some_cells(2), classes=np.array([0, 99], np.uint8))
    with pytest.raises(IndexError):
        write(tmp_path / "cells.geojson.gz", some_cells(2), strange)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "label"),
    [
        ("area_um2", "Area µm^2"),
        ("perimeter_um", "Perimeter µm"),
        ("major_axis_um", "Major axis µm"),
        ("solidity", "Solidity"),
        ("hematoxylin_od_mean", "Hematoxylin OD mean"),
        ("dab_od_std", "DAB OD std dev"),
    ],
)
def test_measurements_have_the_names_that_qupath_users_know(column: str, label: str) -> None:
    assert measurement_label(column) == label


@settings(max_examples=60, deadline=None)
@given(
    rings=st.lists(
        st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=9).map(
            lambda ring: np.array(ring, np.int32).reshape(-1, 2)
        ),
        max_size=12,
    ),
    scale=st.tuples(st.floats(0.05, 8), st.floats(0.05, 8)),
    value=st.floats(width=32),
)
def test_whatever_the_outlines_the_file_is_valid(
    tmp_path_factory: pytest.TempPathFactory, rings: list[np.ndarray], scale: tuple[float, float], value: float
) -> None:
    path = tmp_path_factory.mktemp("any") / "cells.geojson.gz"
    cells = cell_table(rings, area_um2=[value] * len(rings))
    writer = write(path, cells, scale=scale)
    features = load(path)["features"]
    assert len(features) + writer.dropped == len(rings)
    assert find_geojson_problems(path) == []
    for feature in features:
        polygon = shapely.Polygon(np.round(feature["geometry"]["coordinates"][0], 2))
        assert polygon.is_valid
        assert polygon.area > 0
        numbers = feature["properties"]["measurements"]
        assert ("Area µm^2" in numbers) == bool(np.isfinite(value))
        if np.isfinite(value):
            assert numbers["Area µm^2"] == pytest.approx(value, rel=1e-6)


def broken(**changes: Any) -> Any:
    """Set keys (``a__b`` for nested ones) of the second feature."""

    def breaks(collection: dict[str, Any]) -> None:
        for keys, value in changes.items():
            *way, last = keys.split("__")
            node = collection["features"][1]
            for key in way:
                node = node[key]
            node[last] = value

    return breaks


SPIKE = [[[0, 0], [9, 0], [9, 9], [20, 9], [9, 9], [0, 9], [0, 0]]]


@pytest.mark.parametrize(
    ("breaks", "problem"),
    [
        (broken(id=None), "id is not a UUID"),
        (broken(id="cell-1"), "id is not a UUID"),
        (broken(geometry=None), "geometry is missing or null"),
        (broken(geometry__type="MultiPolygon"), "MultiPolygon"),
        (broken(geometry={"type": "GeometryCollection", "geometries": []}), "QuPath 0.6"),
        (broken(geometry__coordinates=[]), "without rings"),
        (broken(geometry__coordinates=[[[0, 0], [1, 0], [1, 1]]]), "not closed"),
        (broken(geometry__coordinates=[[[0, 0], [1, 0], [1, 0], [0, 0]]]), "fewer than 3 distinct"),
        (broken(geometry__coordinates=[[[0, 0], [1, None], [1, 1], [0, 0]]]), "finite"),
        (broken(geometry__coordinates=[[[0, 0], "x"]]), "finite"),
        (broken(geometry__coordinates=[[[0, 0], [5, 5], [9, 9], [0, 0]]]), "zero area"),
        (broken(geometry__coordinates=[[[0, 0], [4, 4], [4, 0], [0, 5], [0, 0]]]), "invalid polygon"),
        (broken(geometry__coordinates=SPIKE), "invalid polygon"),
        (broken(properties=None), "no properties"),
        (broken(properties__objectType="Detection"), "annotation"),
        (broken(properties__name=None), "name is not text"),
        (broken(properties__metadata={}), "leave them out"),
        (broken(properties__classification="Tumor"), "not an object with a name"),
        (broken(properties__classification={"name": "Tumor"}), r"not \[r, g, b\]"),
        (broken(properties__classification__color="#ff0000"), r"not \[r, g, b\]"),
        (broken(properties__classification__color=-3670016), r"not \[r, g, b\]"),
        (broken(properties__classification__color=[0, 0, 256]), r"not \[r, g, b\]"),
        (broken(properties__measurements=[]), "not an object"),
        (broken(properties__measurements__Solidity=None), "'Solidity' is not a finite number"),
        (broken(properties__measurements__Solidity={"mean": 1}), "'Solidity' is not a finite number"),
        (broken(properties__measurements__Solidity=1e300), "'Solidity' is not a finite number"),
        (lambda collection: collection["features"].append(None), "not a Feature"),
        (lambda collection: collection.update(type="Feature"), "not a FeatureCollection"),
        (lambda collection: collection.update(features={}), "not a list"),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, breaks: Any, problem: str) -> None:
    write(tmp_path / "good.geojson.gz", some_cells(3))
    collection = copy.deepcopy(load(tmp_path / "good.geojson.gz"))
    breaks(collection)
    path = tmp_path / "bad.geojson"
    path.write_text(json.dumps(collection))
    problems = find_geojson_problems(path)
    assert len(problems) == 1
    assert re.search(problem, problems[0]), problems


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n]}\n", b"\n"),  # truncated
        (b"\n]}\n", b",\n]}\n"),  # trailing comma
        (b"]}\n", b"]}\n{}\n"),  # text after the end
        (b",\n", b"\n"),  # features by lines
        (b'"Feature"', b'"Feature'),  # no JSON
        (b'"Probability":0.5', b'"Probability":NaN'),
    ],
)
def test_a_damaged_text_is_found(tmp_path: Path, old: bytes, new: bytes) -> None:
    write(tmp_path / "good.geojson.gz", some_cells(3))
    text = gzip.decompress((tmp_path / "good.geojson.gz").read_bytes())
    assert old in text
    path = tmp_path / "bad.geojson"
    path.write_bytes(text.replace(old, new))
    assert len(find_geojson_problems(path)) == 1
    with pytest.raises(OutputError):
        list(iter_features(path))


def test_a_truncated_gzip_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "cells.geojson.gz"
    write(path, some_cells(300))
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in find_geojson_problems(path)[-1]


def test_no_more_problems_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "many.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [None] * 50}))
    assert len(find_geojson_problems(path, limit=7)) == 7
