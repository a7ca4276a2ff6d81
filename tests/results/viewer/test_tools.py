"""Measuring in the page, in a real browser: by mouse, and by keyboard alone; and what a screen reader is told."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

from tests.results.viewer.browsing import on_screen, saved, settled, show, until
from tests.results.viewer.serving import Shown, decoded

IHC = "api/slides/ihc"


def test_a_measurement_colours_and_filters(page: Any, shown: Shown, table: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show(page, shown, "#slide=ihc")
    page.click("summary >> text=Measurement")
    page.select_option("#measure", "area_um2")
    until(page, "document.querySelectorAll('#histogram rect').length === 64")
    assert page.is_checked("#paint")
    page.fill("[aria-label='From, number']", "20")
    page.fill("[aria-label='To, number']", "50")
    page.keyboard.press("Tab")
    kept = ((table["area_um2"] >= 20) & (table["area_um2"] <= 50)).sum()
    until(page, f"document.querySelector('#kept').textContent.startsWith('{kept:,} of {len(table):,} cells')")
    page.select_option("#outside", "hidden")
    settled(page)
    last = next(url for url in reversed(asked) if "/cells/" in url)
    assert "measure=area_um2&paint=1" in last
    assert "keep=20%2C50" in last
    assert "grey" not in last
    page.focus("[aria-label='From']")
    page.keyboard.press("ArrowRight")
    until(page, f"!document.querySelector('#kept').textContent.startsWith('{kept:,} of')")
    until(page, "!location.hash.includes('keep=20%2C50')")  # written with the redrawing, a moment later
    address, told = page.url, page.inner_text("#kept")
    show(page, shown, address.removeprefix(shown.address))
    assert page.inner_text("#kept") == told
    assert page.input_value("#outside") == "hidden"
    assert page.locator("#layers .ramp").first.is_visible()


def test_positivity_moves_with_its_threshold(page: Any, shown: Shown, table: Any) -> None:
    show(page, shown, "#slide=ihc")
    page.click("summary >> text=Positivity")
    share = 100 * (table["class"] == "Positive").mean()
    until(page, f"document.querySelector('#index').textContent === '{share:.1f} %'")
    assert page.locator("#reclassify").is_hidden()
    page.fill("[aria-label='Positive from, DAB OD, number']", "0.1")
    page.keyboard.press("Tab")
    share = 100 * (table["dab_od_mean"] > np.float32(0.1)).mean()
    until(page, f"document.querySelector('#index').textContent === '{share:.1f} %'")
    assert page.inner_text("#reclassify-text").endswith("--positive-dab 0.1")
    page.check("#three")
    until(page, "document.querySelector('#h-score').textContent.startsWith('H-score')")
    assert page.locator("#strengths li").count() == 4
    settled(page)
    assert "cuts=0.1%2C" in page.url
    page.click("#usual")
    until(page, "!location.hash.includes('cuts')")


def test_areas_are_drawn_measured_saved_and_in_the_address(page: Any, shown: Shown, table: Any) -> None:
    show(page, shown, "#slide=ihc&x=1550&y=1150&um=0.7")
    page.keyboard.press("b")
    page.mouse.move(*on_screen(page, 900, 800))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 1500, 1200), steps=5)
    page.mouse.up()
    until(page, "document.querySelectorAll('#areas > li').length === 1")
    page.click("[data-tool=freehand]")
    ring = [(1800 + 200 * np.cos(a), 1000 + 200 * np.sin(a)) for a in np.linspace(0, 6.2, 24)]
    page.mouse.move(*on_screen(page, *ring[0]))
    page.mouse.down()
    for corner in ring[1:]:
        page.mouse.move(*on_screen(page, *corner))
    page.mouse.up()
    until(page, "document.querySelectorAll('#areas > li').length === 2")
    square, circle = csv.DictReader(io.StringIO(saved(page, "#areas-csv").decode()))
    x, y = table["centroid_x"], table["centroid_y"]
    box = (x > 900) & (x < 1500) & (y > 800) & (y < 1200)
    assert abs(int(square["cells"]) - box.sum()) <= 3  # a pixel of the screen is 2.8 of the slide
    assert float(square["area_mm2"]) == pytest.approx(600 * 400 * 0.0625 / 1e6, rel=0.02)
    assert float(circle["area_mm2"]) == pytest.approx(np.pi * 200**2 * 0.0625 / 1e6, rel=0.05)
    assert int(circle["cells"]) == int(circle["cells_Negative"]) + int(circle["cells_Positive"])
    names = page.locator(".overlay .area-name").all_text_contents()
    assert names == [f"Area 1 · {square['cells']} cells", f"Area 2 · {circle['cells']} cells"]
    show(page, shown, page.url.removeprefix(shown.address))
    until(page, "document.querySelectorAll('#areas > li').length === 2")
    assert int(next(csv.DictReader(io.StringIO(saved(page, "#areas-csv").decode())))["cells"]) == int(square["cells"])
    show(page, shown, f"{page.url.removeprefix(shown.address)}&cuts=0.1,0.2,0.35")
    until(page, "document.querySelector('#areas').textContent.includes('H-score')")
    strong = next(csv.DictReader(io.StringIO(saved(page, "#areas-csv").decode())))
    weighed = sum(grade * int(strong[f"cells_{grade}+"]) for grade in (1, 2, 3))
    assert float(strong["h_score"]) == pytest.approx(100 * weighed / int(square["cells"]))
    assert f"H-score{round(float(strong['h_score']))}" in page.text_content("#areas > li")
    page.select_option("#take", "Tissue 1")
    until(page, "document.querySelectorAll('#areas > li').length === 3")
    page.click("[title='Delete Area 1']")
    until(page, "document.querySelectorAll('#areas > li').length === 2")


def test_the_ruler_is_right_and_the_picture_has_scale_and_legend(page: Any, shown: Shown) -> None:
    show(page, shown, "#slide=ihc&x=1550&y=1150&um=0.5&panel=0")
    page.keyboard.press("m")
    page.mouse.click(500, 400)
    page.mouse.click(700, 400)
    assert page.text_content(".overlay .ruler-length") == "100 µm"
    assert "ruler=" in page.url
    page.keyboard.press("h")
    picture = decoded(saved(page, "s"))[..., :3]
    assert picture.shape == (760, 1200, 3)
    line = picture[760 - 25, 28 : 28 + 120].sum(axis=1) < 200  # the bar, in its dark ink
    assert line.sum() * 0.5 == pytest.approx(float(page.inner_text("#length").removesuffix(" µm")), rel=0.03)
    orange, blue = (np.abs(picture[:100, 1000:].astype(int) - c).sum(axis=2) < 8 for c in ((213, 94, 0), (0, 114, 178)))
    assert min(orange.sum(), blue.sum()) >= 100  # the squares of the legend
    ink = np.abs(picture[395:406, 510:690].astype(int) - (22, 32, 44)).sum(axis=2) < 60
    assert ink.any(axis=0).mean() > 0.8  # the ruler


def test_two_slides_move_together_as_they_were_aligned(page: Any, shown: Shown) -> None:
    other = next(card["name"] for card in shown.json("api/slides") if card["name"] != "ihc")
    show(page, shown, "#slide=ihc&x=1000&y=800&um=0.5")
    page.click("summary >> text=Side by side")
    page.select_option("#with", other)
    until(page, "!!(window.secondViewer && secondViewer.isOpen() && secondViewer.world.getItemCount() === 2)")
    # Turned by 90° and half as large: (1000, 800) lies at (300, 200), (1400, 800) at (300, 400).
    move = "(v, x, y, w) => v.viewport.panTo(new OpenSeadragon.Point(x / w, y / w), true)"
    for first, second in (((1000, 800), (300, 200)), ((1400, 800), (300, 400))):
        if first[0] == 1000:
            page.click("#align")
        page.evaluate(f"({move})(viewer, {first[0]}, {first[1]}, 3100)")
        page.evaluate(f"({move})(secondViewer, {second[0]}, {second[1]}, 700)")
        page.click("#align")
    page.evaluate(f"({move})(viewer, 1200, 1000, 3100)")
    page.wait_for_timeout(800)
    x, y = page.evaluate("(() => { const c = secondViewer.viewport.getCenter(); return [c.x * 700, c.y * 700]; })()")
    assert (x, y) == (pytest.approx(200, abs=2), pytest.approx(300, abs=2))
    assert page.evaluate("secondViewer.viewport.getRotation()") % 360 == pytest.approx(270)
    # The same tissue is as large on the screen: half as many px, each shown twice as large.
    size = "(v, w) => v.viewport.getZoom() * v.viewport.getContainerSize().x / w"
    ratio = page.evaluate(f"({size})(secondViewer, 700)") / page.evaluate(f"({size})(viewer, 3100)")
    assert ratio == pytest.approx(2, rel=0.01)
    page.click("#second .openseadragon-canvas")
    turned = "[secondViewer.viewport.getFlip(), secondViewer.viewport.getRotation() % 360]"
    before = page.evaluate(turned)
    for key in "fr":
        page.keyboard.press(key)
    page.wait_for_timeout(800)
    assert page.evaluate(turned) == before
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(1200)
    assert page.evaluate("viewer.viewport.getCenter().x * 3100") > 1210
    assert page.url.count("align=") == 1


def test_all_of_it_by_keyboard_alone(page: Any, writing: Shown, folder: Path, table: Any) -> None:
    """Walk, mark, measure and draw with no mouse; each step is told to a screen reader; the files are there."""
    show(page, writing, "#slide=ihc&x=1550&y=1150&um=0.5")
    live = "document.querySelector('#live').textContent"
    doubtful = table.sort_values("score", kind="stable")["id"].tolist()
    page.focus("#stage")
    for place, number in enumerate(doubtful[:2], 1):
        page.keyboard.press("j")
        until(page, f"{live}.includes(' {number:,}, Score') && {live}.includes('{place} of {len(table):,}')")
    page.keyboard.press("x")
    until(page, f"{live}.includes('marked wrong')")
    page.keyboard.press("k")
    until(page, f"{live}.includes(' {doubtful[0]:,}, Score')")
    page.keyboard.press("y")
    until(page, f"{live}.includes('marked right')")
    page.keyboard.press("c")
    assert page.evaluate("document.activeElement.id") == "other-class"
    page.focus("#stage")
    features = json.loads((folder / "corrections.geojson").read_text())["features"]
    assert {(f["properties"]["measurements"]["Cell ID"], f["properties"]["name"]) for f in features} == {
        (doubtful[1], "wrong"),
        (doubtful[0], "right"),
    }
    page.keyboard.press("g")
    until(page, "document.querySelectorAll('#crops button').length === 24")
    page.focus("#crops button:nth-child(3)")
    page.keyboard.press("Enter")
    until(page, f"{live}.includes(' {doubtful[2]:,}, Score')")
    assert page.get_attribute("#crops button:nth-child(3)", "aria-current") == "true"
    page.keyboard.press("g")
    assert page.locator("#gallery").is_hidden()
    page.focus("#stage")
    page.keyboard.press("o")
    for key in ("Enter", "ArrowRight", "ArrowRight", "Enter", "ArrowDown", "ArrowDown", "Enter", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(700)
    until(page, "document.querySelectorAll('#areas > li').length === 1")
    until(page, f"{live}.includes('cells')")
    end = time.monotonic() + 60
    while not (folder / "areas.geojson").exists():
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    area = geopandas.read_file(folder / "areas.geojson").geometry[0]
    assert isinstance(area, shapely.Polygon)
    assert area.area > 1000
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")  # the cell in the middle, or that there is none
    page.keyboard.press("[")
    assert page.locator("#panel").is_hidden()
    page.keyboard.press("[")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False)])
def test_no_serious_fault_of_accessibility(browser: Any, writing: Shown, width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": width, "height": 760}, color_scheme="dark" if dark else "light")
    square = "areas=Hot;500,500,900,500,900,900,500,900,500,500"
    show(page, writing, f"#slide=ihc&measure=area_um2&paint=1&cuts=0.1,0.2,0.3&cell=7&gallery=0&{square}")
    until(page, "document.querySelectorAll('#crops button').length === 24 && !document.querySelector('#cell').hidden")
    page.evaluate("for (const one of document.querySelectorAll('#panel > details')) one.open = true")
    page.click("[aria-label='Reviewed: Hot']")
    until(page, "document.querySelector('#corrected').textContent.startsWith('1 area')")
    page.evaluate("document.querySelector('#toast').hidden = true")
    found = axe.run(page).response["violations"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#help")
    found += axe.run(page).response["violations"]
    page.close()
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], [node["target"] for node in fault["nodes"]][:4]) for fault in serious] == []
