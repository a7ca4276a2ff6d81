"""The page in a real browser, Debian's chromium, headless: what it shows is told by its state and its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import pytest

from tests.results.viewer.browsing import layers, on_screen, settled, show, until
from tests.results.viewer.serving import Shown


def test_it_opens_with_the_cells_over_the_slide(page: Any, shown: Shown) -> None:
    show(page, shown)
    assert layers(page) == 2
    assert page.inner_text("#name") == page.get_attribute("#cards button >> nth=0", "title")
    counts = [int(text.replace(",", "")) for text in page.locator("#classes span").all_inner_texts()]
    assert sum(counts) == shown.json("api/slides")[0]["cells"]
    drawn = "[...document.querySelectorAll('#stage canvas')].map((c) => c.width * c.height).sort((a, b) => b - a)[0]"
    assert page.evaluate(drawn) > 500_000


def test_layers_classes_and_fill_switch(page: Any, shown: Shown) -> None:
    show(page, shown, "#slide=ihc")
    for key in ("2", "3", "5"):
        page.keyboard.press(key)
        settled(page)
    assert layers(page) == 5
    assert page.locator("#ramp").is_visible()
    assert "cells/mm²" in page.inner_text("#deepest")
    page.keyboard.press("1")
    settled(page)
    assert layers(page) == 4
    page.keyboard.press("1")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.locator("#classes input").first.click()
    page.keyboard.press("f")
    settled(page)
    assert any("hide=0&filled=1" in url for url in requests)
    page.keyboard.press("4")
    assert page.locator(".overlay .region").count() == 1
    assert "regions" in page.url


def test_it_pans_and_zooms_and_the_address_keeps_the_view(page: Any, shown: Shown, browser: Any) -> None:
    show(page, shown, "#slide=ihc")
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -600)
    settled(page)
    zoomed = page.evaluate("viewer.viewport.getZoom(true)")
    assert zoomed > 1.15 * page.evaluate("viewer.viewport.getHomeZoom()")
    page.mouse.down()
    page.mouse.move(500, 300, steps=8)
    page.mouse.up()
    settled(page)
    page.click("#tools >> text=20×")
    settled(page)
    until(page, "location.hash.includes('um=0.5')")
    assert page.get_attribute("#tools >> text=20×", "aria-pressed") == "true"
    bounds = page.evaluate("Object.values(viewer.viewport.getBounds(true))")
    other = browser.new_page(viewport={"width": 1200, "height": 760})
    other.goto(page.url)
    settled(other)
    again = other.evaluate("Object.values(viewer.viewport.getBounds(true))")
    other.close()
    assert again == pytest.approx(bounds, abs=2e-3)


def test_keys_do_only_what_the_page_says(page: Any, shown: Shown) -> None:
    """After a click on the slide, the image viewer would flip, turn and move it."""
    show(page, shown, "#slide=ihc&x=1000&y=800&um=0.5")
    page.mouse.click(700, 400)
    turned = "viewer.viewport.getFlip(), viewer.viewport.getRotation()"
    view = f"[{turned}, ...Object.values(viewer.viewport.getBounds(true))]"
    before = page.evaluate(view)
    for key in "fdrawR":
        page.keyboard.press(key)
    settled(page)
    assert page.evaluate(view) == pytest.approx(before)
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.evaluate(view)[2] > before[2]


def test_the_scale_bar_is_as_long_as_it_says(page: Any, shown: Shown) -> None:
    show(page, shown, "#slide=ihc&x=1500&y=1100&um=0.25")
    text = page.inner_text("#length")
    px = page.evaluate("document.querySelector('#scale i').getBoundingClientRect().width")
    assert float(text.removesuffix(" µm")) == pytest.approx(px * 0.25, rel=0.02)


def test_a_cell_is_picked_and_described(page: Any, shown: Shown, results: Path) -> None:
    table = geopandas.read_parquet(results / "ihc/cells.parquet")
    row = table.iloc[len(table) // 2]
    point = row["geometry"].representative_point()
    show(page, shown, f"#slide=ihc&x={point.x:.0f}&y={point.y:.0f}&um=0.1")
    middle = on_screen(page, point.x, point.y)
    page.mouse.move(*middle)
    until(page, "document.querySelectorAll('.overlay .hover').length === 1")
    page.mouse.click(*middle)
    until(page, "!document.querySelector('#cell').hidden")
    card = page.inner_text("#cell")
    assert f"{row['class']} {row['id']:,}" in card
    assert f"{float(f'{row.area_um2:.3g}'):g}" in card
    assert f"cell={row['id']}" in page.url
    page.keyboard.press("Escape")
    assert page.locator("#cell").is_hidden()


def test_slides_are_changed_by_click_and_key(page: Any, shown: Shown) -> None:
    show(page, shown)
    first = page.inner_text("#name")
    page.keyboard.press("n")
    until(page, f"document.querySelector('#name').textContent !== {first!r}")
    settled(page)
    page.locator("#cards button").first.click()
    until(page, f"document.querySelector('#name').textContent === {first!r}")
    settled(page)
    assert layers(page) == 2


def test_dark_and_narrow(browser: Any, shown: Shown) -> None:
    dark = browser.new_page(viewport={"width": 420, "height": 800}, color_scheme="dark")
    dark.goto(shown.address)
    settled(dark)
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 27)"
    assert dark.evaluate("document.documentElement.scrollWidth") <= 420
    dark.close()


def test_a_server_that_is_gone_is_told(browser: Any, shown: Shown) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 760})
    show(page, shown, "#slide=ihc&um=0.2&x=1500&y=1100")
    page.route("**/cell?**", lambda route: route.abort())
    page.mouse.click(700, 380)
    until(page, "!document.querySelector('#lost').hidden")
    assert "Is wsiproc view still running?" in page.inner_text("#lost")
    page.close()
