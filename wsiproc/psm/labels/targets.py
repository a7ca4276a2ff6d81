"""Training targets: pixels accepted as nucleus, pixels accepted as background, and the rest ignored.

A target is (h, w, 2) uint8: plane 0 says nucleus (1) or not (0), plane 1 the interior of one (1) or not (0), so that
touching nuclei can be separated; ``IGNORE`` marks pixels to leave out of the loss.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from wsiproc.core.types import BoolArray, Float32Array, Int32Array, UInt8Array

IGNORE = 255
INTERIOR = 0.4
"""Share of a nucleus's largest distance to its border from which a pixel counts as interior."""


def agreeing(first: Int32Array, second: Int32Array, least_iou: float) -> Int32Array:
    """The objects of ``first`` (h, w) that some object of ``second`` matches by intersection over union."""
    matched = np.zeros(int(first.max(initial=0)) + 1, bool)
    areas = np.bincount(second.ravel())
    sizes = np.bincount(first.ravel(), minlength=len(matched))
    both = (first > 0) & (second > 0)
    pairs, shared = np.unique(np.stack([first[both], second[both]]), axis=1, return_counts=True)
    iou = shared / (sizes[pairs[0]] + areas[pairs[1]] - shared)
    matched[pairs[0][iou > least_iou]] = True
    return np.where(matched[first], first, 0).astype(np.int32)


def make_target(accepted: Int32Array, background: BoolArray) -> UInt8Array:
    """The target (h, w, 2) from accepted objects and certain background (h, w); the rest is ignored."""
    inside = accepted > 0
    target = np.full((*accepted.shape, 2), IGNORE, np.uint8)
    target[background & ~inside] = 0
    target[inside, 0] = 1
    target[..., 1][inside] = interior(accepted)[inside]
    return target


def interior(labels: Int32Array) -> BoolArray:
    """(h, w) pixels of objects at least ``INTERIOR`` of the object's largest depth away from its border."""
    inside = labels > 0
    edge = np.zeros_like(inside)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    depth = cv2.distanceTransform((inside & ~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    deepest = np.concatenate([[1.0], np.atleast_1d(ndimage.maximum(depth, labels, np.arange(1, labels.max() + 1)))])
    deep: BoolArray = inside & (depth > INTERIOR * np.maximum(deepest, 1e-6)[labels])
    return deep


def agreed_background(first: Int32Array, second: Int32Array, probability: UInt8Array, mpp: float) -> BoolArray:
    """Pixels (h, w) that no pseudo-labeller labels and that no uncertain object of the classical model encloses.

    ``probability``: the classical map; the pale centre of a vesicular nucleus lies within its dark rim, so small gaps
    between dark pixels are ignored too.
    """
    side = 2 * round(2.0 / mpp) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    near = cv2.morphologyEx((probability > 60).astype(np.uint8), cv2.MORPH_CLOSE, disc) > 0
    background: BoolArray = (first == 0) & (second == 0) & ~near
    return background


def network_background(labels: Int32Array, probability: Float32Array, accepted: Int32Array, below: float) -> BoolArray:
    """Pixels (h, w) called background by a network, away from its objects, and those just outside accepted objects."""
    square = np.ones((3, 3), np.uint8)
    touching = cv2.dilate((accepted > 0).astype(np.uint8), square) > 0
    away = cv2.dilate((labels > 0).astype(np.uint8), square) == 0
    background: BoolArray = ((probability < below) & away) | (touching & (labels == 0))
    return background
