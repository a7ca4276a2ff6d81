"""Fill: the constant colour (black, grey or any other) of areas that were not scanned or were masked.

The fill colours of a slide are determined once, on its overview. Then every px of one of these colours is replaced by
the background colour wherever the slide is read, so that fill is treated like background everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wsiproc.core.palette import RGB
from wsiproc.core.types import BoolArray, UInt8Array

REACH_PX = 1
"""How far around fill px are replaced: px between fill and tissue are a mixture of both."""

# Black as written by scanners, with JPEG noise.
_BLACKEST = 16
# Fill may not be exact if it was compressed.
_TOLERANCE = 10
# Several JPEG blocks of exactly one colour are not tissue, nor are this many black px.
_FEWEST_PX = 400
# Light and nearly grey is background, or padding that looks like it.
_LIGHT, _MOST_TINT = 150, 25
_MOST_COLOURS = 8
# Fill ends within 2 px, however the overview was reduced and compressed; a stroke of a black pen fades out: this many
# px outside its uniform core, more than this share of its density above that of its surroundings is left.
_LEAST_LEFT, _SURROUNDINGS_PX = {2: 0.3, 3: 0.15}, 7
# This can be judged where the surroundings are this much lighter (optical density), whatever their texture.
_LEAST_CONTRAST, _OF_RING = 0.5, (10, 25, 50, 75)
# Beside fill, at this distance, lies tissue or background; beside the darkest parts of an uneven black stroke, mostly
# more of it: no lighter than this, and without colour.
_UNEVEN_PX, _INK, _UNEVEN_SHARE = 3, 75, 0.5


@dataclass(frozen=True)
class Fill:
    """The fill ``colours`` of a slide, and the colour of its ``background``."""

    colours: tuple[RGB, ...]
    background: RGB

    @property
    def grey(self) -> Fill:
        """Only the black and grey fill."""
        return Fill(tuple(rgb for rgb in self.colours if max(rgb) - min(rgb) <= _MOST_TINT), self.background)


def find_fill(overview: UInt8Array) -> Fill | None:
    """The fill of a slide, from its overview (h, w, 3); None if there is none."""
    colours = _black(overview) + _constant(overview)
    if not colours:
        return None
    fill = Fill(tuple(dict.fromkeys(colours)), (255, 255, 255))
    rest = overview[~where_filled(overview, fill)]
    light = rest[rest.min(axis=-1) >= _LIGHT] if len(rest) else rest
    light = light[np.ptp(light, axis=-1) <= _MOST_TINT] if len(light) else light
    brightest = light[light.sum(axis=-1) >= np.percentile(light.sum(axis=-1), 75)] if len(light) else light
    if not len(brightest):
        return fill
    red, green, blue = (int(value) for value in np.median(brightest, axis=0))
    return Fill(fill.colours, (red, green, blue))


def where_filled(pixels: UInt8Array, fill: Fill) -> BoolArray:
    """Mask (h, w) of the px of (h, w, 3) that have a fill colour, within compression noise."""
    found = np.zeros(pixels.shape[:2], np.uint8)
    for colour in fill.colours:
        least = [max(0, channel - _TOLERANCE) for channel in colour]
        most = [min(255, channel + _TOLERANCE) for channel in colour]
        found |= np.asarray(cv2.inRange(pixels, np.array(least), np.array(most)), np.uint8)
    return np.asarray(found, np.bool_)


def without_fill(pixels: UInt8Array, fill: Fill) -> UInt8Array:
    """``pixels`` (h, w, 3) with fill, and everything within ``REACH_PX`` of it, in the background colour. A px depends
    only on px within that distance, so an image may be cut anywhere beyond it.
    """
    filled = where_filled(pixels, fill)
    if not filled.any():
        return pixels
    around = cv2.dilate(filled.astype(np.uint8), np.ones((2 * REACH_PX + 1, 2 * REACH_PX + 1), np.uint8))
    painted = pixels.copy()
    painted[around > 0] = fill.background
    return painted


def _black(overview: UInt8Array) -> list[RGB]:
    """Black, if there is a connected area of it."""
    dark = np.asarray(cv2.inRange(overview, np.zeros(3), np.full(3, _BLACKEST, np.float64)), np.uint8)
    if cv2.countNonZero(dark) < _FEWEST_PX:
        return []
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    large = np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= _FEWEST_PX) + 1
    if not len(large):
        return []
    red, green, blue = (int(value) for value in np.median(overview[np.isin(labels, large)], axis=0))
    return [] if _fades(overview, (red, green, blue)) else [(red, green, blue)]


def _constant(overview: UInt8Array) -> list[RGB]:
    """Colours other than background that are exactly constant over an area."""
    least = np.minimum(np.minimum(overview[..., 0], overview[..., 1]), overview[..., 2])
    most = np.maximum(np.maximum(overview[..., 0], overview[..., 1]), overview[..., 2])
    other = ~((least >= _LIGHT) & (most - least <= _MOST_TINT)) & (most > _BLACKEST)
    if np.count_nonzero(other) < _FEWEST_PX:
        return []
    box = np.ones((5, 5), np.uint8)
    for channel in range(3):
        plane = np.ascontiguousarray(overview[..., channel])
        other &= np.asarray(cv2.erode(plane, box) == cv2.dilate(plane, box))
    seen = overview[other]
    if len(seen) < _FEWEST_PX:
        return []
    packed = seen.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    values, counts = np.unique(packed, return_counts=True)
    common = values[np.argsort(-counts, kind="stable")][: min(_MOST_COLOURS, int((counts >= _FEWEST_PX).sum()))]
    colours = [(value >> 16, value >> 8 & 255, value & 255) for value in common.tolist()]
    return [rgb for rgb in colours if max(rgb) - min(rgb) > _MOST_TINT or not _fades(overview, rgb)]


def _fades(overview: UInt8Array, colour: RGB) -> bool:
    """Whether black or grey of this ``colour`` fades out on all sides, like ink, rather than ending abruptly, like
    fill. Decided by percentiles of the optical density at distances from it; ink on tissue is even darker.
    """
    area = where_filled(overview, Fill((colour,), colour)).astype(np.uint8)
    area = np.asarray(
        cv2.morphologyEx(area, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8
    )  # robust to single px
    away = np.rint(cv2.distanceTransform(1 - area, cv2.DIST_L2, 5))
    grey = overview.mean(axis=-1, dtype=np.float32)
    beside = overview[away == _UNEVEN_PX]
    is_ink = (beside.max(axis=-1) < _INK) & (np.ptp(beside, axis=-1) <= _MOST_TINT)
    if len(beside) and is_ink.mean() > _UNEVEN_SHARE and sum(colour) / 3 < _INK:
        return True
    is_lighter = grey > sum(colour) / 3 + _TOLERANCE
    rings = {px: grey[(away == px) & is_lighter] for px in (*_LEAST_LEFT, _SURROUNDINGS_PX)}
    if not all(ring.size for ring in rings.values()):
        return False
    densities = {px: np.percentile(-np.log(np.maximum(ring, 1.0) / 255), _OF_RING) for px, ring in rings.items()}
    around = densities[_SURROUNDINGS_PX]
    contrast = -np.log(max(1.0, sum(colour) / 3) / 255) - around
    if np.median(contrast) < _LEAST_CONTRAST or contrast.min() <= 0:
        return False
    return all(bool((densities[px] - around > share * contrast).all()) for px, share in _LEAST_LEFT.items())
