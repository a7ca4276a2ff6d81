"""Plausibility of the given pixel size, from the texture of H&E.

How much haematoxylin varies at each scale, and how skewed it is (dark nuclei on a pale background), is similar in most
tissues, and shifts if pixels are larger or smaller than assumed. No cells need to be detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsiproc.array.stains import Stains
from wsiproc.core.types import Float64Array, UInt8Array

LOOKED_AT_MPP = 0.5
"""Given µm/px at which windows are analysed."""
SHIFTS = np.arange(-26, 27) / 20
"""Log2 of the candidate factors."""

_SIGMAS_PX = 0.8 * 2 ** (np.arange(10) / 2)
_WIDER = 1.26  # sigma of the second Gaussian of each pair
_SIZES_UM = 0.85 * 2 ** (np.arange(6) / 2)  # sigmas that are compared at the right pixel size
_HALVED_PX = 4.0  # beyond this sigma half the resolution suffices
_TISSUE_OD = 0.13
_LEAST_TISSUE = 0.2  # of a window; less is too little
_GREEN, _CAP = 0.3, 0.43  # as for the evidence of the classical model
_SKEWNESS = -2.0, 4.0
_COARSEST_MPP = 0.6
_SMALLEST_PX = 32
# Ridge regression of log2 of the factor on profiles, sharp and blurred, and its value at the right scale; fitted on ten
# slides of H&E by benchmarks/wrong_scale.py --fit. One in fifty squares of 256 µm is off by more than the first
# tolerance; no slide, in leave-one-out tests, by more than the second.
_WEIGHTS = np.array([-0.151, -0.321, 0.308, 1.123, 0.236, 0.056, -0.593, 0.027, 0.244, 0.208, 0.068, -0.144])
_BIAS, _CENTRE = 0.047, -0.085
_TOLERATED, _TOLERATED_OF_MUCH, _MUCH_MM2 = 0.67, 0.4, 0.2
_MOST_MM2 = 0.55  # more of a slide adds nothing


def radial_profile(window: UInt8Array, stains: Stains, mpp: float) -> Float64Array | None:
    """Log2 of the spread of haematoxylin in a window (h, w, 3) at ten sizes, and its skewness: (2, 10).

    At each size it is the difference of two Gaussians (Marr and Hildreth 1980). None if there is hardly any tissue, or
    the window is small.
    """
    zoom = mpp / LOOKED_AT_MPP
    if min(window.shape[:2]) * zoom < _SMALLEST_PX:
        return None
    if zoom != 1:
        window = np.asarray(cv2.resize(window, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)
    od = np.maximum(-np.log10(np.maximum(window, 1) / np.array(stains.white)), 0).astype(np.float32)
    tissue = np.asarray(od.sum(axis=2) > _TISSUE_OD, np.float32)
    if tissue.mean() < _LEAST_TISSUE:
        return None
    density = np.asarray(np.clip(od[..., 0] - _GREEN * od[..., 1], 0, _CAP), np.float32)
    px, found = 1.0, []
    for sigma in _SIGMAS_PX:
        if sigma / px > _HALVED_PX:
            half = (max(1, density.shape[1] // 2), max(1, density.shape[0] // 2))
            density = np.asarray(cv2.resize(density, half, interpolation=cv2.INTER_AREA), np.float32)
            tissue = np.asarray(cv2.resize(tissue, half, interpolation=cv2.INTER_AREA), np.float32)
            px *= 2
        fine, wide = (cv2.GaussianBlur(density, (0, 0), s / px) for s in (sigma, _WIDER * sigma))
        values = (fine - wide)[tissue > 0.5].astype(np.float64)
        spread = float(values.std()) + 1e-9 if len(values) else 1e-9
        skewness = float((((values - values.mean()) / spread) ** 3).mean()) if len(values) else 0.0
        found.append((np.log2(spread + 1e-6), np.clip(skewness, *_SKEWNESS)))
    return np.array(found).T


def seen_at(found: Float64Array, shift: float) -> Float64Array:
    """The profile as it would be with 2**-shift times the µm/px: (12,), spreads minus their mean, then skewness."""
    given = np.log2(_SIGMAS_PX * LOOKED_AT_MPP)
    spread, skewness = (np.interp(np.log2(_SIZES_UM) + shift, given, row) for row in found)
    return np.concatenate([spread - spread.mean(), skewness])


@dataclass(frozen=True)
class ApparentScale:
    """By which ``factor`` µm/px seem too large (1 is right), and the area of the slide used."""

    factor: float
    mm2: float

    @property
    def wrong(self) -> bool:
        """Whether the factor differs from 1 by more than tissues vary."""
        return bool(abs(np.log2(self.factor)) > (_TOLERATED if self.mm2 < _MUCH_MM2 else _TOLERATED_OF_MUCH))


def blurred(found: Float64Array, sigma_um: float) -> Float64Array:
    """The profile of the same tissue after a Gaussian blur: each pair of Gaussians becomes wider and weaker."""
    sigmas = _SIGMAS_PX * LOOKED_AT_MPP
    wider = np.hypot(sigmas, sigma_um)
    spread, skewness = (np.interp(np.log2(wider), np.log2(sigmas), row) for row in found)
    return np.array([spread + 2 * np.log2(sigmas / wider), skewness])


def apparent_scale(samples: Sequence[UInt8Array], stains: Stains, mpp: float) -> ApparentScale | None:
    """Whether the µm/px that windows of tissue (h, w, 3) of H&E were read with seem right.

    ``mpp``: µm per px of the windows, as given. None if there is too little tissue, if windows are too coarse to
    resolve the inside of nuclei, and for DAB, whose texture is that of the antibody.
    """
    if mpp > _COARSEST_MPP or stains.kind != "H&E":
        return None
    px_mm2 = mpp**2 / 1e6
    some = samples[:: max(1, round(sum(each.shape[0] * each.shape[1] for each in samples) * px_mm2 / _MOST_MM2))]
    found = [each for each in (radial_profile(sample, stains, mpp) for sample in some) if each is not None]
    if not found:
        return None
    mm2 = sum(each.shape[0] * each.shape[1] for each in some) * px_mm2
    return scale_of(found, mm2)


def scale_of(found: Sequence[Float64Array], mm2: float) -> ApparentScale:
    """The estimate from the profiles of all windows, which cover ``mm2`` of the slide."""
    return ApparentScale(float(2 ** (log2_factor(found, _WEIGHTS, _BIAS) - _CENTRE)), mm2)


def log2_factor(found: Sequence[Float64Array], weights: Float64Array, bias: float) -> float:
    """The shift at which the median profile looks right by a linear rule; of several, the one nearest to 0."""
    off = np.median([[seen_at(each, shift) @ weights for shift in SHIFTS] for each in found], axis=0) + bias
    places = np.flatnonzero((off[:-1] >= 0) & (off[1:] < 0))
    if not len(places):
        return float(SHIFTS[np.abs(off).argmin()])
    place = places[np.abs(SHIFTS[places]).argmin()]
    share = off[place] / (off[place] - off[place + 1])
    return float(SHIFTS[place] + share * (SHIFTS[place + 1] - SHIFTS[place]))
