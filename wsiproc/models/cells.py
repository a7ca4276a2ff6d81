"""From maps to cells, the same for every model: threshold, small repairs, local split, classes, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le

from wsiproc.array.nuclei.connected import objects_at
from wsiproc.array.nuclei.contour import ContourRule, Contours, refine, searched
from wsiproc.array.nuclei.instances import SplitRule, content, fill_small_holes, open_disc, split_clumps
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.core.geometry import Box
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, Int32Array, IntArray, UInt8Array
from wsiproc.models.base import Instances

Share = Annotated[float, Ge(0), Le(1)]
# A cell may depend on five times this, so it bounds the margin.
Length = Annotated[float, Gt(0), Le(50)]


@dataclass(frozen=True)
class CutRule:
    """How the mask of nuclei is derived from their probability map, and which cells are kept.

    ``threshold``: lowest probability of a pixel in a nucleus; ``object``: cells with a lower score are dropped,
    ``object_dab`` on slides with DAB, whose pale blue nuclei have faint borders; ``hole_um2``, ``hole_um``: holes of at
    most this area that fit into a square of this side are filled; ``spur_um``: parts into which no disc of this radius
    fits are removed.
    """

    threshold: Share = 0.5
    object: Share = 0.0
    object_dab: Share = 0.0
    hole_um2: Annotated[float, Ge(0), Le(1000)] = 25.0
    hole_um: Length = 8.0
    spur_um: Length = 0.75


@dataclass(frozen=True)
class SplitLengths:
    """The rule that splits touching nuclei (``wsiproc.array.nuclei.instances.SplitRule``) in µm, for any resolution.

    ``smallest_um2``: smaller objects are dropped. On slides with DAB what is named ``dab`` holds: debris of it is dark,
    and in a nucleus full of it the maps are uneven, so peaks join from further away and across deeper dips.
    """

    reach_um: Length = 12.0
    merge_um: Length = 4.0
    saddle: Share = 0.75
    smooth_um: Annotated[float, Ge(0), Le(10)] = 0.5
    smallest_um2: Annotated[float, Ge(0), Le(1000)] = 10.0
    smallest_dab_um2: Annotated[float, Ge(0), Le(1000)] = 10.0
    merge_dab_um: Length = 8.0
    saddle_dab: Share = 0.65

    def at(self, mpp: float, dab: bool = False) -> SplitRule:
        """The rule in px of ``mpp`` µm, on a slide with DAB or without."""
        return SplitRule(
            reach=round(self.reach_um / mpp),
            merge=round((self.merge_dab_um if dab else self.merge_um) / mpp),
            saddle=self.saddle_dab if dab else self.saddle,
            smooth=self.smooth_um / mpp,
            min_area=round((self.smallest_dab_um2 if dab else self.smallest_um2) / mpp**2),
        )


@dataclass(frozen=True)
class OutlineRule:
    """How far, in µm, outlines may move to where the stain drops most steeply (``wsiproc.array.nuclei.contour``)."""

    reach_um: Length = 15.0
    inwards_um: Length = 1.5
    outwards_um: Length = 1.25

    def at(self, mpp: float) -> ContourRule:
        """The rule in px of ``mpp`` µm."""
        return ContourRule(
            reach=round(self.reach_um / mpp),
            inwards=round(self.inwards_um / mpp),
            outwards=round(self.outwards_um / mpp),
        )


@dataclass(frozen=True)
class ScoreRule:
    """A cell's score: the logistic function of ``bias`` plus the weighted evidence.

    ``probability``: logit of the mean probability; ``closed``: share of the outline at which the stain drops; ``fall``:
    drop in optical density there.
    """

    bias: float
    probability: float
    closed: float
    fall: float

    def scores(self, evidence: tuple[Float64Array, ...]) -> Float32Array:
        """(N,) in [0, 1] from the evidence of each cell."""
        probability, closed, fall = evidence
        z = self.bias + self.probability * probability + self.closed * closed + self.fall * fall
        return (1 / (1 + np.exp(-z))).astype(np.float32)


def _logit(means: Float64Array) -> Float64Array:
    """Logit of mean probabilities (N,), clipped away from 0 and 1."""
    p = np.clip(means, 0.5 / 255, 1 - 0.5 / 255)
    found: Float64Array = np.log(p / (1 - p))
    return found


def cell_margin(cut: CutRule, split: SplitLengths, mpp: float, outline: OutlineRule | None = None) -> int:
    """Pixels of the maps around a region that its cells can depend on, with DAB or without: split, holes, spurs,
    outlines.
    """
    moved = outline.at(mpp).margin if outline else 0
    splitting = max(split.at(mpp, dab).margin for dab in (False, True))
    return splitting + round(cut.hole_um / mpp) + 2 * round(2 * cut.spur_um / mpp) + moved


def cut_cells(
    maps: UInt8Array,
    cut: CutRule,
    split: SplitLengths,
    mpp: float,
    dab: bool = False,
    interior: UInt8Array | None = None,
    outlines: OutlineScoring | None = None,
    inner: Box | None = None,
) -> Instances:
    """Cells of stitched maps (c, h, w), whose first plane is the probability of a nucleus. Local, see ``cell_margin``.

    ``dab``: whether the slide has DAB, which selects the minimum score. ``interior``: (h, w) plane that is low between
    touching nuclei; None splits by the shape of the mask alone. ``outlines``: how they are moved and scored.
    ``inner``: see ``Model.instances``.
    """
    rule = split.at(mpp, dab)
    box, mask = _nuclei(maps[0], cut, rule, mpp, outlines.rule.at(mpp) if outlines else None, inner)
    inner = inner and inner.relative_to(box)
    interior = None if interior is None else np.ascontiguousarray(interior[box.slices])
    found = split_clumps(mask, rule, interior)
    dropped: dict[str, IntArray] = {
        f"smaller than {rule.min_area * mpp**2:g} µm²": found.small,
        f"pixels more than {split.reach_um:g} µm from the middle of a nucleus": _places(found.clipped),
    }
    within = maps[(slice(None), *box.slices)]
    moved = outlines.move(found.labels, within, mpp, rule.min_area, inner) if outlines else None
    labels, count = (found.labels, found.count) if moved is None else (moved.labels, len(moved.source))
    sums = label_sums(labels, count, within[:1])
    means = sums.values / sums.areas[:, None]
    scores = (means[:, 0] / 255).astype(np.float32)
    evidence = None if moved is None else (_logit(means[:, 0] / 255), moved.closed, moved.fall)
    if evidence is not None and outlines is not None and outlines.score is not None:
        scores = outlines.score.scores(evidence)
    corner = (box.y, box.x)
    least = cut.object_dab if dab else cut.object
    if least > 0:
        kept = scores >= least
        dropped[f"score below {least:g}"] = centroids(sums)[~kept].astype(np.int64)
        numbers = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
        labels, scores = numbers[labels], scores[kept]
        if evidence is not None:
            evidence = evidence[0][kept], evidence[1][kept], evidence[2][kept]
    placed = np.zeros(maps.shape[1:], np.int32)
    placed[box.slices] = labels
    classes = np.zeros(len(scores), np.uint8)
    return Instances(placed, classes, scores, {what: np.add(at, corner) for what, at in dropped.items()}, evidence)


def _nuclei(
    probability: UInt8Array,
    cut: CutRule,
    rule: SplitRule,
    mpp: float,
    contour: ContourRule | None,
    inner: Box | None,
) -> tuple[Box, BoolArray]:
    """The box and the repaired mask of nuclei in a plane (h, w), as far as they can affect cells in ``inner``.

    An object's split depends on others within the reach of the smoothing. A moved outline depends on objects that claim
    the same px, which depend on others likewise, and on the position of neighbouring objects: three steps from object
    to object.
    """
    hole = round(cut.hole_um / mpp)
    mask = probability > cut.threshold * 255
    # Much of a slide is background. The border is wider than any hole, or it would itself count as one around a single
    # nucleus.
    border = max(hole + rule.smooth_radius + 2, contour.context_px if contour else 0)
    box = content(mask, border)
    mask = fill_small_holes(np.ascontiguousarray(mask[box.slices]), round(cut.hole_um2 / mpp**2), hole)
    mask = open_disc(mask, cut.spur_um / mpp)
    if inner is None:
        return box, mask
    steps = (contour.beyond, 3) if contour else (0, 0)
    objects_at(mask, inner.relative_to(box), *steps, rule.smooth_radius)
    part = content(mask, border)
    return part.shifted(box.y, box.x), np.ascontiguousarray(mask[part.slices])


@dataclass(frozen=True)
class OutlineScoring:
    """How outlines are moved and cells are scored; ``search``: weight, in 64ths, of each plane of the maps (c, h, w) in
    the density in which outlines are searched.
    """

    rule: OutlineRule
    score: ScoreRule | None
    search: tuple[int, ...]

    def move(
        self,
        labels: Int32Array,
        maps: UInt8Array,
        mpp: float,
        min_area: int,
        inner: Box | None = None,
    ) -> Contours:
        """The labels (h, w) with outlines moved to where the stain drops most steeply; ``inner``: see ``refine``."""
        return refine(labels, searched(maps, self.search), self.rule.at(mpp), min_area, inner)


def _places(mask: BoolArray) -> Int32Array:
    """Positions where a mask (h, w) is set: (K, 2), (y, x); OpenCV is several times faster than NumPy at this."""
    found = cv2.findNonZero(mask.view(np.uint8))
    return np.zeros((0, 2), np.int32) if found is None else np.asarray(found, np.int32).reshape(-1, 2)[:, ::-1]
