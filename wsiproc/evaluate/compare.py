"""Predictions against ground truths: one pair or two folders, as rows, as a table, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table
from skimage.segmentation import find_boundaries

from wsiproc.core.geometry import Box
from wsiproc.core.palette import OKABE_ITO
from wsiproc.core.paths import make_folder
from wsiproc.core.types import BoolArray, IntArray, UInt8Array
from wsiproc.errors import SettingsError
from wsiproc.evaluate import metrics
from wsiproc.evaluate.datasets import is_labelled, load_labels, stem
from wsiproc.evaluate.tables import TableLine, terminal_table, write_lines
from wsiproc.io.slides.list import require_outside_slides

TRUTH_RGB, PREDICTION_RGB, BOTH_RGB = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[7]
ON_TISSUE_RGB = ((0, 255, 0), (255, 255, 0), (255, 255, 255))
"""Truth, prediction and both, on a purple and brown background."""
ENLARGED = 2
"""Magnification of an overlay relative to its image."""
MOST_FIGURES = 12
"""Images drawn, from the worst AJI upwards."""
FIGURE_PX = 1500
"""Of larger images, the part of this side in which most pixels differ is shown."""


@dataclass(frozen=True)
class Scores:
    """Scores of one image, or their mean: see :mod:`wsiproc.evaluate.metrics`; F1, precision, recall of objects."""

    dice: float
    iou: float
    aji: float
    pq: float
    dq: float
    sq: float
    f1: float
    precision: float
    recall: float
    object_dice: float
    n_pred: float
    n_true: float


@dataclass(frozen=True)
class ScoreRow:
    """An image's name and its scores."""

    name: str
    scores: Scores


def evaluate(prediction: IntArray, truth: IntArray) -> Scores:
    """All scores of label images (h, w); ValueError where the shapes differ."""
    table = metrics.overlap(prediction, truth)
    return Scores(
        metrics.dice(table),
        metrics.iou(table),
        metrics.aji(table),
        *metrics.panoptic_quality(table),
        *metrics.detection_f1(table),
        metrics.object_dice(table),
        len(table.pred_areas),
        len(table.true_areas),
    )


def mean_scores(rows: Sequence[ScoreRow]) -> Scores:
    """Mean over images, of the counts too; ``rows`` holds at least one."""
    return Scores(*np.mean([astuple(row.scores) for row in rows], axis=0).tolist())


def evaluate_paths(prediction: Path, truth: Path, figure_dir: Path | None = None) -> list[ScoreRow]:
    """Scores of a prediction against a truth, or of two folders whose files are paired by name.

    Files and output folders are read by :func:`load_labels`. With ``figure_dir`` the worst images are drawn there,
    worst first. SettingsError where there is nothing to pair, OutputError where nothing can or may be drawn.
    """
    pairs = pair_paths(prediction, truth)
    if figure_dir is not None:
        require_outside_slides(figure_dir)
        make_folder(figure_dir)
    rows = [ScoreRow(name, evaluate(*_load_pair(one, other))) for name, one, other in pairs]
    if figure_dir is not None:
        worst = np.argsort([row.scores.aji for row in rows], kind="stable")[:MOST_FIGURES]
        for rank, index in enumerate(worst.tolist(), start=1):
            name, one, other = pairs[index]
            write_figure(figure_dir / f"{rank:02d}_{name}.png", *_load_pair(one, other))
    return rows


def pair_paths(prediction: Path, truth: Path) -> list[tuple[str, Path, Path]]:
    """(name, prediction, truth) of each pair; a truth without a prediction is an error, but not the reverse."""
    for path in (prediction, truth):
        if not path.exists():
            raise SettingsError(f"{path}: no such file or folder to evaluate")
    if is_labelled(prediction) and is_labelled(truth):
        return [(stem(truth), prediction, truth)]
    predictions, truths = _by_stem(prediction), _by_stem(truth)
    missing = sorted(set(truths) - set(predictions))
    if not truths or missing:
        raise SettingsError(
            f"{prediction} holds {len(predictions)} predictions, {truth} {len(truths)} truths; they are paired by file "
            f"name without suffix, and there is no prediction for: {', '.join(missing[:5]) or '(no truths found)'}"
        )
    return [(name, predictions[name], path) for name, path in sorted(truths.items())]


def _by_stem(path: Path) -> dict[str, Path]:
    """All files and folders with labels in a folder, or the path itself, by name."""
    if is_labelled(path):
        return {stem(path): path}
    found = [entry for entry in sorted(path.iterdir()) if is_labelled(entry)] if path.is_dir() else []
    return {stem(entry): entry for entry in found}


def _load_pair(prediction: Path, truth: Path) -> tuple[IntArray, IntArray]:
    """Both as labels of one shape; GeoJSON takes its shape from its counterpart."""
    if "json" in truth.name.lower() and truth.is_file():
        predicted = load_labels(prediction)
        return predicted, load_labels(truth, _shape(predicted))
    true = load_labels(truth)
    return load_labels(prediction, _shape(true)), true


def _shape(labels: IntArray) -> tuple[int, int]:
    return labels.shape[0], labels.shape[1]


def score_table(rows: Sequence[ScoreRow], title: str = "") -> Table:
    """A table for the terminal: one row per image, the mean last."""
    return terminal_table(_lines(rows), title)


def write_scores(path: Path, rows: Sequence[ScoreRow]) -> None:
    """The same table as a file, with all digits."""
    write_lines(path, _lines(rows))


def _lines(rows: Sequence[ScoreRow]) -> list[TableLine]:
    means = [ScoreRow("mean", mean_scores(rows))] if len(rows) > 1 else []
    return [{"picture": row.name, **asdict(row.scores)} for row in [*rows, *means]]


def write_figure(path: Path, prediction: IntArray, truth: IntArray, image: UInt8Array | None = None) -> None:
    """Write a PNG of outlines: truth blue, prediction orange, black where both agree, on white.

    On an ``image`` (h, w, 3), which is enlarged: truth green, prediction yellow, white where both agree.
    """
    part = _worst_part(prediction, truth).slices
    prediction, truth = prediction[part], truth[part]
    colours = TRUTH_RGB, PREDICTION_RGB, BOTH_RGB
    canvas = np.full((*truth.shape, 3), 255, np.uint8)
    if image is not None:
        prediction, truth, canvas = (enlarged(each) for each in (prediction, truth, image[part]))
        colours = ON_TISSUE_RGB
    true, pred = _outlines(truth), _outlines(prediction)
    canvas[true], canvas[pred], canvas[true & pred] = colours
    Image.fromarray(canvas).save(path)


def enlarged(pixels: Any) -> Any:
    """An array (h, w, …) ``ENLARGED`` times as large along both axes."""
    return pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def _outlines(labels: IntArray) -> BoolArray:
    """Mask (h, w) of the pixels of cells that touch another cell or background."""
    return np.asarray(find_boundaries(labels, mode="inner"))  # type: ignore[no-untyped-call]


def _worst_part(prediction: IntArray, truth: IntArray) -> Box:
    """The part of at most FIGURE_PX a side, on a raster of half that step, in which the foregrounds differ most."""
    h, w = (min(side, FIGURE_PX) for side in truth.shape)
    wrong = (prediction > 0) != (truth > 0)
    starts = [
        (min(y, truth.shape[0] - h), min(x, truth.shape[1] - w))
        for y in range(0, truth.shape[0], FIGURE_PX // 2)
        for x in range(0, truth.shape[1], FIGURE_PX // 2)
    ]
    y, x = max(starts, key=lambda start: int(wrong[start[0] : start[0] + h, start[1] : start[1] + w].sum()))
    return Box(y, x, h, w)
