import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet
import pytest

from tests.array.clumps import clumps
from wsiproc.array.nuclei.instances import SplitRule, split_clumps
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.array.nuclei.outline import trace
from wsiproc.core.cells import CellTable
from wsiproc.io.cells.parquet import CellWriter, read_cells, read_part, write_part

SCALE = (1.9013, 1.9007)
CLASSES = {"Negative": (0, 114, 178), "Positive": (213, 94, 0)}


def cell_table(seed: int = 0, count: int = 60) -> CellTable:
    """Cells with real outlines."""
    split = split_clumps(clumps(seed, (200, 200), count), SplitRule(12, 6, 0.8, 1.0, 20))
    sums = label_sums(split.labels, split.count, np.zeros((1, 200, 200), np.uint8))
    rng = np.random.default_rng(seed)
    return CellTable(
        rng.integers(0, 2, split.count).astype(np.uint8),
        rng.random(split.count).astype(np.float32),
        centroids(sums),
        sums.boxes.astype(np.int32),
        {"area_um2": sums.areas.astype(np.float32), "solidity": rng.random(split.count).astype(np.float32)},
        trace(split.labels, np.arange(1, split.count + 1)),
    )


def assert_same(a: CellTable, b: CellTable) -> None:
    assert (a.classes == b.classes).all()
    assert (a.scores == b.scores).all()
    assert np.allclose(a.centroids, b.centroids, rtol=0, atol=1e-9)
    assert (a.boxes == b.boxes).all()
    assert a.measurements.keys() == b.measurements.keys()
    assert all((a.measurements[name] == b.measurements[name]).all() for name in a.measurements)
    assert (a.rings.offsets == b.rings.offsets).all()
    assert (a.rings.vertices == b.rings.vertices).all()


@pytest.mark.parametrize("count", [0, 1, 60])
def test_a_part_comes_back_as_it_was(tmp_path: Path, count: int) -> None:
    cells = cell_table(count=count)
    write_part(tmp_path / "a.part", cells)
    assert_same(read_part(tmp_path / "a.part"), cells)
    assert [p.name for p in tmp_path.iterdir()] == ["a.part"]


def test_the_table_comes_back_as_it_was(tmp_path: Path) -> None:
    blocks = [cell_table(0), cell_table(1)]
    with CellWriter(tmp_path / "cells.parquet", CLASSES, ["area_um2", "solidity"], SCALE) as writer:
        firsts = [writer.write(block) for block in blocks]
    assert firsts == [1, 1 + len(blocks[0])]
    ids, cells = read_cells(tmp_path / "cells.parquet")
    assert ids.tolist() == list(range(1, len(blocks[0]) + len(blocks[1]) + 1))
    assert_same(cells, CellTable.concat(blocks))
    assert_same(read_cells(tmp_path / "cells.parquet", 1)[1], blocks[1])


def test_geopandas_reads_the_table_as_it_is(tmp_path: Path) -> None:
    cells = cell_table()
    with CellWriter(tmp_path / "cells.parquet", CLASSES, ["area_um2", "solidity"], SCALE) as writer:
        writer.write(cells)
    frame = geopandas.read_parquet(tmp_path / "cells.parquet")
    assert frame.crs is None
    assert frame.geometry.is_valid.all()
    assert np.allclose(frame.geometry.area, frame["area_um2"] * SCALE[0] * SCALE[1])
    assert set(frame["class"]) == {"Negative", "Positive"}
    corner = geopandas.read_parquet(tmp_path / "cells.parquet", bbox=(0, 0, 100, 100))
    assert 0 < len(corner) < len(frame)
    geo = json.loads(pyarrow.parquet.read_metadata(tmp_path / "cells.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx(list(frame.total_bounds))


def test_a_slide_without_cells_is_a_table_without_rows(tmp_path: Path) -> None:
    with CellWriter(tmp_path / "cells.parquet", {"Nucleus": (0, 158, 115)}, ["area_um2"], SCALE):
        pass
    assert len(geopandas.read_parquet(tmp_path / "cells.parquet")) == 0


def test_a_table_that_failed_halfway_is_not_there(tmp_path: Path) -> None:
    def write_half() -> None:
        with CellWriter(tmp_path / "cells.parquet", CLASSES, ["area_um2", "solidity"], SCALE) as writer:
            writer.write(cell_table())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []
