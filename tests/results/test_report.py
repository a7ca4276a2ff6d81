"""The report: one well-formed page, safe against any name, complete, small, and right in its sums."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import html5lib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.records import run_facts
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.palette import class_colour
from wsiproc.results.record import RunRecord
from wsiproc.results.report.cells import Histogram, ReportCells
from wsiproc.results.report.figures import density_pixels, nice_step, number, ticks
from wsiproc.results.report.page import Crop, measurement_title, write_report

VIEWER = "http://127.0.0.1:8421/"
HOSTILE = "<script>alert(1)</script> \"'&x.svs"
VOID = {"meta", "br", "img", "hr", "link", "input"}
GRID = (4000, 2000)


class Balance(HTMLParser):
    """Fails on tags that are not closed in order; collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open."""
        self.tags.append(tag)
        self.attributes += attrs
        assert len({name for name, _ in attrs}) == len(attrs), f"attribute twice in {tag}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open and close."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        """Close the last one."""
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect."""
        self.text += data


def cell_table(n: int, seed: int = 0, classes: int = 2) -> CellTable:
    rng = np.random.default_rng(seed)
    return CellTable(
        rng.integers(0, classes, n).astype(np.uint8),
        rng.random(n, np.float32),
        rng.random((n, 2)) * GRID,
        np.zeros((n, 4), np.int32),
        {"area_um2": rng.gamma(9, 4, n).astype(np.float32), "solidity": np.ones(n, np.float32)},
        Rings(np.zeros(n + 1, np.int64), np.zeros((0, 2), np.int32)),
    )


def facts(n: int = 500, classes: tuple[str, ...] = ("Positive", "Negative"), **changes: Any) -> dict[str, Any]:
    failed = {"key": "r0001c0000", "box": [2000, 0, 2000, 2000], "reason": f"cannot decode {HOSTILE}"}
    run: dict[str, Any] = {
        "slide": {"name": HOSTILE, "path": HOSTILE, "shape": [8000, 4000], "format": ""},
        "model": {"name": HOSTILE, "mpp": 0.5, "classes": list(classes), "calibration": {"a": [1, 2]}},
        "classes": {name: list(class_colour(name, index)) for index, name in enumerate(classes)},
        "kinds": {"scale": {"area_um2": 1.5}, "centres": {HOSTILE: {"area_um2": 30.0}}},
        "settings": {"model": HOSTILE},
        "grid": {"shape": list(GRID), "mpp": [0.5, 0.5], "scale": [2.0, 2.0]},
        "regions": {"step": 2000, "total": 2, "tissue": 2, "failed": [failed], "boxes": [[0, 0, 2000, 2000]]},
        "seams": {
            "places": 2,
            "cells": 90,
            "doubled": 0,
            "cut": 1,
            "lost": 0,
            "per_1000": {"doubled": 0.0, "cut": 11.11, "lost": 0.0},
        },
        "counts": {"cells": n, "classes": dict.fromkeys(classes, n // len(classes)), "dropped": {HOSTILE: 12_345}},
        "tissue_mm2": 2.0,
        "seconds": {"infer": 12.0, "total": 12.5},
        "warnings": [f"pale stain {HOSTILE}"],
        "versions": {"numpy": "2"},
    }
    return run_facts(**run | changes)


def sums(*tables: CellTable, classes: int = 2) -> ReportCells:
    cells = ReportCells.empty(GRID, 0.5, classes, np.ones((40, 20), bool))
    for table in tables:
        cells.add(table)
    return cells


def crops(n: int, side: int = 200) -> list[Crop]:
    rng = np.random.default_rng(1)
    ring = np.array([[5, 5], [5, 15], [15, 15], [15, 5]])
    picture = rng.integers(0, 256, (side, side, 3), np.uint8)
    rings = [ring, ring + 20]
    return [Crop(picture, rings, [0, 1], f"crop {i} {HOSTILE}", 0.5, (20.0 * i, 7.0), i % 2 == 1) for i in range(n)]


def page(path: Path, run: dict[str, Any], cells: ReportCells, some: list[Crop]) -> tuple[str, Balance]:
    overview = np.random.default_rng(0).integers(0, 256, (1600, 800, 3), np.uint8)
    tissue = np.zeros((800, 400), bool)
    tissue[100:500, 50:350] = True
    tissue[200:300, 100:200] = False
    write_report(path / "report.html", RunRecord.model_validate(run), overview, tissue, {"pen": ~tissue}, cells, some)
    assert [file.name for file in path.iterdir()] == ["report.html"]
    text = (path / "report.html").read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    html5lib.HTMLParser(strict=True).parse(text)  # raises where a browser would have to guess
    return text, parser


def test_the_page_is_whole_well_formed_and_self_contained(tmp_path: Path) -> None:
    text, parser = page(tmp_path, facts(), sums(cell_table(500)), crops(6))
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert not {"script", "link", "iframe", "object"} & set(parser.tags)
    links = [value or "" for name, value in parser.attributes if name in ("href", "src", "xlink:href")]
    loaded = [value or "" for name, value in parser.attributes if name == "src"]
    assert loaded == []
    known = ("data:image/webp;base64,", "#", VIEWER, "https://github.com/wsiproc/")
    assert all(link.startswith(known) for link in links)
    places = [parse_qs(urlsplit(link).fragment) for link in links if link.startswith(VIEWER)]
    assert [place["slide"] for place in places] == [[HOSTILE]] * 7
    assert (places[-1]["x"], places[-1]["y"]) == (["7"], ["100"])
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    for wanted in ("500", "250", "Positive index", "50.0 %", "cells/mm²", "12,345", "Area (µm²)", "12.5 s"):
        assert wanted in text
    identities = [value for name, value in parser.attributes if name == "id"]
    assert len(identities) == len(set(identities))


def test_no_name_can_break_out(tmp_path: Path) -> None:
    text, parser = page(tmp_path, facts(classes=(HOSTILE, "b")), sums(cell_table(50)), crops(2))
    assert "<script" not in text
    assert parser.text.count(HOSTILE) >= 8
    assert ("aria-label", f"crop 0 {HOSTILE}") in parser.attributes
    assert not [name for name, _ in parser.attributes if name.startswith("on")]


def test_warnings_come_before_all_sections(tmp_path: Path) -> None:
    text, _ = page(tmp_path, facts(), sums(cell_table(10)), [])
    assert text.index("pale stain") < text.index("<h2>Classes")
    calm, _ = page(tmp_path, facts(warnings=[]), sums(cell_table(10)), [])
    assert 'class="warnings"' not in calm.replace("'", '"')


def test_the_stain_stands_next_to_the_slide(tmp_path: Path) -> None:
    for stain, words in (("H&E", "<li>H&amp;E</li>"), ("H-DAB", "<li>haematoxylin–DAB</li>")):
        model = facts()["model"] | {"calibration": {"stain": stain}}
        text, _ = page(tmp_path, facts(model=model), sums(cell_table(10)), [])
        assert words in text


def test_a_slide_without_cells_has_a_report_too(tmp_path: Path) -> None:
    run = facts(0, tissue_mm2=0.0, seconds={}, warnings=[])
    run["counts"]["dropped"] = {}
    run["regions"].update(failed=[], boxes=[])
    text, _ = page(tmp_path, run, sums(), [])
    assert "No object was dropped" in text
    assert "nan" not in text.split("</style>")[1].split("data:")[0]


def test_the_page_stays_below_four_megabytes(tmp_path: Path) -> None:
    run = facts()
    run["regions"]["boxes"] = [[y, x, 20, 20] for y in range(0, 4000, 40) for x in range(0, 2000, 40)]
    page(tmp_path, run, sums(cell_table(500)), crops(60, side=512))
    assert (tmp_path / "report.html").stat().st_size < 4_000_000


def test_long_lists_are_cut_and_say_so(tmp_path: Path) -> None:
    run = facts(warnings=[f"warning {i}" for i in range(100)])
    run["regions"]["failed"] *= 100
    text, _ = page(tmp_path, run, sums(cell_table(10)), [])
    assert text.count("and 60 more") == 2


def test_pictures_can_be_decoded(tmp_path: Path) -> None:
    text, _ = page(tmp_path, facts(), sums(cell_table(500)), crops(1))
    images = [
        Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"data:image/webp;base64,([^\"]+)", text)
    ]
    assert [image.size for image in images] == [(600, 1200), (20, 40), (200, 200)]


def test_sums_do_not_depend_on_blocks_or_order() -> None:
    table = cell_table(3000)
    whole = sums(table)
    parts = sums(*(table.take(np.arange(start, 3000, 7)) for start in (4, 2, 6, 0, 1, 5, 3)))
    np.testing.assert_array_equal(whole.density, parts.density)
    np.testing.assert_array_equal(whole.counts.everywhere, parts.counts.everywhere)
    assert whole.density.sum() == whole.counts.total == 3000
    for name, histogram in whole.histograms.items():
        np.testing.assert_array_equal(histogram.counts, parts.histograms[name].counts)
        assert histogram.exponent == parts.histograms[name].exponent


@settings(max_examples=50, deadline=None)
@given(blocks=st.lists(st.lists(st.floats(width=32), max_size=8), min_size=1, max_size=5))
@example(blocks=[[-5e-43]])
def test_a_histogram_loses_no_value(blocks: list[list[float]]) -> None:
    histogram = Histogram(np.zeros((1, 8192), np.int64))
    for block in blocks:
        histogram = histogram.add(np.zeros(len(block), np.uint8), np.array(block, np.float32))
    values = np.array([value for block in blocks for value in block], np.float32)
    finite = values[np.isfinite(values)]
    assert histogram.unfit == len(values) - len(finite)
    assert histogram.counts.sum() == len(finite)
    if len(finite):
        edges, counts, outside = histogram.shown()
        assert counts.sum() + outside == len(finite)
        assert len(edges) == counts.shape[1] + 1
        if outside == 0:
            assert edges[0] <= finite.min()
            assert finite.max() <= edges[-1]


def test_a_far_value_does_not_squeeze_the_histogram() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(50, 5, 10_000), [4000]]).astype(np.float32)
    edges, counts, outside = Histogram(np.zeros((1, 8192), np.int64)).add(np.zeros(10_001, np.uint8), values).shown()
    assert outside >= 1
    assert edges[-1] < 80
    assert counts.shape[1] >= 18


@pytest.mark.parametrize(
    ("column", "title"),
    [("area_um2", "Area (µm²)"), ("major_axis_um", "Major axis (µm)"), ("dab_od_std", "DAB OD SD"), ("score", "Score")],
)
def test_axes_carry_units(column: str, title: str) -> None:
    assert measurement_title(column) == title


def test_density_colours_fall_in_lightness() -> None:
    colours = density_pixels(np.linspace(0.001, 1, 50)[None], 1.0)[0].astype(float)
    lightness = colours[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) < 0.5).all()
    assert density_pixels(np.zeros((1, 1)), 1.0)[0, 0, 3] == 0


def test_axes_have_round_numbers() -> None:
    assert nice_step(97, 5) == 20
    assert ticks(13, 52, 4) == [20, 30, 40, 50]
    assert [number(value) for value in (12345.0, 3.0, 0.25)] == ["12,345", "3", "0.25"]
