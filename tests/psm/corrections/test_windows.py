"""What is known of a corrected slide: all of a reviewed area, single cells with a narrow rim, nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.psm.corrections.corrected_slide import REVIEWED, annotation, cells_of, correct, drawn, outline, run_slide
from wsiproc.array.nuclei.rasterise import rasterise
from wsiproc.core.geometry import Box
from wsiproc.errors import OutputError, SettingsError, SlideError
from wsiproc.psm.corrections import windows
from wsiproc.psm.corrections.windows import Corrected, find_corrected, known_boxes, known_in, other_boxes, read_windows

GRID = (1800, 1800)
FACTOR = 2  # grid px per level-0 px


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_slide(tmp_path_factory.mktemp("run"))


@pytest.fixture
def output(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "out" / "drawn"))


def only(output: Path) -> Corrected:
    (found,) = find_corrected([output.parent])
    return found


def pixels(shape: shapely.Geometry) -> np.ndarray:
    """(h, w) of the grid, from a shape in level-0 px."""
    return rasterise([shapely.transform(shape, lambda points: points * FACTOR)], GRID) > 0


def everywhere(corrected: Corrected) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return known_in(corrected, Box(0, 0, *GRID))


# --- what is known ---------------------------------------------------------------------------------------------------


def test_all_of_a_reviewed_area_is_known_and_its_cells_are_those_of_the_table(output: Path) -> None:
    correct(output, [*cells_of(output), annotation(REVIEWED, "reviewed")])
    found = only(output)
    labels, known, reviewed = everywhere(found)
    np.testing.assert_array_equal(known, pixels(REVIEWED))
    np.testing.assert_array_equal(reviewed, known)
    assert len(np.unique(labels)) - 1 == len(cells_of(output)) == len(found.cells)
    assert found.known_cells == sum(REVIEWED.contains(outline(cell).centroid) for cell in cells_of(output)) > 5


def test_of_single_cells_their_pixels_and_a_narrow_rim_are_known(output: Path) -> None:
    """One deleted, one moved, one drawn; of the moved one both places."""
    cells = sorted(cells_of(output), key=lambda cell: outline(cell).centroid.x)
    gone, moved = cells[3], cells[40]
    before = outline(moved)
    after = shapely.affinity.translate(before, 3, -2)
    moved["geometry"] = json.loads(shapely.to_geojson(after))
    new = shapely.Point(610, 95).buffer(8)
    correct(output, [*(cell for cell in cells if cell is not gone), drawn(new)])
    found = only(output)
    assert (len(found.certain), len(found.deleted), len(found.changed), found.known_cells) == (2, 1, 1, 3)
    labels, known, reviewed = everywhere(found)
    assert not reviewed.any()
    single = shapely.union_all([outline(gone), before, after, new])
    assert (known & ~pixels(single.buffer(1.5))).sum() == 0
    # A drawn outline is kept along the pixels of the maps.
    assert (pixels(single.buffer(-1)) & ~known).sum() == 0
    assert not labels[pixels(outline(gone).buffer(-1))].any() or len(cells) > len(found.cells)
    assert (labels[pixels(after.buffer(-1))] > 0).all()
    assert (labels[pixels(new.buffer(-1))] > 0).all()


def test_cells_marked_as_right_or_wrong_are_known(output: Path) -> None:
    cells = cells_of(output)
    cells[0]["properties"]["name"] = "right"
    cells[1]["properties"] |= {"objectType": "annotation", "name": "wrong", "classification": {"name": "Ignore*"}}
    correct(output, cells)
    found = only(output)
    assert (len(found.certain), len(found.deleted)) == (1, 1)
    labels, known, reviewed = everywhere(found)
    assert not reviewed.any()
    assert (labels[pixels(outline(cells[0]))] > 0).all()
    assert known[pixels(outline(cells[0]))].all()
    assert known[pixels(outline(cells[1]))].all()
    assert not labels[pixels(outline(cells[1]))].any()


def test_nothing_is_known_of_excluded_areas_nor_learned_from_cells_in_them(output: Path) -> None:
    fold = shapely.box(260, 300, 500, 500)
    correct(output, [*cells_of(output), annotation(REVIEWED, "reviewed"), annotation(fold, "exclude")])
    found = only(output)
    assert len(found.deleted) == 0
    np.testing.assert_array_equal(everywhere(found)[1], pixels(REVIEWED) & ~pixels(fold))


def test_deleted_cells_count_unless_they_were_drawn_anew(output: Path) -> None:
    """An area whose cells are all false teaches as many cells as were there."""
    cells = cells_of(output)
    inside = [cell for cell in cells if REVIEWED.contains(outline(cell).centroid)]
    others = [cell for cell in cells if cell not in inside]
    area = annotation(REVIEWED, "reviewed")
    correct(output, [*others, area])
    assert only(output).known_cells == len(inside) > 5
    correct(output, [*others, *(drawn(outline(cell).buffer(0.5)) for cell in inside), area])
    assert only(output).known_cells == len(inside)


def test_what_nobody_corrected_teaches_nothing(output: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing to learn from.*`wsiproc import`"):
        find_corrected([output])
    correct(output, cells_of(output))
    with pytest.raises(SettingsError, match="nothing to learn from"):
        find_corrected([output.parent])


def test_corrections_of_an_earlier_run_are_refused(output: Path) -> None:
    correct(output, cells_of(output)[1:])
    facts = json.loads((output / "corrections.json").read_text())
    (output / "corrections.json").write_text(json.dumps(facts | {"run": "another"}))
    with pytest.raises(OutputError, match=r"cells\.corrected\.parquet: corrections of an earlier run"):
        find_corrected([output])
    (output / "corrections.json").unlink()
    with pytest.raises(OutputError, match=r"corrections\.json: missing or damaged.*wsiproc import"):
        find_corrected([output])


def test_what_is_known_tells_one_set_of_corrections_from_another(output: Path) -> None:
    correct(output, cells_of(output)[1:])
    first = only(output).digest()
    assert only(output).digest() == first
    correct(output, cells_of(output)[2:])
    second = only(output).digest()
    correct(output, [*cells_of(output)[2:], annotation(REVIEWED, "reviewed")])
    assert len({first, second, only(output).digest()}) == 3


# --- windows ---------------------------------------------------------------------------------------------------------

SMALL = (1100, 1250)  # three rows and four columns of windows, the last ones moved inwards
boxes = st.builds(
    lambda x, y, w, h: shapely.box(x, y, min(x + w, SMALL[1]), min(y + h, SMALL[0])),
    st.floats(0, SMALL[1] - 30), st.floats(0, SMALL[0] - 30), st.floats(2, 600), st.floats(2, 600),
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=3), st.lists(boxes, max_size=3))
def test_windows_hold_all_that_is_known_and_agree_where_they_overlap(
    reviewed: list[shapely.Polygon], single: list[shapely.Polygon]
) -> None:
    whole = Box(0, 0, *SMALL)
    cells = np.array([shapely.Point(x, y).buffer(20) for x in range(60, 1250, 160) for y in range(60, 1100, 170)])
    none = np.zeros(0, object)
    small = np.array([shape.centroid.buffer(15) for shape in single] or [None], object)[: len(single)]
    found = Corrected(None, SMALL, cells, small, none, none, shapely.union_all(reviewed), None)  # type: ignore[arg-type]
    labels, known, _ = known_in(found, whole)
    covered = np.zeros(SMALL, bool)
    with_something = known_boxes(found)
    for box in with_something:
        assert box.shape == (windows.WINDOW_PX, windows.WINDOW_PX)
        assert whole.intersect(box) == box
        here, certain, _ = known_in(found, box)
        np.testing.assert_array_equal(here > 0, labels[box.slices] > 0)
        inner = box.pad(-4) if box.area else box
        np.testing.assert_array_equal(certain[4:-4, 4:-4], known[inner.slices])
        covered[box.slices] = True
    others = other_boxes(found)
    assert not {(box.y, box.x) for box in others} & {(box.y, box.x) for box in with_something}
    assert all((known_in(found, box)[0] > 0).any() for box in others)
    wanted = rasterise([*reviewed, *small], SMALL) > 0
    assert covered[wanted].all()


def test_windows_are_read_from_the_slide(output: Path) -> None:
    correct(output, [*cells_of(output), annotation(REVIEWED, "reviewed")])
    found = only(output)
    told: list[tuple[int, int]] = []
    read = read_windows([found], 1.6, lambda done, total: told.append((done, total)))
    assert told == [(1, 1)]
    boxes = [*known_boxes(found), *other_boxes(found)]
    assert len(read) == len(boxes)
    assert 0 < sum(window.known.any() for window in read) < len(read)
    with found.result.source().open() as slide:
        for window, box in zip(read, boxes, strict=True):
            np.testing.assert_array_equal(window.pixels, slide.read(box, 0.25))
            assert window.labels.shape == window.known.shape == box.shape


def test_a_slide_that_is_gone_is_named(output: Path) -> None:
    correct(output, [*cells_of(output), annotation(REVIEWED, "reviewed")])
    found = only(output)
    record = found.result.record
    moved = record.model_copy(update={"slide": record.slide.model_copy(update={"path": "/gone/drawn.tif"})})
    found.result.record = moved
    with pytest.raises(SlideError, match=r"/gone/drawn\.tif: the slide of .* is not there.*put it back"):
        read_windows([found], 1.6, lambda *_: None)


def test_very_many_windows_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    none = np.zeros(0, object)
    whole = Corrected(None, GRID, none, none, none, none, shapely.box(0, 0, *GRID), None)  # type: ignore[arg-type]
    every = known_boxes(whole)
    monkeypatch.setattr(windows, "MOST_WINDOWS", 7)
    some = known_boxes(dataclasses.replace(whole))
    assert len(every) > len(some) == 7
    assert some[0] == every[0]
    assert some[-1] == every[-1]
