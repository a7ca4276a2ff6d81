"""All slides of a folder in one table, ``cohort.csv`` and ``cohort.html``: what is done and what failed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsiproc.core.addresses import viewer_address
from wsiproc.core.numbers import mm2_text, slide_numbers
from wsiproc.core.palette import css_colour
from wsiproc.io.atomic import whole_file
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.results.report.figures import counted, data_uri, ranked, shrink

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
    done = {str(run["slide"]["path"]) for _, run in runs}
    failed = {path: why for path, why in failed.items() if path not in done}
    if not runs and not failed:
        return
    classes = list(dict.fromkeys(name for _, run in runs for name in run["classes"]))
    lost = [{"slide": Path(path).name, "status": "failed", "reason": why, "path": path} for path, why in failed.items()]
    rows = [_row(folder, run, classes) for folder, run in runs] + lost
    _replace(out / CSV, _csv(rows, classes))
    _replace(out / HTML, _page(out, rows, classes, [run for _, run in runs]))


def failed_before(out: Path) -> dict[str, str]:
    """Failures in the table that is there, path → reason."""
    if not has_cohort(out):
        return {}
    with (out / CSV).open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file) if row.get("status") == "failed"}


def _runs(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Folder and run of each finished slide."""
    for path in out.glob("*/run.json"):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and {"counts", "classes", "slide"} <= run.keys():
            yield path.parent.name, run


def _row(folder: str, run: dict[str, Any], classes: Sequence[str]) -> CohortRow:
    counts, told = run["counts"], slide_numbers(run)
    of_class = {f"cells_{name}": counts["classes"].get(name, "") for name in classes}
    return {
        "slide": run["slide"]["name"],
        "status": "done",
        "cells": told.cells,
        "cells_in_tissue": _known(told.cells_in_tissue),
        "tissue_mm2": round(told.tissue_mm2, 4),
        "cells_per_mm2": _known(told.cells_per_mm2, 2),
        **of_class,
        "positive_index": _known(told.positive_index, 4),
        "h_score": _known(told.h_score, 1),
        **_scored(run),
        "failed_regions": len(run["regions"]["failed"]),
        "model": run["model"]["name"],
        "stain": run["model"]["calibration"].get("stain", ""),
        "seconds": run["seconds"]["total"],
        "warnings": len(run["warnings"]),
        "folder": folder,
        "path": run["slide"]["path"],
    }


def _known(value: float | None, digits: int = 0) -> float | str:
    """Rounded; empty where it is not known."""
    return "" if value is None else round(value, digits or None)


def _scored(run: Mapping[str, Any]) -> CohortRow:
    """What made cells positive; empty without DAB."""
    facts = run.get("immuno") or {}
    return {
        "compartment": facts.get("compartment", ""),
        "positive_dab_od": " ".join(f"{cut:g}" for cut in facts.get("positive_dab_od", [])),
    }


def _csv(rows: Sequence[CohortRow], classes: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*_FIRST, *(f"cells_{name}" for name in classes), *_LAST], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


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


def _page(out: Path, rows: Sequence[CohortRow], classes: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    """The page: totals, what failed, a plot over the slides, and a line a slide that leads to its report."""
    style, script = (
        (files("wsiproc.results.report") / name).read_text(encoding="utf-8") for name in ("report.css", "cohort.js")
    )
    done = [row for row in rows if row["status"] == "done"]
    lost = [row for row in rows if row["status"] == "failed"]
    totals = [
        ("Slides", f"{len(done):,}"),
        ("Failed", f"{len(lost):,}"),
        ("Cells", f"{sum(row['cells'] for row in done):,}"),
        ("Tissue", f"{mm2_text(sum(row['tissue_mm2'] for row in done))} <small>mm²</small>"),
    ]
    numbers = "".join(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in totals)
    title = counted(len(rows), "slide")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · wsiproc cohort</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header class="top"><p class="eyebrow">wsiproc cohort</p><h1>{title}</h1>'
        f'<dl class="numbers">{numbers}</dl></header>\n<main>\n{_failures(lost)}{_plots(done)}'
        f"{_slides(out, done, classes, _colours(runs))}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _colours(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """CSS colour of each class; the first slide that has it decides."""
    colours: dict[str, str] = {}
    for run in runs:
        for name, (red, green, blue) in run["classes"].items():
            colours.setdefault(name, css_colour((red, green, blue)))
    return colours


def _failures(rows: Sequence[CohortRow]) -> str:
    if not rows:
        return ""
    items = "".join(f"<li><strong>{escape(row['slide'])}</strong>: {escape(row['reason'])}</li>" for row in rows)
    return f"<section class='warnings'><h2>Failed</h2><ul>{items}</ul></section>\n"


def _plots(rows: Sequence[CohortRow]) -> str:
    """A dot a slide, from the lowest to the highest, of density and index; nothing for a single slide."""
    figures = ""
    plotted = (("cells_per_mm2", 1, "Density", "cells/mm²"), ("positive_index", 100, "Positive index", "%"))
    for name, factor, title, unit in plotted:
        some = sorted((factor * row[name], row["slide"], _report(row)) for row in rows if row[name] != "")
        if len(some) > 1:
            figures += f"<figure>{ranked(title, unit, some)}</figure>"
    note = "A dot a slide, from the lowest to the highest; each leads to its report."
    about = f'<p class="soft">{note}</p>'
    return f'<section><h2>Over the slides</h2>{about}<div class="plots">{figures}</div></section>\n' if figures else ""


def _slides(out: Path, rows: Sequence[CohortRow], classes: Sequence[str], colours: Mapping[str, str]) -> str:
    """The table; a click on a head sorts by it, and where no script runs it stays in the order of names."""
    shown = _shown_columns(rows)
    heads = [("slide", "Slide"), *((name, _COLUMNS[name]) for name in shown[:3])]
    heads += [(f"cells_{name}", escape(name)) for name in classes]
    heads += [(name, _COLUMNS[name]) for name in shown[3:]]
    top = "".join(f'<th title="{escape(name)}"{_right(name)}>{head}</th>' for name, head in heads)
    top = top.replace("</th>", '</th><th data-fixed="">Shares</th>', 1) if len(classes) > 1 else top
    lines = "".join(
        _line(out, row, [name for name, _ in heads[1:]], classes, colours, place < _MOST_THUMBNAILS)
        for place, row in enumerate(rows)
    )
    note = (
        "Columns are those of cohort.csv. Density: cells in tissue per mm² of tissue. The links to the viewer answer "
        "while <code>wsiproc view</code> runs on this folder."
    )
    table = f'<table class="sortable"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<section><h2>Slides</h2><p class="soft">{note}</p><div class="wide">{table}</div></section>\n'


def _shown_columns(rows: Sequence[CohortRow]) -> list[str]:
    """Columns that some slide has a value in; the first three always."""
    names = list(_COLUMNS)
    return names[:3] + [name for name in names[3:] if any(row[name] not in ("", 0) for row in rows)]


def _right(name: str) -> str:
    return "" if name in ("slide", "compartment") else ' class="n"'


def _line(
    out: Path,
    row: CohortRow,
    columns: Sequence[str],
    classes: Sequence[str],
    colours: Mapping[str, str],
    pictured: bool,
) -> str:
    picture = _thumbnail(out / row["folder"]) if pictured else ""
    links = f'<a href="{_report(row)}">{escape(row["slide"])}</a>'
    view = f'<a class="soft" href="{escape(viewer_address(row["folder"]))}">view</a>'
    named = f'<div class="slide-name">{picture}<span>{links}<br>{view}</span></div>'
    first = f'<th data-value="{escape(row["slide"])}">{named}</th>'
    shares = _shares([row[f"cells_{name}"] or 0 for name in classes], [colours[name] for name in classes])
    bar = f"<td>{shares}</td>" if len(classes) > 1 else ""
    cells = "".join(
        f'<td data-value="{escape(str(row[name]))}"{_right(name)}>{escape(_text(name, row[name]))}</td>'
        for name in columns
    )
    return f"<tr>{first}{bar}{cells}</tr>"


def _report(row: CohortRow) -> str:
    return f"{quote(row['folder'])}/report.html"


def _thumbnail(folder: Path) -> str:
    """The slide in small; nothing where its overview cannot be read."""
    try:
        pixels = ngff.read_small(folder / "slide.ome.zarr", _THUMBNAIL_PX)
    except (OSError, ValueError, KeyError):
        return ""
    return f'<img src="{data_uri(shrink(pixels, _THUMBNAIL_PX), 70)}" alt="">'


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


def _shares(counts: Sequence[int], colours: Sequence[str]) -> str:
    """A bar in the colours of the classes."""
    total = max(1, sum(counts))
    parts = "".join(
        f'<i style="width:{6 * count / total:.3f}em;background:{colour}"></i>'
        for count, colour in zip(counts, colours, strict=True)
    )
    return f'<span class="shares">{parts}</span>'
