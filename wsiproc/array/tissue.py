"""Tissue detection on an overview of a slide.

No threshold comes from a histogram alone: Otsu's method splits any image in two, even a crop of nothing but tissue.
Stain is *colour* in optical density (Beer and Lambert: the light that is missing); glass, padding, dust and the shadows
of coverslips are grey, of whatever brightness. So tissue is more coloured than the noise of the glass, and does not
have the colour of a pen. Tissue so pale that it is grey is found by its texture: glass and shadows are smooth, the
edges of coverslips are thin, and between grains of dust and the rims of bubbles there is glass. Fill is detected first,
and treated as glass from then on.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsiproc.array.fill import find_fill, where_filled, without_fill
from wsiproc.core.types import BoolArray, Float32Array, UInt8Array

Inks = dict[str, tuple[BoolArray, BoolArray]]

# A nucleus is 5–10 µm: at 8 µm/px single cells merge into the colour of their tissue.
WORKING_MPP = 8.0

# Least colour (spread of optical density between the channels) of tissue. Glass with JPEG noise, averaged to 8 µm/px,
# has 0.01–0.02; the palest faded tissue that is still visible about 0.05 (RGB 238, 227, 234 on 242).
_LEAST_COLOUR = 0.04
# Least texture (standard deviation of optical density) of tissue: dust-free glass has below 0.01, unstained stroma
# 0.04.
_LEAST_TEXTURE = 0.025
# However sharp an edge is, no more texture than this counts at first: so tissue is textured nearly everywhere, while
# dust, fibres and swarms of bubbles are mostly the glass between them. Once there is tissue, all texture and stain this
# far around it is its border.
_MOST_TEXTURE, _BORDER_REACH_UM = 0.045, 32.0
# Specks smaller than this with less colour for their density are dust and fibres, not stained tissue.
_SMALLEST_GREY_UM2, _GREY_COLOUR = 20_000.0, 0.3
# If the glass is noisier, this many of its standard deviations, but never more than twice the least.
_NOISE_FACTOR, _MOST_NOISE = 5.0, 2.0
# Anything darker than this, with less colour for its density, is shadow; its texture extends this far around it.
_SHADOW_DENSITY, _SHADOW_COLOUR, _TEXTURE_REACH_UM = 0.6, 0.15, 32.0
# Averaging spreads a line's texture over some 50 µm; the thinnest biopsies have 300 µm.
_THINNEST_GRAIN_UM = 90.0

# Glass is bright, nearly grey and smooth. Lamps are yellow or blue; a magenta tint is more likely the palest eosin.
_GLASS_LEAST_GREY, _GLASS_MOST_TINT, _GLASS_MOST_MAGENTA, _GLASS_MOST_ROUGHNESS = 150, 25, 12, 3.0
# Glass sets the tint only if it fills a fair part of the image: the palest stroma of a crop looks the same.
_GLASS_LEAST_SHARE = 0.05

# Fat cells (up to 100 µm) and gaps between tissue strands belong to the tissue, lumina larger than 0.05 mm² do not.
_CLOSE_UM = 32.0
_LARGEST_HOLE_UM2 = 50_000.0
# Dust, debris: smaller than a 100 µm square, which contains about a hundred cells.
_SMALLEST_TISSUE_UM2 = 10_000.0
# A pen stroke is at least this large; pigment, pooled blood and carbon of the colour of ink come in smaller pieces.
_SMALLEST_PEN_UM2 = 100_000.0
# A fine line is smaller, but longer than such pieces, and nowhere wide.
_SHORTEST_LINE_UM, _WIDEST_LINE_UM = 600.0, 150.0
# A stroke fades out over this distance, a line over less.
_PEN_FRINGE_UM, _LINE_FRINGE_UM = 150.0, 40.0
# A stroke shows its own colour in an area this large, and in this share of its area; the rest lies over tissue.
_SMALLEST_SEED_UM2, _LEAST_SURE = 1_000.0, 0.2
# Share of an ink's density where its stroke is thinner.
_LEAST_OF_INK = 0.85
# If this share of all that is stained elsewhere has the hue of an ink, that is the hue of the stain, unless this share
# of a piece of that hue is as dense as ink: a stain is so in parts, a stroke nearly throughout.
_MOST_OF_HUE, _LEAST_DENSE = 0.3, 0.5
# Anything darker than glass by this optical density that is neither tissue, pen nor fill is shadow or debris.
_LEAST_SHADOW = 0.08


class PixelClass(IntEnum):
    """Classes of overview pixels."""

    GLASS = 0
    TISSUE = 1
    FILL = 2
    """Unscanned or masked: a constant colour."""
    PEN = 3
    SHADOW = 4
    """Edges of coverslips, bubbles, dust, stripes: dark, without colour, or too small."""


# JPEG deviates this far from grey when it rounds YCbCr.
_GREY_ROUNDING = 4


LEFT_OUT = (PixelClass.FILL, PixelClass.PEN, PixelClass.SHADOW)


def left_out_masks(seen: UInt8Array) -> dict[str, BoolArray]:
    """Masks (h, w) of what is neither tissue nor glass in ``seen``, (h, w) of ``PixelClass``, by name of the class."""
    return {kind.name.lower(): np.asarray(seen == kind) for kind in LEFT_OUT}


def find_tissue(overview: UInt8Array, mpp: float, texture: Float32Array | None = None) -> BoolArray:
    """Mask (h, w) of the tissue on an overview (h, w, 3) of ``mpp`` µm/px; see ``classify_overview``."""
    return np.asarray(classify_overview(overview, mpp, texture) == PixelClass.TISSUE)


def classify_overview(overview: UInt8Array, mpp: float, texture: Float32Array | None = None) -> UInt8Array:
    """The ``PixelClass`` of each px (h, w) of an overview (h, w, 3) of ``mpp`` µm/px.

    ``texture``: (h, w, 2) of ``local_texture``, if it was measured on finer pixels than the overview's; above 5 µm/px
    pale tissue is missed without it. Meant for 2–30 µm/px. Works for H&E and IHC on white, tinted or grey glass with
    fill of any colour; excludes pen strokes of all colours but brown, next to and over tissue.
    """
    fill = find_fill(overview)
    filled = np.zeros(overview.shape[:2], np.bool_) if fill is None else where_filled(overview, fill)
    painted = overview if fill is None else without_fill(overview, fill)
    small, small_mpp = _to_working_mpp(painted, mpp)
    smooth = np.asarray(cv2.GaussianBlur(small, (0, 0), 0.8), np.uint8)
    is_glass = _find_glass(small, smooth)
    glass = _glass_colour(smooth, is_glass)
    density = grey_density(smooth, np.full(3, glass.max(), np.float32))
    # Padding is pure white even if the glass is tinted: tissue differs from both.
    colour = np.minimum(_spread(density), _spread(grey_density(smooth, glass)))
    texture = _around(local_texture(painted) if texture is None else texture, small.shape[:2])
    is_stained = colour > _above_noise(colour[is_glass], _LEAST_COLOUR)
    least = _above_noise(texture[is_glass, 0], _LEAST_TEXTURE)
    near_shadow = grow(_is_shadow(density, colour), _TEXTURE_REACH_UM / small_mpp)
    is_textured, is_evenly = (_without_lines(texture[..., i] > least, small_mpp) & ~near_shadow for i in (0, 1))
    is_speck = _grey_specks(is_stained, colour < _GREY_COLOUR * _most(density), small_mpp)
    # A pen drawn by software has a constant colour, like fill, and is recognised by its hue. Black with sharp edges is
    # fill.
    inky = small if fill is None else _to_working_mpp(without_fill(overview, fill.grey), mpp)[0]
    inky = np.asarray(cv2.GaussianBlur(inky, (0, 0), 0.8), np.uint8)
    inky_density = grey_density(inky, np.full(3, glass.max(), np.float32))
    inks = _inks(inky_density)
    pen = _find_pens(inks, inky_density, is_stained, small_mpp)
    excluded = pen | _is_dark(smooth)
    certain = _clean_up((is_stained & ~is_speck | is_evenly) & ~excluded, small_mpp) & ~excluded
    likely = _clean_up((is_stained | is_textured) & ~excluded, small_mpp) & ~excluded
    mask = certain | (likely & grow(certain, _BORDER_REACH_UM / small_mpp))
    seen = np.where(_least(density) > _LEAST_SHADOW, PixelClass.SHADOW, PixelClass.GLASS).astype(np.uint8)
    seen[mask] = PixelClass.TISSUE
    pen |= _nothing_but_ink(mask, is_stained, inks["green"][1])
    seen[pen] = PixelClass.PEN
    full = np.asarray(cv2.resize(seen, overview.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    full[filled & (full != PixelClass.PEN)] = PixelClass.FILL
    return full


def grow(mask: BoolArray, radius_px: float) -> BoolArray:
    """The mask (h, w) dilated by ``radius_px``."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius_px)), np.bool_)


def looks_fluorescent(overview: UInt8Array) -> bool:
    """Whether an overview (h, w, 3) shows light on a dark background: the wrong kind of image for stain colours. True
    if most of it is dark, nearly nothing is white glass, and some of it is bright.
    """
    brightest, darkest = _most(overview), _least(overview)
    is_dark = np.median(brightest) < 64
    has_glass = np.mean(darkest > 180) > 0.02
    shines = np.percentile(brightest, 99.5) > np.median(brightest) + 20
    return bool(is_dark and not has_glass and shines)


def looks_grey(overview: UInt8Array) -> bool:
    """Whether an overview (h, w, 3) has no colour at all, apart from JPEG's rounding of grey."""
    apart = _most(overview).astype(np.int16) - _least(overview)
    return bool(apart.max(initial=0) <= _GREY_ROUNDING)


def grey_density(rgb: UInt8Array, glass: Float32Array) -> Float32Array:
    """−ln(light ÷ light through glass) for each channel; 0 for glass, never negative."""
    light = np.maximum(rgb.astype(np.float32), 1.0)
    return np.asarray(np.maximum(np.log(glass / light), 0.0), np.float32)


# Over three channels, comparing planes is some ten times faster than NumPy's reductions along the last axis.


def _most(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The largest channel of each pixel: (h, w, 3) → (h, w)."""
    return np.asarray(np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]))


def _least(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The smallest channel of each pixel: (h, w, 3) → (h, w)."""
    return np.asarray(np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2]))


def _spread(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The largest minus the smallest channel of each pixel: (h, w, 3) → (h, w)."""
    return np.asarray(_most(image) - _least(image))


def _to_working_mpp(overview: UInt8Array, mpp: float) -> tuple[UInt8Array, float]:
    """The overview at about 8 µm/px, never upsampled, and its µm/px."""
    factor = mpp / WORKING_MPP
    if factor >= 1:
        return overview, mpp
    h, w = (max(1, round(px * factor)) for px in overview.shape[:2])
    return np.asarray(cv2.resize(overview, (w, h), interpolation=cv2.INTER_AREA), np.uint8), WORKING_MPP


def _find_glass(small: UInt8Array, smooth: UInt8Array) -> BoolArray:
    """Mask (h, w) of certain scanned glass: bright, nearly grey, smooth, and not the pure white of padding. Empty if it
    would cover less than a fair part of the image.
    """
    grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)
    tint = _spread(smooth.astype(np.int16))
    is_magenta = smooth[..., 1] < np.minimum(smooth[..., 0], smooth[..., 2])
    most_tint = np.where(is_magenta, _GLASS_MOST_MAGENTA, _GLASS_MOST_TINT)
    is_glass = (_least(smooth) >= _GLASS_LEAST_GREY) & (tint <= most_tint)
    is_glass &= (_local_spread(grey, 5) <= _GLASS_MOST_ROUGHNESS) & (_least(smooth) < 255)
    if is_glass.mean() < _GLASS_LEAST_SHARE:
        is_glass[:] = False
    return np.asarray(is_glass, np.bool_)


def _glass_colour(smooth: UInt8Array, is_glass: BoolArray) -> Float32Array:
    """Colour (3,) of the glass; without any glass, the brightest grey."""
    if is_glass.any():
        return np.asarray(np.median(smooth[is_glass], axis=0), np.float32)
    brightest = max(float(_GLASS_LEAST_GREY), float(np.percentile(_most(smooth), 99)))
    return np.full(3, brightest, np.float32)


def _above_noise(on_glass: Float32Array, least: float) -> float:
    """A threshold that the glass itself does not exceed: ``least``, or more if the glass is noisy."""
    if on_glass.size == 0:
        return least
    median = float(np.median(on_glass))
    spread = float(np.median(np.abs(on_glass - median))) * 1.4826  # the standard deviation of a normal distribution
    return min(max(least, median + _NOISE_FACTOR * spread), _MOST_NOISE * least)


def local_texture(image: UInt8Array) -> Float32Array:
    """Standard deviation (h, w, 2) of the optical density between neighbouring px of an image (h, w, 3); the second
    time without what exceeds the texture of tissue.
    """
    density = np.log(255 / np.maximum(np.arange(256, dtype=np.float32), 1.0))
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    texture = _local_spread(np.asarray(density[grey], np.float32), 3)
    return np.stack([texture, np.minimum(texture, _MOST_TEXTURE)], axis=-1)


def _around(texture: Float32Array, shape: tuple[int, int]) -> Float32Array:
    """Texture (h, w, 2) reduced to ``shape``, averaged over about 30 µm, more than the distance between nuclei."""
    reduced = cv2.resize(texture, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(reduced, (0, 0), 1.5), np.float32)


def _local_spread(values: Float32Array, side: int) -> Float32Array:
    """Standard deviation in the ``side``² px around each px (h, w)."""
    mean = cv2.blur(values, (side, side))
    variance = cv2.blur(values * values, (side, side)) - mean * mean
    return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float32)


def _without_lines(mask: BoolArray, mpp: float) -> BoolArray:
    """``mask`` without thin objects: coverslip edges, scratches, fibres."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE_UM / mpp))
    return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, _disc(_THINNEST_GRAIN_UM / 2 / mpp)), np.bool_)


def _grey_specks(stained: BoolArray, grey: BoolArray, mpp: float) -> BoolArray:
    """The small connected parts of a mask (h, w) that are mostly ``grey``."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(stained.astype(np.uint8), connectivity=8)
    px = stats[:, cv2.CC_STAT_AREA]
    is_speck = (px * mpp**2 < _SMALLEST_GREY_UM2) & (np.bincount(labels[grey & stained], minlength=len(px)) > 0.5 * px)
    is_speck[0] = False
    return np.asarray(is_speck[labels], np.bool_)


def _is_dark(smooth: UInt8Array) -> BoolArray:
    """Black padding and the outside of round scans."""
    return np.asarray(_most(smooth) < 30, np.bool_)


def _is_shadow(density: Float32Array, colour: Float32Array) -> BoolArray:
    """Dark without colour, by optical density (h, w, 3) and its spread: rims of bubbles, edges, dust."""
    return np.asarray((_least(density) > _SHADOW_DENSITY) & (colour < _SHADOW_COLOUR * _most(density)), np.bool_)


def _find_pens(inks: Inks, density: Float32Array, stained: BoolArray, mpp: float) -> BoolArray:
    """Mask (h, w) of ink strokes and lines by their colour in optical density (h, w, 3), with their fading edges.

    Haematoxylin and eosin absorb mostly green, DAB mostly blue. A blue pen absorbs red and hardly blue, a green one
    least green, a red one green and blue equally and hardly red, a purple one green and hardly blue, a black one all
    equally; over tissue all of them shift towards its colour. Ink is denser than tissue at about 8 µm/px.
    """
    pens = np.zeros(stained.shape, np.bool_)
    for strong, weak in inks.values():
        found = _strokes(strong, density, mpp)
        if not found.any():
            continue
        elsewhere = stained & ~grow(found, _PEN_FRINGE_UM / mpp)
        is_elsewhere = elsewhere.sum() * mpp**2 > _SMALLEST_TISSUE_UM2 and weak[elsewhere].mean() > _MOST_OF_HUE
        if is_elsewhere and strong[_touching(weak | found, found)].mean() < _LEAST_DENSE:
            continue
        large = _drop_small(found, _SMALLEST_PEN_UM2 / mpp**2)
        fringe = grow(large, _PEN_FRINGE_UM / mpp) | grow(found, _LINE_FRINGE_UM / mpp)
        pens |= grow(found, 1) | (weak & fringe)
    return pens


def _touching(mask: BoolArray, some: BoolArray) -> BoolArray:
    """The connected parts of a mask (h, w) that contain a px of ``some``."""
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    held = np.bincount(labels[some], minlength=number) > 0
    held[0] = False
    return np.asarray(held[labels], np.bool_)


def _nothing_but_ink(mask: BoolArray, stained: BoolArray, green: BoolArray) -> BoolArray:
    """The connected parts of a mask (h, w) most of whose stained px have the colour of a green pen, however small. No
    stain has that colour, unlike those of blue and purple pens, which whole sections can have.
    """
    number, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    inked = np.bincount(labels[green & stained], minlength=number)
    is_ink = inked > 0.5 * np.bincount(labels[stained], minlength=number)
    is_ink[0] = False
    return np.asarray(is_ink[labels], np.bool_)


def _inks(density: Float32Array) -> Inks:
    """For each ink, masks (h, w) where its colour is certain, and where it is possible."""
    r, g, b = (density[..., channel] for channel in range(3))
    most, least = _most(density), _least(density)
    return {
        "blue": ((r > 0.8) & (r > 1.05 * g) & (b < 0.45 * r), (r > 1.05 * g) & (b < 0.6 * r)),
        "green": ((r > 0.5) & (g < 0.75 * r) & (g < 0.95 * b), (g < 0.85 * r) & (g < b)),
        "red": ((g > 1.2) & (b > 0.8 * g) & (b < 1.2 * g) & (r < 0.25 * g), (b > 0.75 * g) & (r < 0.4 * g)),
        "purple": ((g > 1.1) & (b < 0.4 * g) & (r > 0.25 * g) & (r < 1.05 * g), (b < 0.4 * g) & (r > 0.3 * g)),
        # An orange or yellow pen absorbs blue and hardly red; a pink one green, and less red than any eosin.
        "yellow": ((b > 1.0) & (g < 0.6 * b) & (r < 0.15 * b), (g < 0.7 * b) & (r < 0.25 * b)),
        "pink": ((g > 1.2) & (r < 0.12 * g) & (b > 0.25 * g) & (b < 0.65 * g), (r < 0.25 * g) & (b < 0.75 * g)),
        # Thick DAB is as dark, but absorbs more blue than red.
        "black": ((least > 1.0) & (most - least < 0.25 * most) & (b - r < 0.12 * most), most - least < 0.35 * most),
    }


def _strokes(strong: BoolArray, density: Float32Array, mpp: float) -> BoolArray:
    """Strokes (h, w) of an ink: connected parts that are large, or long and nowhere wide.

    They start where its colour is ``strong`` and continue over tissue, where the ink's own density is the minimum in
    every channel of ``density`` (h, w, 3).
    """
    seeds = _drop_small(strong, _SMALLEST_SEED_UM2 / mpp**2)
    if not seeds.any():
        return seeds
    covered = np.all(density >= _LEAST_OF_INK * np.median(density[seeds], axis=0), axis=-1) | seeds
    closed = cv2.morphologyEx(covered.astype(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE_UM / mpp))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    px = stats[:, cv2.CC_STAT_AREA]
    across = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * mpp
    is_line = (across >= _SHORTEST_LINE_UM) & (px * mpp**2 <= across * _WIDEST_LINE_UM)
    is_sure = np.bincount(labels[seeds], minlength=len(px)) >= _LEAST_SURE * px
    is_sure[0] = False
    kept = ((px * mpp**2 >= _SMALLEST_PEN_UM2) | is_line) & is_sure
    if kept.any():  # if there is a pen, its dots are not tissue either
        kept |= (px * mpp**2 >= _SMALLEST_TISSUE_UM2) & is_sure
    return np.asarray(kept[labels], np.bool_)


def _clean_up(mask: BoolArray, mpp: float) -> BoolArray:
    """Close gaps, fill small holes, drop dust. Background that reaches the image's border is not a hole."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE_UM / mpp)) > 0
    holes = _holes(closed)
    filled = closed | (holes & ~_drop_small(holes, _LARGEST_HOLE_UM2 / mpp**2))
    return _drop_small(filled, min(_SMALLEST_TISSUE_UM2 / mpp**2, mask.size / 4))


def _holes(mask: BoolArray) -> BoolArray:
    """4-connected background (h, w) that does not reach the image's border."""
    outside = np.pad(mask.astype(np.uint8), 1)
    cv2.floodFill(outside, None, (0, 0), 1)
    holes: BoolArray = outside[1:-1, 1:-1] == 0
    return holes


def _drop_small(mask: BoolArray, smallest_px: float) -> BoolArray:
    """``mask`` without its 8-connected parts of fewer px."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_large = stats[:, cv2.CC_STAT_AREA] >= smallest_px
    is_large[0] = False
    return np.asarray(is_large[labels], np.bool_)


def _disc(radius_px: float) -> UInt8Array:
    """Structuring element of at least 1 px radius."""
    side = 2 * max(1, round(radius_px)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
