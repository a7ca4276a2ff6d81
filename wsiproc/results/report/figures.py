"""The pages' figures: images as data URIs, and where the lines of an SVG run; templates make elements of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiproc.core.palette import RGB, css_colour
from wsiproc.core.types import BoolArray, Float64Array, Int64Array, IntArray, UInt8Array

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
    """The image with its longer side at most ``longest_px``, by area means."""
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
    """Outlines of a mask as an SVG path in an image of ``shape`` (h, w), simplified to a pixel."""
    import cv2

    whole = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(whole, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    large = [cv2.approxPolyDP(contour, 1.0, closed=True).reshape(-1, 2) for contour in contours]
    # cv2 runs through pixel centres; (x, y) → (y, x)
    return ring_path([ring[:, ::-1] + 0.5 for ring in large if len(ring) > 2], decimals=1)


def ring_path(rings: Iterable[npt.NDArray[np.number]], decimals: int = 0) -> str:
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


@dataclass(frozen=True)
class ScaleBar:
    """A bar from ``x`` to ``end`` at the height ``y`` of an image, its length in words above it, ``size`` high; px."""

    label: str
    x: float
    end: float
    y: float
    size: float


def scale_bar(mpp: float, shape: tuple[int, int], text_share: float) -> ScaleBar:
    """A bar of a round length in the lower left corner of an image of ``shape`` px with ``mpp`` µm/px.

    ``text_share``: height of its text as a share of the image's width.
    """
    h, w = shape
    length_um = nice_step(w * mpp / 4.5, 1)
    label = f"{number(length_um / 1000)} mm" if length_um >= 1000 else f"{number(length_um)} µm"
    x = w * 0.04
    return ScaleBar(label, x, x + length_um / mpp, h - w * 0.04, max(w * text_share, 3))


_WIDTH, _HEIGHT, _LEFT, _TOP, _FLOOR = 340, 200, 46, 8, 164


@dataclass(frozen=True)
class Plot:
    """Axes of a small figure, which cross at (``left``, ``floor``), in px of its SVG; ``label``: what runs along x.

    ``x_ticks``, ``y_ticks``: (place, number as it is read).
    """

    label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    right: int
    left: int = _LEFT
    floor: int = _FLOOR
    width: int = _WIDTH
    height: int = _HEIGHT


@dataclass(frozen=True)
class Curve:
    """Counts of a class as the path of an SVG."""

    name: str
    colour: RGB
    path: str


@dataclass(frozen=True)
class StepCurves:
    """A histogram: a filled step curve a class."""

    plot: Plot
    curves: Sequence[Curve]


def histogram(
    label: str, edges: Float64Array, counts: Int64Array, names: Sequence[str], colours: list[RGB]
) -> StepCurves:
    """Counts (classes, bins) between ``edges`` (bins + 1,) of the classes ``names`` in their ``colours``."""
    low, high = float(edges[0]), float(edges[-1])
    peak = max(1, int(counts.max(initial=0)))
    right = _WIDTH - 8

    def across(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (right - _LEFT)

    def height(count: float) -> float:
        return _FLOOR - count / peak * (_FLOOR - _TOP)

    plot = Plot(
        label,
        x_ticks=[(across(tick), number(round(tick, 10))) for tick in ticks(low, high, 5)],
        y_ticks=[(height(tick), short(tick)) for tick in ticks(0, peak, 5)],
        right=right,
    )
    xs, curves = [across(edge) for edge in edges.tolist()], []
    for row, name, colour in zip(counts, names, colours, strict=True):
        steps = "".join(
            f"H{left:.1f}V{height(count):.1f}H{right:.1f}"
            for left, right, count in zip(xs[:-1], xs[1:], row.tolist(), strict=True)
        )
        curves.append(Curve(name, colour, f"M{_LEFT} {_FLOOR}{steps}V{_FLOOR}Z"))
    return StepCurves(plot, curves)


@dataclass(frozen=True)
class Dot:
    """A value in a plot, in words and with a link."""

    x: float
    y: float
    told: str
    link: str


@dataclass(frozen=True)
class Ranking:
    """A dot a value, from the lowest to the highest, with a line at the height of their ``median``."""

    plot: Plot
    unit: str
    median: float
    radius: float
    dots: Sequence[Dot]


def ranked(label: str, unit: str, values: Sequence[tuple[float, str, str]]) -> Ranking:
    """Values that rise, each with its name and link."""
    top = max(1e-9, *(value for value, *_ in values))
    right = _WIDTH - 14
    place = (right - _LEFT - 8) / max(1, len(values) - 1)

    def height(value: float) -> float:
        return _FLOOR - value / top * (_FLOOR - _TOP - 6)

    dots = [
        Dot(_LEFT + 8 + index * place, height(value), f"{name}: {number(round(value, 1))} {unit}", link)
        for index, (value, name, link) in enumerate(values)
    ]
    return Ranking(
        Plot(label, [], [(height(tick), short(round(tick, 10))) for tick in ticks(0, top, 5)], right),
        unit,
        median=height(float(np.median([value for value, *_ in values]))),
        radius=max(2.0, min(5.0, place / 2)),
        dots=dots,
    )


def short(value: float) -> str:
    """A count for an axis: ``850``, ``12k``, ``1.5M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
