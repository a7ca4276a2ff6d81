"""Labels for free: nuclei pasted into real tissue, half of them synthetic, half accepted nuclei of the same tile.

The pseudo-labellers rely on darkness, so they miss the pale centre of vesicular nuclei. Synthetic nuclei have every
texture, including pale ones, and exactly known outlines; the network learns that a nucleus is a whole, closed outline.
All sizes are px of the crop, all colours optical density, so that pasting mixes absorption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsiproc.array.nuclei.measure import label_sums
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.types import BoolArray, Float32Array, Int32Array, Rng, UInt8Array
from wsiproc.psm.labels.targets import INTERIOR

_RADIUS_UM = 2.0, 6.5
_BROWN = -1.2, 1.2  # logarithm of the strength of DAB, pale to black
_REAL = 0.15  # share of crops into which real nuclei are pasted
_LARGEST_UM = 20.0  # of a real nucleus that is pasted
_DRAWN_MPP = 0.5
_STAINED_CELLS = 0.5  # share of crops with DAB in which DAB is pasted outside nuclei
_SOLID = 0.35  # share of nuclei with even texture; the others have a rim, clumps and nucleoli


@dataclass(frozen=True)
class Nucleus:
    """A nucleus to paste: ``od`` (h, w, 3), its ``opacity`` (h, w) in [0, 1], and its pixels and interior (h, w)."""

    od: Float32Array
    opacity: Float32Array
    inside: BoolArray
    interior: BoolArray


@dataclass(frozen=True)
class Palette:
    """What can be pasted into one tile: its accepted nuclei, their mean colours (N, 3), and its stains."""

    nuclei: Sequence[Nucleus]
    colours: Float32Array
    stains: Stains

    @property
    def dab(self) -> bool:
        """Whether the tile has DAB."""
        return self.stains.kind == "H-DAB"


def collect_palette(od: Float32Array, accepted: Int32Array, stains: Stains, mpp: float) -> Palette:
    """The accepted nuclei (labels (h, w)) of a tile of optical density (h, w, 3)."""
    nuclei, colours = [], []
    boxes = label_sums(accepted, int(accepted.max(initial=0)), np.zeros((1, *accepted.shape), np.uint8)).boxes
    for number, (y, x, h, w) in enumerate(boxes, start=1):
        part = (slice(max(y - 2, 0), y + h + 2), slice(max(x - 2, 0), x + w + 2))
        inside = accepted[part] == number
        if max(inside.shape) * mpp <= _LARGEST_UM and inside.any():
            nuclei.append(_cut_out(od[part], inside))
            colours.append(od[part][inside].mean(axis=0))
    return Palette(nuclei, np.array(colours, np.float32).reshape(-1, 3), stains)


def _cut_out(od: Float32Array, inside: BoolArray) -> Nucleus:
    """A real nucleus with a soft edge one px outside its outline."""
    wide = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.float32)
    opacity = np.asarray(cv2.GaussianBlur(wide, (0, 0), 0.7), np.float32)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return Nucleus(od.copy(), opacity, inside, depth > INTERIOR * depth.max())


def paste_nuclei(od: Float32Array, target: UInt8Array, palette: Palette, mpp: float, rng: Rng) -> None:
    """Paste some nuclei, clouds and holes into a crop ``od`` (h, w, 3) and its ``target`` (h, w, 2), both in place."""
    if not len(palette.colours):
        return
    zoom = max(1, round(_DRAWN_MPP / mpp))
    colour = palette.colours[rng.integers(len(palette.colours))]
    if rng.random() < 0.4:
        _add_clouds(od, colour, zoom, rng)
    if rng.random() < 0.25:
        _add_vacuoles(od, target, zoom, rng)
    style = _Style(
        radius=float(np.exp(rng.uniform(*np.log(_RADIUS_UM)))) / (mpp * zoom),
        roundness=rng.uniform(0.55, 1.0),
        solid=rng.random() < _SOLID,
        density=rng.uniform(0.3, 1.1),
    )
    real = rng.random() < _REAL and len(palette.nuclei) > 3
    stained = palette.dab and rng.random() < _STAINED_CELLS
    for y, x in _places(od.shape[0], style.radius * zoom, int(rng.integers(3, 18)), rng):
        if real:
            nucleus = _turned(palette.nuclei[int(rng.integers(len(palette.nuclei)))], rng)
        else:
            window = od[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
            drawn = _draw(_stain(colour, palette.dab and not stained, rng), window.mean(axis=(0, 1)), style, rng)
            nucleus = _enlarged(drawn, zoom)
        if stained:
            _add_stained_cell(od, target, nucleus, y, x, rng)
        _paste(od, target, nucleus, y, x)


def _enlarged(nucleus: Nucleus, zoom: int) -> Nucleus:
    """A synthetic nucleus for crops of ``zoom`` times the resolution."""
    if zoom == 1:
        return nucleus
    size = (nucleus.opacity.shape[1] * zoom, nucleus.opacity.shape[0] * zoom)

    def soft(plane: Float32Array | BoolArray) -> Float32Array:
        return np.asarray(cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_CUBIC), np.float32)

    od, opacity = np.maximum(soft(nucleus.od), 0), np.clip(soft(nucleus.opacity), 0, 1)
    return Nucleus(od, opacity, soft(nucleus.inside) > 0.5, soft(nucleus.interior) > 0.5)


def _add_stained_cell(od: Float32Array, target: UInt8Array, nucleus: Nucleus, y: int, x: int, rng: Rng) -> None:
    """Brown cytoplasm or membrane around a nucleus that is pasted next: its outline is not that of the nucleus."""
    h, w = nucleus.inside.shape
    wide = int(max(h, w) * rng.uniform(0.3, 0.7))
    inside = np.pad(nucleus.inside.astype(np.uint8), wide)
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    cell = away < wide * rng.uniform(0.4, 0.95)
    if rng.random() < 0.6:  # the membrane only
        depth = cv2.distanceTransform(cell.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        cell &= depth < rng.uniform(2, 5)
    opacity = np.asarray(cv2.GaussianBlur(cell.astype(np.float32), (0, 0), rng.uniform(0.8, 2.0)), np.float32)
    brown = np.array(STANDARD["H-DAB"][1], np.float32) * np.float32(
        np.exp(rng.uniform(*_BROWN)) * rng.uniform(0.3, 1.0)
    )
    part = _overlap(od.shape, opacity.shape, y, x)
    if part is None:
        return
    here, there = part
    share = opacity[there][..., None]
    od[here] = od[here] * (1 - 0.7 * share) + share * brown
    target[here][cell[there]] = 0


def _overlap(
    shape: tuple[int, ...], patch: tuple[int, ...], y: int, x: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """The slices of an image (h, w, …) covered by a patch (h, w) centred at (y, x), and those of the patch."""
    top, left = y - patch[0] // 2, x - patch[1] // 2
    rows, cols = (
        slice(max(a, 0), min(a + n, s)) for a, n, s in ((top, patch[0], shape[0]), (left, patch[1], shape[1]))
    )
    if rows.stop <= rows.start or cols.stop <= cols.start:
        return None
    return (rows, cols), (slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left))


def _places(side: int, radius: float, count: int, rng: Rng) -> list[tuple[int, int]]:
    """Centres, either scattered or in a chain of close neighbours, with equal probability."""
    crowded = rng.random() < 0.5
    y, x = rng.uniform(0, side, 2)
    places = []
    for _ in range(count):
        places.append((int(y), int(x)))
        if crowded:
            angle, distance = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.5, 2.6)
            y, x = y + distance * np.sin(angle), x + distance * np.cos(angle)
        if not crowded or not (0 <= y < side and 0 <= x < side):
            y, x = rng.uniform(0, side, 2)
    return places


def _paste(od: Float32Array, target: UInt8Array, nucleus: Nucleus, y: int, x: int) -> None:
    """Paste a nucleus into a crop, centred at (y, x), clipped at the edge."""
    places = _overlap(od.shape, nucleus.opacity.shape, y, x)
    if places is None:
        return
    (rows, cols), part = places
    opacity = nucleus.opacity[part][..., None]
    od[rows, cols] = od[rows, cols] * (1 - opacity) + opacity * nucleus.od[part]
    inside = nucleus.inside[part]
    around = (cv2.dilate(nucleus.inside.astype(np.uint8), np.ones((3, 3), np.uint8))[part] > 0) & ~inside
    nuclei, interiors = target[rows, cols, 0], target[rows, cols, 1]
    nuclei[inside] = 1
    interiors[inside | around] = 0
    interiors[nucleus.interior[part]] = 1


@dataclass(frozen=True)
class _Style:
    """Common properties of the synthetic nuclei of one crop; ``radius`` in px."""

    radius: float
    roundness: float
    solid: bool
    density: float


def _stain(colour: Float32Array, dab: bool, rng: Rng) -> Float32Array:
    """The colour of an accepted nucleus; with DAB, often that of brown or of plain blue nuclei."""
    if not dab or rng.random() < 0.3:
        return colour
    blue, brown = np.array(STANDARD["H-DAB"], np.float32)
    chosen: Float32Array = brown * np.exp(rng.uniform(*_BROWN)) if rng.random() < 0.4 else blue * rng.uniform(0.4, 1.0)
    return chosen.astype(np.float32)


def _draw(colour: Float32Array, behind: Float32Array, style: _Style, rng: Rng) -> Nucleus:
    """A synthetic nucleus of the given colour, partly transparent."""
    radius = float(np.clip(style.radius * np.exp(rng.normal() * 0.18), 3.5, 16))
    roundness = float(np.clip(style.roundness + rng.normal() * 0.1, 0.4, 1.0))
    depth = _blob(radius, roundness, 0.06, rng)  # 1 at the outline, 0 in the centre
    from_edge = (1 - depth) * radius
    opacity = np.clip(from_edge / rng.uniform(0.6, 1.6) + 0.5, 0, 1) * rng.uniform(0.85, 1.0)
    solid = style.solid if rng.random() < 0.7 else rng.random() < _SOLID
    texture = _texture(from_edge, radius, solid, style.density * np.exp(rng.normal() * 0.15), rng)
    od = np.clip(texture, 0.03, 2.0)[..., None] * colour * np.exp(rng.normal(size=3) * 0.06)
    od = od + behind * rng.uniform(0.1, 0.6)
    return Nucleus(od.astype(np.float32), opacity.astype(np.float32), depth < 1, depth < 1 - INTERIOR)


def _blob(radius: float, roundness: float, irregular: float, rng: Rng) -> Float32Array:
    """Distance from the centre ÷ distance of the outline on that ray: an ellipse with a few low-order waves."""
    reach = int(radius * 1.5) + 3
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    turn = rng.uniform(0, np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    across = (y * np.cos(turn) - x * np.sin(turn)) / roundness
    angle = np.arctan2(across, along)
    outline = 1 + sum(irregular / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    ratio: Float32Array = (np.hypot(along, across) / (radius * np.maximum(outline, 0.3))).astype(np.float32)
    return ratio


def _texture(from_edge: Float32Array, radius: float, solid: bool, density: float, rng: Rng) -> Float32Array:
    """Amount of stain (h, w): even, or a rim, clumps of chromatin and nucleoli in a paler centre."""
    side = from_edge.shape[0]
    if solid:
        even: Float32Array = density * (1 + 0.12 * _grain(side, 1.0, rng))
        return even
    middle = density * rng.uniform(0.3, 0.9)
    amount: Float32Array = middle * (1 + rng.uniform(0.1, 0.5) * _grain(side, rng.uniform(0.8, 1.6), rng))
    amount = amount + rng.uniform(0.1, 0.6) * np.exp(-((from_edge / rng.uniform(0.8, 1.5)) ** 2))
    y, x = np.mgrid[:side, :side] - side // 2
    for _ in range(rng.integers(0, 3)):
        cy, cx = rng.normal(size=2) * radius * 0.35
        spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * rng.uniform(0.7, 1.6) ** 2))
        amount = amount + rng.uniform(0.2, 0.7) * spot
    return amount.astype(np.float32)


def _grain(side: int, sigma: float, rng: Rng) -> Float32Array:
    """Smooth noise (side, side) of unit spread."""
    noise = np.asarray(cv2.GaussianBlur(rng.normal(size=(side, side)).astype(np.float32), (0, 0), sigma), np.float32)
    unit: Float32Array = noise / max(float(noise.std()), 1e-6)
    return unit


def _turned(nucleus: Nucleus, rng: Rng) -> Nucleus:
    """A real nucleus, rotated and mirrored, and half the time paler."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    fade = np.float32(rng.uniform(0.35, 1.1) if rng.random() < 0.5 else 1.0)
    parts = [np.rot90(a, turns) for a in (nucleus.od * fade, nucleus.opacity, nucleus.inside, nucleus.interior)]
    od, opacity, inside, interior = (a[:, ::-1] if mirror else a for a in parts)
    return Nucleus(od, opacity, np.ascontiguousarray(inside), np.ascontiguousarray(interior))


def _add_clouds(od: Float32Array, colour: Float32Array, zoom: int, rng: Rng) -> None:
    """Soft basophilic cytoplasm: coloured like a nucleus but without an outline, so background."""
    for _ in range(rng.integers(1, 4)):
        depth = _blob(zoom * rng.uniform(8, 22), rng.uniform(0.4, 1.0), 0.2, rng)
        amount = np.exp(-0.5 * depth**2 * rng.uniform(1, 2)) * rng.uniform(0.05, 0.4)
        soft = (amount[..., None] * colour * np.exp(rng.normal(size=3) * 0.15)).astype(np.float32)
        y, x = (int(v) for v in rng.integers(0, od.shape[0], 2))
        empty = np.zeros(depth.shape, bool)
        _add(od, soft, empty, y, x)


def _add(
    od: Float32Array, more: Float32Array, clear: BoolArray, y: int, x: int, target: UInt8Array | None = None
) -> None:
    """Add optical density centred at (y, x), or remove nearly all if ``clear``; this becomes background."""
    places = _overlap(od.shape, clear.shape, y, x)
    if places is None:
        return
    (rows, cols), part = places
    od[rows, cols] += more[part]
    od[rows, cols][clear[part]] *= 0.05
    if target is not None:
        target[rows, cols][clear[part]] = 0


def _add_vacuoles(od: Float32Array, target: UInt8Array, zoom: int, rng: Rng) -> None:
    """Round holes with sharp outlines: as round as nuclei, but background."""
    for _ in range(rng.integers(1, 3)):
        depth = _blob(zoom * rng.uniform(3, 12), rng.uniform(0.55, 1.0), 0.08, rng)
        y, x = (int(v) for v in rng.integers(0, od.shape[0], 2))
        _add(od, np.zeros((*depth.shape, 3), np.float32), depth < 1, y, x, target)
