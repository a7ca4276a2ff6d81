"""The two files that the page may write: what is in them, who may ask for it, and that others take them."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.results.viewer.serving import Shown, ask
from wsiproc.errors import WsiprocError
from wsiproc.io.geojson.write import find_geojson_problems
from wsiproc.results.viewer.analysis import measure_area, parse_area
from wsiproc.results.viewer.shown import ShownSlide

IHC = "api/slides/ihc"
SQUARE = {"type": "Polygon", "coordinates": [[[400, 500], [1400, 500], [1400, 1500], [400, 1500], [400, 500]]]}


# --- areas ---


def test_an_area_counts_the_cells_whose_centre_lies_in_it(shown: Shown, table: Any) -> None:
    hole = [[700, 800], [700, 1200], [1100, 1200], [1100, 800], [700, 800]]
    ring = {"type": "Polygon", "coordinates": [*SQUARE["coordinates"], hole]}
    status, told = ask(shown, "POST", f"{IHC}/measure", {"geometries": [SQUARE, ring]})
    assert status == 200
    for geometry, found in zip((SQUARE, ring), told, strict=True):
        shape = shapely.from_geojson(json.dumps(geometry))
        inside = table[shapely.contains_xy(shape, table["centroid_x"], table["centroid_y"])]
        assert found["cells"] == len(inside) > 100
        assert found["classes"] == inside["class"].value_counts().reindex(["Negative", "Positive"]).to_dict()
        assert found["area_mm2"] == pytest.approx(shape.area * 0.25**2 / 1e6)
        assert found["cells_per_mm2"] == pytest.approx(len(inside) / found["area_mm2"])
        assert found["positive_index"] == pytest.approx((inside["class"] == "Positive").mean())
        for name, value in found["medians"].items():
            assert value == pytest.approx(float(np.median(inside[name])), rel=1e-5)


def test_an_area_follows_thresholds_of_dab(shown: Shown, table: Any) -> None:
    _, (told,) = ask(shown, "POST", f"{IHC}/measure", {"geometries": [SQUARE], "cuts": "0.1,0.2,0.35"})
    x, y = table["centroid_x"], table["centroid_y"]
    inside = table[(x > 400) & (x < 1400) & (y > 500) & (y < 1500)]
    grade = sum((inside["dab_od_mean"] > np.float32(cut)).astype(int) for cut in (0.1, 0.2, 0.35))
    assert [told["classes"][name] for name in ("Negative", "1+", "2+", "3+")] == [(grade == g).sum() for g in range(4)]
    assert told["positive_index"] == pytest.approx((grade > 0).mean())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-500, 3600), st.integers(-500, 2800)), min_size=3, max_size=12))
def test_any_ring_that_somebody_draws_is_counted_or_refused(results: Path, corners: list[tuple[int, int]]) -> None:
    """However it crosses itself, and however far it reaches over the slide."""
    shown = ShownSlide(results / "ihc", "ihc")
    try:
        shape = parse_area({"type": "Polygon", "coordinates": [[*corners, corners[0]]]}, shown)
    except WsiprocError:
        return
    told = measure_area(shown, shape).numbers
    centres, _ = shown.cells.centres()
    y, x = (centres * shown.scale).T
    assert shape.is_valid
    assert told.cells == shapely.contains_xy(shape, x, y).sum()
    assert told.area_mm2 <= 2300 * 3100 * 0.25**2 / 1e6 + 1e-9


def test_tissue_can_be_taken_and_holds_the_cells(shown: Shown, table: Any) -> None:
    assert shown.json(f"{IHC}/areas")["areas"] == []
    suggested = shown.json(f"{IHC}/suggested")
    pieces = [area["geometry"] for area in suggested]
    assert suggested[0]["name"] == "Tissue 1"
    _, found = ask(shown, "POST", f"{IHC}/measure", {"geometries": pieces})
    assert sum(piece["cells"] for piece in found) > 0.97 * len(table)
    assert sum(piece["area_mm2"] for piece in found) == pytest.approx(shown.json(IHC)["tissue_mm2"], rel=0.02)


def test_areas_are_kept_as_qupath_reads_them(writing: Shown, folder: Path) -> None:
    _, (told,) = ask(writing, "POST", f"{IHC}/measure", {"geometries": [SQUARE]})
    status, kept = ask(writing, "PUT", f"{IHC}/areas", {"state": "", "areas": [{"name": "Hot µ", "geometry": SQUARE}]})
    assert status == 200
    path = folder / "areas.geojson"
    assert find_geojson_problems(path) == []
    frame = geopandas.read_file(path)
    assert frame.geometry[0].equals(shapely.from_geojson(json.dumps(SQUARE)))
    (feature,) = json.loads(path.read_text())["features"]
    assert feature["properties"]["name"] == "Hot µ"
    assert feature["properties"]["measurements"]["Cells"] == told["cells"]
    assert writing.json(f"{IHC}/areas")["areas"][0]["name"] == "Hot µ"
    # What somebody else wrote meanwhile is not lost.
    path.write_text(path.read_text().replace("Hot", "Cold"))
    status, message = ask(writing, "PUT", f"{IHC}/areas", {"state": kept["state"], "areas": []})
    assert status == 409
    assert "changed by something else" in message
    assert "Cold" in path.read_text()
    state = writing.json(f"{IHC}/areas")["state"]
    assert ask(writing, "PUT", f"{IHC}/areas", {"state": state, "areas": []})[0] == 200
    assert writing.json(f"{IHC}/areas")["areas"] == []
    assert not path.exists()


def test_a_file_of_other_things_is_not_written_over(writing: Shown, folder: Path) -> None:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}, "properties": {}}
    text = json.dumps({"type": "FeatureCollection", "features": [point]})
    (folder / "areas.geojson").write_text(text)
    status, message = ask(writing, "PUT", f"{IHC}/areas", {"state": "", "areas": []})
    assert status in (400, 500)
    assert "another name" in message
    assert (folder / "areas.geojson").read_text() == text


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        {},
        [],
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon", "coordinates": [[[1, 2]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [1e300, 9], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[-9, -9], [-5, -9], [-5, -5], [-9, -9]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]},
    ],
)
def test_what_is_no_area_is_refused(shown: Shown, geometry: Any) -> None:
    status, message = ask(shown, "POST", f"{IHC}/measure", {"geometries": [geometry]})
    assert status == 400
    assert "area" in message


# --- corrections ---


def test_corrections_go_the_whole_way_to_the_table(writing: Shown, folder: Path, table: Any) -> None:
    """Marked in the page, imported by the command that the page shows, read by geopandas."""
    negative, positive = (table[table["class"] == name]["id"].tolist() for name in ("Negative", "Positive"))
    right, moved, new, wrong, undone = negative[3], negative[40], negative[77], positive[5], positive[9]
    for number, verdict, kind in (
        (right, "right", None), (moved, "class", "Positive"), (new, "class", "Mitosis"), (wrong, "wrong", None),
        (undone, "wrong", None), (undone, None, None),
    ):  # fmt: skip
        status, told = ask(writing, "PUT", f"{IHC}/corrections", {"id": number, "verdict": verdict, "class": kind})
        assert status == 200, told
    assert {int(key): cell["verdict"] for key, cell in told["cells"].items()} == {
        right: "right", moved: "class", new: "class", wrong: "wrong",
    }  # fmt: skip
    assert told == writing.json(f"{IHC}/corrections")
    assert find_geojson_problems(folder / "corrections.geojson") == []
    command = told["command"].split()
    assert command[0] == "wsiproc"
    done = subprocess.run(
        [sys.executable, "-m", "wsiproc.cli.main", *command[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    corrected = geopandas.read_parquet(folder / "cells.corrected.parquet").set_index("id")
    assert len(corrected) == len(table) - 1
    assert wrong not in corrected.index
    assert corrected.loc[moved, "class"] == "Positive"
    assert corrected.loc[new, "class"] == "Mitosis"
    others = corrected.drop(index=[moved, new])
    assert others["class"].tolist() == table.set_index("id").loc[others.index, "class"].tolist()
    assert corrected.loc[right, "corrected"] == "right"
    assert (others["corrected"].drop(index=right) == "unchanged").all()


def test_corrections_of_another_run_are_not_mixed_with_these(writing: Shown, folder: Path) -> None:
    assert ask(writing, "PUT", f"{IHC}/corrections", {"id": 3, "verdict": "right"})[0] == 200
    path = folder / "corrections.geojson"
    text = path.read_text().replace('"run":"', '"run":"other')
    path.write_text(text)
    status, message = ask(writing, "PUT", f"{IHC}/corrections", {"id": 4, "verdict": "right"})
    assert status >= 400
    assert "corrections begin anew" in message
    assert path.read_text() == text
    path.unlink()
    for body in ({"id": 10**9, "verdict": "right"}, {"id": 3, "verdict": "maybe"}, {"id": 3, "verdict": "class"}, {}):
        assert ask(writing, "PUT", f"{IHC}/corrections", body)[0] == 400
    assert not path.exists()


# --- who may write ---


def test_nothing_is_written_without_leave(shown: Shown, results: Path) -> None:
    before = sorted(path.name for path in (results / "ihc").iterdir())
    for path, body in (
        ("areas", {"state": "", "areas": []}),
        ("corrections", {"id": 1, "verdict": "right"}),
    ):
        status, message = ask(shown, "PUT", f"{IHC}/{path}", body)
        assert status == 403
        assert "--write" in message
    assert sorted(path.name for path in (results / "ihc").iterdir()) == before


REFUSED = [
    ({"X-Wsiproc-Token": "guessed"}, 403),
    ({"X-Wsiproc-Token": ""}, 403),
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Origin": "null"}, 403),
    ({"Host": "evil.example"}, 400),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
]


def test_other_pages_can_write_nothing(writing: Shown, folder: Path) -> None:
    body = {"id": 1, "verdict": "right"}
    answers = [(headers, ask(writing, "PUT", f"{IHC}/corrections", body, **headers)[0]) for headers, _ in REFUSED]
    assert answers == REFUSED
    assert not (folder / "corrections.geojson").exists()
    origin = {"Origin": writing.address.rstrip("/")}
    assert ask(writing, "PUT", f"{IHC}/corrections", body, **origin)[0] == 200
    preflight = urllib.request.Request(
        writing.address + f"{IHC}/corrections", method="OPTIONS", headers={"Origin": "https://evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(preflight, timeout=10)


def test_only_this_machine_may_write(results: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "wsiproc.cli.main",
        "view",
        str(results),
        "--write",
        "--host",
        "0.0.0.0",
        "--no-browser",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "for this machine only" in done.stderr
