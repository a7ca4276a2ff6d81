"""``report.html``: one self-contained page on one slide; no scripts, nothing from the network.

It shows what was found, where, how sure the model was, and what was left out. What it shows is put together here; its
HTML is ``templates/report.html.j2``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc.core.numbers import SlideNumbers, per_mm2
from wsiproc.core.palette import RGB
from wsiproc.core.types import BoolArray, Float64Array, UInt8Array
from wsiproc.io.atomic import atomic_file
from wsiproc.results.record import RunRecord, ScoringRecord
from wsiproc.results.report.cells import ReportCells
from wsiproc.results.report.figures import (
    ScaleBar,
    StepCurves,
    box_path,
    cell_density,
    data_uri,
    density_gradient,
    density_pixels,
    histogram,
    mask_path,
    ring_path,
    scale_bar,
    shrink,
)
from wsiproc.results.report.render import render
from wsiproc.results.viewer.addresses import viewer_address

_THUMBNAIL_PX = 1200
_CROP_PX = 320
_MOST_CROPS = 24
_LEAST_SHOWN_PX = 440  # longer side of the slide on the page; smaller ones are enlarged

_STAINS = {"H&E": "H&E", "H-DAB": "haematoxylin–DAB"}
_TITLES = {"dab": "DAB", "od": "OD", "std": "SD"}
_UNITS = {"_um2": "µm²", "_um": "µm"}


@dataclass(frozen=True)
class Crop:
    """A piece of the slide with its outlines: ``rgb`` (h, w, 3) uint8, ``rings`` [(V, 2)] (y, x) in px of the crop.

    ``classes``: index a ring; ``mpp``: µm per px of the crop; ``centre`` (y, x): its place in level-0 px;
    ``doubtful``: shown for its low scores.
    """

    rgb: UInt8Array
    rings: Sequence[npt.NDArray[np.number]]
    classes: Sequence[int]
    caption: str
    mpp: float
    centre: tuple[float, float]
    doubtful: bool = False


# --- what the page shows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassRow:
    """Cells of a class; ``share`` (0 to 1) of all; ``per_mm2`` is None where it cannot be told."""

    name: str
    colour: RGB
    cells: int
    share: float
    per_mm2: float | None


@dataclass(frozen=True)
class EmbeddedImage:
    """A data URI that fills ``h`` × ``w`` px of an SVG, which is shown ``enlarged`` times."""

    uri: str
    h: float
    w: float
    enlarged: float = 1.0


@dataclass(frozen=True)
class SlideImage:
    """The whole slide: ``drawn`` over it are paths by their class in CSS; ``done`` and ``failed``: how many regions."""

    image: EmbeddedImage
    bar: ScaleBar
    drawn: Sequence[tuple[str, str]]
    done: int
    failed: int


@dataclass(frozen=True)
class DensityImage:
    """Density of cells, to lie on the whole slide; ``top``: cells/mm² from which on all is of the last colour."""

    image: EmbeddedImage
    gradient: str
    top: float


@dataclass(frozen=True)
class Sample:
    """A crop: ``rings`` are paths with their colours, ``link`` leads to it in the viewer."""

    image: EmbeddedImage
    bar: ScaleBar
    rings: Sequence[tuple[RGB, str]]
    caption: str
    link: str


@dataclass(frozen=True)
class Measurement:
    """``beyond``: cells outside the axis of the histogram, ``unfit``: cells without a number."""

    histogram: StepCurves
    beyond: int
    unfit: int


@dataclass(frozen=True)
class StageTime:
    """Time that a stage took; ``share`` (0 to 1) of the longest one."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class ReportPage:
    """All that ``templates/report.html.j2`` shows; ``run``: its ``run.json``.

    ``facts``: slide and model in words; ``viewer``, ``cohort``: links; ``scored_by``: what makes a cell positive, empty
    without DAB; ``samples``: by their title; ``details``: tables of names and values, by their title.
    """

    run: RunRecord
    facts: Sequence[str]
    numbers: SlideNumbers
    viewer: str
    cohort: str | None
    classes: Sequence[ClassRow]
    scored_by: str
    slide: SlideImage
    density: DensityImage
    samples: Mapping[str, Sequence[Sample]]
    measurements: Sequence[Measurement]
    stages: Sequence[StageTime]
    total_s: float
    details: Mapping[str, Mapping[str, Any]]


def write_report(
    path: Path,
    run: RunRecord,
    overview: UInt8Array,
    tissue: BoolArray,
    left_out: Mapping[str, BoolArray],
    cells: ReportCells,
    crops: Sequence[Crop],
    cohort: str | None = None,
) -> None:
    """Write the page, at most some 4 MB, atomically.

    ``run``: its ``run.json``; ``overview`` (h, w, 3) and ``tissue`` (h, w) show the whole slide, and
    ``left_out`` masks (h, w) of what else was recognised, by name; at most 24 ``crops`` are shown. ``cohort``: where
    the table of all slides is from here, if there is one.
    """
    stages = dict(run.seconds)
    total = stages.pop("total", sum(stages.values()))
    longest = max([*stages.values(), 1e-9])
    slide = _slide(run, shrink(overview, _THUMBNAIL_PX), tissue, left_out)
    page = ReportPage(
        run=run,
        facts=_facts(run),
        numbers=run.slide_numbers(),
        viewer=viewer_address(run.slide.name),
        cohort=cohort,
        classes=list(_classes(run)),
        scored_by="" if run.immuno is None else _scored_by(run.immuno),
        slide=slide,
        density=_density(run, cells, slide.image),
        samples=_samples(run, crops[:_MOST_CROPS]),
        measurements=list(_measurements(run, cells)),
        stages=[StageTime(name, value, value / longest) for name, value in stages.items()],
        total_s=total,
        details=_details(run),
    )
    text = render("report.html.j2", page)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths need not be UTF-8


def _facts(run: RunRecord) -> list[str]:
    """The slide and the model in a line."""
    slide, model = run.slide, run.model
    h, w = slide.shape
    facts = [
        f"{w:,} × {h:,} px",
        f"{w * slide.mpp / 1000:.1f} × {h * slide.mpp / 1000:.1f} mm",
        f"{slide.mpp:.4g} µm/px",
        slide.format,
        _STAINS.get(str(model.calibration.get("stain")), ""),
        f"model {model.name} at {model.mpp:.4g} µm/px",
    ]
    return [fact for fact in facts if fact]


def _colours(run: RunRecord) -> list[RGB]:
    return list(run.classes.values())


def _classes(run: RunRecord) -> Iterator[ClassRow]:
    told, inside = run.slide_numbers(), run.counts.in_tissue or {}
    for name, colour in run.classes.items():
        count = run.counts.classes.get(name, 0)
        density = per_mm2(inside[name], told.tissue_mm2) if name in inside else None
        yield ClassRow(name, colour, count, count / max(1, told.cells), density)


def _scored_by(scoring: ScoringRecord) -> str:
    """What makes a cell positive."""
    text = scoring.in_words()
    if scoring.index:
        text += " Positive index: positive ÷ all cells."
    if len(scoring.positive_dab_od) > 1:
        text += " H-score: per cent of 1+ cells + 2 × 2+ + 3 × 3+."
    return text


def _slide(
    run: RunRecord,
    thumbnail: UInt8Array,
    tissue: BoolArray,
    left_out: Mapping[str, BoolArray],
) -> SlideImage:
    """What was looked at."""
    h, w = thumbnail.shape[:2]
    to_px = np.array([h, w]) / run.grid.shape
    failed = [region.box for region in run.regions.failed]
    done = [box for box in run.regions.boxes if box not in failed]
    return SlideImage(
        EmbeddedImage(data_uri(thumbnail), h, w, max(1.0, _LEAST_SHOWN_PX / max(h, w))),
        scale_bar(run.slide.shape[1] * run.slide.mpp / w, (h, w), 0.033),
        [
            *((f"out {name}", mask_path(mask, (h, w))) for name, mask in left_out.items() if mask.any()),
            ("regions", _boxes(done, to_px)),
            ("tissue", mask_path(tissue, (h, w))),
            ("failed", _boxes(failed, to_px)),
        ],
        len(done),
        len(failed),
    )


def _boxes(boxes: Sequence[Sequence[int]], to_px: Float64Array) -> str:
    return box_path(np.array(boxes, np.float64).reshape(-1, 4) * np.tile(to_px, 2))


def _density(run: RunRecord, cells: ReportCells, slide: EmbeddedImage) -> DensityImage:
    """Cell density over the image of the slide."""
    grid_um2 = float(np.prod(run.slide.shape) * (run.slide.mpp * run.slide.mpp))
    bin_mm2 = cells.bin_px**2 * grid_um2 / float(np.prod(run.grid.shape)) / 1e6
    density, top = cell_density(cells.density, bin_mm2)
    h, w = cells.bin_px * (np.array([slide.h, slide.w]) / run.grid.shape) * cells.density.shape
    return DensityImage(EmbeddedImage(data_uri(density_pixels(density, top), None), h, w), density_gradient(), top)


def _samples(run: RunRecord, crops: Sequence[Crop]) -> dict[str, list[Sample]]:
    """Under their titles."""
    named = {"Representative": False, "Most doubtful": True}
    found = {title: [_sample(run, crop) for crop in crops if crop.doubtful is kind] for title, kind in named.items()}
    return {title: samples for title, samples in found.items() if samples}


def _sample(run: RunRecord, crop: Crop) -> Sample:
    (h, w), colours = crop.rgb.shape[:2], _colours(run)
    rings = [
        (colours[kind], ring_path(ring for ring, own in zip(crop.rings, crop.classes, strict=True) if own == kind))
        for kind in sorted(set(crop.classes))
    ]
    return Sample(
        EmbeddedImage(data_uri(shrink(crop.rgb, _CROP_PX)), h, w),
        scale_bar(crop.mpp, (h, w), 0.055),
        rings,
        crop.caption,
        viewer_address(run.slide.name, crop.centre),
    )


def measurement_title(name: str) -> str:
    """Axis label of a measurement column: ``area_um2`` → ``Area (µm²)``, ``dab_od_mean`` → ``DAB OD mean``."""
    suffix = next((ending for ending in _UNITS if name.endswith(ending)), "")
    words = [_TITLES.get(word, word) for word in name.removesuffix(suffix).split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:] + (f" ({_UNITS[suffix]})" if suffix else "")


def _measurements(run: RunRecord, cells: ReportCells) -> Iterator[Measurement]:
    """Of all that were measured in some cell."""
    for name, values in cells.histograms.items():
        if values.counts.any():
            edges, counts, outside = values.shown()
            steps = histogram(measurement_title(name), edges, counts, list(run.classes), _colours(run))
            yield Measurement(steps, outside, values.unfit)


def _details(run: RunRecord) -> dict[str, dict[str, Any]]:
    """All that the cells depend on."""
    return {
        "Slide": run.slide.as_dict(),
        "Model": {key: value for key, value in run.model.as_dict().items() if key != "calibration"},
        "Calibration": run.model.calibration,
        "Kinds of cells": {} if run.kinds is None else run.kinds.as_dict(),
        "Scoring by DAB": {} if run.immuno is None else run.immuno.as_dict(),
        "Settings": run.settings.model_dump(exclude_unset=True),
        "Versions": run.versions,
    }
