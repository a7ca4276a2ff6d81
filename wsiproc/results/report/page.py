"""``report.html``: one self-contained page on one slide; no scripts, nothing from the network.

It shows what was found, where, how sure the model was, and what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.core.addresses import viewer_address
from wsiproc.core.immuno import rule_in_words
from wsiproc.core.numbers import SlideNumbers, has_index, mm2_text, per_mm2, slide_numbers
from wsiproc.core.palette import RGB, css_colour
from wsiproc.core.types import BoolArray, Float64Array, NumberArray, UInt8Array
from wsiproc.io.atomic import whole_file
from wsiproc.results.report.cells import ReportCells
from wsiproc.results.report.figures import (
    box_path,
    cell_density,
    counted,
    data_uri,
    density_gradient,
    density_pixels,
    histogram,
    mask_path,
    number,
    ring_path,
    scale_bar,
    shrink,
)

_THUMBNAIL_PX = 1200
_CROP_PX = 320
_MOST_CROPS = 24
_MOST_ROWS = 40
_LEAST_SHOWN_PX = 440  # longer side of the slide on the page; smaller ones are enlarged
_BELIEVE = "https://github.com/wsiproc/wsiproc/blob/main/docs/which-numbers.md"

_TITLES = {"dab": "DAB", "od": "OD", "std": "SD"}
_UNITS = {"_um2": "µm²", "_um": "µm"}


@dataclass(frozen=True)
class Crop:
    """A piece of the slide with its outlines: ``rgb`` (h, w, 3) uint8, ``rings`` [(V, 2)] (y, x) in px of the crop.

    ``classes``: index a ring; ``mpp``: µm per px of the crop; ``centre`` (y, x): its place in level-0 px;
    ``doubtful``: shown for its low scores.
    """

    rgb: UInt8Array
    rings: Sequence[NumberArray]
    classes: Sequence[int]
    caption: str
    mpp: float
    centre: tuple[float, float]
    doubtful: bool = False


def write_report(
    path: Path,
    run: dict[str, Any],
    overview: UInt8Array,
    tissue: BoolArray,
    left_out: Mapping[str, BoolArray],
    cells: ReportCells,
    crops: Sequence[Crop],
    cohort: str | None = None,
) -> None:
    """Write the page, at most some 4 MB, whole or not at all.

    ``run`` as in ``run.json``; ``overview`` (h, w, 3) and ``tissue`` (h, w) show the whole slide, and
    ``left_out`` masks (h, w) of what else was recognised, by name; at most 24 ``crops`` are shown. ``cohort``: where
    the table of all slides is from here, if there is one.
    """
    with whole_file(path) as temporary:
        temporary.write_text(_page(run, overview, tissue, left_out, cells, crops, cohort), encoding="utf-8")


def _page(
    run: dict[str, Any],
    overview: UInt8Array,
    tissue: BoolArray,
    left_out: Mapping[str, BoolArray],
    cells: ReportCells,
    crops: Sequence[Crop],
    cohort: str | None,
) -> str:
    name = escape(str(run["slide"]["name"]))
    body = [
        _warnings(run["warnings"]),
        _classes(run),
        _slide(run, shrink(overview, _THUMBNAIL_PX), tissue, left_out, cells),
        _crops(run, crops[:_MOST_CROPS]),
        _histograms(run, cells),
        _left_out(run),
        _provenance(run),
    ]
    style = (files("wsiproc.results.report") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · wsiproc report</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{_header(run, name, cohort)}\n<main>\n{''.join(body)}</main>\n{_footer(run)}\n</body>\n</html>\n"
    )


def _header(run: dict[str, Any], name: str, cohort: str | None) -> str:
    slide, told = run["slide"], slide_numbers(run)
    h, w = slide["shape"]
    mpp = float(np.mean(slide["mpp"]))
    facts = [
        f"{w:,} × {h:,} px",
        f"{w * mpp / 1000:.1f} × {h * mpp / 1000:.1f} mm",
        f"{mpp:.4g} µm/px",
        slide.get("format", ""),
        f"model {run['model']['name']} at {run['model']['mpp']:.4g} µm/px",
    ]
    numbers = [
        ("Cells", f"{told.cells:,}"),
        ("Tissue", f"{mm2_text(told.tissue_mm2)} <small>mm²</small>"),
        ("Cell density", f"{_density_text(told.cells_per_mm2)} <small>cells/mm²</small>"),
    ]
    if told.positive_index is not None:
        numbers.append(("Positive index", f"{100 * told.positive_index:.1f} <small>%</small>"))
    if told.h_score is not None:
        numbers.append(("H-score", f"{told.h_score:.0f} <small>of 300</small>"))
    listed = "".join(f"<div><dt>{title}</dt><dd>{value}</dd></div>" for title, value in numbers)
    return (
        f'<header class="top"><p class="eyebrow">wsiproc report</p><h1>{name}</h1>'
        f'<ul class="facts">{"".join(f"<li>{escape(str(fact))}</li>" for fact in facts if fact)}</ul>'
        f'<dl class="numbers">{listed}</dl>{_links(run, cohort)}</header>'
    )


def _links(run: dict[str, Any], cohort: str | None) -> str:
    """Where to go from here."""
    links = [f'<a href="{escape(viewer_address(run["slide"]["name"]))}">Open in the viewer</a>']
    links += [f'<a href="{escape(cohort)}">All slides</a>'] if cohort else []
    links.append(f'<a href="{_BELIEVE}">Which numbers may I believe?</a>')
    how = "The viewer answers while <code>wsiproc view</code> runs on the folder of results."
    return f'<nav class="links">{"".join(links)}</nav><p class="soft">{how}</p>'


def _density_text(cells_per_mm2: float | None) -> str:
    return "–" if cells_per_mm2 is None else f"{cells_per_mm2:,.0f}"


def _section(title: str, body: str, note: str = "", kind: str = "") -> str:
    """A card; ``note`` and ``body`` are HTML."""
    about = f'<p class="soft">{note}</p>' if note else ""
    return f"<section{f' class={kind!r}' if kind else ''}><h2>{title}</h2>{about}{body}</section>\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of HTML cells under ``heads``; a head that ends in ``>`` has its column aligned right."""
    right = [' class="n"' if head.endswith(">") else "" for head in heads]
    top = "".join(f"<th{side}>{head.rstrip('>')}</th>" for head, side in zip(heads, right, strict=True))
    lines = [
        f"<tr><th>{row[0]}</th>{''.join(f'<td{s}>{c}</td>' for c, s in zip(row[1:], right[1:], strict=True))}</tr>"
        for row in rows
    ]
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _bar(share: float, colour: RGB | None = None) -> str:
    tint = f"--colour:{css_colour(colour)};" if colour else ""
    return f'<span class="bar"><i style="{tint}--share:{100 * share:.1f}%"></i></span>'


def _warnings(warnings: Sequence[object]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(str(text))}</li>" for text in warnings[:_MOST_ROWS])
    more = f"<li>and {len(warnings) - _MOST_ROWS} more in run.json</li>" if len(warnings) > _MOST_ROWS else ""
    title = f"{counted(len(warnings), 'thing')} to know"
    return _section(title, f"<ul>{items}{more}</ul>", kind="warnings")


def _colours(run: dict[str, Any]) -> list[RGB]:
    return [(red, green, blue) for red, green, blue in run["classes"].values()]


def _classes(run: dict[str, Any]) -> str:
    counts, told = run["counts"], slide_numbers(run)
    total, inside = max(1, told.cells), counts.get("in_tissue", {})
    rows = []
    for name, colour in zip(run["classes"], _colours(run), strict=True):
        count = counts["classes"].get(name, 0)
        chip = f'<span class="chip" style="--colour:{css_colour(colour)}"></span>'
        share = count / total
        density = _density_text(per_mm2(inside[name], told.tissue_mm2) if name in inside else None)
        rows.append([chip + escape(name), f"{count:,}", f"{100 * share:.1f} %", density, _bar(share, colour)])
    note = _counted(told)
    if run.get("immuno"):
        note += " " + _scored_by(run)
    return _section("Classes", _table(["Class", "Cells>", "Share>", "Cells/mm²>", ""], rows), note)


def _counted(told: SlideNumbers) -> str:
    """What a density is of."""
    if told.cells_in_tissue is None:
        return "Made by an earlier version, which did not count cells in tissue: no density."
    beyond = told.cells - told.cells_in_tissue
    if not beyond:
        return "Density: cells in tissue per mm² of tissue. All cells have their centre in tissue."
    lie = "one lies" if beyond == 1 else f"{beyond:,} lie"
    found = f"{told.cells_in_tissue:,} of {told.cells:,}"
    return f"Density: cells in tissue per mm² of tissue, {found}; {lie} just beyond its edge."


def _scored_by(run: dict[str, Any]) -> str:
    """What makes a cell positive, as HTML."""
    text = rule_in_words(run["immuno"])
    if has_index(run):
        text += " Positive index: positive ÷ all cells."
    if len(run["immuno"]["positive_dab_od"]) > 1:
        text += " H-score: per cent of 1+ cells + 2 × 2+ + 3 × 3+."
    return escape(text)


def _slide(
    run: dict[str, Any],
    thumbnail: UInt8Array,
    tissue: BoolArray,
    left_out: Mapping[str, BoolArray],
    cells: ReportCells,
) -> str:
    """Two pictures of the whole slide: what was looked at, and how dense the cells are."""
    h, w = thumbnail.shape[:2]
    to_px = np.array([h, w]) / run["grid"]["shape"]
    regions = run["regions"]
    failed = [region["box"] for region in regions["failed"]]
    done = [box for box in regions["boxes"] if list(box) not in map(list, failed)]
    bar = scale_bar(run["slide"]["shape"][1] * float(np.mean(run["slide"]["mpp"])) / w, (h, w), 0.033)
    drawn = "".join(
        f'<path class="{kind}" d="{path}"/>'
        for kind, path in (
            *((f"out {name}", mask_path(mask, (h, w))) for name, mask in left_out.items() if mask.any()),
            ("regions", _boxes(done, to_px)),
            ("tissue", mask_path(tissue, (h, w))),
            ("failed", _boxes(failed, to_px)),
        )
    )
    first = (
        f'<figure class="slide"><svg {_frame(h, w, _LEAST_SHOWN_PX)} aria-label="The slide with its tissue">'
        f'<image id="slide" width="{w}" height="{h}" href="{data_uri(thumbnail)}"/>{drawn}{bar}</svg>'
        f"<figcaption>{_slide_keys(len(done), len(failed), run.get('left_out_mm2', {}))}</figcaption></figure>"
    )
    note = "Level-0 extent of the slide. Cells are searched in the processed regions, up to 40 µm beyond the tissue."
    return _section("Where", f'<div class="pair">{first}{_density(run, cells, to_px, (h, w), bar)}</div>', note)


def _frame(h: int, w: int, least_px: int = 0) -> str:
    """Of an SVG; its longer side is at least so long on the page."""
    larger = max(1.0, least_px / max(h, w))
    return f'viewBox="0 0 {w} {h}" width="{w * larger:.0f}" height="{h * larger:.0f}" role="img"'


def _boxes(boxes: Sequence[Sequence[int]], to_px: Float64Array) -> str:
    return box_path(np.array(boxes, np.float64).reshape(-1, 4) * np.tile(to_px, 2))


_LEFT_OUT = {"fill": "fill: not scanned or masked", "pen": "pen", "shadow": "shadow, bubble, dust or edge"}


def _slide_keys(done: int, failed: int, left_out_mm2: Mapping[str, float]) -> str:
    keys = [("--tissue", "", "tissue"), ("--region", "", counted(done, "processed region"))]
    keys += [
        (f"--{name}", "full", f"left out: {_LEFT_OUT[name]}, {mm2_text(area)} mm²")
        for name, area in left_out_mm2.items()
        if area
    ]
    if failed:
        keys.append(("--bad", "full", f"{counted(failed, 'failed region')}, no cells there"))
    return "".join(
        f'<span class="key" style="--colour:var({colour})"><i class="{kind}"></i>{text}</span>'
        for colour, kind, text in keys
    )


def _density(run: dict[str, Any], cells: ReportCells, to_px: Float64Array, shape: tuple[int, int], bar: str) -> str:
    h, w = shape
    grid_um2 = float(np.prod(run["slide"]["shape"]) * np.prod(np.broadcast_to(run["slide"]["mpp"], 2)))
    bin_mm2 = cells.bin_px**2 * grid_um2 / float(np.prod(run["grid"]["shape"])) / 1e6
    density, top = cell_density(cells.density, bin_mm2)
    across = cells.bin_px * to_px * cells.density.shape
    image = (
        f'<image href="{data_uri(density_pixels(density, top), None)}" width="{across[1]:.1f}" '
        f'height="{across[0]:.1f}" preserveAspectRatio="none"/>'
    )
    ends = "".join(
        f"<span>{text}</span>" for text in ("0", number(round(top / 2)), f"≥ {number(round(top))} cells/mm²")
    )
    return (
        f'<figure class="slide"><svg {_frame(h, w, _LEAST_SHOWN_PX)} aria-label="Density of cells">'
        f'<use href="#slide" style="filter:grayscale(1) contrast(.55) brightness(1.25)"/>{image}{bar}</svg>'
        f'<figcaption><span class="ramp" style="background:{density_gradient()}"></span>'
        f'<span class="ramp-ends">{ends}</span></figcaption></figure>'
    )


def _crops(run: dict[str, Any], crops: Sequence[Crop]) -> str:
    if not crops:
        return ""
    body = ""
    for title, doubtful in (("Representative", False), ("Most doubtful", True)):
        some = [crop for crop in crops if crop.doubtful is doubtful]
        figures = "".join(_crop(crop, _colours(run), run["slide"]["name"]) for crop in some)
        if figures:
            body += f'<h3>{title}</h3><div class="crops">{figures}</div>'
    keys = "".join(
        f'<span class="key" style="--colour:{css_colour(colour)}"><i></i>{escape(name)}</span>'
        for name, colour in zip(run["classes"], _colours(run), strict=True)
    )
    return _section("Samples", body, f"{keys} Point at a picture to hide its outlines.")


def _crop(crop: Crop, colours: Sequence[RGB], slide: str) -> str:
    h, w = crop.rgb.shape[:2]
    paths = ""
    for kind in sorted(set(crop.classes)):
        rings = [ring for ring, own in zip(crop.rings, crop.classes, strict=True) if own == kind]
        paths += f'<path class="ring" style="--colour:{css_colour(colours[kind])}" d="{ring_path(rings)}"/>'
    return (
        f'<figure tabindex="0"><svg {_frame(h, w)} aria-label="{escape(crop.caption)}">'
        f'<image width="{w}" height="{h}" href="{data_uri(shrink(crop.rgb, _CROP_PX))}"/>{paths}'
        f"{scale_bar(crop.mpp, (h, w), 0.055)}</svg><figcaption>{escape(crop.caption)} · "
        f'<a href="{escape(viewer_address(slide, crop.centre))}">view</a></figcaption></figure>'
    )


def measurement_title(name: str) -> str:
    """Axis label of a measurement column: ``area_um2`` → ``Area (µm²)``, ``dab_od_mean`` → ``DAB OD mean``."""
    suffix = next((ending for ending in _UNITS if name.endswith(ending)), "")
    words = [_TITLES.get(word, word) for word in name.removesuffix(suffix).split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:] + (f" ({_UNITS[suffix]})" if suffix else "")


def _histograms(run: dict[str, Any], cells: ReportCells) -> str:
    figures = ""
    for name, values in cells.histograms.items():
        if not values.counts.any():
            continue
        edges, counts, outside = values.shown()
        drawing = histogram(measurement_title(name), edges, counts, list(run["classes"]), _colours(run))
        left = [f"{outside:,} beyond the axis"] * bool(outside) + [f"{values.unfit:,} not measurable"] * bool(
            values.unfit
        )
        figures += f"<figure>{drawing}<figcaption>{', '.join(left)}</figcaption></figure>"
    if not figures:
        return ""
    note = "All cells, a curve a class; the columns of the same names in cells.parquet."
    return _section("Measurements", f'<div class="histograms">{figures}</div>', note)


def _left_out(run: dict[str, Any]) -> str:
    dropped, failed = run["counts"]["dropped"], run["regions"]["failed"]
    rows = [[escape(str(reason)), f"{count:,}"] for reason, count in dropped.items()]
    body = _table(["Objects dropped, by reason", "Number>"], rows) if rows else "<p>No object was dropped.</p>"
    if failed:
        listed = [[escape(str(region["key"])), escape(str(region["reason"]))] for region in failed[:_MOST_ROWS]]
        if len(failed) > _MOST_ROWS:
            listed.append([f"and {len(failed) - _MOST_ROWS} more", "see run.json"])
        body += _table(["Failed region", "Reason"], listed)
    note = "Nothing is hidden: every object and region that did not make it into the cells is counted here."
    return _section("Left out", body, note) + _seams(run["seams"])


def _seams(seams: dict[str, Any]) -> str:
    if not seams["places"]:
        return _section("Seams", "<p>The slide was done in one piece, or no cells lie at borders of regions.</p>")
    names = {"doubled": "found twice", "cut": "with another outline", "lost": "not found"}
    rows = [[name, f"{seams[key]:,}", f"{seams['per_1000'][key]:g}"] for key, name in names.items()]
    note = (
        f"{counted(seams['places'], 'place was', 'places were')} computed again in one piece, across borders of "
        f"regions. Of {counted(seams['cells'], 'cell')} there, the table has:"
    )
    return _section("Seams", _table(["Cells", "Number>", "Of 1000>"], rows), note)


def _provenance(run: dict[str, Any]) -> str:
    seconds = {stage: value for stage, value in run.get("seconds", {}).items() if stage != "total"}
    longest = max([*seconds.values(), 1e-9])
    total = run.get("seconds", {}).get("total", sum(seconds.values()))
    rows = [[escape(stage), f"{value:,.1f} s", _bar(value / longest)] for stage, value in seconds.items()]
    timing = _table(["Stage", "Time>", ""], [*rows, ["Total", f"{total:,.1f} s", ""]])
    facts = [
        ("Slide", run["slide"]),
        ("Model", {key: value for key, value in run["model"].items() if key != "calibration"}),
        ("Calibration", run["model"].get("calibration", {})),
        ("Kinds of cells", run["kinds"] or {}),
        ("Scoring by DAB", run.get("immuno") or {}),
        ("Settings", run["settings"]),
        ("Versions", run["versions"]),
    ]
    details = "".join(f"<details><summary>{title}</summary>{_pairs(values)}</details>" for title, values in facts)
    return _section("How it was made", timing + details)


def _pairs(values: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th>{escape(str(key))}</th><td class="mono">{escape(str(value))}</td></tr>'
        for key, value in values.items()
    )
    return f"<table><tbody>{rows}</tbody></table>" if rows else '<p class="soft">none</p>'


def _footer(run: dict[str, Any]) -> str:
    version, model = escape(str(run["wsiproc"])), escape(str(run["model"]["name"]))
    return (
        f"<footer><p><strong>To cite:</strong> wsiproc {version}, model {model}, "
        '<span class="mono">https://github.com/wsiproc/wsiproc</span>. Give the version and the model: the same '
        "version, model, settings and slide give the same cells.</p>"
        "<p>For research use; not a medical device.</p></footer>"
    )
