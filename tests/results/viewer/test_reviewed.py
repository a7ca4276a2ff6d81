"""Areas that are marked as reviewed or excluded: from the page through the import to what a fit learns from."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

from tests.results.viewer.browsing import on_screen, saved, show, until
from tests.results.viewer.serving import Shown, ask, viewing
from wsiproc.array.nuclei.rasterise import rasterise
from wsiproc.core.geometry import Box
from wsiproc.io.geojson.write import find_geojson_problems
from wsiproc.psm.corrections.windows import find_corrected, known_in

IHC = "api/slides/ihc"
SQUARE = shapely.box(400, 500, 1400, 1500)
HOLE = shapely.box(600, 700, 800, 900)


def area(shape: Any, use: str | None, name: str = "Hot") -> dict[str, Any]:
    return {"name": name, "geometry": json.loads(shapely.to_geojson(shape)), "use": use}


def polygon(*corners: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}


def put(shown: Shown, *areas: Any) -> tuple[int, Any]:
    return ask(shown, "PUT", f"{IHC}/areas", {"state": shown.json(f"{IHC}/areas")["state"], "areas": areas})


def imported(shown: Shown, folder: Path) -> dict[str, Any]:
    """What the command that the page shows writes about the areas."""
    command = shlex.split(shown.json(f"{IHC}/corrections")["command"])
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    areas = json.loads((folder / "corrections.json").read_text())["areas"]
    return {use: shapely.from_geojson(json.dumps(shape)) for use, shape in areas.items()}


def names(path: Path) -> list[str]:
    features = json.loads(path.read_text())["features"] if path.exists() else []
    return [feature["properties"]["name"] for feature in features]


def drag(page: Any, x0: float, y0: float, x1: float, y1: float) -> None:
    page.keyboard.press("b")
    page.mouse.move(*on_screen(page, x0, y0))
    page.mouse.down()
    page.mouse.move(*on_screen(page, x1, y1), steps=4)
    page.mouse.up()
    page.keyboard.press("h")


def press_and_wait(page: Any, what: str, marked: str) -> None:
    """Press a button of an area with the keyboard, which stays on it; wait until so many marked areas are saved."""
    button = f"document.querySelector(\"[aria-label='{what}']\")"
    before = page.evaluate(f"{button}.ariaPressed")
    page.focus(f"[aria-label='{what}']")
    page.keyboard.press("Space")
    until(page, f"{button}.ariaPressed !== '{before}' && document.activeElement === {button}")
    until(page, f"document.querySelector('#corrected').textContent.startsWith('{marked} marked')")


def test_a_reviewed_area_goes_the_whole_way_from_the_page_to_the_fit(
    page: Any, writing: Shown, folder: Path, table: Any
) -> None:
    show(page, writing, "#slide=ihc&x=1550&y=1150&um=0.7")
    for number, corners in enumerate(((900, 800, 1500, 1200), (1200, 900, 1800, 1400), (400, 400, 700, 700)), 1):
        drag(page, *corners)
        until(page, f"document.querySelectorAll('#areas > li').length === {number}")
    press_and_wait(page, "Reviewed: Area 1", "1 area")
    press_and_wait(page, "Excluded: Area 2", "2 areas")
    press_and_wait(page, "Reviewed: Area 3", "3 areas")
    press_and_wait(page, "Reviewed: Area 3", "2 areas")  # … and taken back
    assert sorted(names(folder / "corrections.geojson")) == ["Area 1", "Area 2"]
    assert names(folder / "areas.geojson") == ["Area 3"]
    assert find_geojson_problems(folder / "corrections.geojson") == []
    show(page, writing, page.url.removeprefix(writing.address))
    until(page, "document.querySelectorAll('#areas > li').length === 3")
    pressed = "[...document.querySelectorAll('#areas [aria-pressed=true]')].map((one) => one.ariaLabel).join()"
    assert page.evaluate(pressed) == "Reviewed: Area 1,Excluded: Area 2"
    labels = [text.rpartition(" · ")[0] for text in page.locator(".overlay .area-name").all_text_contents()]
    assert labels == ["Area 3", "✓ Area 1 · reviewed", "⊘ Area 2 · excluded"]
    styles = [
        page.evaluate(f"(({{ stroke, strokeDasharray: dash }}) => stroke + dash)(getComputedStyle({one}))")
        for one in (
            f"document.querySelector('.overlay .area{kind}')" for kind in (":not(.halo)", ".reviewed", ".excluded")
        )
    ]
    assert len(set(styles)) == 3
    uses = [row["use"] for row in csv.DictReader(io.StringIO(saved(page, "#areas-csv").decode()))]
    assert uses == ["", "reviewed", "excluded"]
    # A cell in both areas, and one in the reviewed one alone, are marked as well; nothing of either is lost.
    inside = table.cx[900:1150, 820:1180]
    wrong = int(inside["id"].iloc[len(inside) // 2])
    assert ask(writing, "PUT", f"{IHC}/corrections", {"id": wrong, "verdict": "wrong"})[0] == 200
    found = imported(writing, folder)
    kept = {
        each["name"]: shapely.from_geojson(json.dumps(each["geometry"]))
        for each in writing.json(f"{IHC}/areas")["areas"]
    }
    assert found.keys() == {"reviewed", "excluded"}
    assert found["reviewed"].equals(kept["Area 1"])
    assert found["excluded"].equals(kept["Area 2"])
    assert kept["Area 1"].bounds == pytest.approx((900, 800, 1500, 1200), abs=4)
    ids = set(geopandas.read_parquet(folder / "cells.corrected.parquet")["id"])
    gone = shapely.contains_xy(kept["Area 2"], table["centroid_x"], table["centroid_y"])
    assert ids == set(table["id"][~gone]) - {wrong}
    (corrected,) = find_corrected([folder])
    labels_of_cells, known, reviewed = known_in(corrected, Box(0, 0, *corrected.grid))
    scale = np.divide(corrected.grid, (2300, 3100))[::-1]
    drawn = {
        name: rasterise([shapely.transform(shape, lambda at: at * scale)], corrected.grid) > 0
        for name, shape in kept.items()
    }
    np.testing.assert_array_equal(reviewed, drawn["Area 1"] & ~drawn["Area 2"])
    assert known[reviewed].all()
    assert not known[drawn["Area 3"]].any()
    assert len(np.unique(labels_of_cells[reviewed])) > 20


def test_a_name_that_is_refused_is_taken_back(browser: Any, writing: Shown, folder: Path) -> None:
    assert put(writing, area(SQUARE, "reviewed"))[0] == 200
    page = browser.new_page()
    show(page, writing, "#slide=ihc")
    until(page, "document.querySelectorAll('#areas > li').length === 1")
    page.fill("[aria-label='Name of the area']", "exclude")
    page.keyboard.press("Tab")
    until(page, "document.querySelector('#toast').textContent.includes('give it another')")
    assert page.input_value("[aria-label='Name of the area']") == "Hot"
    page.close()
    assert names(folder / "corrections.geojson") == ["Hot"]


def test_without_leave_marked_areas_are_told_and_not_changed(page: Any, writing: Shown, folder: Path) -> None:
    assert put(writing, area(SQUARE, "reviewed"))[0] == 200
    before = (folder / "corrections.geojson").read_bytes()
    with viewing(folder) as reading:
        status, message = ask(reading, "PUT", f"{IHC}/areas", {"state": "", "areas": [area(SQUARE, None)]})
        assert (status, "--write" in message) == (403, True)
        show(page, reading, "#slide=ihc")
        until(page, "document.querySelector('#areas > li')?.textContent.includes('✓ Reviewed')")
        assert page.locator("#areas [aria-pressed]").count() == 0
    assert (folder / "corrections.geojson").read_bytes() == before


def test_an_area_is_in_one_file_and_cells_stay_marked(writing: Shown, folder: Path) -> None:
    files = folder / "areas.geojson", folder / "corrections.geojson"
    assert ask(writing, "PUT", f"{IHC}/corrections", {"id": 7, "verdict": "right"})[0] == 200
    for use, where in ((None, 0), ("reviewed", 1), ("excluded", 1), (None, 0)):
        status, told = put(writing, area(SQUARE, use))
        assert status == 200, told
        assert [each["use"] for each in told["areas"]] == [use]
        assert [names(file).count("Hot") for file in files] == [where == 0, where == 1]
        said = writing.json(f"{IHC}/corrections")
        assert (list(said["cells"]), said["areas"]) == (["7"], where)
    assert put(writing, area(SQUARE, "reviewed"))[0] == 200
    _, told = ask(writing, "PUT", f"{IHC}/corrections", {"id": 7, "verdict": None})
    assert (told["cells"], told["areas"]) == ({}, 1)
    assert put(writing)[0] == 200
    assert not any(file.exists() for file in files)


def test_what_another_page_marked_meanwhile_is_not_lost(writing: Shown) -> None:
    _, first = put(writing, area(SQUARE, "reviewed"))
    assert put(writing, area(SQUARE, "excluded"))[0] == 200
    status, message = ask(writing, "PUT", f"{IHC}/areas", {"state": first["state"], "areas": []})
    assert status == 409
    assert "load the page again" in message
    assert [each["use"] for each in writing.json(f"{IHC}/areas")["areas"]] == ["excluded"]


def test_areas_reviewed_of_other_cells_say_nothing_of_these(writing: Shown, folder: Path) -> None:
    assert put(writing, area(SQUARE, "reviewed"), area(HOLE, None, "Plain"))[0] == 200
    path = folder / "corrections.geojson"
    text = path.read_text().replace('"run":"', '"run":"other')
    path.write_text(text)
    assert [each["name"] for each in writing.json(f"{IHC}/areas")["areas"]] == ["Plain"]
    status, message = put(writing, area(SQUARE, "reviewed"))
    assert (status, "corrections begin anew" in message) == (409, True)
    assert put(writing, area(HOLE, None, "Renamed"))[0] == 200
    assert path.read_text() == text


RING = [(1000 + 400 * math.cos(a), 1000 + 400 * math.sin(a)) for a in np.linspace(0, 6.28, 50_001).tolist()]


REFUSED = [
    (area(shapely.box(-90, -90, -10, -10), "reviewed"), "outside the slide"),
    (area(shapely.box(3101, 0, 3200, 90), "reviewed"), "outside the slide"),
    (area(shapely.Point(5, 5), "reviewed"), "an area is a polygon"),
    ({"name": "Hot", "geometry": polygon((0, 0), (50, 50), (90, 90)), "use": "reviewed"}, "is a line"),
    ({"name": "Hot", "geometry": polygon(*RING), "use": "reviewed"}, "50,002 corners, more than the 50,000"),
    ({"name": "Hot", "use": "reviewed"}, "area"),
    ("Hot", "an area has a name, a geometry and a use"),
    (area(SQUARE, "checked"), "reviewed, excluded or neither, not checked"),
    (area(SQUARE, "reviewed", "Ignore*"), "give it another"),
    (area(SQUARE, "excluded", "wrong"), "give it another"),
]


def test_what_cannot_be_reviewed_is_refused_in_words(writing: Shown, folder: Path) -> None:
    for sent, said in REFUSED:
        status, message = put(writing, sent)
        assert (status, said in message) == (400, True), message
    assert not (folder / "corrections.geojson").exists()


def test_an_area_that_crosses_itself_or_the_edge_is_kept_as_it_is_measured(writing: Shown, folder: Path) -> None:
    """Two triangles that touch; and the part of a square that lies on the slide."""
    bow = {"name": "Bow", "geometry": polygon((400, 400), (800, 800), (800, 400), (400, 800)), "use": "reviewed"}
    status, told = put(writing, bow, area(shapely.box(3000, 2000, 3300, 2500), "excluded"))
    assert status == 200, told
    found = imported(writing, folder)
    left, right = (shapely.Polygon([(x, 400), (x, 800), (600, 600)]) for x in (400, 800))
    assert found["reviewed"].equals(shapely.union(left, right))
    assert found["excluded"].equals(shapely.box(3000, 2000, 3100, 2300))
