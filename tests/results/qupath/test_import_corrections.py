"""The way back: nothing changed is nothing told, each kind of change is found, foreign and broken files are refused."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.results.qupath.finished_slide import IMMUNO, draw_cells, features, finished, save, write_maps
from wsiproc.cli.main import app
from wsiproc.errors import OutputError, SettingsError, WsiprocError
from wsiproc.io.cells.parquet import read_cells
from wsiproc.results.qupath.import_corrections import Corrections, import_corrections
from wsiproc.results.qupath.remeasure import Maps, cells_in
from wsiproc.results.qupath.split import Wanted, split_cells

SHAPE, SCALE = (400, 600), 2.0
CELLS = 150


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cells, maps = draw_cells(SHAPE)
    folder = finished(tmp_path_factory.mktemp("out") / "slide", cells, SHAPE, SCALE, block=256)
    write_maps(folder, maps)
    return folder


@pytest.fixture
def slide(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "slide"))


@pytest.fixture
def objects(slide: Path) -> list[dict[str, Any]]:
    """The cells as QuPath has them after the import, to be changed by a test."""
    return features(slide / "cells.geojson.gz")


def corrected(slide: Path, changed: list[dict[str, Any]], **settings: Any) -> Corrections:
    return import_corrections(save(slide / "from qupath.geojson", changed), slide, **{"exclude": []} | settings)


def rows(slide: Path) -> Any:
    """The corrected table, by id."""
    return geopandas.read_parquet(slide / "cells.corrected.parquet").set_index("id")


def before(slide: Path) -> Any:
    return geopandas.read_parquet(slide / "cells.parquet").set_index("id")


def number(cell: dict[str, Any]) -> int:
    return int(cell["properties"]["measurements"]["Cell ID"])


def moved(cell: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    other = copy.deepcopy(cell)
    other["geometry"]["coordinates"] = [[[a + x, b + y] for a, b in cell["geometry"]["coordinates"][0]]]
    return other


def drawn(x: float, y: float, side: float = 20.0, **properties: Any) -> dict[str, Any]:
    """A square of a user, with a random id as QuPath gives."""
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    given = {"objectType": "detection", "classification": {"name": "Positive", "color": [250, 62, 62]}} | properties
    return {"type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": given}


def area(x: float, y: float, side: float, **properties: Any) -> dict[str, Any]:
    return drawn(x, y, side, objectType="annotation", classification=None) | {
        "properties": {"objectType": "annotation"} | properties
    }


def centre(cell: dict[str, Any]) -> shapely.Point:
    return shapely.Polygon(cell["geometry"]["coordinates"][0]).centroid


# --- nothing changed -------------------------------------------------------------------------------------------------


def same_as_before(slide: Path, told: Corrections) -> None:
    assert (told.before, told.after, told.unchanged, told.skipped) == (CELLS, CELLS, CELLS, 0)
    assert not told.reclassified
    assert (told.outlines, told.added, told.deleted, told.excluded, told.warnings) == (0, 0, 0, 0, [])
    table = pq.read_table(slide / "cells.corrected.parquet")
    assert set(table["corrected"].to_pylist()) == {"unchanged"}
    assert table.drop_columns(["corrected"]).equals(pq.read_table(slide / "cells.parquet"))


def test_what_comes_back_unchanged_has_no_changes(slide: Path) -> None:
    same_as_before(slide, import_corrections(slide / "cells.geojson.gz", slide, exclude=[]))


def test_simplified_outlines_that_come_back_unchanged_have_no_changes(slide: Path) -> None:
    split_cells(slide, Wanted(simplify_px=3))
    same_as_before(slide, import_corrections(slide / "qupath" / "cells-r00c00.geojson.gz", slide, exclude=[]))


def test_what_qupath_does_to_coordinates_is_no_change(slide: Path, objects: list[dict[str, Any]]) -> None:
    """Corners as float32, another first corner, the other way round, none on a line, classes with a list of parts."""
    for cell in objects:
        ring = np.array(cell["geometry"]["coordinates"][0][:-1], np.float32).astype(float) + 0.004
        ring = np.roll(ring[::-1], 3, axis=0)
        cell["geometry"]["coordinates"] = [[*ring.tolist(), ring[0].tolist()]]
        cell["properties"]["classification"] = {"names": [cell["properties"]["classification"]["name"]]}
        cell["properties"]["isLocked"] = True
    same_as_before(slide, corrected(slide, objects))


def test_files_of_one_object_a_line_and_in_one_piece_are_read_alike(slide: Path, objects: list[dict[str, Any]]) -> None:
    objects = [*objects[:-1], area(0, 0, 50, name="exclude")]
    first = corrected(slide, objects)
    lines = b",\n".join(json.dumps(each).encode() for each in objects)
    path = slide / "corrections.geojson.gz"
    path.write_bytes(gzip.compress(b'{"type":"FeatureCollection","features":[\n' + lines + b"\n]}\n", mtime=0))
    assert import_corrections(path, slide, exclude=[]) == first
    path.write_text(json.dumps(objects))  # a bare list, as QuPath writes it without FEATURE_COLLECTION
    assert import_corrections(path, slide, exclude=[]) == first


# --- each kind of change ---------------------------------------------------------------------------------------------


def test_other_classes_are_counted_and_so_is_the_index(slide: Path, objects: list[dict[str, Any]]) -> None:
    negative = [cell for cell in objects if cell["properties"]["classification"]["name"] == "Negative"]
    for cell in negative[:5]:
        cell["properties"]["classification"] = {"name": "Positive", "color": [1, 2, 3]}
    negative[5]["properties"]["classification"] = {"name": "Tumor: Odd", "color": [9, 8, 7]}
    del negative[6]["properties"]["classification"]
    told = corrected(slide, objects)
    assert told.reclassified == {
        ("Negative", "Positive"): 5, ("Negative", "Tumor: Odd"): 1, ("Negative", "Unclassified"): 1,
    }  # fmt: skip
    n = len(negative)
    assert told.positive_index == (1 - n / CELLS, (CELLS - n + 5) / (CELLS - 2))
    assert (told.h_score, told.compartment) == (None, None)
    table = rows(slide)
    assert table.loc[[number(cell) for cell in negative[:7]], "corrected"].eq("class").all()
    assert table.loc[number(negative[5]), "class"] == "Tumor: Odd"
    facts = json.loads(pq.read_schema(slide / "cells.corrected.parquet").metadata[b"wsiproc"])
    assert facts["colours"][facts["classes"].index("Tumor: Odd")] == [9, 8, 7]


def test_weak_moderate_and_strong_have_an_index_and_an_h_score(tmp_path: Path) -> None:
    """Of 150 cells in four classes; QuPath puts a class of its own before the strength, *Tumor: 3+*."""
    names = ("Negative", "1+", "2+", "3+")
    cells, maps = draw_cells(SHAPE)
    cells = dataclasses.replace(cells, classes=np.repeat([0, 1, 2, 3], [60, 40, 30, 20]).astype(np.uint8))
    folder = finished(tmp_path / "slide", cells, SHAPE, SCALE, names=names, immuno=IMMUNO | {"compartment": "membrane"})
    write_maps(folder, maps)
    objects = features(folder / "cells.geojson.gz")
    negative = [cell for cell in objects if cell["properties"]["classification"]["name"] == "Negative"]
    for cell in negative[:15]:
        cell["properties"]["classification"] = {"name": "Tumor: 3+", "color": [1, 2, 3]}
    told = corrected(folder, objects)
    assert told.positive_index == (90 / 150, 105 / 150)
    assert told.h_score == (100 * (40 + 60 + 60) / 150, 100 * (40 + 60 + 60 + 45) / 150)
    assert told.compartment == "membrane"
    facts = json.loads((folder / "corrections.json").read_text())["cells"]
    assert facts["positive_index"] == {"before": 0.6, "after": 0.7}
    assert facts["h_score"] == dict(zip(("before", "after"), told.h_score, strict=True))
    said = CliRunner().invoke(app, ["import", str(folder / "from qupath.geojson"), str(folder), "--dry-run"]).output
    assert "positive index (membrane) 60.0% before, 70.0% after" in said
    assert "H-score (membrane) 107 before, 137 after" in said


def test_where_dab_is_not_scored_corrections_have_no_index(tmp_path: Path) -> None:
    cells, maps = draw_cells(SHAPE)
    facts = IMMUNO | {"compartment": "cytoplasm", "index": False}
    folder = finished(tmp_path / "slide", cells, SHAPE, SCALE, immuno=facts)
    write_maps(folder, maps)
    told = corrected(folder, features(folder / "cells.geojson.gz"))
    assert (told.positive_index, told.h_score, told.compartment) == (None, None, "cytoplasm")


def test_a_moved_outline_is_measured_where_it_lies_now(slide: Path, objects: list[dict[str, Any]]) -> None:
    """Ten cells take the outlines of ten others, and so their measurements, to the bit."""
    table = before(slide)
    for target, source in zip(range(10), range(70, 80), strict=True):
        objects[target]["geometry"] = objects[source]["geometry"]
    told = corrected(slide, objects)
    assert (told.outlines, told.unchanged) == (10, CELLS - 10)
    after = rows(slide)
    own = ["class", "corrected"]
    for target, source in zip(range(1, 11), range(71, 81), strict=True):
        assert after.loc[target, "corrected"] == "outline"
        assert after.loc[target].drop(own).equals(table.loc[source].drop("class"))
        assert after.loc[target, "class"] == table.loc[target, "class"]


def test_a_drawn_outline_follows_the_pixels_of_the_maps(slide: Path, objects: list[dict[str, Any]]) -> None:
    objects.append(drawn(100.7, 200.9, 40.0))  # 20 px of the grid, whose corners are at even px
    told = corrected(slide, objects)
    assert (told.added, told.after) == (1, CELLS + 1)
    cell = rows(slide).loc[CELLS + 1]
    assert (cell["corrected"], cell["class"]) == ("new", "Positive")
    assert cell.geometry.equals(shapely.box(100, 200, 140, 240))
    assert cell["area_um2"] == 400 * 0.25
    assert (cell["centroid_x"], cell["centroid_y"]) == (120, 220)
    maps = draw_cells(SHAPE)[1]
    pixels = maps[:, 100:120, 50:70].astype(float)
    assert cell["score"] == pytest.approx(pixels[0].mean() / 255)
    assert cell["dab_od_mean"] == pytest.approx(pixels[2].mean() * 0.01)


def test_deleted_cells_are_gone_and_ids_stay(slide: Path, objects: list[dict[str, Any]]) -> None:
    told = corrected(slide, objects[20:])
    assert (told.deleted, told.after) == (20, CELLS - 20)
    assert set(rows(slide).index) == {number(cell) for cell in objects[20:]}


@pytest.mark.parametrize(
    ("named", "exclude"),
    [({"name": "Exclude"}, []), ({"classification": {"name": "Ignore*"}}, []), ({"name": "Fold"}, ["fold"])],
)
def test_cells_in_an_excluded_area_are_left_out(
    slide: Path, objects: list[dict[str, Any]], named: dict[str, Any], exclude: list[str]
) -> None:
    here = area(150, 90, 300, **named)
    square = shapely.box(150, 90, 450, 390)
    inside = {number(cell) for cell in objects if square.contains(centre(cell))}
    told = corrected(slide, [*objects, here, area(0, 0, 500, name="Tumor"), drawn(200, 200)], exclude=exclude)
    assert 10 < told.excluded == len(inside)
    assert (told.added, told.deleted, told.areas, told.ignored) == (0, 0, 1, {"annotation": 1})
    assert set(rows(slide).index) == set(range(1, CELLS + 1)) - inside


@pytest.mark.parametrize("named", [{"name": "Reviewed"}, {"classification": {"name": "reviewed*"}}])
def test_reviewed_areas_are_kept_and_change_no_cell(
    slide: Path, objects: list[dict[str, Any]], named: dict[str, Any]
) -> None:
    told = corrected(
        slide, [*objects, area(150, 90, 300, **named), area(500, 90, 100, **named), area(0, 0, 9, name="x")]
    )
    assert (told.reviewed, told.areas, told.unchanged, told.ignored) == (2, 0, CELLS, {"annotation": 1})
    facts = json.loads((slide / "corrections.json").read_text())
    both = shapely.union(shapely.box(150, 90, 450, 390), shapely.box(500, 90, 600, 190))
    assert shapely.from_geojson(json.dumps(facts["areas"]["reviewed"])).equals(both)
    assert "excluded" not in facts["areas"]


def test_cells_marked_in_the_page_are_told_apart_from_others(slide: Path, objects: list[dict[str, Any]]) -> None:
    """Right ones are marked as such; wrong ones are gone, and their outlines are not areas to exclude: what was drawn
    in the place of one, a new cell or the outline of another, stays.
    """
    for cell in objects[:3]:
        cell["properties"]["name"] = "right"
    wrong, other = centre(objects[3]), centre(objects[4])
    objects[4] = moved(objects[4], wrong.x - other.x, wrong.y - other.y)
    objects.append(drawn(wrong.x - 10, wrong.y - 10))
    objects[3]["properties"] |= {
        "objectType": "annotation", "name": "wrong", "classification": {"name": "Ignore*", "color": [1, 2, 3]},
    }  # fmt: skip
    told = corrected(slide, [*objects, area(0, 0, 30, name="exclude")], missing="keep")
    assert (told.right, told.areas, told.deleted) == (3, 2, 0)
    assert (told.outlines, told.added) == (1, 1)
    assert told.unchanged == CELLS - told.excluded - told.outlines
    table = rows(slide)
    assert set(table.index[table["corrected"] == "right"]) == {number(cell) for cell in objects[:3]}
    assert 4 not in table.index
    areas = json.loads((slide / "corrections.json").read_text())["areas"]
    assert shapely.from_geojson(json.dumps(areas["excluded"])).equals(shapely.box(0, 0, 30, 30))


def test_a_file_of_areas_alone_deletes_nothing_else(slide: Path, objects: list[dict[str, Any]]) -> None:
    told = corrected(slide, [area(0, 0, 100, name="ignore")])
    assert 0 < told.excluded < 20
    assert (told.deleted, told.after) == (0, CELLS - told.excluded)


def test_missing_cells_that_were_never_shown_are_not_deleted(slide: Path) -> None:
    split = split_cells(slide, Wanted(min_area_um2=60))
    told = import_corrections(slide / "qupath" / "cells-r00c00.geojson.gz", slide, exclude=[])
    assert split.too_small > 0
    assert (told.deleted, told.unchanged) == (0, CELLS)


def test_more_than_half_missing_must_be_meant(slide: Path, objects: list[dict[str, Any]]) -> None:
    with pytest.raises(SettingsError, match=r"100 of 150 cells are not in it.*--missing keep"):
        corrected(slide, objects[:50])
    assert not (slide / "cells.corrected.parquet").exists()
    assert corrected(slide, objects[:50], missing="keep").deleted == 0
    assert corrected(slide, objects[:50], missing="delete").deleted == 100


# --- what is left behind ---------------------------------------------------------------------------------------------


def test_the_found_cells_stay_and_the_corrections_say_where_they_are_from(
    slide: Path, objects: list[dict[str, Any]]
) -> None:
    old = {name: (slide / name).read_bytes() for name in ("cells.parquet", "cells.geojson.gz", "run.json")}
    corrected(slide, objects[1:])
    assert {name: (slide / name).read_bytes() for name in old} == old
    facts = json.loads((slide / "corrections.json").read_text())
    file = slide / "from qupath.geojson"
    assert facts["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (facts["run"], facts["slide"]["fingerprint"], facts["cells"]["deleted"]) == ("k", "s", 1)


def test_a_dry_run_writes_nothing(slide: Path, objects: list[dict[str, Any]]) -> None:
    path = save(slide / "o.geojson", objects[1:])
    names = {path.name for path in slide.iterdir()}
    assert import_corrections(path, slide, exclude=[], dry_run=True).deleted == 1
    assert {path.name for path in slide.iterdir()} == names


def test_the_corrected_table_is_read_as_every_table_of_cells(slide: Path, objects: list[dict[str, Any]]) -> None:
    objects[3] = moved(objects[3], 30.3, 5.1)
    corrected(slide, [*objects, drawn(500, 500)])
    ids, cells = read_cells(slide / "cells.corrected.parquet")
    assert ids.tolist() == list(range(1, CELLS + 2))
    polygons = [shapely.Polygon(cells.rings[row]) for row in range(len(cells))]
    assert np.allclose(shapely.area(polygons) * 0.25, cells.measurements["area_um2"])


# --- files that are not what they should be --------------------------------------------------------------------------


def test_cells_of_another_slide_are_refused(slide: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / "other", draw_cells(SHAPE, 1)[0], SHAPE, SCALE, name="other")
    with pytest.raises(OutputError, match=r"not of this slide, s: of 150 cells none .* 150 have ids of another"):
        import_corrections(other / "cells.geojson.gz", slide, exclude=[])


def test_cells_off_the_slide_are_refused_together_and_named_alone(slide: Path, objects: list[dict[str, Any]]) -> None:
    far = [drawn(5000 + 30 * i, 100) for i in range(3)]
    with pytest.raises(OutputError, match=r"3 lie outside its 1200 × 800 px"):
        corrected(slide, far)
    told = corrected(slide, [*objects, far[0]])
    assert (told.added, told.skipped) == (0, 1)
    assert told.problems == ["object 151: a new cell lies outside the slide, at x 5010, y 110"]


def test_shifted_outlines_are_told(slide: Path, objects: list[dict[str, Any]]) -> None:
    told = corrected(slide, [moved(cell, 6, -4) for cell in objects])
    assert told.outlines > 140
    assert "moved by +6.0 px in x and -4.0 in y" in told.warnings[0]


BOW_TIE = [[10, 10], [30, 30], [30, 10], [10, 30], [10, 10]]


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        ({"type": "Polygon", "coordinates": [BOW_TIE]}, "invalid outline (Self-intersection"),
        ({"type": "Point", "coordinates": [5, 5]}, "no outline that can be read"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "no outline that can be read"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [4, 2]]]}, "no outline that can be read"),
        ({"type": "Polygon", "coordinates": []}, "no outline that can be read"),
        (None, "no outline that can be read"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [1.1, 1], [1.1, 1.1], [1, 1]]]}, "covers no pixel"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [1199, 1], [1199, 799], [1, 1]]]}, ""),
    ],
)
def test_an_outline_that_cannot_be_is_named_and_the_cell_keeps_its_own(
    slide: Path, objects: list[dict[str, Any]], geometry: dict[str, Any] | None, said: str
) -> None:
    objects[6]["geometry"] = geometry
    told = corrected(slide, [*objects, drawn(0, 0) | {"geometry": geometry}])
    if not said:  # large, but a polygon: QuPath's user wanted it
        assert (told.outlines, told.added, told.skipped) == (1, 1, 0)
        return
    assert (told.unchanged, told.outlines, told.added, told.deleted, told.skipped) == (CELLS, 0, 0, 0, 2)
    assert all(said in problem for problem in told.problems)
    assert "cell 7 " in told.problems[0]
    assert rows(slide).drop(columns="corrected").equals(before(slide))


def test_an_object_that_is_there_twice_counts_once(slide: Path, objects: list[dict[str, Any]]) -> None:
    told = corrected(slide, [*objects, moved(objects[0], 50, 0)])
    assert (told.unchanged, told.outlines, told.problems) == (
        CELLS, 0, ["object 151: cell 1 is there twice; the first counts"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1, 2]", "not a FeatureCollection"),
        (b'{"type": "Topology"}', "not a FeatureCollection"),
        (b'{"type":"FeatureCollection","crs":{"name":"EPSG:4326"},"features":[]}', "a location on a map"),
        (b'{"type":"FeatureCollection","features":[]}', "no cells, and no annotation named exclude"),
        (b'{"type":"FeatureCollection","features":[\n{"type":"Feature"},\n', "cut off in line 3"),
        (b'{"type":"FeatureCollection","features":[\n7\n]}\n', "not a feature"),
        (b'{"type":"FeatureCollection","features":[{"properties":[1]}]}', "not in the form that QuPath writes"),
        (
            b'{"type":"FeatureCollection","features":[{"geometry":' + b"[" * 900 + b"]" * 900 + b"}]}",
            "not in the form that QuPath",
        ),
        (gzip.compress(b'{"type":"FeatureCollection","features":[', mtime=0)[:-9], "cannot be read"),
        (b"\x1f\x8b\x08 no gzip", "cannot be read"),
    ],
)
def test_files_that_are_no_objects_are_refused_in_a_sentence(slide: Path, content: bytes, said: str) -> None:
    path = slide / "bad.geojson"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=said):
        import_corrections(path, slide, exclude=[])


def test_a_file_that_is_not_there_is_refused_in_a_sentence(slide: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be read: No such file"):
        import_corrections(slide / "nowhere.geojson", slide, exclude=[])


def test_without_maps_nothing_can_be_measured(slide: Path, objects: list[dict[str, Any]]) -> None:
    shutil.rmtree(slide / "maps.ome.zarr")
    same_as_before(slide, corrected(slide, objects))
    with pytest.raises(OutputError, match="missing or damaged"):
        corrected(slide, [*objects, drawn(10, 10)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 9999) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=25)
@given(data=st.data())
def test_whatever_is_broken_in_a_feature_is_an_answer_in_words(original: Path, data: st.DataObject) -> None:
    """Any member of any object replaced by anything: counts that add up, or an error of ours."""
    objects = [*features(original / "cells.geojson.gz"), area(0, 0, 9, name="ignore")]
    target: Any = data.draw(st.sampled_from([objects[0], objects[1], objects[-1]]))
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [value for value in target.values() if isinstance(value, dict)]
        target = data.draw(st.sampled_from(inner)) if inner else target
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)
    path = original.parent / "broken.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": objects}))
    try:
        told = import_corrections(path, original, exclude=[], dry_run=True)
    except WsiprocError:
        return
    assert told.after == told.before - told.deleted - told.excluded + told.added
    assert CELLS - 2 <= told.unchanged <= CELLS


# --- measuring -------------------------------------------------------------------------------------------------------


def test_every_outline_gives_back_its_pixels_and_measurements(original: Path) -> None:
    cells, _ = draw_cells(SHAPE)
    maps = Maps(original / "maps.ome.zarr", SHAPE, (SCALE, SCALE), 0.25, list(cells.measurements))
    outlines = np.array(
        [shapely.Polygon(each["geometry"]["coordinates"][0]) for each in features(original / "cells.geojson.gz")]
    )
    ids, table = read_cells(original / "cells.parquet")
    taken, again = cells_in(outlines, maps)
    assert taken.tolist() == list(range(len(ids)))
    assert np.array_equal(again.rings.vertices, table.rings.vertices)
    assert np.array_equal(again.scores, table.scores)
    assert np.allclose(again.centroids, table.centroids)
    for name, values in table.measurements.items():
        assert np.array_equal(again.measurements[name], values), name


def test_of_several_parts_the_largest_counts_and_holes_are_filled(original: Path) -> None:
    maps = Maps(original / "maps.ome.zarr", SHAPE, (SCALE, SCALE), 0.25, ["area_um2", "unknown"])
    ring = shapely.box(100, 100, 140, 140) - shapely.box(110, 110, 120, 120)
    taken, found = cells_in(np.array([shapely.union(ring, shapely.box(200, 100, 210, 110))]), maps)
    assert taken.tolist() == [0]
    assert found.boxes.tolist() == [[50, 50, 20, 20]]
    assert found.measurements["area_um2"].tolist() == [100.0]
    assert np.isnan(found.measurements["unknown"]).all()
