"""Calibration of scores: of cells with a score of 0.8, is one in five false?

A cell is true in the strict sense where a true nucleus shares more than half of the union with it (IoU > 0.5), in the
lenient one where its centre lies in a true nucleus. The expected calibration error (Naeini et al., AAAI 2015) is the
mean over cells of the difference between the mean score and the share of true cells in a cell's bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet

from wsiproc.core.types import BoolArray, Float64Array, IntArray
from wsiproc.evaluate.metrics import overlap

RELIABILITY_BINS = 20
"""Bins of equal width between 0 and 1."""


@dataclass(frozen=True)
class Judged:
    """Cells: their ``scores`` (N,) in [0, 1], and whether they are true by ``overlap`` (N,) and by ``centre`` (N,)."""

    scores: Float64Array
    overlap: BoolArray
    centre: BoolArray

    @classmethod
    def concat(cls, some: Sequence[Judged]) -> Judged:
        """The cells of several images; ``some`` holds at least one."""
        return cls(
            np.concatenate([each.scores for each in some]),
            np.concatenate([each.overlap for each in some]),
            np.concatenate([each.centre for each in some]),
        )


@dataclass(frozen=True)
class Bin:
    """A bin of scores: number of ``cells`` in it, their mean ``score``, and the shares that are true."""

    cells: int
    score: float
    overlap: float
    centre: float


def judge_cells(folder: Path, prediction: IntArray, truth: IntArray) -> Judged:
    """The cells of a finished output folder; ``prediction``: their label image (h, w), numbered by id."""
    table = pyarrow.parquet.read_table(folder / "cells.parquet", columns=["id", "score", "centroid_y", "centroid_x"])
    ids, scores, y, x = (column.to_numpy() for column in table.columns)
    pairs = overlap(prediction, truth)
    matched = pairs.pred_ids[pairs.pred[pairs.ious > 0.5]]
    rows, cols = (np.clip(axis.astype(np.int64), 0, side - 1) for axis, side in zip((y, x), truth.shape, strict=True))
    return Judged(scores.astype(np.float64), np.isin(ids, matched), truth[rows, cols] > 0)


def bins_of(cells: Judged) -> list[Bin]:
    """The non-empty bins, by increasing score."""
    bin_index = np.minimum((cells.scores * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
    found = []
    for number in np.unique(bin_index):
        inside = bin_index == number
        means = (float(values[inside].mean()) for values in (cells.scores, cells.overlap, cells.centre))
        found.append(Bin(int(inside.sum()), *means))
    return found


def calibration_errors(cells: Judged) -> tuple[float, float]:
    """The expected calibration error by overlap and by centre; 0 where there are no cells."""
    bins = bins_of(cells)
    count = max(1, len(cells.scores))
    by_overlap = sum(each.cells * abs(each.score - each.overlap) for each in bins) / count
    return by_overlap, sum(each.cells * abs(each.score - each.centre) for each in bins) / count
