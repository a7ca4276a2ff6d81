"""Where the tissue is, on an overview of a slide.

No threshold is taken from a histogram alone: Otsu's method splits any picture in two, a crop of nothing but tissue
included. Stain is *colour* in optical density (Beer and Lambert: the light that is missing); glass, padding, dust and
the shadows of coverslips are grey, of whatever brightness. So tissue is what is more coloured than the glass's own
noise, and is not the colour of a pen.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]

# A nucleus is 5–10 µm: at 8 µm/px single cells melt into the colour of their tissue.
WORKING_MPP = 8.0

# Least colour (spread of optical density between the channels) of tissue. Glass with JPEG noise, averaged to 8 µm/px,
# has 0.01–0.02; the palest faded tissue that is still seen by eye about 0.05 (RGB 238, 227, 234 on 242).
_LEAST_COLOUR = 0.04
# Where the glass is noisier, so many of its standard deviations; but never more than pale eosin has.
_NOISE_FACTOR, _MOST_NOISE_COLOUR = 5.0, 0.08

# Glass is bright, nearly grey and smooth; it sets the tint only where it fills a fair part of the picture, since in a
# crop of pure tissue the palest stroma looks just so.
_GLASS_LEAST_GREY, _GLASS_MOST_TINT, _GLASS_MOST_ROUGHNESS, _GLASS_LEAST_SHARE = 150, 25, 3.0, 0.05

# Fat cells (up to 100 µm) and gaps between tissue strands belong to the tissue, lumina larger than 0.05 mm² do not.
_CLOSE_UM = 32.0
_LARGEST_HOLE_UM2 = 50_000.0
# Dust, debris: smaller than a 100 µm square, which holds about a hundred cells.
_SMALLEST_TISSUE_UM2 = 10_000.0
# A pen's stroke is 1 mm wide; pigment, pooled blood and carbon of the colour of ink come in smaller pieces.
_SMALLEST_PEN_UM2 = 100_000.0
# A stroke fades out over this distance.
_PEN_FRINGE_UM = 150.0


def find_tissue(overview: UInt8Array, mpp: float) -> BoolArray:
    """Mask (h, w) of the tissue on an overview (h, w, 3) of ``mpp`` µm/px.

    Meant for 2–30 µm/px. Works for H&E and IHC on white, tinted or grey glass with white or black padding; leaves
    out strokes of blue, green, red and black pens.
    """
    small, small_mpp = _to_working_mpp(overview, mpp)
    smooth = np.asarray(cv2.GaussianBlur(small, (0, 0), 0.8), np.uint8)
    glass, noise = _find_glass(small, smooth)
    density = optical_density(smooth, np.full(3, float(glass.max()), np.float32))
    tinted = optical_density(smooth, glass)
    # Padding is pure white where the glass is tinted: tissue differs from both.
    colour = np.minimum(np.ptp(density, axis=-1), np.ptp(tinted, axis=-1))
    least = min(max(_LEAST_COLOUR, _NOISE_FACTOR * noise), _MOST_NOISE_COLOUR)
    excluded = _find_pens(density, small_mpp) | _is_dark(smooth)
    mask = _tidy((colour > least) & ~excluded, small_mpp) & ~excluded
    full = cv2.resize(mask.astype(np.uint8), overview.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(full, np.bool_)


def looks_fluorescent(overview: UInt8Array) -> bool:
    """Whether an overview (h, w, 3) shows light on a dark ground: the wrong kind of picture for stain colours.

    True if most of it is dark, nearly nothing is white glass, and some of it shines.
    """
    brightest, darkest = overview.max(axis=-1), overview.min(axis=-1)
    is_dark = np.median(brightest) < 64
    has_glass = np.mean(darkest > 180) > 0.02
    shines = np.percentile(brightest, 99.5) > np.median(brightest) + 20
    return bool(is_dark and not has_glass and shines)


def optical_density(rgb: UInt8Array, glass: FloatArray) -> FloatArray:
    """−ln(light ÷ light through glass) for each channel; glass is 0, and nothing is below."""
    light = np.maximum(rgb.astype(np.float32), 1.0)
    return np.asarray(np.maximum(np.log(glass / light), 0.0), np.float32)


def _to_working_mpp(overview: UInt8Array, mpp: float) -> tuple[UInt8Array, float]:
    """The overview at about 8 µm/px, never enlarged, and its µm/px."""
    factor = mpp / WORKING_MPP
    if factor >= 1:
        return overview, mpp
    h, w = (max(1, round(px * factor)) for px in overview.shape[:2])
    return np.asarray(cv2.resize(overview, (w, h), interpolation=cv2.INTER_AREA), np.uint8), WORKING_MPP


def _find_glass(small: UInt8Array, smooth: UInt8Array) -> tuple[FloatArray, float]:
    """Colour (3,) of the glass and the noise (robust standard deviation) of its colour in optical density.

    Without enough glass: the brightest grey, and no noise.
    """
    grey = small.astype(np.float32).mean(axis=-1)
    mean = cv2.blur(grey, (5, 5))
    roughness = np.sqrt(np.maximum(cv2.blur(grey * grey, (5, 5)) - mean * mean, 0))
    tint = np.ptp(smooth.astype(np.int16), axis=-1)
    is_glass = (smooth.min(axis=-1) >= _GLASS_LEAST_GREY) & (tint <= _GLASS_MOST_TINT)
    is_glass &= roughness <= _GLASS_MOST_ROUGHNESS
    is_padding = (smooth == 255).all(axis=-1)
    scanned = is_glass & ~is_padding
    if scanned.mean() < _GLASS_LEAST_SHARE:
        brightest = max(float(_GLASS_LEAST_GREY), float(np.percentile(smooth.max(axis=-1), 99)))
        return np.full(3, brightest, np.float32), 0.0
    glass = np.median(smooth[scanned], axis=0).astype(np.float32)
    colour = np.ptp(optical_density(smooth[scanned], glass + 10), axis=-1)
    spread = np.median(np.abs(colour - np.median(colour))) * 1.4826
    return glass, float(spread)


def _is_dark(smooth: UInt8Array) -> BoolArray:
    """Black padding and the outside of round scans."""
    return np.asarray(smooth.max(axis=-1) < 30, np.bool_)


def _find_pens(density: FloatArray, mpp: float) -> BoolArray:
    """Strokes of ink (h, w) by their colour in optical density (h, w, 3), with their fading edges.

    Haematoxylin and eosin take most from green, DAB takes most from blue. A blue pen takes red and hardly blue, a
    green one least from green, a red one green and blue alike and hardly red, a black one all alike.
    """
    r, g, b = (density[..., channel] for channel in range(3))
    strong = {
        "blue": (r > 0.8) & (r > 1.15 * g) & (b < 0.4 * r),
        "green": (r > 0.5) & (g < 0.75 * r) & (g < 0.9 * b),
        "red": (g > 1.2) & (b > 0.85 * g) & (b < 1.2 * g) & (r < 0.25 * g),
        "black": (density.min(axis=-1) > 1.0) & (np.ptp(density, axis=-1) < 0.25 * density.max(axis=-1)),
    }
    weak = {
        "blue": (r > 1.05 * g) & (b < 0.6 * r),
        "green": (g < 0.85 * r) & (g < b),
        "red": (b > 0.75 * g) & (r < 0.4 * g),
        "black": np.ptp(density, axis=-1) < 0.35 * density.max(axis=-1),
    }
    fringe = _disc(_PEN_FRINGE_UM / mpp)
    pens = np.zeros(r.shape, np.bool_)
    for name, stroke in strong.items():
        closed = cv2.morphologyEx(stroke.astype(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE_UM / mpp)) > 0
        large = _drop_small(closed, _SMALLEST_PEN_UM2 / mpp**2)
        if large.any():
            pens |= large | (weak[name] & (cv2.dilate(large.astype(np.uint8), fringe) > 0))
    return pens


def _tidy(mask: BoolArray, mpp: float) -> BoolArray:
    """Close gaps, fill small holes, drop dust."""
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE_UM / mpp)) > 0
    holes_filled = ~_drop_small(~closed, _LARGEST_HOLE_UM2 / mpp**2)
    return _drop_small(holes_filled, min(_SMALLEST_TISSUE_UM2 / mpp**2, mask.size / 4))


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
