"""Labels that contradict the teacher: what it detects among cells that hardly resemble nuclei is background.

The neighbours of a cell tell flakes of keratin, debris and fibres from nuclei (``wsiproc.models.doubt``); a
network does not see that far at once, but it can learn what such objects look like. Where they have the colour of
nuclei, as in crowded epithelium whose borders are blurred, they are not taught either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from wsiproc.array.stains import Stains, unmixing
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, Int32Array, UInt8Array
from wsiproc.models.doubt import NeighbourRule, count_steps, logits
from wsiproc.psm.labels.targets import IGNORE

_APART_UM, _SPREAD_UM, _CORE_UM = 0.25, 0.5, 1.0
_MOSTLY = 0.5  # of an accepted object
_SMOOTH_PX = 2.0
_USUAL_PERCENTILE = 25  # of haematoxylin's share in accepted nuclei, from which a pixel has the colour of one


@dataclass(frozen=True)
class ScoredCells:
    """The teacher's cells in one tile: labels (h, w), 1…N, with their scores (N,) and centres (N, 2), (y, x) px."""

    labels: Int32Array
    scores: Float32Array
    centres: Float64Array


def doubted(
    tiles: Sequence[ScoredCells], rule: NeighbourRule, least: float, mpp: float
) -> list[tuple[BoolArray, BoolArray]]:
    """Which cells of each tile of a slide their neighbours speak against, and which of these have a high score all the
    same, (N,) each. Only cells with a score of ``least`` or more count as neighbours.
    """
    kept = [cells.scores >= least for cells in tiles]
    counts = [count_steps(cells.scores[which]) for cells, which in zip(tiles, kept, strict=True)]
    level = rule.level(np.sum(counts, axis=0, dtype=np.int64))
    limit = logits(np.array([least]))[0]
    found = []
    for cells, which in zip(tiles, kept, strict=True):
        lack = np.maximum(level - _around(cells, which, rule.reach_um / mpp), 0)
        against = (lack > 0) & (logits(cells.scores) - rule.weight * lack < limit)
        clear = cells.scores >= rule.clear
        found.append((against & ~clear, against & clear))
    return found


def _around(cells: ScoredCells, neighbours: BoolArray, reach_px: float) -> Float64Array:
    """Mean logit of the other cells around each (N,); infinite where there is none, which says nothing."""
    own, numbers = logits(cells.scores), np.nonzero(neighbours)[0]
    if not len(numbers):
        return np.full(len(own), np.inf)
    near = cKDTree(cells.centres[numbers]).query_ball_point(cells.centres, reach_px)
    others = [numbers[places][numbers[places] != i] for i, places in enumerate(near)]
    return np.array([own[some].mean() if len(some) else np.inf for some in others])


def withdraw(
    accepted: Int32Array, target: UInt8Array, cells: ScoredCells, against: tuple[BoolArray, BoolArray], mpp: float
) -> None:
    """Make doubted cells background, and those with a high score unknown, in ``accepted`` (h, w) and ``target``
    (h, w, 2), both in place; accepted objects that mostly lie in them too.
    """
    rejected, unclear = (np.concatenate([[False], which]) for which in against)
    outside = (cells.labels > 0) & ~rejected[cells.labels]
    background = _dilate(rejected[cells.labels], _APART_UM / mpp) & ~outside
    unknown = unclear[cells.labels]
    count = int(accepted.max(initial=0)) + 1
    areas = np.maximum(np.bincount(accepted.ravel(), minlength=count), 1)
    gone, unsure = (np.bincount(accepted[mask], minlength=count) > _MOSTLY * areas for mask in (background, unknown))
    gone[0] = unsure[0] = False
    background |= gone[accepted]
    unknown |= (unsure & ~gone)[accepted]
    accepted[background | unknown] = 0
    target[unknown] = IGNORE
    target[background] = 0


def forgive(
    targets: Sequence[UInt8Array],
    detected: Sequence[BoolArray],
    densities: Sequence[Float32Array],
    stains: Stains,
    mpp: float,
) -> None:
    """Ignore, in ``targets`` (h, w, 2) of a slide's tiles, in place, objects among the background that the teacher
    detects (h, w) and that have the colour of accepted nuclei; ``densities``: optical density (h, w, 3).
    """
    shares = [haematoxylin_share(od, stains)[0] for od in densities]
    inside = np.concatenate([share[target[..., 0] == 1] for share, target in zip(shares, targets, strict=True)])
    if not len(inside):
        return
    usual = float(np.percentile(inside, _USUAL_PERCENTILE))
    side = 2 * round(_CORE_UM / mpp) + 1
    core = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    for share, target, seen in zip(shares, targets, detected, strict=True):
        contradicted = seen & (target[..., 0] == 0)
        cores = cv2.morphologyEx(contradicted.astype(np.uint8), cv2.MORPH_OPEN, core)
        objects, count = ndimage.label(cores)
        means = ndimage.mean(share, objects, np.arange(1, count + 1)) if count else np.zeros(0)
        alike = np.concatenate([[False], np.asarray(means) >= usual])[objects]
        target[_dilate(alike, _SPREAD_UM / mpp) & contradicted] = IGNORE


def haematoxylin_share(od: Float32Array, stains: Stains) -> tuple[Float32Array, Float32Array]:
    """Haematoxylin's share of both stains, and their sum, in smoothed optical density (h, w, 3): (h, w) each."""
    smooth = np.asarray(cv2.GaussianBlur(od, (0, 0), _SMOOTH_PX), np.float32)
    amounts: Float32Array = np.maximum(smooth @ unmixing(stains)[:, :2].astype(np.float32), np.float32(0))
    total: Float32Array = amounts.sum(axis=2)
    share: Float32Array = (amounts[..., 0] / np.maximum(total, np.float32(1e-6))).astype(np.float32)
    return share, total


def _dilate(mask: BoolArray, radius: float) -> BoolArray:
    side = 2 * round(radius) + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)
