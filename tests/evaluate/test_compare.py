from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from PIL import Image
from rich.console import Console

from tests.records import run_facts
from wsiproc.array.nuclei.outline import trace
from wsiproc.array.nuclei.rasterise import rasterise
from wsiproc.core.geometry import Box
from wsiproc.errors import OutputError, SettingsError
from wsiproc.evaluate.compare import evaluate_paths, score_table, write_figure, write_scores
from wsiproc.evaluate.datasets import load_labels
from wsiproc.synthetic import Scene

SHAPE = (300, 400)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Consecutive labels of whole, connected nuclei."""
    drawn = Scene(SHAPE, tissue_fraction=1, seed=4).labels(Box(0, 0, *SHAPE))
    return np.unique(drawn, return_inverse=True)[1].reshape(SHAPE).astype(np.int32)


@pytest.fixture(scope="module")
def polygons(labels: np.ndarray) -> list[shapely.Polygon]:
    """Outlines along pixel edges, (x, y)."""
    rings = trace(labels, np.arange(1, labels.max() + 1))
    return [shapely.Polygon(rings[i][:, ::-1]) for i in range(len(rings))]


def _write_output(folder: Path, polygons: list[shapely.Polygon]) -> None:
    folder.mkdir()
    table = {"id": pa.array(range(1, len(polygons) + 1), pa.uint32()), "geometry": shapely.to_wkb(polygons)}
    pq.write_table(pa.table(table), folder / "cells.parquet")
    (folder / "run.json").write_text(json.dumps(run_facts(slide={"shape": SHAPE})))


def _write_geojson(path: Path, polygons: list[shapely.Polygon]) -> None:
    features = [{"type": "Feature", "geometry": shapely.geometry.mapping(shape)} for shape in polygons]
    path.write_bytes(gzip.compress(json.dumps({"type": "FeatureCollection", "features": features}).encode()))


def test_pixel_edge_polygons_give_the_labels_back(labels: np.ndarray, polygons: list[shapely.Polygon]) -> None:
    assert len(polygons) > 20
    np.testing.assert_array_equal(rasterise(polygons, SHAPE), labels)


def test_holes_are_kept_free_and_the_first_polygon_stays_on_top() -> None:
    ring = shapely.box(0, 0, 6, 6).difference(shapely.box(2, 2, 4, 4))
    labels = rasterise([ring, shapely.box(0, 0, 6, 3)], (6, 8))
    assert (labels == 1).sum() == 36 - 4
    assert (labels == 2).sum() == 2
    assert labels[3, 3] == 0


def test_polygons_may_leave_the_picture() -> None:
    assert rasterise([shapely.box(-5, -5, 2, 3)], (4, 4)).tolist() == [[1, 1, 0, 0]] * 3 + [[0] * 4]


def test_every_kind_of_file_holds_the_same_labels(
    tmp_path: Path, labels: np.ndarray, polygons: list[shapely.Polygon]
) -> None:
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint32), compression="zlib")
    np.save(tmp_path / "a.npy", labels)
    _write_geojson(tmp_path / "a.geojson.gz", polygons)
    _write_output(tmp_path / "a", polygons)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(load_labels(path, SHAPE), labels, err_msg=path.name)


def test_folders_are_paired_by_name_and_drawn_worst_first(
    tmp_path: Path, labels: np.ndarray, polygons: list[shapely.Polygon]
) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "pred").mkdir()
    for name in ("good", "bad"):
        Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "truth" / f"{name}.png")
    _write_output(tmp_path / "pred" / "good", polygons)
    _write_geojson(tmp_path / "pred" / "bad.geojson.gz", polygons[::2])
    rows = evaluate_paths(tmp_path / "pred", tmp_path / "truth", tmp_path / "figures")
    assert [row.name for row in rows] == ["bad", "good"]
    assert rows[1].scores.aji == 1
    assert rows[0].scores.recall == pytest.approx(0.5, abs=0.05)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["01_bad.png", "02_good.png"]

    write_scores(tmp_path / "scores.csv", rows)
    with (tmp_path / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["picture"] for line in lines] == ["bad", "good", "mean"]
    assert float(lines[2]["aji"]) == pytest.approx((rows[0].scores.aji + 1) / 2)
    text = io.StringIO()
    Console(width=160, file=text).print(score_table(rows))
    assert "mean" in text.getvalue()


def test_a_geojson_truth_learns_its_shape_from_the_prediction(
    tmp_path: Path, labels: np.ndarray, polygons: list[shapely.Polygon]
) -> None:
    np.save(tmp_path / "p.npy", labels)
    _write_geojson(tmp_path / "t.geojson.gz", polygons)
    assert evaluate_paths(tmp_path / "p.npy", tmp_path / "t.geojson.gz")[0].scores.pq == 1


def test_figures_show_the_worst_part_of_a_large_picture(tmp_path: Path) -> None:
    truth = np.zeros((1600, 3000), int)
    truth[1580:1590, 2900:2950] = 1
    write_figure(tmp_path / "f.png", np.zeros_like(truth), truth)
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.size == (1500, 1500)
        assert (0, 114, 178) in {colour for _, colour in picture.getcolors() or ()}


def test_errors_say_what_is_wrong(tmp_path: Path, labels: np.ndarray, polygons: list[shapely.Polygon]) -> None:
    _write_geojson(tmp_path / "a.geojson.gz", polygons)
    with pytest.raises(SettingsError, match="does not say how large"):
        load_labels(tmp_path / "a.geojson.gz")
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(SettingsError, match="no label image"):
        load_labels(tmp_path / "rgb.png")
    np.save(tmp_path / "small.npy", labels[:10])
    with pytest.raises(SettingsError, match=r"\(10, 400\).*\(300, 400\)"):
        load_labels(tmp_path / "small.npy", SHAPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="wsiproc run"):
        load_labels(tmp_path / "empty")
    np.save(tmp_path / "empty" / "b.npy", labels)
    with pytest.raises(SettingsError, match="no prediction for: small"):
        evaluate_paths(tmp_path / "empty", tmp_path / "small.npy")
    with pytest.raises(SettingsError, match="no such file"):
        evaluate_paths(tmp_path / "nowhere", tmp_path / "small.npy")
