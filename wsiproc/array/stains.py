"""Stains of brightfield slides, estimated once a slide from sampled pixels: which they are and how they absorb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["H&E", "H-DAB"]
Vector = tuple[float, float, float]
Float64Array = npt.NDArray[np.float64]

# Haematoxylin, and eosin as scanners see it (absorbing blue too) or DAB (Ruifrok and Johnston 2001); optical density
# of red, green and blue. Believed where the estimate is implausible.
STANDARD: dict[Kind, tuple[Vector, Vector]] = {
    "H&E": ((0.65, 0.70, 0.29), (0.22, 0.80, 0.56)),
    "H-DAB": ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)),
}

# A stain vector further from the standard than the first angle, or two closer than the second, are not believed.
_PLAUSIBLE_DEG, _APART_DEG = 30.0, 12.0
# Eosin absorbs mostly green, DAB mostly blue: a slide with this share of pixels that absorb more blue than green, or
# with so small a share of green in its median absorption, is no H&E.
_BROWN_PIXELS, _GREEN_SHARE = 0.05, 0.39
_TISSUE_OD = 0.2  # sum over the channels; paler pixels say little about colour
_FEWEST = 100
_DARKEST_WHITE = 200.0


@dataclass(frozen=True)
class Stains:
    """Two stains: unit vectors of optical density (log10) in R, G, B, haematoxylin first; ``white`` is the glass.

    ``standard``: the vectors are textbook values, since those of the slide could not be believed.
    """

    kind: Kind = "H&E"
    vectors: tuple[Vector, Vector] = STANDARD["H&E"]
    white: Vector = (245.0, 245.0, 245.0)
    standard: bool = True

    @property
    def names(self) -> tuple[str, str]:
        """Names for columns and channels."""
        return "hematoxylin", "eosin" if self.kind == "H&E" else "dab"


def estimate_stains(pixels: npt.NDArray[np.uint8]) -> Stains:
    """Stains from sampled pixels (N, 3), a little smoothed and with glass among them where there is any."""
    white = _white(pixels)
    od = np.maximum(-np.log10(np.maximum(pixels, 1) / white), 0.0)
    od = od[od.sum(axis=1) > _TISSUE_OD]
    if len(od) < _FEWEST:
        return Stains(white=_plain(white))
    share = od / od.sum(axis=1, keepdims=True)
    brown = np.mean(share[:, 2] > share[:, 1])
    kind: Kind = "H-DAB" if brown > _BROWN_PIXELS or np.median(share[:, 1]) < _GREEN_SHARE else "H&E"
    textbook = _unit(np.array(STANDARD[kind]))
    vectors = _extremes(od)
    believed = _degrees(vectors[0], vectors[1]) >= _APART_DEG and all(
        _degrees(vector, known) <= _PLAUSIBLE_DEG for vector, known in zip(vectors, textbook, strict=True)
    )
    h, other = vectors if believed else textbook
    return Stains(kind, (_plain(h), _plain(other)), _plain(white), not believed)


def _plain(values: npt.NDArray[np.floating]) -> Vector:
    r, g, b = (round(float(v), 6) for v in values)
    return r, g, b


def _white(pixels: npt.NDArray[np.uint8]) -> Float64Array:
    """Colour of the glass: median of the lightest tenth, never dark, since a sample full of tissue shows no glass."""
    darkest = pixels.min(axis=1)
    light = pixels[darkest >= np.percentile(darkest, 90)]
    white: Float64Array = np.maximum(np.median(light, axis=0), _DARKEST_WHITE)
    return white


def _extremes(od: Float64Array) -> Float64Array:
    """The two stains as the extreme directions in the plane of the two largest components (Macenko et al. 2009)."""
    _, axes = np.linalg.eigh(np.cov(od.T))
    axes = axes[:, [2, 1]] * np.where(axes[:, 2].sum() < 0, -1, 1)
    angle = np.arctan2(od @ axes[:, 1], od @ axes[:, 0])
    ends = [axes @ [np.cos(a), np.sin(a)] for a in np.percentile(angle, [1, 99])]
    ends.sort(key=lambda v: -v[0] / np.abs(v).sum())  # haematoxylin absorbs the larger share of red
    return _unit(np.maximum(np.array(ends), 0.01))


def _unit(vectors: Float64Array) -> Float64Array:
    units: Float64Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units


def _degrees(a: Float64Array, b: Float64Array) -> float:
    return float(np.degrees(np.arccos(np.clip(_unit(a) @ _unit(b), -1, 1))))


def unmixing(stains: Stains) -> Float64Array:
    """(3, 3) matrix: optical density (…, 3) @ it gives the amounts of both stains and a residual.

    The residual's vector is perpendicular to both (Ruifrok and Johnston 2001).
    """
    h, other = _unit(np.array(stains.vectors))
    return np.linalg.inv(np.stack([h, other, _unit(np.cross(h, other))]))
