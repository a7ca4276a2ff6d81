"""The report's pictures: images as data URIs and SVG drawn from numbers; nothing that a browser would have to run."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from wsiproc.core.palette import RGB, css_colour
from wsiproc.core.types import BoolArray, Float64Array, Int64Array, IntArray, NumberArray, UInt8Array

# From pale to deep: lightness falls evenly and the hue runs yellow–blue, so it reads the same to colour-blind eyes.
_DENSITY_COLOURS = np.array(
    [(250, 243, 180), (178, 221, 160), (84, 181, 173), (40, 122, 170), (44, 68, 140), (38, 20, 84)], np.float64
)


def data_uri(pixels: UInt8Array, quality: int | None = 82) -> str:
    """(h, w, 3 or 4) as a WebP data URI; without loss where ``quality`` is None."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality or 100, lossless=quality is None, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shrink(pixels: UInt8Array, longest_px: int) -> UInt8Array:
    """The picture with its longer side at most ``longest_px``, by area means."""
    import cv2

    h, w = pixels.shape[:2]
    factor = min(1.0, longest_px / max(h, w))
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def cell_density(counts: IntArray, bin_mm2: float) -> tuple[Float64Array, float]:
    """Cells per mm² from counts (h, w) in bins of that area, smoothed a little; and what counts as dense."""
    import cv2

    smooth = cv2.GaussianBlur(counts / bin_mm2, (7, 7), 0.7, borderType=cv2.BORDER_CONSTANT)
    density = smooth.astype(np.float64, copy=False)
    density[density < 0.5] = 0  # what is left of the filter's tails
    top = float(np.percentile(density[density > 0], 99)) if (density > 0).any() else 1.0
    return density, top


def density_pixels(density: Float64Array, top: float) -> UInt8Array:
    """Densities (h, w) as colours (h, w, 4) from 0 to ``top`` and beyond; empty places are clear."""
    share = np.clip(density / top if top > 0 else density, 0, 1)
    place = share * (len(_DENSITY_COLOURS) - 1)
    steps = np.arange(len(_DENSITY_COLOURS))
    rgb = [np.interp(place, steps, _DENSITY_COLOURS[:, channel]) for channel in range(3)]
    alpha = np.where(density > 0, 255 * np.clip(0.25 + 3 * share, 0, 0.92), 0)
    return np.stack([*rgb, alpha], axis=-1).round().astype(np.uint8)


def density_gradient() -> str:
    """The colours of ``density_pixels`` as a CSS gradient."""
    colours = ", ".join(css_colour((int(r), int(g), int(b))) for r, g, b in _DENSITY_COLOURS)
    return f"linear-gradient(to right, {colours})"


def mask_path(mask: BoolArray, shape: tuple[int, int]) -> str:
    """Outlines of a mask as an SVG path in a picture of ``shape`` (h, w), simplified to a pixel."""
    import cv2

    whole = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(whole, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    large = [cv2.approxPolyDP(contour, 1.0, closed=True).reshape(-1, 2) for contour in contours]
    # cv2 runs through pixel centres; (x, y) → (y, x)
    return ring_path([ring[:, ::-1] + 0.5 for ring in large if len(ring) > 2], decimals=1)


def ring_path(rings: Iterable[NumberArray], decimals: int = 0) -> str:
    """Rings (V, 2), (y, x), as one SVG path."""
    parts = []
    for ring in rings:
        points = " ".join(f"{x:.{decimals}f},{y:.{decimals}f}" for y, x in ring.tolist())
        parts.append(f"M{points}Z")
    return "".join(parts)


def box_path(boxes: Float64Array) -> str:
    """Boxes (N, 4), (y, x, h, w), as one SVG path."""
    return "".join(f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h-{w:.1f}Z" for y, x, h, w in boxes.reshape(-1, 4).tolist())


def nice_step(span: float, steps: int) -> float:
    """The round number (1, 2 or 5 times a power of ten) that cuts ``span`` into about ``steps``."""
    rough = span / max(1, steps)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def ticks(low: float, high: float, steps: int) -> list[float]:
    """Round numbers from ``low`` to ``high``."""
    step = nice_step(high - low, steps)
    return [step * index for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number for reading: ``12,345``, ``0.25``, ``3``."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def scale_bar(mpp: float, shape: tuple[int, int], text_share: float) -> str:
    """A bar of a round length in the lower left corner of a picture of ``shape`` px with ``mpp`` µm/px.

    ``text_share``: height of its text as a share of the picture's width.
    """
    h, w = shape
    length_um = nice_step(w * mpp / 4.5, 1)
    label = f"{number(length_um / 1000)} mm" if length_um >= 1000 else f"{number(length_um)} µm"
    x, y, size = w * 0.04, h - w * 0.04, max(w * text_share, 3)
    end = x + length_um / mpp
    return (
        f'<g class="scale" stroke-width="{size / 6:.2f}"><path d="M{x:.1f} {y:.1f}H{end:.1f}"/>'
        f'<text x="{(x + end) / 2:.1f}" y="{y - size * 0.45:.1f}" font-size="{size:.1f}">{label}</text></g>'
    )


_W, _H, _LEFT, _BOTTOM, _TOP = 340, 200, 46, 36, 8


def histogram(label: str, edges: Float64Array, counts: Int64Array, names: Sequence[str], colours: list[RGB]) -> str:
    """Counts (classes, bins) between ``edges`` (bins + 1,) as an SVG, one filled step curve a class."""
    low, high = float(edges[0]), float(edges[-1])
    peak = max(1, int(counts.max(initial=0)))
    xs = _LEFT + (edges - low) / (high - low) * (_W - _LEFT - 8)
    floor = _H - _BOTTOM

    def height(count: float) -> float:
        return floor - count / peak * (floor - _TOP)

    parts = [f'<svg class="histogram" viewBox="0 0 {_W} {_H}" role="img" aria-label="Histogram: {escape(label)}">']
    for place, tick in enumerate(ticks(0, peak, 5)):
        y = height(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_W - 8}"/>')
        parts.append(f'<text class="y{_odd(place)}" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{short(tick)}</text>')
    for place, tick in enumerate(ticks(low, high, 5)):
        x = _LEFT + (tick - low) / (high - low) * (_W - _LEFT - 8)
        told = number(round(tick, 10))
        parts.append(f'<text class="x{_odd(place)}" x="{x:.1f}" y="{floor + 15}">{told}</text>')
    for row, name, colour in zip(counts, names, colours, strict=True):
        steps = "".join(
            f"H{left:.1f}V{height(count):.1f}H{right:.1f}"
            for left, right, count in zip(xs[:-1].tolist(), xs[1:].tolist(), row.tolist(), strict=True)
        )
        outline = f"M{_LEFT} {floor}{steps}V{floor}Z"
        parts.append(f'<path class="bars" style="--colour:{css_colour(colour)}" d="{outline}">')
        parts.append(f"<title>{escape(name)}</title></path>")
    parts.append(f'<path class="axis" d="M{_LEFT} {floor}H{_W - 8}"/>')
    parts.append(f'<text class="x label" x="{(_LEFT + _W - 8) / 2}" y="{_H - 5}">{escape(label)}</text>')
    parts.append(f'<text class="y label" transform="translate(9 {floor / 2}) rotate(-90)">cells</text></svg>')
    return "".join(parts)


def _odd(place: int) -> str:
    """Every second number of an axis is left out where a figure is narrow."""
    return " odd" if place % 2 else ""


def ranked(label: str, unit: str, values: Sequence[tuple[float, str, str]]) -> str:
    """Values with their names and links, which rise, as an SVG: a dot each, with a line at the median."""
    top = max(1e-9, *(value for value, *_ in values))
    floor, right = _H - _BOTTOM, _W - 14
    place = (right - _LEFT - 8) / max(1, len(values) - 1)
    radius = max(2.0, min(5.0, place / 2))

    def height(value: float) -> float:
        return floor - value / top * (floor - _TOP - 6)

    parts = [
        f'<svg class="histogram ranked" viewBox="0 0 {_W} {_H}" role="group" aria-label="{escape(label)} by slide">'
    ]
    for index, tick in enumerate(ticks(0, top, 5)):
        y = height(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="y{_odd(index)}" x="{_LEFT - 6}" y="{y + 3.5:.1f}">{short(round(tick, 10))}</text>')
    middle = height(float(np.median([value for value, *_ in values])))
    parts.append(f'<path class="median" d="M{_LEFT} {middle:.1f}H{right}"><title>median</title></path>')
    for index, (value, name, link) in enumerate(values):
        told = f"{escape(name)}: {number(round(value, 1))} {unit}"
        parts.append(
            f'<a href="{escape(link)}" aria-label="{told}"><circle cx="{_LEFT + 8 + index * place:.1f}" '
            f'cy="{height(value):.1f}" r="{radius:.1f}"><title>{told}</title></circle></a>'
        )
    parts.append(f'<path class="axis" d="M{_LEFT} {floor}H{right}"/>')
    parts.append(f'<text class="x label" x="{(_LEFT + right) / 2}" y="{_H - 5}">{escape(label)}, {unit}</text></svg>')
    return "".join(parts)


def counted(number_of: int, one: str, many: str = "") -> str:
    """``1 slide``, ``2,000 slides``."""
    return f"{number_of:,} {one if number_of == 1 else many or one + 's'}"


def short(value: float) -> str:
    """A count for an axis: ``850``, ``12k``, ``1.5M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
