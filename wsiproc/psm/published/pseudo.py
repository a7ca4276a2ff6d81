"""Pseudo labels: cleaned masks, points where a smoothed probability peaks, and Voronoi labels (Chen et al. 2023)."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max

from wsiproc.array.nuclei.instances import fill_small_holes
from wsiproc.core.types import BoolArray, FloatArray, Int64Array, UInt8Array

BACKGROUND, NUCLEUS, IGNORED = 0, 1, 255
_WINDOW = 13  # px of the Gaussian; its sigma, 2.3 px, is what OpenCV derives from that


def pseudo_mask(nuclei: BoolArray, smallest_px: int = 200, largest_hole_px: int = 64) -> BoolArray:
    """The mask (h, w) without objects under ``smallest_px`` and with holes up to ``largest_hole_px`` filled.

    The sizes are the published ones, at 0.25 µm/px.
    """
    objects, _ = ndimage.label(nuclei)
    large = np.bincount(objects.ravel()) >= smallest_px
    large[0] = False
    return fill_small_holes(large[objects], largest_hole_px, largest_hole_px)


def find_points(probability: FloatArray, lowest: float = 0.5, apart_px: int = 6, merge_px: int = 20) -> Int64Array:
    """(N, 2) points (y, x) of nuclei where the smoothed probability (h, w) peaks at ``lowest`` or more.

    Peaks at most ``apart_px`` apart count once; those closer than ``merge_px``, by the sum of both distances, become
    one point halfway between them. Sizes as published, at 0.25 µm/px.
    """
    smooth = cv2.GaussianBlur(np.asarray(probability, np.float32), (_WINDOW, _WINDOW), 0)
    peaks = peak_local_max(smooth, min_distance=apart_px, threshold_abs=lowest, exclude_border=apart_px // 2)  # type: ignore[no-untyped-call]
    groups: list[list[Int64Array]] = []
    for peak in peaks:
        near = [group for group in groups if any(np.abs(peak - other).sum() < merge_px for other in group)]
        if near:
            near[0].append(peak)
        else:
            groups.append([peak])
    return np.array([np.mean(group, axis=0) for group in groups]).reshape(-1, 2).astype(np.int64)


def voronoi_label(
    points: Int64Array, shape: tuple[int, int], radius_px: int = 2, kinds: UInt8Array | None = None
) -> UInt8Array:
    """(h, w) uint8: edges of the points' Voronoi cells ``BACKGROUND``, discs at points ``NUCLEUS``, else ``IGNORED``.

    An edge is every pixel with a neighbour, to its right or below, that is nearest to another point. Discs lie on top.
    ``kinds``: (N,) what to write into each point's disc instead.
    """
    label = np.full(shape, IGNORED, np.uint8)
    if len(points) == 0:
        return label
    free = np.ones(shape, bool)
    free[tuple(points.T)] = False
    distance, (y, x) = ndimage.distance_transform_edt(free, return_indices=True)
    cell = y.astype(np.int64) * shape[1] + x
    label[:-1][cell[:-1] != cell[1:]] = BACKGROUND
    label[:, :-1][cell[:, :-1] != cell[:, 1:]] = BACKGROUND
    discs = distance <= radius_px
    kind_at = np.full(shape, NUCLEUS, np.uint8)
    if kinds is not None:
        kind_at[tuple(points.T)] = kinds
    label[discs] = kind_at[y[discs], x[discs]]
    return label
