"""Cells in TIAToolbox's annotation store; runs in an environment with the extra ``wsiproc[tiatoolbox]``."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import shapely

import wsiproc
from tests.results.qupath.finished_slide import CLASSES, draw_cells
from wsiproc.errors import MissingExtraError, OutputError
from wsiproc.io.cells.parquet import CellWriter
from wsiproc.results.export.annotation_store import write_annotation_store
from wsiproc.results.export.export import export
from wsiproc.synthetic import write_synthetic_slide

SCALE = (1.9013, 1.9007)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``cells.parquet`` of two row groups."""
    path = tmp_path_factory.mktemp("cells") / "cells.parquet"
    blocks = [draw_cells((400, 400), seed)[0] for seed in (0, 1)]
    with CellWriter(path, CLASSES, list(blocks[0].measurements), SCALE) as writer:
        for block in blocks:
            writer.write(block)
    return path


def batches(path: Path) -> Iterator[Any]:
    return pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=70)


@pytest.fixture(scope="module")
def sqlite_store() -> Iterator[Any]:
    """``SQLiteStore`` itself, which reads without what it asks of the build of Python when it opens."""
    pytest.importorskip("tiatoolbox")
    from tiatoolbox.annotation.storage import SQLiteStore

    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(sqlite3.Connection, "enable_load_extension"):
            patch.setattr(
                SQLiteStore, "compile_options", staticmethod(lambda: ["ENABLE_RTREE", "ENABLE_MATH_FUNCTIONS"])
            )
        yield SQLiteStore


@pytest.fixture(scope="module")
def store(sqlite_store: Any, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("store") / "cells.db"
    assert write_annotation_store(batches(table), path) == 200
    assert [p.name for p in path.parent.iterdir()] == ["cells.db"]
    opened = sqlite_store(path)
    yield opened
    opened.close()


@pytest.mark.tiatoolbox
def test_each_cell_comes_back_with_all_that_is_known_of_it(table: Path, store: Any) -> None:
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert len(store) == len(rows) == 200
    for row in rows:
        found = store[str(row["id"])]
        assert found.geometry.equals_exact(shapely.from_wkb(row["geometry"]), 0)
        measured = {name: row[name] for name in row if name.endswith(("_um", "_um2", "_od_mean", "_od_std", "ity"))}
        assert set(found.properties) == {"id", "type", "prob", *measured}
        assert (found.properties["id"], found.properties["type"]) == (row["id"], row["class"])
        assert np.float32(found.properties["prob"]) == np.float32(row["score"])
        assert {name: np.float32(found.properties[name]) for name in measured} == measured


@pytest.mark.tiatoolbox
def test_cells_are_found_by_place_and_by_class(table: Path, store: Any) -> None:
    rows = pyarrow.parquet.read_table(table).to_pylist()
    box = (100.0, 200.0, 333.0, 444.0)
    around = shapely.box(*box)
    inside = {str(row["id"]) for row in rows if shapely.from_wkb(row["geometry"]).intersects(around)}
    assert set(store.query(box)) == inside
    assert 10 < len(inside) < 100
    positive = {str(row["id"]) for row in rows if row["class"] == "Positive"}
    assert set(store.query(where="props['type'] == 'Positive'")) == positive
    assert set(store.query(where="props['prob'] > 0.5")) == {str(row["id"]) for row in rows if row["score"] > 0.5}
    assert "area" in store.indexes()


@pytest.mark.tiatoolbox
def test_what_is_no_number_is_null(table: Path, sqlite_store: Any, tmp_path: Path) -> None:
    """SQLite's JSON functions refuse NaN."""
    first = next(iter(batches(table))).slice(0, 2)
    at = first.schema.get_field_index("solidity")
    first = first.set_column(at, first.schema.field(at), pyarrow.array([np.nan, 0.5], pyarrow.float32()))
    write_annotation_store([first], tmp_path / "a.db")
    with contextlib.closing(sqlite_store(tmp_path / "a.db")) as opened:
        assert [opened[key].properties["solidity"] for key in "12"] == [None, 0.5]
        assert set(opened.query(where="props['solidity'] > 0.1")) == {"2"}


@pytest.mark.tiatoolbox
def test_a_store_is_whole_or_not_there(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("tiatoolbox")

    def breaking() -> Iterator[Any]:
        yield next(iter(batches(table)))
        raise RuntimeError("the drive is gone")

    path = tmp_path / "cells.db"
    path.write_bytes(b"an older one")
    with pytest.raises(RuntimeError, match="drive"):
        write_annotation_store(breaking(), path)
    assert path.read_bytes() == b"an older one"
    assert [p.name for p in tmp_path.iterdir()] == ["cells.db"]
    assert write_annotation_store(iter(()), path) == 0
    assert path.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.tiatoolbox
def test_a_folder_that_is_not_there_is_named(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("tiatoolbox")
    with pytest.raises(OutputError, match=r"gone.cells\.db: the annotation store cannot be written"):
        write_annotation_store(batches(table), tmp_path / "gone" / "cells.db")


def test_without_tiatoolbox_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiatoolbox", None)
    monkeypatch.setitem(sys.modules, "tiatoolbox.annotation.storage", None)
    with pytest.raises(MissingExtraError, match=r"wsiproc\[tiatoolbox\]"):
        write_annotation_store(iter(()), tmp_path / "cells.db")


@pytest.mark.tiatoolbox
def test_export_writes_the_store_of_a_finished_slide(sqlite_store: Any, tmp_path: Path) -> None:
    slide = tmp_path / "drawn.tif"
    write_synthetic_slide(slide, (700, 900), mpp=0.5, stain="HDAB", tissue_fraction=0.6)
    wsiproc.run(slide, tmp_path / "out", model="classical", executor="loop")
    result = wsiproc.open(tmp_path / "out")
    (path,) = export(result, ["annotation-store"], tmp_path)
    store = sqlite_store(path)
    cells = result.cells()
    assert len(store) == len(cells) > 20
    first = cells.iloc[0]
    assert store[str(first.id)].geometry.equals(first.geometry)
    assert store[str(first.id)].properties["type"] == first["class"]
    store.close()
