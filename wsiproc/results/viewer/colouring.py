"""How cells are coloured and which of them are shown: by class, by a measurement, or by the strength of a stain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsiproc.core import immuno
from wsiproc.core.numbers import area_numbers
from wsiproc.core.palette import NAMED, RGB, css_colour
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, UInt8Array

Range = tuple[float, float]

SHADES = 64  # of the scale of a measurement
HIDDEN, GREY = 255, 254  # codes
_GREY: RGB = (150, 156, 164)
STRENGTHS: dict[str, RGB] = {name: NAMED[name] for name in immuno.STRENGTHS}
"""Weak, moderate and strong, as pathologists write them; each darker than the one before."""
POSITIVE, NEGATIVE = immuno.POSITIVE, immuno.NEGATIVE
STAINED = (POSITIVE, *immuno.STRENGTHS)
_LEAST_CONTRAST = 45.0  # ΔE of CIE 1976 between an outline and the tissue; 2.3 can just be seen


@dataclass(frozen=True)
class Look:
    """What a page asks for; equal looks give equal tiles.

    ``hidden``: indexes of classes that are not drawn; ``colours``: those that the user gave to classes, by index;
    ``measure``: a column by whose value cells are kept (``keep``, both ends belong to it) and, where ``paint``,
    coloured on the scale between ``domain``; ``grey``: what is not kept is drawn grey, else not at all; ``cuts``: one
    or three ascending thresholds of DAB by which positive and negative are classified again.
    """

    hidden: frozenset[int] = frozenset()
    colours: tuple[tuple[int, RGB], ...] = ()
    measure: str | None = None
    paint: bool = False
    domain: Range = (0.0, 1.0)
    keep: Range = (-np.inf, np.inf)
    grey: bool = False
    cuts: tuple[float, ...] = ()


def scale_colours() -> list[RGB]:
    """The ``SHADES`` colours of a measurement from low to high: viridis, which reads the same to colour-blind eyes."""
    table = cv2.applyColorMap(np.linspace(0, 255, SHADES).astype(np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)
    return [(int(r), int(g), int(b)) for b, g, r in table[:, 0]]


def scale_gradient() -> str:
    """They as a CSS gradient."""
    return f"linear-gradient(to right, {', '.join(css_colour(colour) for colour in scale_colours()[::7])})"


def painted(look: Look) -> bool:
    """Whether codes are shades of the scale, which can be averaged, and not classes."""
    return look.paint and look.measure is not None


def palette(look: Look, names: Sequence[str], colours: Sequence[RGB]) -> UInt8Array:
    """The colour of each code, (256, 3); ``colours``: of the classes ``names``, where the user gave none."""
    table = np.zeros((256, 3), np.uint8)
    table[GREY] = _GREY
    if painted(look):
        table[:SHADES] = scale_colours()
        return table
    given = dict(look.colours)
    for index, colour in enumerate(colours):
        table[index] = given.get(index, colour)
    for index, name in enumerate(all_names(names)[len(names) :], len(names)):
        table[index] = NAMED[name]
    return table


def codes(
    look: Look,
    names: Sequence[str],
    classes: UInt8Array,
    values: Float32Array | None,
    grades: UInt8Array | None,
) -> UInt8Array:
    """The code of each cell (N,): into ``palette``, or ``HIDDEN``.

    ``classes`` (N,): indexes of ``names``; ``values``: of the look's measurement; ``grades``: as ``rescored`` takes
    them, where there are cuts.
    """
    kinds = classes if grades is None else rescored(names, len(look.cuts), grades)
    found: UInt8Array = kinds.copy()
    if values is not None and painted(look):
        low, high = look.domain
        share = (values - np.float32(low)) * np.float32(SHADES / max(high - low, 1e-30))
        found = np.clip(np.nan_to_num(share), 0, SHADES - 1).astype(np.uint8)
        found[np.isnan(values)] = GREY  # of what could not be measured no shade is true
    if values is not None and look.keep != (-np.inf, np.inf):
        found[~kept(look.keep, values)] = GREY if look.grey else HIDDEN
    if look.hidden:
        gone = np.zeros(256, np.bool_)
        gone[list(look.hidden)] = True
        every = all_names(names)
        if any(names[index] in STAINED for index in look.hidden if index < len(names)):
            gone[[index for index in range(len(names), len(every)) if every[index] in STAINED]] = True
        found[gone[kinds]] = HIDDEN
    return found


def kept(keep: Range, values: Float32Array) -> BoolArray:
    """Which values lie in a range, both of whose ends belong to it."""
    return (values >= np.float32(keep[0])) & (values <= np.float32(keep[1]))


def all_names(names: Sequence[str]) -> list[str]:
    """The classes of a slide, and those that other cuts could give its cells."""
    return [*names, *(name for name in (NEGATIVE, *STAINED) if name not in names)]


def rescored(names: Sequence[str], cuts: int, grades: UInt8Array) -> UInt8Array:
    """Cells (N,) as indexes of ``all_names``, by their grades: 0 is negative, with three cuts 3 is strong."""
    every = all_names(names)
    told = (NEGATIVE, POSITIVE) if cuts == 1 else (NEGATIVE, *STRENGTHS)
    becomes: UInt8Array = np.array([every.index(name) for name in told], np.uint8)[grades]
    return becomes


def positivity(cuts: int, grades: UInt8Array, indexed: bool) -> dict[str, float | int | None]:
    """Cells of each grade, share of positive among all, and with three cuts the H-score.

    ``indexed``: whether these two mean something on the slide; None if not.
    """
    told = (NEGATIVE, POSITIVE) if cuts == 1 else (NEGATIVE, *STRENGTHS)
    counts = dict(zip(told, np.bincount(grades, minlength=len(told)).tolist(), strict=True))
    found = area_numbers(counts, 0.0, indexed)
    return {
        "negative": counts[NEGATIVE],
        "positive": sum(counts.values()) - counts[NEGATIVE],
        **{name: counts[name] for name in STRENGTHS if name in counts},
        "index": found.positive_index,
        "h_score": found.h_score,
    }


def standing_out(colour: RGB, tissue: RGB) -> RGB:
    """The colour, or one of its hue that is lighter or darker, so that it stands out from the tissue under it."""
    ours, under = _lab(colour), _lab(tissue)
    if np.linalg.norm(ours - under) >= _LEAST_CONTRAST:
        return colour
    # Away from the tissue's lightness; on tissue as light as ours, towards the end that is farther off.
    steps = np.arange(0.0, 101.0, 2.0)
    ladder = np.stack([steps, np.full_like(steps, ours[1]), np.full_like(steps, ours[2])], axis=1)
    rgb = np.rint(np.clip(cv2.cvtColor(ladder.astype(np.float32)[None], cv2.COLOR_LAB2RGB)[0], 0, 1) * 255)
    shown = cv2.cvtColor((rgb / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]  # not all are colours of a screen
    good = np.flatnonzero(np.linalg.norm(shown - under, axis=1) >= _LEAST_CONTRAST)
    if not len(good):
        return (0, 0, 0) if under[0] > 50 else (255, 255, 255)
    r, g, b = (int(part) for part in rgb[good[np.argmin(np.abs(steps[good] - ours[0]))]])
    return r, g, b


def _lab(colour: RGB) -> Float64Array:
    """CIE L*a*b* of an sRGB colour."""
    pixel = np.array([[colour]], np.float32) / 255
    lab: Float64Array = cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0].astype(np.float64)
    return lab
