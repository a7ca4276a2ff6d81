"""Stains of brightfield slides, estimated once per slide from sampled pixels: which they are and how they absorb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wsiproc.core.types import Float64Array, FloatArray, UInt8Array, Vector

Stain = Literal["H&E", "H-DAB"]

# Haematoxylin, and eosin as scanners see it (absorbing blue too) or DAB (Ruifrok and Johnston 2001); optical density
# of red, green and blue. Used if the estimate is implausible.
STANDARD: dict[Stain, tuple[Vector, Vector]] = {
    "H&E": ((0.65, 0.70, 0.29), (0.22, 0.80, 0.56)),
    "H-DAB": ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)),
}

# A stain vector further from the standard than the first angles, or two closer than the second, are rejected. With few
# brown pixels the extreme direction is not DAB but a mixture with haematoxylin, at least 15° from the standard.
_PLAUSIBLE_DEG: dict[Stain, tuple[float, float]] = {"H&E": (30.0, 30.0), "H-DAB": (30.0, 15.0)}
_APART_DEG: dict[Stain, float] = {"H&E": 12.0, "H-DAB": 25.0}
# Eosin absorbs mostly green. If half of the pixels absorb less than the first share in green, there is none: the median
# was at least 0.390 on 204 images and slides of H&E, at most 0.367 on 30 images and a slide with DAB and no third
# stain. Nor is there any if hardly a pixel absorbs more than the second share and this many are brown.
_EOSIN_GREEN, _LITTLE_EOSIN_GREEN, _BROWN_PIXELS = 0.378, 0.45, 0.05
# Only DAB is dark and absorbs blue nearly as much as green: this share of such pixels exceeds that of pigment. Dust and
# the rims of bubbles do too, but of DAB more than this share absorbs so much more blue than red.
_DENSE_OD, _DENSE_BLUE, _DENSE_GREEN, _DENSE_PIXELS = 1.3, 0.8, 0.4, 0.008
_DENSE_BROWN, _BROWN_OF_DENSE = 1.1, 0.35
# Dust, rims of bubbles and edges of cover-glasses are grey. Haematoxylin and eosin absorb green most: of 4,949 nuclei
# of H&E, one in a thousand absorbs less than 1.06 times as much of it as of red or blue. Brown and blue together can be
# nearly grey, but one channel still absorbs less than this share of another, unless they are black.
_LEAST_GREEN, _GREY_HE_OD = 1.02, 0.5
_MOST_EVEN, _GREY_DAB_OD, _BLACK_DAB_OD = 0.97, 0.6, 2.6
# If more than this share of the tissue is grey, its stain is another one, or the image has no colour.
_MOST_GREY = 0.3
_TISSUE_OD = 0.2  # sum over the channels; the colour of paler pixels is unreliable
_FEWEST = 100
_DARKEST_WHITE = 200.0


@dataclass(frozen=True)
class Stains:
    """Two stains: unit vectors of optical density (log10) in R, G, B, haematoxylin first; ``white`` is the background.
    ``standard``: at least one vector is the textbook's, since that of the slide was implausible; ``grey``: so much of
    the tissue is grey that what is grey may be stained.
    """

    kind: Stain = "H&E"
    vectors: tuple[Vector, Vector] = STANDARD["H&E"]
    white: Vector = (245.0, 245.0, 245.0)
    standard: bool = True
    grey: bool = True

    @property
    def names(self) -> tuple[str, str]:
        """Names for columns and channels."""
        return "hematoxylin", "eosin" if self.kind == "H&E" else "dab"


def estimate_stains(pixels: UInt8Array, kind: Stain | None = None) -> Stains:
    """Stains from sampled pixels (N, 3), slightly smoothed, including background if there is any. ``kind``: the stains,
    if known; None recognises them by colour.
    """
    white = _white(pixels)
    od = np.maximum(-np.log10(np.maximum(pixels, 1) / white), 0.0)
    od = od[od.sum(axis=1) > _TISSUE_OD]
    if len(od) < _FEWEST:
        kind = kind or "H&E"
        return Stains(kind, STANDARD[kind], _plain(white))
    kind = kind or _stain(_coloured(od))
    vectors, believed = _vectors(od, kind)
    h, other = vectors
    is_grey = bool(looks_unstained(kind, *od.T).mean() > _MOST_GREY)
    return Stains(kind, (_plain(h), _plain(other)), _plain(white), not believed, is_grey)


def looks_unstained(kind: Stain, red: Any, green: Any, blue: Any) -> Any:
    """Where optical density (NumPy arrays or tensors of one shape) is not that of these stains, but grey."""
    total = red + green + blue
    if kind == "H&E":
        return (total > _GREY_HE_OD) & ((green < _LEAST_GREEN * red) | (green < _LEAST_GREEN * blue))
    found = (total > _GREY_DAB_OD) & (total < _BLACK_DAB_OD)
    for one, other in ((red, green), (green, red), (green, blue), (blue, green), (red, blue), (blue, red)):
        found = found & (one > _MOST_EVEN * other)
    return found


def _coloured(od: Float64Array) -> Float64Array:
    """Optical density (N, 3) without what is grey whatever the stain, unless hardly any is left."""
    some = od[~looks_unstained("H-DAB", *od.T)]
    return some if len(some) >= _FEWEST else od


def _stain(od: Float64Array) -> Stain:
    """The stains in optical density (N, 3) of tissue."""
    total = od.sum(axis=1)
    green, blue = od[:, 1] / total, od[:, 2] / total
    dense = (total > _DENSE_OD) & (blue > _DENSE_BLUE * green) & (green < _DENSE_GREEN)
    brown = dense & (od[:, 2] > _DENSE_BROWN * od[:, 0])
    is_dab = dense.mean() > _DENSE_PIXELS and brown.sum() > _BROWN_OF_DENSE * dense.sum()
    pale = np.percentile(green, 95) < _LITTLE_EOSIN_GREEN and np.mean(blue > green) > _BROWN_PIXELS
    if is_dab or np.median(green) < _EOSIN_GREEN or pale:
        return "H-DAB"
    return "H&E"


def _vectors(od: Float64Array, kind: Stain) -> tuple[Float64Array, bool]:
    """Both stains (2, 3) of optical density (N, 3), and whether they are the slide's own rather than the textbook's.
    For H&E both are accepted or rejected together. On a slide with hardly any DAB the counterstain is estimated alone.
    """
    textbook, vectors = _unit(np.array(STANDARD[kind])), _extremes(od)
    limits = np.array(_PLAUSIBLE_DEG[kind])
    near = np.array([_degrees(vector, known) for vector, known in zip(vectors, textbook, strict=True)]) <= limits
    if kind == "H&E" and not near.all():
        return textbook, False
    mixed = np.where(near[:, None], vectors, textbook)
    if _degrees(mixed[0], mixed[1]) < _APART_DEG[kind]:
        return textbook, False
    return mixed, bool(near.all())


def _plain(values: FloatArray) -> Vector:
    r, g, b = (round(float(v), 6) for v in values)
    return r, g, b


def _white(pixels: UInt8Array) -> Float64Array:
    """Background colour: median of the lightest tenth, never dark, since a sample full of tissue has no background."""
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
