"""Pages from templates: what they are handed stays text, what they ask for is there, and a wheel holds them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from wsiproc.results.cohort_table import CohortPage
from wsiproc.results.report.render import render

ROOT = Path(__file__).parents[2]
HOSTILE = "</style><script>alert(1)</script> \"'&{{ 7 * 7 }}{% raw %}"


def test_what_a_page_is_handed_is_neither_markup_nor_a_template() -> None:
    page = CohortPage(1, [(HOSTILE, HOSTILE)], 0, 0.0, [], False, [], [])
    text = render("cohort.html.j2", page)
    assert text.count(str(escape(HOSTILE))) == 2
    assert text.count("alert(1)") == 2


def test_a_value_that_is_not_there_is_an_error_and_no_gap() -> None:
    @dataclass(frozen=True)
    class Half:
        slides: int = 1

    with pytest.raises(UndefinedError, match="Half"):
        render("cohort.html.j2", Half())


def test_a_wheel_holds_the_templates() -> None:
    folder = ROOT / "wsiproc/results/report/templates"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    globs = project["tool"]["setuptools"]["package-data"]["wsiproc"]
    packed = {path for glob in globs for path in (ROOT / "wsiproc").glob(glob)}
    assert {path.suffix for path in folder.iterdir()} == {".j2", ".css", ".js"}
    assert set(folder.iterdir()) <= packed
