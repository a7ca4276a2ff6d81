"""How cells are coloured and which of them are shown: by class, by a measurement, or by the strength of a stain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsiproc.core import immuno
from wsiproc.core.palette import NAMED, RGB, css_colour
from wsiproc.errors import SettingsError

Codes = npt.NDArray[np.uint8]
Range = tuple[float, float]

SHADES = 64  # of the scale of a measurement
HIDDEN, GREY = 255, 254  # codes
_GREY: RGB = (150, 156, 164)
STRENGTHS: dict[str, RGB] = {name: NAMED[name] for name in immuno.STRENGTHS}
"""Weak, moderate and strong, as pathologists write them; each darker than the one before."""
POSITIVE, NEGATIVE, DAB = immuno.POSITIVE, immuno.NEGATIVE, immuno.NUCLEUS_DAB
_LEAST_CONTRAST = 45.0  # ΔE of CIE 1976 between an outline and the tissue; 2.3 can just be seen


@dataclass(frozen=True)
class Look:
    """What a page asks for; equal looks give equal tiles.

    ``hidden``: indexes of classes that are not drawn; ``colours``: those that the user gave to classes, by index;
    ``measure``: a column by whose value cells are kept (``keep``, both ends belong to it) and, where ``paint``,
    coloured on the scale between ``domain``; ``grey``: what is not kept is drawn grey, else not at all; ``cuts``: one
    or three ascending thresholds of DAB by which positive and negative are told anew.
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


def palette(look: Look, colours: Sequence[RGB]) -> npt.NDArray[np.uint8]:
    """The colour of each code, (256, 3); ``colours``: those of the classes, where the user gave no others."""
    table = np.zeros((256, 3), np.uint8)
    table[GREY] = _GREY
    if painted(look):
        table[:SHADES] = scale_colours()
        return table
    given = dict(look.colours)
    for index, colour in enumerate(colours):
        table[index] = given.get(index, colour)
    for index, colour in enumerate(STRENGTHS.values(), len(colours)):
        table[index] = colour
    return table


def codes(
    look: Look,
    names: Sequence[str],
    classes: Codes,
    values: npt.NDArray[np.float32] | None,
    dab: npt.NDArray[np.float32] | None,
) -> Codes:
    """The code of each cell (N,): into ``palette``, or ``HIDDEN``.

    ``classes`` (N,): indexes of ``names``; ``values``: of the look's measurement; ``dab``: mean density of DAB, needed
    where there are cuts.
    """
    kinds = classes if dab is None else strengths(look.cuts, names, classes, dab)
    found: Codes = kinds.copy()
    if values is not None and painted(look):
        low, high = look.domain
        share = (values - np.float32(low)) * np.float32(SHADES / max(high - low, 1e-30))
        found = np.clip(np.nan_to_num(share), 0, SHADES - 1).astype(np.uint8)
    if values is not None and look.keep != (-np.inf, np.inf):
        found[~kept(look.keep, values)] = GREY if look.grey else HIDDEN
    if look.hidden:
        gone = np.zeros(256, np.bool_)
        gone[list(look.hidden)] = True
        if dab is not None and POSITIVE in names and names.index(POSITIVE) in look.hidden:
            gone[len(names) : len(names) + len(STRENGTHS)] = True
        found[gone[kinds]] = HIDDEN
    return found


def kept(keep: Range, values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which values lie in a range, both of whose ends belong to it."""
    return (values >= np.float32(keep[0])) & (values <= np.float32(keep[1]))


def strengths(cuts: Sequence[float], names: Sequence[str], classes: Codes, dab: npt.NDArray[np.float32]) -> Codes:
    """Classes (N,) with positive and negative told anew: indexes of ``names``, and beyond them 1+, 2+ and 3+.

    More than the first cut is positive, as when the slide was run; with one cut all of them are the class Positive.
    """
    if not {POSITIVE, NEGATIVE} <= set(names):
        raise SettingsError(
            f"the slide has the classes {', '.join(names)}; a threshold of DAB needs Positive and Negative"
        )
    positive, negative = names.index(POSITIVE), names.index(NEGATIVE)
    above = sum((dab > np.float32(cut)).astype(np.uint8) for cut in cuts)
    becomes = [negative, positive] if len(cuts) == 1 else [negative, *range(len(names), len(names) + len(cuts))]
    stained = (classes == positive) | (classes == negative)
    return np.where(stained, np.array(becomes, np.uint8)[above], classes)


def positivity(
    cuts: Sequence[float], names: Sequence[str], classes: Codes, dab: npt.NDArray[np.float32]
) -> Mapping[str, float | int | None]:
    """Cells in each strength, share of positive among positive and negative, and with three cuts the H-score.

    H-score: 1 × % weak + 2 × % moderate + 3 × % strong, 0 to 300 (McCarty et al., Cancer Res. 46, 1986).
    """
    told = np.bincount(strengths(cuts, names, classes, dab), minlength=len(names) + len(STRENGTHS))
    weak, moderate, strong = (int(told[len(names) + place]) for place in range(3))
    positive = weak + moderate + strong + (int(told[names.index(POSITIVE)]) if len(cuts) == 1 else 0)
    negative = int(told[names.index(NEGATIVE)])
    cells = positive + negative
    return {
        "negative": negative,
        "positive": positive,
        **({} if len(cuts) == 1 else dict(zip(STRENGTHS, (weak, moderate, strong), strict=True))),
        "index": positive / cells if cells else None,
        "h_score": 100 * (weak + 2 * moderate + 3 * strong) / cells if cells and len(cuts) == 3 else None,
    }


def standing_out(colour: RGB, tissue: RGB) -> RGB:
    """The colour, or one of its hue that is lighter or darker, so that it stands out from the tissue under it."""
    ours, under = _lab(colour), _lab(tissue)
    if np.linalg.norm(ours - under) >= _LEAST_CONTRAST:
        return colour
    # Away from the tissue's lightness; on tissue as light as ours, towards the end that is farther off.
    steps = np.arange(0.0, 101.0, 2.0)
    ladder = np.stack([steps, np.full_like(steps, ours[1]), np.full_like(steps, ours[2])], axis=1)
    good = ladder[np.linalg.norm(ladder - under, axis=1) >= _LEAST_CONTRAST + 5]
    if not len(good):
        return (0, 0, 0) if under[0] > 50 else (255, 255, 255)
    nearest = good[np.argmin(np.abs(good[:, 0] - ours[0]))]
    rgb = cv2.cvtColor(nearest.astype(np.float32)[None, None], cv2.COLOR_LAB2RGB)[0, 0]
    r, g, b = (int(part) for part in np.rint(np.clip(rgb, 0, 1) * 255))
    return r, g, b


def _lab(colour: RGB) -> npt.NDArray[np.float64]:
    """CIE L*a*b* of an sRGB colour."""
    pixel = np.array([[colour]], np.float32) / 255
    lab: npt.NDArray[np.float64] = cv2.cvtColor(pixel, cv2.COLOR_RGB2LAB)[0, 0].astype(np.float64)
    return lab
