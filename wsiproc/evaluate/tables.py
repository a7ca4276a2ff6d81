"""Tables of named values for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from wsiproc.core.paths import make_place

TableLine = Mapping[str, str | float]
"""One row of a table: column → name or number. Rows may lack columns that others have."""


def terminal_table(lines: Sequence[TableLine], title: str = "") -> Table:
    """A table for the terminal; underscores in column names become spaces, where they may wrap."""
    columns = _columns(lines)
    table = Table(title=Text(title) if title else None)
    for column in columns:
        numbers = any(not isinstance(line.get(column), str) for line in lines)
        table.add_column(column.replace("_", " "), justify="right" if numbers else "left")
    for line in lines:
        table.add_row(*(Text(text) for text in _cells(line, columns)))
    return table


def upright_table(lines: Sequence[TableLine], title: str) -> Table:
    """The same table transposed, one column per line, headed by its first value: for few lines with many columns."""
    first, *columns = _columns(lines)
    table = Table(title=Text(title))
    table.add_column(first)
    for line in lines:
        table.add_column(Text(str(line[first])), justify="right")
    for column in columns:
        table.add_row(column.replace("_", " "), *(Text(_cells(line, [column])[0]) for line in lines))
    return table


def markdown_table(lines: Sequence[TableLine]) -> str:
    """The same table in Markdown, one row per line."""
    columns = _columns(lines)
    rows = [[column.replace("_", " ") for column in columns], ["---"] * len(columns)]
    rows += [[text.replace("|", "\\|") for text in _cells(line, columns)] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_lines(path: Path, lines: Sequence[TableLine]) -> None:
    """The same table as CSV, with all digits. Raises OutputError where no file can be."""
    make_place(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _columns(lines))
        writer.writeheader()
        writer.writerows(lines)


def _columns(lines: Sequence[TableLine]) -> list[str]:
    """All columns, in order of first occurrence."""
    return list(dict.fromkeys(column for line in lines for column in line))


def _cells(line: TableLine, columns: Sequence[str]) -> list[str]:
    return [_text(line[column]) if column in line else "–" for column in columns]


def _text(value: str | float) -> str:
    return str(value) if isinstance(value, str | int) else f"{value:.3f}" if value <= 1 else f"{value:.1f}"
