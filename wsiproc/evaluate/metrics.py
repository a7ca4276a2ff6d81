"""Scores of a segmentation against the ground truth, all from one sparse table of overlaps.

``table = overlap(prediction, truth)`` scans the pixels once; every score is then a few lines on the table. Where both
images are empty each score is 1, where only one of them is, 0. The values of labels carry no meaning and need not be
consecutive; 0 is background.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from wsiproc.core.types import AnyArray, Float64Array, Int64Array, IntArray, StrArray

_STRIP_PX = 1 << 24
"""Pixels processed together: bounds the memory for large images."""


@dataclass(frozen=True)
class Overlap:
    """Objects that share pixels. ``pred_areas`` (P,) and ``true_areas`` (T,) px; ``pred``, ``true``, ``shared`` (K,):
    prediction and truth of a pair (indices into the areas) and their common pixels. ``pred_ids`` (P,): the predictions'
    numbers in the label image.

    Pairs and objects are in raster order of their first pixel, so that no score depends on how the objects are
    numbered, ties included.
    """

    pred_areas: Int64Array
    true_areas: Int64Array
    pred: Int64Array
    true: Int64Array
    shared: Int64Array
    pred_ids: Int64Array

    @property
    def ious(self) -> Float64Array:
        """(K,) intersection over union of each pair."""
        return self.shared / (self.pred_areas[self.pred] + self.true_areas[self.true] - self.shared)


def overlap(prediction: IntArray, truth: IntArray, strip_px: int = _STRIP_PX) -> Overlap:
    """The table of two label images of the same shape (h, w); ValueError where the shapes differ. ``strip_px``: pixels
    that are compared at a time, which bounds memory.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}, the truth {truth.shape}; they must be equal")
    pred_ids, true_ids, counts = _pairs(prediction, truth, strip_px)
    pred, pred_numbers = _by_first_occurrence(pred_ids)
    true, true_numbers = _by_first_occurrence(true_ids)
    both = (pred >= 0) & (true >= 0)
    return Overlap(
        np.bincount(pred[pred >= 0], counts[pred >= 0], len(pred_numbers)).astype(np.int64),
        np.bincount(true[true >= 0], counts[true >= 0], len(true_numbers)).astype(np.int64),
        pred[both],
        true[both],
        counts[both],
        pred_numbers,
    )


def _pairs(prediction: IntArray, truth: IntArray, strip_px: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Every pair of ids that share a pixel, not both background, by first occurrence: prediction, truth, pixels."""
    strips = list(_strip_pairs(prediction, truth, strip_px)) or [np.zeros((0, 3), np.int64)]
    rows = np.concatenate(strips)
    unique, first, place = np.unique(rows[:, :2], axis=0, return_index=True, return_inverse=True)
    counts = np.bincount(place.ravel(), rows[:, 2], len(unique)).astype(np.int64)
    order = np.argsort(first)
    return unique[order, 0], unique[order, 1], counts[order]


def _strip_pairs(prediction: IntArray, truth: IntArray, strip_px: int) -> Iterator[Int64Array]:
    """(K, 3) prediction, truth, pixels of one strip of rows after the other, each by first occurrence."""
    step = max(1, strip_px // max(1, truth.shape[1]))
    for y in range(0, truth.shape[0], step):
        pred, true = (image[y : y + step].ravel().astype(np.int64) for image in (prediction, truth))
        seen = (pred > 0) | (true > 0)
        base = int(true.max(initial=0)) + 1
        keys, first, counts = np.unique(pred[seen] * base + true[seen], return_index=True, return_counts=True)
        order = np.argsort(first)
        yield np.stack([keys[order] // base, keys[order] % base, counts[order]], axis=1)


def _by_first_occurrence(ids: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Ids numbered 0, 1, … by first occurrence, background −1; and the id of each number."""
    out = np.full(len(ids), -1, np.int64)
    unique, first, place = np.unique(ids[ids > 0], return_index=True, return_inverse=True)
    rank = np.empty(len(unique), np.int64)
    rank[np.argsort(first)] = np.arange(len(unique))
    out[ids > 0] = rank[place]
    return out, unique[np.argsort(first)]


def _ratio(part: float, whole: float) -> float:
    """``part / whole``; 1 if ``whole`` is 0: there was nothing to find, and nothing was found."""
    return float(part / whole) if whole else 1.0


def dice(table: Overlap) -> float:
    """2 |P ∩ T| / (|P| + |T|) of the foreground pixels (= pixel F1)."""
    return _ratio(2 * table.shared.sum(), table.pred_areas.sum() + table.true_areas.sum())


def iou(table: Overlap) -> float:
    """|P ∩ T| / |P ∪ T| of the foreground pixels."""
    shared = table.shared.sum()
    return _ratio(shared, table.pred_areas.sum() + table.true_areas.sum() - shared)


def object_dice(table: Overlap) -> float:
    """Object Dice (Sirinukunwattana et al., Medical Image Analysis 2017).

    The mean of two area-weighted means: of each truth's Dice with the prediction that it shares most pixels with, and
    vice versa.
    """
    if len(table.pred_areas) == 0 or len(table.true_areas) == 0:
        return float(len(table.pred_areas) == len(table.true_areas))
    score = 2 * table.shared / (table.pred_areas[table.pred] + table.true_areas[table.true])
    halves = []
    for side, areas in ((table.true, table.true_areas), (table.pred, table.pred_areas)):
        best = _best(side, table.shared)
        halves.append(np.sum(score[best] * areas[side[best]]) / areas.sum())
    return float(np.mean(halves))


def aji(table: Overlap) -> float:
    """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017).

    Each truth takes the prediction of best IoU, which may be taken more than once; intersections are summed over
    unions; truths without a prediction and predictions never taken are added to the union.
    """
    best = _best(table.true, table.ious)
    shared = table.shared[best]
    unions = table.pred_areas[table.pred[best]] + table.true_areas[table.true[best]] - shared
    unmatched = np.delete(table.true_areas, table.true[best]).sum()
    unused = np.delete(table.pred_areas, np.unique(table.pred[best])).sum()
    return _ratio(shared.sum(), unions.sum() + unmatched + unused)


def _best(side: Int64Array, value: AnyArray) -> Int64Array:
    """For each object of one ``side`` (K,) that has pairs: the index of its pair of highest value; first of equals."""
    order = np.lexsort((np.arange(len(side)), -value.astype(np.float64), side))
    return np.asarray(order[np.diff(side[order], prepend=-1) != 0])


def panoptic_quality(table: Overlap) -> tuple[float, float, float]:
    """(PQ, DQ, SQ) with matches at IoU > 0.5, which are unique (Kirillov et al., CVPR 2019).

    DQ is the detection F1; SQ the mean IoU of matches, 0 if there are objects but no matches.
    """
    matched = table.ious[table.ious > 0.5]
    dq = detection_f1(table)[0]
    if len(table.pred_areas) + len(table.true_areas) == 0:
        return 1.0, 1.0, 1.0
    sq = float(matched.mean()) if len(matched) else 0.0
    return dq * sq, dq, sq


def detection_f1(table: Overlap) -> tuple[float, float, float]:
    """(F1, precision, recall) of objects, matched at IoU > 0.5."""
    return f1_scores(int(np.sum(table.ious > 0.5)), len(table.pred_areas), len(table.true_areas))


def f1_scores(matched: int, n_pred: int, n_true: int) -> tuple[float, float, float]:
    """(F1, precision, recall) from numbers of matches, predictions and truths.

    Precision without predictions and recall without truths are 0, unless there is neither.
    """
    if n_pred + n_true == 0:
        return 1.0, 1.0, 1.0
    return 2 * matched / (n_pred + n_true), matched / max(n_pred, 1), matched / max(n_true, 1)


def match_points(pred_yx: Float64Array, true_yx: Float64Array, radius_px: float) -> tuple[Int64Array, Int64Array]:
    """Pair predicted (P, 2) with true (T, 2) points, one to one, no farther apart than ``radius_px``.

    As many pairs as possible, and among these the smallest sum of distances. Returns indices into both, sorted by
    truth.
    """
    if len(pred_yx) == 0 or len(true_yx) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(pred_yx).sparse_distance_matrix(cKDTree(true_yx), radius_px, output_type="ndarray")
    pred, true, distance = near["i"].astype(np.int64), near["j"].astype(np.int64), near["v"]
    links = sparse.coo_array(
        (np.ones(len(pred)), (pred, true + len(pred_yx))), shape=(len(pred_yx) + len(true_yx),) * 2
    )
    group = sparse.csgraph.connected_components(links.tocsr(), directed=False)[1][pred]
    order = np.argsort(group, kind="stable")
    cuts = np.flatnonzero(np.diff(group[order])) + 1
    pairs = [_assign(pred[part], true[part], distance[part]) for part in np.split(order, cuts) if len(part)]
    both = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    both = both[np.argsort(both[:, 1])]
    return both[:, 0], both[:, 1]


def _assign(pred: Int64Array, true: Int64Array, distance: Float64Array) -> Int64Array:
    """(M, 2) best pairs among the allowed ones of one connected component of points."""
    if len(pred) == 1:
        return np.stack([pred, true], axis=1)
    pred_ids, rows = np.unique(pred, return_inverse=True)
    true_ids, cols = np.unique(true, return_inverse=True)
    reward = float(distance.sum()) + 1  # one more pair outweighs any sum of distances
    cost = np.zeros((len(pred_ids), len(true_ids)))
    cost[rows, cols] = distance - reward
    row, col = linear_sum_assignment(cost)
    allowed = cost[row, col] < 0
    return np.stack([pred_ids[row[allowed]], true_ids[col[allowed]]], axis=1)


def match_classes(
    pred_yx: Float64Array, pred_classes: StrArray, true_yx: Float64Array, true_classes: StrArray, radius_px: float
) -> tuple[Int64Array, Int64Array]:
    """As :func:`match_points`, within each class (P,), (T,) that occurs; indices into both, class after class."""
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for name in np.union1d(pred_classes, true_classes):
        pred, true = np.flatnonzero(pred_classes == name), np.flatnonzero(true_classes == name)
        one, other = match_points(pred_yx[pred], true_yx[true], radius_px)
        pairs.append((pred[one], true[other]))
    return np.concatenate([one for one, _ in pairs]), np.concatenate([other for _, other in pairs])


def mean_count_error(n_pred: npt.ArrayLike, n_true: npt.ArrayLike) -> float:
    """Mean absolute difference of counts over images."""
    return float(np.mean(np.abs(np.subtract(n_pred, n_true, dtype=np.float64))))
