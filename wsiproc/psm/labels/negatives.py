"""Dark or coloured objects that are not nuclei, pasted into crops as explicit background.

Fibres of muscle and collagen, folds, red cells, pigment, soot, ink and fill: networks trained on agreement alone never
see them labelled, since pixels on which pseudo-labellers disagree are ignored. Colours are optical density, sizes µm.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.types import Float32Array, Rng, UInt8Array
from wsiproc.psm.labels.targets import IGNORE

_PASTED = 0.45  # share of crops with one of them
_ERYTHROCYTE_OD = (0.12, 0.62, 0.50)  # orange-red: haemoglobin absorbs green and blue
_PIGMENT_OD = (0.55, 0.85, 1.0)


def paste_negatives(od: Float32Array, target: UInt8Array, stains: Stains, mpp: float, rng: Rng) -> None:
    """Sometimes paste one into a crop ``od`` (h, w, 3) and its ``target`` (h, w, 2), both in place."""
    if rng.random() >= _PASTED:
        return
    draw = _KINDS[int(rng.integers(len(_KINDS)))]
    share, colour, solid = draw(od.shape[0], stains, mpp, rng)
    share = share.astype(np.float32)[..., None]
    behind = od * (1 - share) if solid else od
    od[:] = behind + share * colour
    covered = share[..., 0] > 0.35
    # A nucleus under something half transparent is ambiguous, hence ignored.
    hidden = covered & (target[..., 0] == 1)
    target[covered] = 0
    if not solid:
        target[hidden] = IGNORE


_Drawn = tuple[Float32Array, Float32Array, bool]
"""Coverage of each pixel (h, w), colour (3,) or (h, w, 3), and whether it is opaque."""


def _noise(side: int, sigma: float, rng: Rng) -> Float32Array:
    """Smooth noise of unit spread."""
    drawn = np.asarray(cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), sigma), np.float32)
    unit: Float32Array = drawn / max(float(drawn.std()), 1e-6)
    return unit


def _second_stain(stains: Stains, rng: Rng) -> Float32Array:
    """The colour of eosin or DAB on this slide, with a little haematoxylin in it."""
    first, second = np.array(stains.vectors, np.float32)
    mixed: Float32Array = second + np.float32(rng.uniform(0, 0.35)) * first
    return mixed


def _waves(side: int, mpp: float, rng: Rng) -> Float32Array:
    """Distance (h, w) in µm across wavy, parallel bundles."""
    y, x = np.mgrid[:side, :side].astype(np.float32) * mpp
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bends = sum(rng.uniform(0, 4) * np.sin(along / length + rng.uniform(0, 7)) for length in rng.uniform(3, 25, 2))
    waves: Float32Array = (across + bends + 1.5 * _noise(side, 3 / mpp, rng)).astype(np.float32)
    return waves


def _from_middle(waves: Float32Array, rng: Rng) -> Float32Array:
    """Distance (h, w) in µm from one of the lines in the crop."""
    return waves - np.float32(rng.uniform(*np.percentile(waves, [10, 90])))


def _fibres(side: int, stains: Stains, mpp: float, rng: Rng) -> _Drawn:
    """Muscle or collagen: parallel bands, as dark and narrow as nuclei, in the second stain's colour."""
    pitch, sharp = rng.uniform(2.5, 9), rng.uniform(1, 6)
    bands = 1 / (1 + np.exp(-sharp * (np.cos(2 * np.pi * _waves(side, mpp, rng) / pitch) - rng.uniform(-0.3, 0.7))))
    patches = np.clip(_noise(side, rng.uniform(3, 15) / mpp, rng) + rng.uniform(-0.5, 1.5), 0, 1)
    amount = np.float32(rng.uniform(0.25, 0.9)) * (1 + 0.15 * _noise(side, 0.4 / mpp, rng))[..., None]
    return bands * patches, (_second_stain(stains, rng) * amount).astype(np.float32), bool(rng.random() < 0.6)


def _fold(side: int, stains: Stains, mpp: float, rng: Rng) -> _Drawn:
    """Tissue twice as thick along a band."""
    width = rng.uniform(2, 12)
    band = np.exp(-((_from_middle(_waves(side, mpp, rng), rng) / width) ** 4))
    first, second = np.array(stains.vectors, np.float32)
    colour = np.float32(rng.uniform(0.1, 0.5)) * first + np.float32(rng.uniform(0.1, 0.6)) * second
    return band.astype(np.float32), colour, False


def _discs(side: int, radius: float, count: int, mpp: float, spread: float, rng: Rng) -> Float32Array:
    """Soft discs of ``radius`` µm, some cut by others, around one point."""
    found = np.zeros((side, side), np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    middle = rng.uniform(0, side, 2)
    for _ in range(count):
        cy, cx = middle + rng.normal(size=2) * spread / mpp
        own = radius * np.exp(0.12 * rng.normal()) / mpp
        apart = np.hypot(y - cy, (x - cx) * rng.uniform(0.85, 1.25)) - own
        found = np.maximum(found, np.clip(0.5 - apart / rng.uniform(1.0, 2.5), 0, 1))
    return found


def _erythrocytes(side: int, _: Stains, mpp: float, rng: Rng) -> _Drawn:
    colour = np.array(_ERYTHROCYTE_OD, np.float32) * np.exp(rng.normal(size=3) * 0.15) * rng.uniform(0.5, 1.3)
    cells = _discs(side, rng.uniform(2.5, 3.8), int(rng.integers(3, 60)), mpp, rng.uniform(5, 30), rng)
    return cells, colour.astype(np.float32), True


def _pigment(side: int, _: Stains, mpp: float, rng: Rng) -> _Drawn:
    colour = np.array(_PIGMENT_OD, np.float32) * np.float32(rng.uniform(0.5, 1.4))
    return _discs(side, rng.uniform(0.4, 1.3), int(rng.integers(8, 60)), mpp, rng.uniform(2, 10), rng), colour, True


def _soot(side: int, _: Stains, mpp: float, rng: Rng) -> _Drawn:
    """Clumps of carbon, as in lungs, or other black grains: as dense in red as in green and blue."""
    colour = np.exp(rng.normal(size=3) * 0.06) * rng.uniform(0.6, 1.4)
    grains, radius = int(rng.integers(5, 90)), rng.uniform(0.3, 1.5)
    return _discs(side, radius, grains, mpp, rng.uniform(0.7, 6), rng), colour.astype(np.float32), True


def _fill(side: int, _: Stains, mpp: float, rng: Rng) -> _Drawn:
    """Ink, black fill, a missing stripe: one flat colour with a straight or round border."""
    edge = _waves(side, mpp, rng) if rng.random() < 0.5 else _noise(side, rng.uniform(5, 20) / mpp, rng) * 5
    share = np.clip(edge - rng.uniform(*np.percentile(edge, [30, 95])), 0, 1)
    colour = rng.uniform(0.0, 1.4, 3) if rng.random() < 0.6 else np.full(3, 1.4)
    return share.astype(np.float32), colour.astype(np.float32), True


def _brown_fibres(side: int, stains: Stains, mpp: float, rng: Rng) -> _Drawn:
    """Strands of brown or of the second stain, single ones."""
    width = rng.uniform(0.8, 3)
    band = np.exp(-((_from_middle(_waves(side, mpp, rng), rng) / width) ** 2))
    vector = stains.vectors[1] if rng.random() < 0.5 else STANDARD["H-DAB"][1]
    return band.astype(np.float32), np.array(vector, np.float32) * np.float32(rng.uniform(0.3, 1.2)), True


_KINDS: tuple[Callable[[int, Stains, float, Rng], _Drawn], ...] = (
    _fibres, _fibres, _fibres, _fold, _erythrocytes, _erythrocytes, _pigment, _soot, _fill, _brown_fibres,
)  # fmt: skip
