from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from wsiproc.evaluate.tables import markdown_table, terminal_table, upright_table, write_lines

LINES: list[dict[str, str | float]] = [
    {"model": "a_b|c", "n_true": 13, "aji": 0.48349},
    {"model": "blind"},
    {"model": "x", "aji": 12.34},
]


def printed(table: Table) -> str:
    text = io.StringIO()
    Console(width=100, file=text).print(table)
    return text.getvalue()


def test_markdown_has_a_row_a_line_and_a_dash_for_what_is_missing() -> None:
    assert markdown_table(LINES).splitlines() == [
        "| model | n true | aji |",
        "| --- | --- | --- |",
        r"| a_b\|c | 13 | 0.483 |",
        "| blind | – | – |",
        "| x | – | 12.3 |",
    ]


@pytest.mark.parametrize("draw", [terminal_table, upright_table])
def test_names_of_models_are_kept_letter_by_letter(draw: Callable[..., Table]) -> None:
    text = printed(draw(LINES, "some [title]"))
    assert all(part in text for part in ("some [title]", "a_b|c", "0.483", "12.3", "n true", "–"))


def test_an_upright_table_has_a_row_a_column() -> None:
    rows = [line.split("│")[1:-1] for line in printed(upright_table(LINES, "")).splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["n true", "13", "–", "–"],
        ["aji", "0.483", "–", "12.3"],
    ]


def test_csv_keeps_all_digits(tmp_path: Path) -> None:
    write_lines(tmp_path / "new" / "table.csv", LINES)
    with (tmp_path / "new" / "table.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert lines[0] == {"model": "a_b|c", "n_true": "13", "aji": "0.48349"}
    assert lines[1] == {"model": "blind", "n_true": "", "aji": ""}
