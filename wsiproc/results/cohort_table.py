"""All slides of a folder in one table, ``cohort.csv`` and ``cohort.html``: what is done and what failed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsiproc.core.numbers import mm2_text
from wsiproc.core.palette import css_colour
from wsiproc.errors import OutputError
from wsiproc.io.atomic import atomic_file
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.results.record import RunRecord, ScoringRecord
from wsiproc.results.report.figures import Ranking, data_uri, ranked, shrink
from wsiproc.results.report.render import render
from wsiproc.results.viewer.addresses import viewer_address

CSV, HTML = "cohort.csv", "cohort.html"
_FIRST = ("slide", "status", "cells", "cells_in_tissue", "tissue_mm2", "cells_per_mm2")
_LAST = (
    "positive_index", "h_score", "compartment", "positive_dab_od", "failed_regions", "model", "stain", "seconds",
    "warnings", "reason", "folder", "path",
)  # fmt: skip

CohortRow = dict[str, Any]


def has_cohort(out: Path) -> bool:
    """Whether the table of all slides is in this folder."""
    return (out / CSV).exists()


def write_cohort(out: Path, failed: Mapping[str, str]) -> None:
    """Write both files into ``out``: of every slide there its ``run.json``, and what ``failed``, path → reason.

    What failed and is done by now counts as done. Each file appears under its name when it is whole.
    """
    runs = sorted(_runs(out), key=lambda found: found[0].lower())
    done = {run.slide.path for _, run in runs}
    failed = {path: why for path, why in failed.items() if path not in done}
    if not runs and not failed:
        return
    classes = list(dict.fromkeys(name for _, run in runs for name in run.classes))
    lost = [{"slide": Path(path).name, "status": "failed", "reason": why, "path": path} for path, why in failed.items()]
    rows = [_row(folder, run, classes) for folder, run in runs] + lost
    _replace(out / CSV, _csv(rows, classes))
    _replace(out / HTML, render("cohort.html.j2", _page(out, rows, classes, [run for _, run in runs])))


def failed_before(out: Path) -> dict[str, str]:
    """Failures in the table that is there, path → reason."""
    if not has_cohort(out):
        return {}
    with (out / CSV).open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file) if row.get("status") == "failed"}


def _runs(out: Path) -> Iterator[tuple[str, RunRecord]]:
    """Folder and run of each finished slide."""
    for path in out.glob("*/run.json"):
        with suppress(OutputError):
            yield path.parent.name, RunRecord.read(path.parent)


def _row(folder: str, run: RunRecord, classes: Sequence[str]) -> CohortRow:
    told = run.slide_numbers()
    of_class = {f"cells_{name}": run.counts.classes.get(name, "") for name in classes}
    return {
        "slide": run.slide.name,
        "status": "done",
        "cells": told.cells,
        "cells_in_tissue": _known(told.cells_in_tissue),
        "tissue_mm2": round(told.tissue_mm2, 4),
        "cells_per_mm2": _known(told.cells_per_mm2, 2),
        **of_class,
        "positive_index": _known(told.positive_index, 4),
        "h_score": _known(told.h_score, 1),
        **_scored(run.immuno),
        "failed_regions": len(run.regions.failed),
        "model": run.model.name,
        "stain": run.model.calibration.get("stain", ""),
        "seconds": run.seconds["total"],
        "warnings": len(run.warnings),
        "folder": folder,
        "path": run.slide.path,
    }


def _known(value: float | None, digits: int = 0) -> float | str:
    """Rounded; empty where it is not known."""
    return "" if value is None else round(value, digits or None)


def _scored(scoring: ScoringRecord | None) -> CohortRow:
    """What made cells positive; empty without DAB."""
    return {
        "compartment": "" if scoring is None else scoring.compartment,
        "positive_dab_od": "" if scoring is None else " ".join(f"{cut:g}" for cut in scoring.positive_dab_od),
    }


def _csv(rows: Sequence[CohortRow], classes: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*_FIRST, *(f"cells_{name}" for name in classes), *_LAST], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")  # paths need not be UTF-8


# --- the page --------------------------------------------------------------------------------------------------------

_COLUMNS = {
    "cells": "Cells",
    "tissue_mm2": "Tissue, mm²",
    "cells_per_mm2": "Cells/mm²",
    "positive_index": "Positive index",
    "h_score": "H-score",
    "compartment": "Compartment",
    "positive_dab_od": "DAB cut",
    "warnings": "Warnings",
}
_THUMBNAIL_PX, _MOST_THUMBNAILS = 96, 1000


@dataclass(frozen=True)
class Column:
    """``name`` in ``cohort.csv`` and ``head`` on the page; numbers stand at the right."""

    name: str
    head: str
    right: bool


@dataclass(frozen=True)
class Value:
    """As in ``cohort.csv``, by which the page sorts, and as it is read."""

    raw: float | str
    text: str
    right: bool


@dataclass(frozen=True)
class SlideRow:
    """A slide that is done; ``report``, ``viewer``: links; ``shares`` (0 to 1) of the classes, with their colours."""

    slide: str
    report: str
    viewer: str
    thumbnail: str
    shares: Sequence[tuple[float, str]]
    values: Sequence[Value]


@dataclass(frozen=True)
class CohortPage:
    """All that ``templates/cohort.html.j2`` shows; ``slides``: how many, ``failed``: names and reasons.

    ``columns``: those after the slide's name, one a value of each row.
    """

    slides: int
    failed: Sequence[tuple[str, str]]
    cells: int
    tissue_mm2: float
    plots: Sequence[Ranking]
    has_shares: bool
    columns: Sequence[Column]
    rows: Sequence[SlideRow]


def _page(out: Path, rows: Sequence[CohortRow], classes: Sequence[str], runs: Sequence[RunRecord]) -> CohortPage:
    """Totals, what failed, plots over the slides, and one row per slide with a link to its report."""
    done = [row for row in rows if row["status"] == "done"]
    columns, colours = _shown_columns(done, classes), _colours(runs)
    return CohortPage(
        slides=len(rows),
        failed=[(row["slide"], row["reason"]) for row in rows if row["status"] == "failed"],
        cells=sum(row["cells"] for row in done),
        tissue_mm2=sum(row["tissue_mm2"] for row in done),
        plots=list(_plots(done)),
        has_shares=len(classes) > 1,
        columns=columns,
        rows=[
            SlideRow(
                row["slide"],
                _report(row),
                viewer_address(row["folder"]),
                _thumbnail(out / row["folder"]) if place < _MOST_THUMBNAILS else "",
                _shares(row, classes, colours),
                [Value(row[column.name], _text(column.name, row[column.name]), column.right) for column in columns],
            )
            for place, row in enumerate(done)
        ],
    )


def _colours(runs: Sequence[RunRecord]) -> dict[str, str]:
    """CSS colour of each class; the first slide that has it decides."""
    colours: dict[str, str] = {}
    for run in runs:
        for name, colour in run.classes.items():
            colours.setdefault(name, css_colour(colour))
    return colours


def _plots(rows: Sequence[CohortRow]) -> Iterator[Ranking]:
    """A dot a slide, from the lowest to the highest, of density and index; nothing for a single slide."""
    plotted = (("cells_per_mm2", 1, "Density", "cells/mm²"), ("positive_index", 100, "Positive index", "%"))
    for name, factor, title, unit in plotted:
        some = sorted((factor * row[name], row["slide"], _report(row)) for row in rows if row[name] != "")
        if len(some) > 1:
            yield ranked(title, unit, some)


def _shown_columns(rows: Sequence[CohortRow], classes: Sequence[str]) -> list[Column]:
    """The first three and the classes always, others where some slide has a value in them."""
    heads = list(_COLUMNS.items())
    named = heads[:3] + [(f"cells_{name}", name) for name in classes]
    named += [(name, head) for name, head in heads[3:] if any(row[name] not in ("", 0) for row in rows)]
    return [Column(name, head, name != "compartment") for name, head in named]


def _report(row: CohortRow) -> str:
    return f"{quote(row['folder'])}/report.html"


def _thumbnail(folder: Path) -> str:
    """The slide in small as a data URI; empty where its overview cannot be read."""
    try:
        pixels = ngff.read_small(folder / "slide.ome.zarr", _THUMBNAIL_PX)
    except (OSError, ValueError, KeyError):
        return ""
    return data_uri(shrink(pixels, _THUMBNAIL_PX), 70)


def _shares(row: CohortRow, classes: Sequence[str], colours: Mapping[str, str]) -> list[tuple[float, str]]:
    counts = [row[f"cells_{name}"] or 0 for name in classes]
    total = max(1, sum(counts))
    return [(count / total, colours[name]) for name, count in zip(classes, counts, strict=True)]


def _text(name: str, value: float | str) -> str:
    """A value as it is read."""
    if value == "" or (name == "warnings" and value == 0):
        return "–"
    if isinstance(value, str):
        return value
    if name == "tissue_mm2":
        return mm2_text(value)
    if name == "positive_index":
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name == "h_score" else f"{value:,.0f}"
