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

from wsiproc.core.immuno import h_score, slide_index
from wsiproc.core.palette import css_colour
from wsiproc.io.whole import whole_file

CSV, HTML = "cohort.csv", "cohort.html"
_FIRST = ("slide", "status", "cells", "tissue_mm2", "cells_per_mm2")
_LAST = (
    "positive_index", "h_score", "compartment", "positive_dab_od", "failed_regions", "model", "stain", "seconds",
    "warnings", "reason", "folder", "path",
)  # fmt: skip

Row = dict[str, Any]


def write_cohort(out: Path, failed: Mapping[str, str]) -> None:
    """Write both files into ``out``: of every slide there its ``run.json``, and what ``failed``, path → reason.

    Each file appears under its name when it is whole.
    """
    runs = sorted(_runs(out), key=lambda found: found[0].lower())
    if not runs and not failed:
        return
    classes = list(dict.fromkeys(name for _, run in runs for name in run["classes"]))
    lost = [{"slide": Path(path).name, "status": "failed", "reason": why, "path": path} for path, why in failed.items()]
    rows = [_row(folder, run, classes) for folder, run in runs] + lost
    _replace(out / CSV, _csv(rows, classes))
    _replace(out / HTML, _page(rows, classes, [run for _, run in runs]))


def write_cohort_again(out: Path) -> None:
    """Both files anew where they are, with the failures that they name; nothing where there are none."""
    if not (out / CSV).exists():
        return
    with (out / CSV).open(encoding="utf-8", newline="") as file:
        failed = {row["path"]: row["reason"] for row in csv.DictReader(file) if row.get("status") == "failed"}
    write_cohort(out, failed)


def _runs(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Folder and run of each finished slide."""
    for path in out.glob("*/run.json"):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and {"counts", "classes", "slide"} <= run.keys():
            yield path.parent.name, run


def _row(folder: str, run: dict[str, Any], classes: Sequence[str]) -> Row:
    counts, area = run["counts"], run["tissue_mm2"]
    of_class = {f"cells_{name}": counts["classes"].get(name, "") for name in classes}
    return {
        "slide": run["slide"]["name"],
        "status": "done",
        "cells": counts["cells"],
        "tissue_mm2": round(area, 4),
        "cells_per_mm2": round(counts["cells"] / area, 2) if area else "",
        **of_class,
        **_scores(run),
        "failed_regions": len(run["regions"]["failed"]),
        "model": run["model"]["name"],
        "stain": run["model"]["calibration"].get("stain", ""),
        "seconds": run["seconds"]["total"],
        "warnings": len(run["warnings"]),
        "folder": folder,
        "path": run["slide"]["path"],
    }


def _scores(run: Mapping[str, Any]) -> Row:
    """What DAB says of a slide; empty where there is none."""
    index, score, facts = slide_index(run), h_score(run["counts"]["classes"]), run.get("immuno") or {}
    return {
        "positive_index": "" if index is None else round(index, 4),
        "h_score": "" if score is None else round(score, 1),
        "compartment": facts.get("compartment", ""),
        "positive_dab_od": " ".join(f"{cut:g}" for cut in facts.get("positive_dab_od", [])),
    }


def _csv(rows: Sequence[Row], classes: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*_FIRST, *(f"cells_{name}" for name in classes), *_LAST], restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def _page(rows: Sequence[Row], classes: Sequence[str], runs: Sequence[dict[str, Any]]) -> str:
    """The page: totals, then a line a slide with a link to its report; what failed comes first."""
    style = (files("wsiproc") / "report.css").read_text(encoding="utf-8")
    done = [row for row in rows if row["status"] == "done"]
    area = sum(row["tissue_mm2"] for row in done)
    totals = [
        ("Slides", f"{len(done):,}"),
        ("Failed", f"{len(rows) - len(done):,}"),
        ("Cells", f"{sum(row['cells'] for row in done):,}"),
        ("Tissue", f"{area:,.1f} <small>mm²</small>"),
    ]
    numbers = "".join(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in totals)
    lost = [row for row in rows if row["status"] == "failed"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{len(rows)} slides · wsiproc cohort</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header class="top"><p class="eyebrow">wsiproc cohort</p><h1>{len(rows)} slides</h1>'
        f'<dl class="numbers">{numbers}</dl></header>\n<main>\n{_failures(lost)}'
        f"{_slides(done, classes, _colours(runs))}</main>\n</body>\n</html>\n"
    )


def _colours(runs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """CSS colour of each class; the first slide that has it decides."""
    colours: dict[str, str] = {}
    for run in runs:
        for name, (red, green, blue) in run["classes"].items():
            colours.setdefault(name, css_colour((red, green, blue)))
    return colours


def _failures(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    items = "".join(f"<li><strong>{escape(row['slide'])}</strong>: {escape(row['reason'])}</li>" for row in rows)
    return f"<section class='warnings'><h2>Failed</h2><ul>{items}</ul></section>\n"


def _slides(rows: Sequence[Row], classes: Sequence[str], colours: Mapping[str, str]) -> str:
    scores = ["Positive", "H-score", "Of", "Above"]
    heads = ["Slide", "Cells", "mm²", "Cells/mm²", *map(escape, classes), "Shares", *scores, "To know"]
    top = f"<th>{heads[0]}</th>" + "".join(f'<th class="n">{head}</th>' for head in heads[1:])
    lines = "".join(_line(row, classes, colours) for row in rows)
    return f"<section><h2>Slides</h2><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></section>\n"


def _line(row: Row, classes: Sequence[str], colours: Mapping[str, str]) -> str:
    index = row["positive_index"]
    values = [f"{row['cells']:,}", f"{row['tissue_mm2']:,.2f}", _number(row["cells_per_mm2"])]
    values += [_number(row[f"cells_{name}"]) for name in classes]
    values.append(_shares([row[f"cells_{name}"] or 0 for name in classes], [colours[name] for name in classes]))
    values.append(f"{100 * index:.1f} %" if index != "" else "–")
    values += [str(row[name]) if row[name] != "" else "–" for name in ("h_score", "compartment", "positive_dab_od")]
    values.append(str(row["warnings"]) if row["warnings"] else "–")
    link = f'<a href="{quote(row["folder"])}/report.html">{escape(row["slide"])}</a>'
    return f"<tr><th>{link}</th>{''.join(f'<td class=n>{value}</td>' for value in values)}</tr>"


def _number(value: float | str) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "–"


def _shares(counts: Sequence[int], colours: Sequence[str]) -> str:
    """A bar in the colours of the classes."""
    total = max(1, sum(counts))
    parts = "".join(
        f'<i style="display:inline-block;height:.7em;width:{6 * count / total:.3f}em;background:{colour}"></i>'
        for count, colour in zip(counts, colours, strict=True)
    )
    return f'<span style="white-space:nowrap">{parts}</span>'
