"""Localisation of DAB by the shape of brown areas: nuclei, or their surroundings (membrane, cytoplasm).

Detected cells do not help: where membranes are brown, every nucleus model takes pieces of membrane for nuclei. Brown
nuclei are blobs of nuclear size: opening with a small disc keeps most of them, with a large one nothing, and closing
adds little. Membranes are thin, and cytoplasm forms sheets with unstained nuclei as holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsiproc.array.stains import Stains, unmixing
from wsiproc.core.types import BoolArray, Float32Array, UInt8Array

_SMOOTH_UM, _SMALL_UM, _HOLE_UM, _LARGE_UM = 0.5, 1.5, 3.0, 6.0
_TISSUE_OD = 0.13
_CUT = 0.15, 0.6  # limits of Otsu's threshold on the DAB of tissue
# Blue ÷ green of optical density in brown; mixed with a red chromogen it is lower.
_BROWN, _BROWN_BESIDE_RED = 0.75, 0.85
# Red is dense, and absorbs a larger share in green than haematoxylin (0.43) and DAB (0.35). It covered at least 0.36 of
# the tissue of 7 images with a red second antibody, and at most 0.02 of 30 with DAB alone.
_RED_OD, _RED_GREEN, _RED_SHARE = 0.4, 0.45, 0.1
# Measured on 44 images (docs/ihc.md): pooled over a slide, nuclear stains have at least 0.63.
_NUCLEAR, _BLOB_UM2 = 0.63, 120.0
_LEAST = 0.002  # of the tissue; less is too little to decide, and no reason to doubt


@dataclass(frozen=True)
class DabPattern:
    """Shape of the brown pixels in a slide's samples.

    ``share`` of the tissue that is brown; ``roundness``: (1 − share left by opening with a large disc) × share left by
    a small one ÷ growth by closing; ``blob_um2``: half of the brown area lies in objects of at least this size;
    ``red_share``: share of the tissue that is red, unlike haematoxylin and DAB.
    """

    share: float
    roundness: float
    blob_um2: float
    red_share: float = 0.0

    @property
    def has_red_stain(self) -> bool:
        """Whether there is also a red stain, such as that of a second antibody."""
        return self.red_share > _RED_SHARE

    @property
    def nuclear(self) -> bool:
        """Whether it looks like nuclei; also true if there is too little to decide."""
        return self.share < _LEAST or self.roundness >= _NUCLEAR or self.blob_um2 <= _BLOB_UM2


def dab_pattern(samples: Sequence[UInt8Array], stains: Stains, mpp: float) -> DabPattern:
    """The pattern in windows of tissue (h, w, 3) at ``mpp`` µm per px, pooled."""
    from skimage.filters import threshold_otsu

    red = _red_share(samples, stains, mpp)
    ratio = _BROWN_BESIDE_RED if red > _RED_SHARE else _BROWN
    planes = [_dab(sample, stains, mpp, ratio) for sample in samples]
    tissue = np.concatenate([dab[inside] for dab, inside in planes])
    if not len(tissue) or tissue.min() == tissue.max():
        return DabPattern(0.0, 0.0, 0.0, red)
    cut = float(np.clip(threshold_otsu(np.minimum(tissue, 1.5)), *_CUT))  # type: ignore[no-untyped-call]
    brown, small, closed, large = 0, 0, 0, 0
    areas: list[npt.NDArray[Any]] = []
    for dab, _ in planes:
        mask = (dab > cut).view(np.uint8)
        opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(_SMALL_UM / mpp))
        areas.append(cv2.connectedComponentsWithStats(opened, connectivity=4)[2][1:, cv2.CC_STAT_AREA])
        brown, small = brown + int(mask.sum()), small + int(opened.sum())
        closed += int(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(_HOLE_UM / mpp)).sum())
        large += int(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(_LARGE_UM / mpp)).sum())
    if not brown:
        return DabPattern(0.0, 0.0, 0.0, red)
    roundness = (1 - large / brown) * small / closed
    return DabPattern(round(brown / len(tissue), 4), round(roundness, 3), round(_middle(areas) * mpp**2, 1), red)


def _red_share(samples: Sequence[UInt8Array], stains: Stains, mpp: float) -> float:
    """Share of the tissue in windows (h, w, 3) that is red."""
    red, tissue = 0, 0
    for sample in samples:
        od = _smooth_density(sample, stains, mpp)
        total = od.sum(axis=2)
        red += int(((total > _RED_OD) & (od[..., 1] > _RED_GREEN * total)).sum())
        tissue += int((total > _TISSUE_OD).sum())
    return round(red / max(1, tissue), 4)


def _smooth_density(sample: UInt8Array, stains: Stains, mpp: float) -> Float32Array:
    """Optical density of a window (h, w, 3)."""
    od = np.maximum(-np.log10(np.maximum(sample, 1) / np.array(stains.white)), 0.0).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(od, (0, 0), _SMOOTH_UM / mpp), np.float32).reshape(od.shape)


def _dab(sample: UInt8Array, stains: Stains, mpp: float, ratio: float) -> tuple[Float32Array, BoolArray]:
    """Density of DAB (h, w), 0 where blue ÷ green is below ``ratio``, so not brown; and a mask of the tissue."""
    od = _smooth_density(sample, stains, mpp)
    dab = od @ unmixing(stains)[:, 1].astype(np.float32)
    return np.where(od[..., 2] > ratio * od[..., 1], np.maximum(dab, 0), 0), od.sum(axis=2) > _TISSUE_OD


def _disc(radius: float) -> UInt8Array:
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc: UInt8Array = (y**2 + x**2 <= radius**2 + 0.5).astype(np.uint8)
    return disc


def _middle(areas: Sequence[npt.NDArray[Any]]) -> float:
    """The size (px) of which half of the area lies in objects at least as large."""
    sizes = np.sort(np.concatenate(areas))
    if not len(sizes):
        return 0.0
    reached = np.cumsum(sizes)
    return float(sizes[np.searchsorted(reached, reached[-1] / 2)])
