"""The table of many slides: numbers as in ``run.json``, failures named, names of files taken as text."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

import html5lib
import pytest

from tests.records import run_facts
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.results.cohort_table import failed_before, has_cohort, write_cohort
from wsiproc.synthetic import write_synthetic_slide


class Page(HTMLParser):
    """Text, links and balance of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        text = path.read_text(encoding="utf-8")
        html5lib.HTMLParser(strict=True).parse(text)
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Of any element."""
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        """Of the element opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        self.text.append(data)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "cohort.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def finished(out: Path, name: str, classes: dict[str, int], area: float = 2.0) -> None:
    """A folder as a run leaves it, as far as a table looks at it."""
    run = run_facts(
        slide={"name": name, "path": f"/slides/{name}.svs"},
        classes={kind: [10 * i, 20, 30] for i, kind in enumerate(classes)},
        counts={"cells": sum(classes.values()), "classes": classes, "in_tissue": classes},
        tissue_mm2=area,
        model={"name": "default", "calibration": {"stain": "H-DAB"}},
        seconds={"total": 12.5},
        warnings=["look"],
    )
    (out / name).mkdir(parents=True)
    (out / name / "run.json").write_text(json.dumps(run))


def test_slides_of_different_classes_stand_in_one_table(tmp_path: Path) -> None:
    finished(tmp_path, "b", {"Negative": 30, "Positive": 10})
    finished(tmp_path, "A", {"Nucleus": 7}, area=0.0)
    write_cohort(tmp_path, {"/slides/broken.svs": "/slides/broken.svs: the file is empty"})
    first, second, third = rows(tmp_path)
    assert (first["slide"], first["cells"], first["cells_Nucleus"], first["cells_Positive"]) == ("A", "7", "7", "")
    assert (first["cells_per_mm2"], first["positive_index"]) == ("", "")
    assert (second["slide"], second["cells_per_mm2"], second["positive_index"]) == ("b", "20.0", "0.25")
    assert (third["slide"], third["status"], third["cells"]) == ("broken.svs", "failed", "")
    assert third["reason"] == "/slides/broken.svs: the file is empty"
    page = Page(tmp_path / "cohort.html")
    assert "25.0 %" in page.text
    viewer = "http://127.0.0.1:8421/#slide="
    assert page.links == ["A/report.html", f"{viewer}A", "b/report.html", f"{viewer}b"]


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    finished(tmp_path, "a <script>&' 🔬", {"<b>": 1})
    write_cohort(tmp_path, {"/x/<img src=x>.svs": "<i>why</i>"})
    page = Page(tmp_path / "cohort.html")
    assert {"a <script>&' 🔬", "<img src=x>.svs", ": <i>why</i>", "<b>"} <= set(page.text)
    assert rows(tmp_path)[0]["slide"] == "a <script>&' 🔬"


def test_what_is_no_finished_slide_is_passed_over(tmp_path: Path) -> None:
    finished(tmp_path, "good", {"Nucleus": 1})
    for name, content in (("half", '{"slide"'), ("other", "[1]"), ("foreign", '{"name": "x"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    write_cohort(tmp_path, {})
    assert [row["slide"] for row in rows(tmp_path)] == ["good"]


def test_what_failed_stays_until_it_is_done(tmp_path: Path) -> None:
    finished(tmp_path, "a", {"Nucleus": 1})
    write_cohort(tmp_path, {"/slides/b.svs": "broken", "/slides/c.svs": "broken too"})
    assert has_cohort(tmp_path)
    finished(tmp_path, "b", {"Nucleus": 2})
    write_cohort(tmp_path, failed_before(tmp_path))
    assert [(row["slide"], row["status"]) for row in rows(tmp_path)] == [
        ("a", "done"),
        ("b", "done"),
        ("c.svs", "failed"),
    ]


def test_one_slide_is_one_slide(tmp_path: Path) -> None:
    finished(tmp_path, "a", {"Nucleus": 1})
    write_cohort(tmp_path, {})
    page = Page(tmp_path / "cohort.html")
    assert "1 slide" in page.text
    assert "Over the slides" not in page.text


def test_slides_are_plotted_from_the_lowest_to_the_highest(tmp_path: Path) -> None:
    for name, positive in (("a", 30), ("b", 10), ("c", 20)):
        finished(tmp_path, name, {"Negative": 70, "Positive": positive})
    write_cohort(tmp_path, {})
    page = Page(tmp_path / "cohort.html")
    plotted = [link for link in page.links if link.endswith("report.html")]
    assert plotted == [f"{name}/report.html" for name in "bcabcaabc"], "density, index, table"
    assert "b: 12.5 %" in page.text


def test_nothing_is_written_about_nothing(tmp_path: Path) -> None:
    write_cohort(tmp_path, {})
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small, a broken and a larger slide."""
    folder = tmp_path_factory.mktemp("slides")
    write_synthetic_slide(folder / "small.tif", (500, 500), mpp=0.5, seed=1, tissue_fraction=1.0)
    write_synthetic_slide(folder / "large.tif", (900, 900), mpp=0.5, seed=2, tissue_fraction=1.0)
    (folder / "broken.svs").write_bytes(b"")
    return [folder / name for name in ("small.tif", "broken.svs", "large.tif")]


def test_a_run_over_slides_takes_the_largest_first_and_keeps_a_table_of_all(slides: list[Path], tmp_path: Path) -> None:
    settings = Settings(model="classical", executor="loop", region=512, tissue="all")
    outcomes = list(run_slides(slides, tmp_path, settings))
    assert [outcome.path.name for outcome in outcomes] == ["large.tif", "small.tif", "broken.svs"]
    runs = {outcome.path.stem: outcome.run for outcome in outcomes}
    assert [row["slide"] for row in rows(tmp_path)] == ["large", "small", "broken.svs"]
    for row in rows(tmp_path)[:2]:
        run = runs[row["slide"]]
        assert run is not None
        assert int(row["cells"]) == run["counts"]["cells"] > 50
    assert "empty (0 bytes)" in rows(tmp_path)[2]["reason"]
