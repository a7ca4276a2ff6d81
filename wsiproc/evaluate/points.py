"""Predicted against true points: matched one to one within a radius, class by class and all together.

For Ki-67 the classes are *positive* and *negative* nuclei; points of other classes are compared as cells only.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image, ImageDraw

from wsiproc.core.palette import RGB
from wsiproc.core.types import Float64Array, Int64Array, StrArray, UInt8Array
from wsiproc.errors import SettingsError
from wsiproc.evaluate import metrics
from wsiproc.evaluate.compare import BOTH_RGB, ENLARGED, PREDICTION_RGB, TRUTH_RGB, enlarged

POINT_CLASSES = ("positive", "negative")
"""The classes of Ki-67."""
ALL = "all"
_MARK_PX = 4


@dataclass(frozen=True)
class Points:
    """``yx`` (N, 2) px from the corner of the image's first pixel; ``classes`` (N,) class names in lower case."""

    yx: Float64Array
    classes: StrArray


@dataclass(frozen=True)
class Count:
    """Numbers of matched, predicted and true points."""

    matched: int
    predicted: int
    true: int


Counts = Mapping[str, Count]
"""Counts of one or more images: by class, and under ``ALL`` those of all points regardless of class."""


def load_points(path: Path) -> Points:
    """Points of a CSV file with the columns x, y and class; SettingsError if it is not such a file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file, strict=True, restval=""))
            yx = [(float(line["y"]), float(line["x"])) for line in lines]
            classes = [line["class"].strip().lower() for line in lines]
    except (KeyError, ValueError, csv.Error, OSError) as error:
        raise SettingsError(
            f"{path}: points are read from CSV with the header x,y,class and one row per cell; this file: {error}"
        ) from error
    return Points(np.array(yx, np.float64).reshape(-1, 2), np.array(classes, np.str_))


def cell_points(folder: Path) -> Points:
    """Centres and classes of the cells in a finished output folder of wsiproc, in slide px."""
    table = pyarrow.parquet.read_table(folder / "cells.parquet", columns=["centroid_y", "centroid_x", "class"])
    yx = np.stack([table["centroid_y"].to_numpy(), table["centroid_x"].to_numpy()], axis=1)
    return Points(yx, np.array([str(name).lower() for name in table["class"].to_pylist()], np.str_))


def matches(prediction: Points, truth: Points, radius_px: float, by_class: bool) -> tuple[Int64Array, Int64Array]:
    """Indices of matched predictions and truths; with ``by_class`` only points of the same class match."""
    if not by_class:
        return metrics.match_points(prediction.yx, truth.yx, radius_px)
    return metrics.match_classes(prediction.yx, prediction.classes, truth.yx, truth.classes, radius_px)


def count_points(prediction: Points, truth: Points, radius_px: float, by_class: bool) -> dict[str, Count]:
    """Counts of one image: all points, and with ``by_class`` those of each of ``POINT_CLASSES``, matched within it."""
    counts = {}
    if by_class:
        _, found = matches(prediction, truth, radius_px, by_class=True)
        for name in POINT_CLASSES:
            sizes = (int((some == name).sum()) for some in (truth.classes[found], prediction.classes, truth.classes))
            counts[name] = Count(*sizes)
    matched = len(matches(prediction, truth, radius_px, by_class=False)[0])
    return counts | {ALL: Count(matched, len(prediction.yx), len(truth.yx))}


def headline_f1(counts: Counts) -> float:
    """Mean F1 of the classes; without classes, F1 of all points."""
    return _f1_columns(counts)["f1"]


def point_image_columns(counts: Counts) -> dict[str, float]:
    """Scores and counts of one image by name."""
    columns = _f1_columns(counts)
    for name, count in counts.items():
        columns |= {f"{name}_matched": count.matched, f"{name}_predicted": count.predicted, f"{name}_true": count.true}
    if "positive" in counts:
        columns |= dict(zip(("ki67_predicted", "ki67_true"), _ki67(counts), strict=True))
    return columns


def point_dataset_columns(images: Sequence[Counts]) -> dict[str, float]:
    """Scores of a dataset by name: precision, recall and F1 from the pooled counts of all images.

    ``f1``, ``precision`` and ``recall`` are means over the classes; ``detection_…`` ignore the class;
    ``mean_picture_f1`` is the mean of the images' ``f1``; count errors and the error of the Ki-67 index are mean
    absolute differences over images. ``images`` holds at least one.
    """
    columns = _f1_columns({name: _total([counts[name] for counts in images]) for name in images[0]})
    columns["mean_picture_f1"] = float(np.mean([headline_f1(counts) for counts in images]))
    for name in images[0]:
        predicted, true = [c[name].predicted for c in images], [c[name].true for c in images]
        columns[f"{name}_count_error"] = metrics.mean_count_error(predicted, true)
    if "positive" in images[0]:
        columns["ki67_error"] = float(np.mean([abs(predicted - true) for predicted, true in map(_ki67, images)]))
    return columns


def _total(counts: Sequence[Count]) -> Count:
    return Count(sum(c.matched for c in counts), sum(c.predicted for c in counts), sum(c.true for c in counts))


def _f1_columns(counts: Counts) -> dict[str, float]:
    """F1, precision and recall: of all points; or, with classes, their mean, those of each class and of all points."""
    each = {name: metrics.f1_scores(count.matched, count.predicted, count.true) for name, count in counts.items()}
    classes = [name for name in each if name != ALL]
    if not classes:
        return _named("", each[ALL])
    columns = _named("", np.mean([each[name] for name in classes], axis=0).tolist())
    for name in classes:
        columns |= _named(f"{name}_", each[name])
    return columns | _named("detection_", each[ALL])


def _named(prefix: str, scores: Sequence[float]) -> dict[str, float]:
    return dict(zip((f"{prefix}f1", f"{prefix}precision", f"{prefix}recall"), scores, strict=True))


def _ki67(counts: Counts) -> tuple[float, float]:
    """Ki-67 index, predicted and true: positive among positive and negative nuclei; 0 if there are none."""
    positive, negative = counts["positive"], counts["negative"]
    predicted = positive.predicted / max(1, positive.predicted + negative.predicted)
    return predicted, positive.true / max(1, positive.true + negative.true)


def write_point_figure(
    path: Path, prediction: Points, truth: Points, image: UInt8Array, radius_px: float, by_class: bool
) -> None:
    """Write a PNG of ``image`` (h, w, 3), enlarged, with discs at truths, black if matched and blue if missed, and
    orange crosses at unmatched predictions. With ``by_class``, a cell of the wrong class is both missed and false.
    """
    canvas = Image.fromarray(enlarged(image))
    draw = ImageDraw.Draw(canvas)
    pred, true = matches(prediction, truth, radius_px, by_class)
    found = np.isin(np.arange(len(truth.yx)), true)
    for yx, hit in zip(truth.yx * ENLARGED, found, strict=True):
        _disc(draw, yx, BOTH_RGB if hit else TRUTH_RGB)
    for yx in np.delete(prediction.yx * ENLARGED, pred, axis=0):
        _cross(draw, yx)
    canvas.save(path)


def _disc(draw: ImageDraw.ImageDraw, yx: Float64Array, colour: RGB) -> None:
    y, x = yx
    draw.ellipse((x - _MARK_PX, y - _MARK_PX, x + _MARK_PX, y + _MARK_PX), fill=colour, outline="white")


def _cross(draw: ImageDraw.ImageDraw, yx: Float64Array) -> None:
    (y, x), r = yx, _MARK_PX
    for colour, width in (("white", 5), (PREDICTION_RGB, 3)):  # the white rim stands out on dark nuclei
        draw.line((x - r, y - r, x + r, y + r), fill=colour, width=width)
        draw.line((x - r, y + r, x + r, y - r), fill=colour, width=width)
