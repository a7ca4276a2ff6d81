"""Files for QuPath: each valid on its own, every cell in exactly one of them, ids as in cells.geojson.gz."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.results.qupath.finished_slide import draw_cells, features, finished, scattered
from wsiproc.core.cells import Rings
from wsiproc.errors import OutputError, SettingsError
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.write import find_geojson_problems
from wsiproc.results.qupath.split import Wanted, cells_that_fit, heap_bytes, largest_block_side, split_cells

SHAPE = (600, 840)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("out") / "slide", draw_cells(SHAPE)[0], SHAPE, 2.0, block=256)


@pytest.fixture
def slide(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "slide"))


def index_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "qupath" / "index.json").read_text()))


def rectangle(sides: dict[str, float]) -> shapely.Polygon:
    return shapely.box(sides["x"], sides["y"], sides["x"] + sides["width"], sides["y"] + sides["height"])


def in_files(folder: Path) -> list[dict[str, Any]]:
    """All features of all files, after each file was proved to be right for QuPath and told right in the index."""
    found = []
    for file in index_of(folder)["files"]:
        path = folder / "qupath" / file["file"]
        assert find_geojson_problems(path) == []
        cells = features(path)
        assert (len(cells), path.stat().st_size) == (file["cells"], file["bytes"])
        bounds = shapely.total_bounds([shapely.Polygon(cell["geometry"]["coordinates"][0]) for cell in cells])
        assert rectangle(file["outlines"]).buffer(0.01).contains(shapely.box(*bounds))
        found += cells
    return found


def by_id(cells: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    named = {cell["id"]: cell for cell in cells}
    assert len(named) == len(cells)
    return named


def test_the_files_together_are_the_geojson_of_the_run(slide: Path) -> None:
    split = split_cells(slide, Wanted(most_cells=40))
    cells = in_files(slide)
    assert by_id(cells) == by_id(features(slide / "cells.geojson.gz"))
    assert split.cells == len(cells) == index_of(slide)["cells"]
    assert len(split.files) > 5
    assert max(file["cells"] for file in split.files) <= 40


def test_a_cell_lies_in_the_area_of_its_file(slide: Path) -> None:
    split_cells(slide, Wanted(most_cells=40))
    for file in index_of(slide)["files"]:
        area = rectangle(file["area"]).buffer(1)
        for cell in features(slide / "qupath" / file["file"]):
            assert area.contains(shapely.Polygon(cell["geometry"]["coordinates"][0]).centroid)


def test_few_cells_make_one_file(slide: Path) -> None:
    split = split_cells(slide, Wanted())
    assert [file["file"] for file in split.files] == ["cells-r00c00.geojson.gz"]
    assert by_id(in_files(slide)) == by_id(features(slide / "cells.geojson.gz"))


def test_a_second_split_leaves_no_file_of_the_first_and_everything_of_the_user(slide: Path) -> None:
    split_cells(slide, Wanted(most_cells=20))
    mine = slide / "qupath" / "corrections.geojson.gz"
    mine.write_bytes(b"mine")
    split_cells(slide, Wanted())
    names = {path.name for path in (slide / "qupath").iterdir()}
    assert names == {
        "cells-r00c00.geojson.gz", "index.json", "import-cells.groovy", "export-corrections.groovy", mine.name,
    }  # fmt: skip


def test_tiles_have_the_side_that_was_asked_for(slide: Path) -> None:
    split = split_cells(slide, Wanted(side_mm=0.1))
    assert split.side_px == 400  # at 0.25 µm a px
    assert by_id(in_files(slide)) == by_id(features(slide / "cells.geojson.gz"))


def test_small_cells_are_left_out_and_counted(slide: Path) -> None:
    everyone = features(slide / "cells.geojson.gz")
    large = [cell for cell in everyone if cell["properties"]["measurements"]["Area µm^2"] >= 60]
    split = split_cells(slide, Wanted(min_area_um2=60))
    assert by_id(in_files(slide)) == by_id(large)
    assert 0 < split.too_small == len(everyone) - len(large)


def test_an_outline_that_qupath_refuses_is_left_out_and_counted(tmp_path: Path) -> None:
    cells = scattered(np.array([[20, 20], [60, 60]]))
    cells.rings.vertices[:4] = [[18, 18], [18, 22], [18, 18], [18, 22]]  # a spike
    split = split_cells(finished(tmp_path / "slide", cells, (100, 100), 1.0), Wanted())
    assert (split.cells, split.not_writable) == (1, 1)
    assert len(in_files(tmp_path / "slide")) == 1


def test_a_slide_without_cells_makes_no_file_but_an_index(tmp_path: Path) -> None:
    none = finished(tmp_path / "slide", scattered(np.zeros((0, 2))), (100, 100), 1.0)
    assert split_cells(none, Wanted()).files == index_of(none)["files"] == []


@settings(max_examples=25)
@given(
    centres=st.lists(st.tuples(st.integers(2, 700), st.integers(2, 500)), min_size=1, max_size=60, unique=True),
    scale=st.sampled_from([1.0, 1.37, 4.0]),
    block=st.sampled_from([64, 200, 4096]),
    wanted=st.one_of(
        st.integers(1, 70).map(lambda most: {"most_cells": most}),
        st.floats(0.02, 1).map(lambda side: {"side_mm": side}),
    ),
)
def test_every_cell_is_in_exactly_one_file(
    centres: list[tuple[int, int]], scale: float, block: int, wanted: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        slide = finished(Path(folder) / "slide", scattered(np.array(centres)), (703, 503), scale, block=block)
        try:
            split = split_cells(slide, Wanted(**wanted))
        except SettingsError:
            assert wanted.get("most_cells", 0) < len(centres)  # more than that in one square of 64 px
            return
        assert by_id(in_files(slide)) == by_id(features(slide / "cells.geojson.gz"))
        assert max(file["cells"] for file in split.files) <= wanted.get("most_cells", len(centres))


@given(st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), min_size=1, max_size=9), st.integers(5, 60))
def test_no_square_of_the_largest_side_has_too_many(counts: list[list[int]], most: int) -> None:
    bins = np.array(counts)
    side = largest_block_side(bins, most)

    def fullest(size: int) -> int:
        return max(
            bins[y : y + size, x : x + size].sum() for y in range(0, bins.shape[0], size) for x in range(0, 7, size)
        )

    assert fullest(side) <= most
    larger = {-(-max(bins.shape) // parts) for parts in range(1, 10)} - set(range(side + 1))
    assert all(fullest(size) > most for size in larger)


def test_the_default_fills_half_a_heap_of_4_gb() -> None:
    assert cells_that_fit(24) == cells_that_fit(10) == 153_000
    assert cells_that_fit(48) == 76_000
    assert heap_bytes(153_000, 24) <= 2e9 < heap_bytes(154_000, 24)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"most_cells": 5, "side_mm": 1.0}, "give one of them"),
        ({"most_cells": 0}, "--cells-per-file is 0"),
        ({"side_mm": float("nan")}, "--tiles is nan"),
        ({"simplify_px": -1.0}, "--simplify is -1"),
        ({"min_area_um2": float("inf")}, "--min-area is inf"),
    ],
)
def test_settings_that_cannot_be_are_refused(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Wanted(**wanted)


def test_a_folder_of_an_unfinished_run_is_refused(slide: Path) -> None:
    (slide / "run.json").unlink()
    with pytest.raises(OutputError, match="unfinished"):
        split_cells(slide, Wanted())


# --- simplification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [0.5, 2.0, 5.0])
def test_simpler_outlines_stay_valid_and_near(slide: Path, tolerance: float) -> None:
    split_cells(slide, Wanted(most_cells=60, simplify_px=tolerance))
    before, after = by_id(features(slide / "cells.geojson.gz")), by_id(in_files(slide))
    assert before.keys() == after.keys()
    fewer = 0
    for name, cell in before.items():
        old, new = (shapely.Polygon(each["geometry"]["coordinates"][0]) for each in (cell, after[name]))
        assert new.is_valid
        assert shapely.hausdorff_distance(old.exterior, new.exterior) <= tolerance + 0.02
        assert abs(old.area - new.area) <= tolerance * old.length + np.pi * tolerance**2
        fewer += len(new.exterior.coords) < len(old.exterior.coords)
    # Steps are 2 px here; what is less than they are takes nothing away.
    assert fewer == (len(before) if tolerance >= 2 else 0)


@st.composite
def staircases(draw: st.DrawFn) -> np.ndarray:
    """An outline of pixels as cells have them: 4-connected, without holes."""
    from scipy import ndimage

    from wsiproc.array.nuclei.outline import trace

    size = draw(st.integers(3, 14))
    mask = np.array(draw(st.lists(st.booleans(), min_size=size**2, max_size=size**2))).reshape(size, size)
    mask[size // 2, size // 2] = True
    parts, _ = ndimage.label(mask)
    mask = ndimage.binary_fill_holes(parts == parts[size // 2, size // 2])
    return trace(mask.astype(np.int32), np.ones(1, np.int64)).vertices


@given(st.lists(staircases(), min_size=1, max_size=5), st.floats(0.1, 20), st.floats(0.25, 4))
def test_no_cell_is_lost_or_spoiled_by_simplification(rings: list[np.ndarray], tolerance: float, scale: float) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])])
    before = Outlines.of(Rings(offsets, np.concatenate(rings)), (scale, scale))
    after, stays = before.simplified(tolerance)
    assert np.array_equal(after.writable(), before.writable())
    assert (after.corners <= before.corners).all()
    far = shapely.hausdorff_distance(after.polygons(), before.polygons())
    assert (far <= tolerance + 0.02).all()
    unchanged = after.corners == before.corners
    assert unchanged[stays].all()
