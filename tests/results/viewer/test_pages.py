"""Report and cohort in a real browser: sorted, narrow, and leading into the viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.results.viewer.browsing import settled
from tests.results.viewer.serving import Shown

ODD = "50 % {odd} & _b_"  # the folder of the slide whose name is nowhere plain

COLUMN = "[...document.querySelectorAll('tbody tr')].map((row) => row.cells[{}].dataset.value)"


def test_a_click_on_a_head_sorts_the_cohort(page: Any, results: Path) -> None:
    page.goto((results / "cohort.html").as_uri())
    heads = page.eval_on_selector_all("thead th", "heads => heads.map((head) => head.innerText.trim())")
    cells = heads.index("Cells")
    numbers = [int(value) for value in page.evaluate(COLUMN.format(cells))]
    assert len(set(numbers)) == 2
    page.get_by_role("button", name="Cells", exact=True).click()
    assert [int(value) for value in page.evaluate(COLUMN.format(cells))] == sorted(numbers)
    page.get_by_role("button", name="Cells", exact=True).click()
    assert [int(value) for value in page.evaluate(COLUMN.format(cells))] == sorted(numbers, reverse=True)
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("Cells")
    # The slide without an index comes last, either way.
    index = heads.index("Positive index")
    for _ in range(2):
        page.get_by_role("button", name="Positive index").click()
        assert page.evaluate(COLUMN.format(index))[-1] == ""


def test_the_cohort_shows_each_slide_and_leads_to_its_report_and_back(page: Any, results: Path) -> None:
    page.goto((results / "cohort.html").as_uri())
    widths = page.eval_on_selector_all("tbody img", "images => images.map((image) => image.naturalWidth)")
    assert len(widths) == 2
    assert all(48 < width <= 96 for width in widths)
    page.get_by_role("link", name=ODD, exact=True).click()
    assert page.locator("h1").inner_text() == ODD
    page.get_by_role("link", name="All slides").click()
    assert page.locator("h1").inner_text() == "2 slides"


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("path", ["cohort.html", "ihc/report.html", f"{ODD}/report.html"])
def test_pages_fit_and_can_be_read_by_all(page: Any, results: Path, path: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((results / path).as_uri())
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    found = [rule for rule in axe.run(page).response["violations"] if rule["impact"] in ("serious", "critical")]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_histograms_stand_two_a_row_on_a_phone(page: Any, results: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto((results / "ihc/report.html").as_uri())
    places = page.eval_on_selector_all(
        ".histograms figure", "all => all.map((one) => { const r = one.getBoundingClientRect(); return [r.x, r.y]; })"
    )
    assert len(places) > 6
    (x0, y0), (x1, y1), (x2, y2) = places[:3]
    assert y0 == y1 < y2
    assert x0 == x2 < x1
    sizes = page.eval_on_selector_all(
        ".histograms text:not(.odd)", "all => all.map((one) => one.getBoundingClientRect().height)"
    )
    assert min(size for size in sizes if size) > 8, "px on the screen"


def test_a_small_slide_is_shown_large(page: Any, results: Path) -> None:
    page.goto((results / ODD / "report.html").as_uri())
    box = page.locator(".slide svg").first.bounding_box()
    assert max(box["width"], box["height"]) > 400


def test_a_sample_opens_at_its_place_in_the_viewer(page: Any, results: Path, shown: Shown) -> None:
    page.goto((results / "ihc/report.html").as_uri())
    link = page.locator(".crops figcaption a").first.get_attribute("href")
    page.goto(f"{shown.address}#{urlsplit(link).fragment}")
    settled(page)
    wanted = dict(part.split("=") for part in urlsplit(link).fragment.split("&"))
    now = dict(part.split("=") for part in page.evaluate("location.hash.slice(1)").split("&"))
    assert now["slide"] == wanted["slide"] == "ihc"
    assert abs(int(now["x"]) - int(wanted["x"])) <= 2
    assert abs(int(now["y"]) - int(wanted["y"])) <= 2
    assert float(now["um"]) == pytest.approx(float(wanted["um"]), rel=0.05)
