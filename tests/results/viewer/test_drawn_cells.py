"""Cells that the model missed and outlines that are wrong, drawn in the page: kept, shown, and taken by the import."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.results.viewer.browsing import on_screen, show, until
from tests.results.viewer.serving import Shown, ask, viewing
from wsiproc.errors import SettingsError
from wsiproc.io.geojson.write import find_geojson_problems
from wsiproc.results.viewer.analysis import parse_outline
from wsiproc.results.viewer.shown import ShownSlide

IHC = "api/slides/ihc"
CORRECTIONS = f"{IHC}/corrections"
UM2 = 0.25**2  # of a px of the slide
RADIUS = 20.0  # px, of a nucleus of 79 µm²
Points = list[tuple[float, float]]


def circle(at: Any, radius: float = RADIUS, corners: int = 40) -> Points:
    """Around a point, as a hand draws: not closed."""
    x, y = at
    angles = [2 * math.pi * step / corners for step in range(corners)]
    return [(round(float(x + radius * math.cos(a)), 1), round(float(y + radius * math.sin(a)), 1)) for a in angles]


def ring(points: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


def um2(radius: float) -> Any:
    """The area of a circle as it is measured on the pixels of the maps, 2 px of the slide each."""
    return pytest.approx(math.pi * radius**2 * UM2, rel=0.06)


def empty_places(table: Any, count: int) -> Points:
    """Places far from all cells and from one another."""
    cells = shapely.STRtree(table.geometry.to_numpy())
    places = [(float(x), float(y)) for y in range(300, 2000, 70) for x in range(300, 2800, 70)]
    free = [at for at in places if not len(cells.query(shapely.Point(at).buffer(RADIUS + 15)))]
    return free[:: max(1, len(free) // count)][:count]


def draw(shown: Shown, key: Any, points: Any) -> tuple[int, Any]:
    return ask(shown, "PUT", CORRECTIONS, {"id": key, "verdict": "outline", "geometry": ring(points)})


def drawn(shown: Shown, key: int | str | None, points: Points) -> Any:
    """Which cell has the outline."""
    status, told = draw(shown, key, points)
    assert status == 200, told
    return told["drawn"]


def said(shown: Shown, key: int | str, verdict: str | None, kind: str | None = None) -> tuple[int, Any]:
    return ask(shown, "PUT", CORRECTIONS, {"id": key, "verdict": verdict, "class": kind})


def imported(folder: Path, command: str) -> Any:
    """The corrected table by id, after the command that the page shows."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return geopandas.read_parquet(folder / "cells.corrected.parquet").set_index("id")


def test_drawn_cells_go_the_whole_way_to_the_table(writing: Shown, folder: Path, table: Any) -> None:
    places = empty_places(table, 4)
    keys = [drawn(writing, None, circle(place)) for place in places]
    assert [uuid.UUID(key).version for key in keys] == [4] * 4  # as of what is drawn in QuPath, and of no program
    assert said(writing, keys[1], "class", "Positive")[0] == 200
    assert drawn(writing, keys[2], circle(places[2], 28)) == keys[2]
    assert said(writing, keys[3], None)[0] == 200
    by_id = table.set_index("id")
    centres: Any = by_id[["centroid_x", "centroid_y"]]
    positive = int(by_id.index[by_id["class"] == "Positive"][3])
    other, wrong = by_id.index[by_id["class"] == "Negative"][[50, 90]].tolist()
    assert drawn(writing, positive, circle(centres.loc[positive], 24)) == positive
    assert said(writing, other, "class", "Positive")[0] == 200
    assert drawn(writing, other, circle(centres.loc[other], 22)) == other
    # What is drawn where a wrong cell was is not that cell.
    assert said(writing, wrong, "wrong")[0] == 200
    status, told = draw(writing, None, circle(centres.loc[wrong], 18))
    assert (status, len(told["cells"]), told["areas"]) == (200, 7, 0)
    assert find_geojson_problems(folder / "corrections.geojson") == []

    corrected = imported(folder, told["command"])
    new = corrected[corrected["corrected"] == "new"]
    wanted = [(places[0], RADIUS), (places[1], RADIUS), (places[2], 28), (centres.loc[wrong], 18)]
    assert len(new) == len(wanted)
    for place, (centre, radius) in enumerate(wanted):
        ((_, row),) = new[shapely.contains_xy(new.geometry, *centre)].iterrows()
        assert row["class"] == ("Positive" if place == 1 else "Negative")
        assert row["area_um2"] == um2(radius)
        assert (row["centroid_x"], row["centroid_y"]) == pytest.approx(tuple(centre), abs=1.5)
    changed = corrected[corrected["corrected"] == "outline"].sort_index()
    assert changed["class"].to_dict() == {positive: "Positive", other: "Positive"}  # its own, and the one that was said
    assert changed["area_um2"].to_dict() == {positive: um2(24), other: um2(22)}
    assert set(corrected.index) == (set(by_id.index) - {wrong}) | set(new.index)
    same = corrected[corrected["corrected"] == "unchanged"]
    assert same.geometry.geom_equals(by_id.loc[same.index].geometry).all()


def test_a_cell_has_one_verdict(writing: Shown, folder: Path, table: Any) -> None:
    row = table.iloc[100]
    number, at = int(row["id"]), (row["centroid_x"], row["centroid_y"])

    def verdicts() -> list[tuple[str, str | None]]:
        return [(cell["verdict"], cell["class"]) for cell in writing.json(CORRECTIONS)["cells"].values()]

    for verdict, kind, told in (
        ("right", None, ("right", None)),
        ("outline", None, ("outline", row["class"])),
        ("class", "Mitosis", ("outline", "Mitosis")),  # its outline stays
        ("outline", None, ("outline", "Mitosis")),
        ("wrong", None, ("wrong", None)),
        ("outline", None, ("outline", row["class"])),
        ("right", None, ("right", None)),
    ):
        status, answer = (
            draw(writing, number, circle(at)) if verdict == "outline" else said(writing, number, verdict, kind)
        )
        assert status == 200, answer
        assert verdicts() == [told]
    assert drawn(writing, number, circle(at, 24)) == number
    assert said(writing, number, None)[1]["cells"] == {}
    assert not (folder / "corrections.geojson").exists()
    # An outline that lies elsewhere, or only touches the chosen cell, is of another one.
    elsewhere = drawn(writing, number, circle((at[0] + 300, at[1])))
    x1 = row.geometry.bounds[2]
    beside = drawn(writing, number, circle((x1 + RADIUS - 3, at[1])))
    assert len({str(number), elsewhere, beside}) == 3
    assert verdicts() == [("new", "Negative")] * 2
    # Areas are kept with drawn cells, and apart from them.
    area = {"name": "Hot", "geometry": ring(circle(at, 400)), "use": "reviewed"}
    for areas in ([area], []):
        state = writing.json(f"{IHC}/areas")["state"]
        status, kept = ask(writing, "PUT", f"{IHC}/areas", {"state": state, "areas": areas})
        assert (status, len(kept["areas"])) == (200, len(areas))
        told_now = writing.json(CORRECTIONS)
        assert (set(told_now["cells"]), told_now["areas"]) == ({elsewhere, beside}, len(areas))


REFUSED = [
    (circle((1000, 1000), 2), "the outline holds 0.7 µm², and a nucleus 2 to 2000"),
    (circle((1000, 1000), 120), "and a nucleus 2 to 2000"),
    ([(1000, 1000), (1040, 1040), (1040, 1000), (1000, 1040)], "crosses itself"),
    ([(1000, 1000), (1050, 1000), (1090, 1000)], "is a line"),
    (circle((3200, 1000)), "outside the slide"),
    (circle((-40, 1000)), "outside the slide"),
    ([(1000, 1000)], "outline"),
    ([("a", 1), ("b", 2), ("c", 3)], "outline"),
]


def test_what_is_no_outline_of_a_nucleus_is_refused_in_words(writing: Shown, folder: Path) -> None:
    for points, words in REFUSED:
        status, message = draw(writing, None, points)
        assert (status, words in message) == (400, True), message
    for key in (10**9, str(uuid.uuid4()), "7", 7.5, [7], True):
        status, message = draw(writing, key, circle((1000, 1000)))
        assert (status, "there is no cell" in message) == (400, True), message
    assert not (folder / "corrections.geojson").exists()
    new = drawn(writing, None, circle((1000, 1000)))
    for verdict in ("right", "wrong"):
        assert said(writing, new, verdict)[0] == 400
    assert said(writing, new, "class", " ")[0] == 400
    path = folder / "corrections.geojson"
    text = path.read_text().replace('"run":"', '"run":"other')
    path.write_text(text)
    status, message = draw(writing, None, circle((1200, 1000)))
    assert (status, "corrections begin anew" in message) == (409, True)
    assert path.read_text() == text


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(-20, 3120), st.integers(-20, 2320)),
    st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), min_size=3, max_size=30),
)
def test_any_line_that_a_hand_draws_is_one_polygon_or_refused(results: Path, at: tuple[int, int], line: Points) -> None:
    try:
        outline = parse_outline(ring([(at[0] + x, at[1] + y) for x, y in line]), ShownSlide(results / "ihc", "ihc"))
    except SettingsError:
        return
    assert outline.is_valid
    assert len(outline.interiors) == 0
    assert 2 <= outline.area * UM2 <= 2000
    assert shapely.box(0, 0, 3100, 2300).covers(outline)


def test_a_line_drawn_over_its_beginning_keeps_the_whole_nucleus(results: Path) -> None:
    """One and a half times around, and a little tail."""
    shown, once = ShownSlide(results / "ihc", "ihc"), circle((1000, 1000))
    again = [(x + 1.5, y + 1) for x, y in once[:20]]
    for line in ([*once, *again], [*once, (1020, 1004), (1024, 1009), (1023, 1010)]):
        outline = parse_outline(ring(line), shown)
        assert outline.area == pytest.approx(math.pi * RADIUS**2, rel=0.06)


# --- in the page ---


def drag(page: Any, points: Points) -> None:
    """Around a nucleus with the mouse."""
    page.mouse.move(*on_screen(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*on_screen(page, *point))
    page.mouse.up()


def outlines(page: Any) -> int:
    return int(page.locator(".overlay .drawn:not(.halo)").count())


def test_an_area_is_finished_in_the_page(page: Any, writing: Shown, folder: Path, table: Any) -> None:
    """Two missing nuclei and one with a wrong outline; one is deleted; the command that is shown brings the others."""
    x, y = min(empty_places(table, 20), key=lambda at: math.dist(at, (1550, 1150)))
    left = table[table["centroid_x"] < x]  # of the place, where nothing lies over the slide
    near = left.iloc[left.geometry.distance(shapely.Point(x, y)).argmin()]
    centre = (near["centroid_x"], near["centroid_y"])
    told = "document.querySelector('#corrected').textContent"
    show(page, writing, f"#slide=ihc&x={x}&y={y}&um=0.15")
    page.keyboard.press("d")
    assert page.get_attribute("[aria-label='Cell: outline']", "aria-pressed") == "true"
    drag(page, circle((x, y)))
    until(page, f"{told}.startsWith('1 cell marked')")
    assert page.locator("#cell").is_hidden()
    # Given up, and too small: neither is kept, and the tool stays.
    page.mouse.move(*on_screen(page, x + 90, y))
    page.mouse.down()
    page.mouse.move(*on_screen(page, x + 120, y), steps=4)
    page.keyboard.press("Escape")
    page.mouse.move(*on_screen(page, x + 120, y + 30), steps=4)
    page.mouse.up()
    assert page.locator(".overlay .draft").count() == 0
    # A click chooses the cell that the next outline is for.
    page.mouse.click(*on_screen(page, *centre))
    until(page, f"document.querySelector('#cell h2')?.textContent.includes(' {near['id']:,}')")
    drag(page, circle(centre, 26))
    until(page, f"{told}.startsWith('2 cells marked')")
    until(page, "document.querySelector('#cell').textContent.includes('Take back the outline')")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.locator("#cell").is_hidden()
    before = page.evaluate("viewer.viewport.getCenter(true).x")
    page.keyboard.press("d")
    page.wait_for_timeout(300)
    assert page.evaluate("viewer.viewport.getCenter(true).x") == before  # no key of the viewer's own moves it
    drag(page, circle((x + 5, y - 4), 24))  # over the first one, but none is chosen
    until(page, f"{told}.startsWith('3 cells marked')")
    assert outlines(page) == 3

    show(page, writing, page.url.removeprefix(writing.address))
    until(page, "document.querySelectorAll('.overlay .drawn:not(.halo)').length === 3")
    page.mouse.click(*on_screen(page, x, y))
    until(page, "document.querySelector('#cell h2')?.textContent === 'New cell (Negative)'")
    assert "cell=" in page.url
    page.click("#cell button >> text=Delete")
    until(page, f"{told}.startsWith('2 cells marked')")
    assert (outlines(page), page.locator("#cell").is_hidden()) == (2, True)
    page.mouse.click(*on_screen(page, x, y))
    until(page, "document.querySelector('#cell h2')?.textContent === 'New cell (Negative)'")
    page.select_option("#other-class", "Positive")
    until(page, "document.querySelector('#cell h2')?.textContent === 'New cell (Positive)'")

    corrected = imported(folder, page.text_content("#import-text"))
    (new,) = corrected[corrected["corrected"] == "new"].to_dict("records")
    (other,) = corrected[corrected["corrected"] == "outline"].reset_index().to_dict("records")
    assert (new["class"], new["area_um2"]) == ("Positive", um2(RADIUS))
    assert (other["id"], other["class"], other["area_um2"]) == (near["id"], near["class"], um2(26))
    assert len(corrected) == len(table) + 1


def test_without_leave_drawn_cells_are_shown_and_not_changed(page: Any, writing: Shown, folder: Path) -> None:
    new = drawn(writing, None, circle((1000, 1000)))
    before = (folder / "corrections.geojson").read_bytes()
    with viewing(folder) as reading:
        status, message = draw(reading, None, circle((1200, 1000)))
        assert (status, "--write" in message) == (403, True)
        show(page, reading, f"#slide=ihc&x=1000&y=1000&um=0.25&cell={new}")
        until(page, "document.querySelector('#cell h2')?.textContent === 'New cell (Negative)'")
        assert outlines(page) == 1
        assert page.locator("[data-tool=outline], #cell .verdicts").count() == 0
        page.keyboard.press("d")
        assert page.get_attribute("#stage", "data-tool") == "hand"
        page.keyboard.press("j")  # from a cell that was not found to those that were
        until(page, "/^(Negative|Positive) /.test(document.querySelector('#cell h2')?.textContent)")
        page.goto("about:blank")
    assert (folder / "corrections.geojson").read_bytes() == before
    assert json.loads(before)["features"][0]["id"] == new
