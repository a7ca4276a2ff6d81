"""Which cells a model drops in hindsight, once all cells of a slide are known.

By what is around them: a flake of keratin can look just like a nucleus, but it lies among others that hardly do; a
nucleus lies among nuclei. And by their colour: a red cell, or a scrap of cytoplasm, has less haematoxylin for its eosin
than the clear nuclei of the slide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from scipy.special import logit

from wsiproc.array.nuclei.neighbours import neighbour_means
from wsiproc.core.cells import CellTable
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, Int64Array

STEPS = 256
"""Scores, and shares of haematoxylin, are counted in this many steps."""
_FINE = 1024  # logits are summed in such fractions
_LOWEST, _HIGHEST = -4.0, 6.0  # a single neighbour can say no more than this
_LEAST_SPREAD = 0.01  # of the shares of a slide
_TENTH = 1.28  # standard deviations from the median of a normal distribution to its lowest tenth


@dataclass(frozen=True)
class NeighbourRule:
    """A cell's logit is lowered by ``weight`` times what its neighbours' mean logit lacks to the slide's level, unless
    its score is ``clear`` or more.

    Neighbours are all other cells within ``reach_um``. The level is the slide's median less ``tolerance``, at most
    ``highest``: on a pale slide all scores are low, and say nothing.
    """

    reach_um: Annotated[float, Gt(0), Le(200)] = 60.0
    tolerance: Annotated[float, Ge(0), Le(10)] = 0.6
    highest: Annotated[float, Ge(-4), Le(6)] = 2.0
    weight: Annotated[float, Ge(0), Le(100)] = 6.0
    clear: Annotated[float, Ge(0), Le(1)] = 0.95

    def level(self, counts: Int64Array) -> float:
        """The level of a slide with so many cells of each score, see ``count_steps``."""
        if not counts.any():
            return self.highest
        return min(self.highest, float(logits(np.array([_quantile(counts, 0.5)]))[0]) - self.tolerance)

    def deduction(self, centres: Float64Array, scores: Float32Array, mpp: float, level: float) -> Float64Array:
        """By how much the logits of cells (N,) are lowered, of ``centres`` (N, 2), px of ``mpp`` µm.

        Correct for cells whose neighbours are all given.
        """
        own = np.rint(logits(scores) * _FINE).astype(np.int64)
        around = neighbour_means(centres, own, self.reach_um / mpp) / _FINE
        lack = np.nan_to_num(np.maximum(level - around, 0), nan=0.0)  # a cell without neighbours speaks for itself
        return np.where(scores >= self.clear, 0.0, self.weight * lack)


@dataclass(frozen=True)
class Usual:
    """Median and spread of the share of haematoxylin in the clear nuclei of a slide."""

    middle: float
    spread: float


@dataclass(frozen=True)
class ColourRule:
    """On H&E, a cell's logit is lowered by ``weight`` for each spread by which its share of haematoxylin is below that
    of clear nuclei, those with a score of ``clear`` or more, beyond ``tolerance`` spreads.

    Shares of haematoxylin: of the sum of both stains in the cell. A slide with fewer than ``fewest`` clear nuclei tells
    too little.
    """

    clear: Annotated[float, Ge(0), Le(1)] = 0.9
    fewest: Annotated[int, Ge(1), Le(10**6)] = 50
    tolerance: Annotated[float, Ge(0), Le(10)] = 1.0
    weight: Annotated[float, Ge(0), Le(100)] = 1.0

    def counts(self, cells: CellTable) -> list[int]:
        """How many clear nuclei there are of each share, see ``count_steps``."""
        return count_steps(haematoxylin_shares(cells.measurements)[cells.scores >= self.clear])

    def usual(self, counts: Int64Array) -> Usual | None:
        """What is usual on a slide with so many clear nuclei of each share; None if these are too few."""
        if counts.sum() < self.fewest:
            return None
        middle = _quantile(counts, 0.5)
        return Usual(middle, (middle - _quantile(counts, 0.1)) / _TENTH + _LEAST_SPREAD)

    def deduction(self, shares: Float64Array, usual: Usual) -> Float64Array:
        """By how much the logits of cells (N,) with such shares of haematoxylin are lowered."""
        below = (usual.middle - shares) / usual.spread
        lowered: Float64Array = self.weight * np.maximum(below - self.tolerance, 0)
        return lowered


@dataclass(frozen=True)
class Doubt:
    """Both rules of a model, None where one does not apply, for one slide: the ``level`` of its scores, the ``usual``
    colour of its nuclei, and the model's ``least`` score, of which 0 keeps all.
    """

    neighbours: NeighbourRule | None
    colour: ColourRule | None
    least: float
    level: float = 0.0
    usual: Usual | None = None

    def on(self, scores: Int64Array, shares: Int64Array) -> Doubt:
        """For a slide with so many cells of each score, and so many clear nuclei of each share of haematoxylin."""
        level = self.neighbours.level(scores) if self.neighbours else 0.0
        usual = self.colour.usual(shares) if self.colour else None
        return Doubt(self.neighbours, self.colour, self.least, level, usual)

    @property
    def reach_um(self) -> float:
        """How far around a cell others can speak against it."""
        return self.neighbours.reach_um if self.neighbours else 0.0

    def believed(self, cells: CellTable, mpp: float) -> BoolArray:
        """Which ``cells`` (N,), in px of ``mpp`` µm, are kept. Correct for those whose neighbours are all given."""
        left = logits(cells.scores)
        if self.neighbours is not None:
            left = left - self.neighbours.deduction(cells.centroids, cells.scores, mpp, self.level)
        if self.colour is not None and self.usual is not None:
            left = left - self.colour.deduction(haematoxylin_shares(cells.measurements), self.usual)
        kept: BoolArray = (left >= logits(np.array([self.least]))[0]) | (self.least == 0)
        return kept


def haematoxylin_shares(measurements: Mapping[str, Float32Array]) -> Float64Array:
    """Haematoxylin's share of both stains in each cell (N,), in [0, 1]; 1 where there is neither."""
    blue, pink = (measurements[f"{name}_od_mean"].astype(np.float64) for name in ("hematoxylin", "eosin"))
    total = blue + pink
    shares: Float64Array = np.where(total > 0, blue / np.maximum(total, 1e-9), 1.0)
    return shares


def count_steps(values: Float32Array | Float64Array) -> list[int]:
    """How many ``values`` (N,) in [0, 1] there are in each of ``STEPS`` steps."""
    steps = np.rint(values.astype(np.float64) * (STEPS - 1)).astype(np.int64)
    counts: list[int] = np.bincount(steps, minlength=STEPS).tolist()
    return counts


def _quantile(counts: Int64Array, share: float) -> float:
    """The value in [0, 1] that is not exceeded by this share of the values that were counted."""
    return float(np.searchsorted(np.cumsum(counts), counts.sum() * share)) / (STEPS - 1)


def logits(scores: Float32Array | Float64Array) -> Float64Array:
    """Logit of scores (N,) in [0, 1], within what a neighbour can say."""
    found: Float64Array = np.clip(logit(scores.astype(np.float64)), _LOWEST, _HIGHEST)
    return found
