"""Which cells a model drops because everything around them is doubtful.

A flake of keratin can look just like a nucleus, but it lies among others that hardly do; a nucleus lies among nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from scipy.special import logit

from wsiproc.array.nuclei.neighbours import neighbour_means
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, Int64Array

SCORE_STEPS = 256
"""Scores are counted in this many steps."""
_FINE = 1024  # logits are summed in such fractions
_LOWEST, _HIGHEST = -4.0, 6.0  # a single neighbour can say no more than this


@dataclass(frozen=True)
class NeighbourRule:
    """A cell is dropped if its score's logit, lowered by ``weight`` times what its neighbours' mean logit lacks to the
    slide's level, is below that of the model's lowest score. One with a score of ``clear`` or more is kept anyway.

    Neighbours are all other cells within ``reach_um``. The level is the slide's median less ``tolerance``, at most
    ``highest``: on a pale slide all scores are low, and say nothing.
    """

    reach_um: Annotated[float, Gt(0), Le(200)] = 60.0
    tolerance: Annotated[float, Ge(0), Le(10)] = 0.6
    highest: Annotated[float, Ge(-4), Le(6)] = 2.0
    weight: Annotated[float, Ge(0), Le(100)] = 6.0
    clear: Annotated[float, Ge(0), Le(1)] = 0.95

    def level(self, counts: Int64Array) -> float:
        """The level of a slide with so many cells of each score, see ``score_counts``."""
        if not counts.any():
            return self.highest
        median = np.searchsorted(np.cumsum(counts), counts.sum() / 2)
        return min(self.highest, float(logits(np.array([median / (SCORE_STEPS - 1)]))[0]) - self.tolerance)

    def believed(
        self, centres: Float64Array, scores: Float32Array, mpp: float, level: float, least: float
    ) -> BoolArray:
        """Which cells (N,) are kept, of ``centres`` (N, 2), px of ``mpp`` µm; ``least``: the model's lowest score, of
        which 0 keeps all.

        Correct for cells whose neighbours are all given.
        """
        own = logits(scores)
        around = neighbour_means(centres, np.rint(own * _FINE).astype(np.int64), self.reach_um / mpp) / _FINE
        lack = np.nan_to_num(np.maximum(level - around, 0), nan=0.0)  # a cell without neighbours speaks for itself
        kept: BoolArray = own - self.weight * lack >= logits(np.array([least]))[0]
        return kept | (scores >= self.clear) | (least == 0)


def score_counts(scores: Float32Array) -> list[int]:
    """How many ``scores`` (N,) in [0, 1] there are of each of ``SCORE_STEPS`` steps."""
    steps = np.rint(scores.astype(np.float64) * (SCORE_STEPS - 1)).astype(np.int64)
    counts: list[int] = np.bincount(steps, minlength=SCORE_STEPS).tolist()
    return counts


def logits(scores: Float32Array | Float64Array) -> Float64Array:
    """Logit of scores (N,) in [0, 1], within what a neighbour can say."""
    found: Float64Array = np.clip(logit(scores.astype(np.float64)), _LOWEST, _HIGHEST)
    return found
