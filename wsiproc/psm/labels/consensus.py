"""Pseudo-labels by competition: several pseudo-labellers propose objects at several thresholds, and the image decides.

Every proposal is an object with an outline. It is scored by the image (a closed, steep border around something convex
and close to an ellipse) and by consensus (how well the other proposals agree with it); the best ones that do not
overlap are kept. Agreement of independent segmentations, at the level of objects, is what COIN (ICCV 2025) selects by
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numba import njit

from wsiproc.array.nuclei.measure import label_sums
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, Int64Array
from wsiproc.psm.labels.evidence import outline_shapes, ramp, trace_outlines

_STEEP_PERCENTILE = 92  # percentile of an image's slopes: such a slope is rare
_OVERLAP = 0.2  # share of a proposal that better ones may already occupy


@dataclass(frozen=True)
class Agreed:
    """The proposals that were kept: ``labels`` (h, w) int32, 1…N from the best to the worst; ``image``: (N,) evidence
    of the image, ``consensus``: (N,) agreement of the other proposals, both in [0, 1].
    """

    labels: Int32Array
    image: Float64Array
    consensus: Float64Array

    @property
    def scores(self) -> Float64Array:
        """(N,) mean of both."""
        return (self.image + self.consensus) / 2


def compete(proposals: Sequence[Int32Array], density: Float32Array) -> Agreed:
    """The best objects of all ``proposals``, (h, w) labels each, over a smooth ``density`` (h, w) that falls at true
    borders.
    """
    steep = _steep(density)
    boxes = [object_boxes(labels) for labels in proposals]
    image = [image_evidence(labels, density, steep) for labels in proposals]
    consensus = [
        np.mean([best_iou(labels, box, other) for j, other in enumerate(proposals) if j != i], axis=0)
        for i, (labels, box) in enumerate(zip(proposals, boxes, strict=True))
    ]
    rows = [
        (-(p + c), number, i, p, c)
        for number, (ps, cs) in enumerate(zip(image, consensus, strict=True))
        for i, (p, c) in enumerate(zip(ps, cs, strict=True))
    ]
    drawn = np.zeros(density.shape, np.int32)
    kept: list[tuple[float, float]] = []
    for _, number, i, p, c in sorted(rows):
        if _draw(drawn, proposals[number], i + 1, boxes[number][i], len(kept) + 1):
            kept.append((p, c))
    scores = np.array(kept, np.float64).reshape(-1, 2)
    return Agreed(drawn, scores[:, 0], scores[:, 1])


def _steep(density: Float32Array) -> float:
    slopes = np.hypot(
        cv2.Sobel(density, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(density, cv2.CV_32F, 0, 1, scale=1 / 8)
    )
    return max(float(np.percentile(slopes, _STEEP_PERCENTILE)), 1e-6)


def image_evidence(labels: Int32Array, density: Float32Array, steep: float) -> Float64Array:
    """(N,) in [0, 1]: how much each object's outline resembles that of a nucleus; ``steep``: a slope that is rare in
    the image.
    """
    shapes = outline_shapes(trace_outlines(labels), density)
    evidence: Float64Array = (
        ramp(shapes.ellipse, 0.75, 0.95)
        * ramp(shapes.solidity, 0.75, 0.95)
        * ramp(shapes.closed, 0.3, 0.9)
        * np.clip(shapes.slope / steep, 0, 1.5)
        / 1.5
    )
    return evidence


def object_boxes(labels: Int32Array) -> Int64Array:
    """(N, 4) y, x, h, w of objects 1…N."""
    return label_sums(labels, int(labels.max(initial=0)), np.zeros((1, *labels.shape), np.uint8)).boxes


def best_iou(labels: Int32Array, boxes: Int64Array, other: Int32Array) -> Float64Array:
    """(N,) the best intersection over union of each object 1…N with one of ``other``; ``boxes``: (N, 4) y, x, h, w."""
    areas = np.bincount(other.ravel())
    found: Float64Array = _best_iou(labels, boxes, other, areas)
    return found


@njit(cache=True, nogil=True)
def _best_iou(labels, boxes, other, areas):  # type: ignore[no-untyped-def]
    found = np.zeros(len(boxes))
    shared = np.zeros(len(areas), np.int64)
    for i in range(len(boxes)):
        area = 0
        y0, x0, h, w = boxes[i]
        if h <= 0 or w <= 0:
            continue
        for y in range(y0, y0 + h):
            for x in range(x0, x0 + w):
                if labels[y, x] == i + 1:
                    area += 1
                    shared[other[y, x]] += 1
        shared[0] = 0
        for y in range(y0, y0 + h):
            for x in range(x0, x0 + w):
                j = other[y, x]
                if shared[j] > 0:
                    found[i] = max(found[i], shared[j] / (area + areas[j] - shared[j]))
                    shared[j] = 0
    return found


@njit(cache=True, nogil=True)
def _draw(drawn, labels, number, box, new):  # type: ignore[no-untyped-def]
    """Label an object's free pixels ``new``, unless too many are occupied or none are free."""
    area, taken = 0, 0
    y0, x0, h, w = box
    for y in range(y0, y0 + h):
        for x in range(x0, x0 + w):
            if labels[y, x] == number:
                area += 1
                taken += drawn[y, x] > 0
    if area == 0 or taken > _OVERLAP * area:
        return False
    for y in range(y0, y0 + h):
        for x in range(x0, x0 + w):
            if labels[y, x] == number and drawn[y, x] == 0:
                drawn[y, x] = new
    return True
