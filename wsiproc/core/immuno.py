"""Scoring of cells for an antibody stained brown (DAB): which are positive, and how strongly. The single definition for
runs, reports, cohorts, viewer and exports: a cell is positive if the mean optical density of DAB in the scored
compartment exceeds a cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsiproc.core.choices import Compartment
from wsiproc.core.palette import RGB, class_colour
from wsiproc.core.types import Float32Array, UInt8Array
from wsiproc.errors import SettingsError

NUCLEUS_DAB, RING_DAB, RING_COMPLETE = "dab_od_mean", "ring_dab_od_mean", "ring_dab_completeness"
RING_COLUMNS = (RING_DAB, RING_COMPLETE)
"""Columns of cells measured in a ring around each nucleus on slides with DAB."""

NEGATIVE, POSITIVE, STRENGTHS = "Negative", "Positive", ("1+", "2+", "3+")
WHERE: dict[Compartment, str] = {
    "nucleus": "its nucleus",
    "membrane": "the ring around its nucleus, half of which or more must be stained,",
    "cytoplasm": "the ring around its nucleus",
}
"""The part of a cell that counts for a compartment, in words."""

_HALF = 0.5  # of the ring; a neighbour's membrane touches less
_LARGEST_CUT = 3.0


@dataclass(frozen=True)
class Scoring:
    """The rule by which the cells of a slide are negative or positive.

    ``cuts``: optical density of DAB above which a cell is positive; or three, above which it is weak, moderate and
    strong (1+, 2+, 3+). ``ring_cut``: density above which a sector of the ring counts as stained; derived from the
    slide, not set by the user, so that the completeness of the ring is a measurement. Its ``repr`` contains all that
    determines the classes.
    """

    compartment: Compartment
    cuts: tuple[float, ...]
    ring_cut: float

    @property
    def classes(self) -> dict[str, RGB]:
        """Colours of the classes by name, in the order of their indexes."""
        names = (NEGATIVE, POSITIVE) if len(self.cuts) == 1 else (NEGATIVE, *STRENGTHS)
        return {name: class_colour(name, index) for index, name in enumerate(names)}

    def classify(self, measurements: Mapping[str, Float32Array]) -> UInt8Array:
        """Index of the class of each cell (N,), which depends only on its own measurements. A membrane must also be
        stained along half of the ring. A nucleus without room for a ring is negative.
        """
        density = measurements[NUCLEUS_DAB if self.compartment == "nucleus" else RING_DAB]
        grades = np.zeros(len(density), np.uint8)
        for cut in self.cuts:
            grades += density > np.float32(cut)  # NaN, not measured, is never above a cut
        if self.compartment == "membrane":
            grades[~(measurements[RING_COMPLETE] >= _HALF)] = 0
        return grades


def checked_cuts(cuts: tuple[float, ...]) -> tuple[float, ...]:
    """Validate one cut, or three in ascending order; raises SettingsError for others."""
    if len(cuts) not in (1, 3) or not all(0 < cut <= _LARGEST_CUT for cut in cuts) or sorted(set(cuts)) != list(cuts):
        given = ", ".join(f"{cut:g}" for cut in cuts)
        raise SettingsError(
            f"positive_dab is {given or 'empty'}; give one optical density of DAB, such as 0.2, or three in ascending "
            f"order, for weak, moderate and strong, such as 0.2, 0.4, 0.6; each above 0 and at most {_LARGEST_CUT:g}"
        )
    return tuple(float(cut) for cut in cuts)


def rule_in_words(compartment: Compartment, compartment_from: str, cuts: Sequence[float], cuts_from: str) -> str:
    """What makes a cell positive; ``compartment_from``, ``cuts_from``: in words, how either was found."""
    above = f"{cuts[0]:g}" if len(cuts) == 1 else f"{cuts[0]:g} (1+), {cuts[1]:g} (2+) or {cuts[2]:g} (3+)"
    return (
        f"A cell is positive where the mean optical density of DAB in {WHERE[compartment]} exceeds {above} "
        f"({cuts_from}); compartment: {compartment} ({compartment_from})."
    )


def positive_index(counts: Mapping[str, int]) -> float | None:
    """Share of positive cells, 0 to 1, as for Ki-67; None if the classes are different or there are no cells."""
    positive = sum(counts.get(name, 0) for name in (POSITIVE, *STRENGTHS))
    both = positive + counts.get(NEGATIVE, 0)
    return positive / both if both and counts.keys() & {POSITIVE, *STRENGTHS} and NEGATIVE in counts else None


def h_score(counts: Mapping[str, int]) -> float | None:
    """Per cent of weak cells + 2 × moderate + 3 × strong, 0 to 300; None without these classes."""
    total = counts.get(NEGATIVE, 0) + sum(counts.get(name, 0) for name in STRENGTHS)
    if not total or not counts.keys() >= {NEGATIVE, *STRENGTHS}:
        return None
    return 100 * sum(grade * counts[name] for grade, name in enumerate(STRENGTHS, start=1)) / total
