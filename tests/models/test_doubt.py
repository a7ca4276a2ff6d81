"""The rules that drop cells in hindsight: among doubtful ones, or of a colour unlike the slide's clear nuclei."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.core.cells import CellTable, Rings
from wsiproc.models.doubt import STEPS, ColourRule, Doubt, NeighbourRule, Usual, count_steps, logits

RULE, COLOUR = NeighbourRule(), ColourRule()
FLAKES, NUCLEI = 0.6, 0.95
LEAST = 0.25


def table(centres: npt.ArrayLike, scores: npt.ArrayLike, shares: npt.ArrayLike = 0.8) -> CellTable:
    """Cells without outlines; ``shares``: of haematoxylin."""
    places, values = np.array(centres, np.float64).reshape(-1, 2), np.array(scores, np.float32)
    blue = np.broadcast_to(np.array(shares, np.float32), values.shape) * np.float32(0.5)
    measured = {"hematoxylin_od_mean": blue, "eosin_od_mean": np.float32(0.5) - blue}
    rings = Rings(np.zeros(len(values) + 1, np.int64), np.zeros((0, 2), np.int32))
    boxes = np.zeros((len(values), 4), np.int32)
    return CellTable(np.zeros(len(values), np.uint8), values, places, boxes, measured, rings)


def level(scores: npt.ArrayLike) -> float:
    return RULE.level(np.array(count_steps(np.array(scores, np.float32))))


def believed(centres: npt.ArrayLike, scores: npt.ArrayLike, on: float, least: float = LEAST) -> npt.NDArray[np.bool_]:
    """Which cells are kept by their neighbours alone, where the level of the slide is ``on``."""
    return Doubt(RULE, None, least, on).believed(table(centres, scores), 0.25)


def around(middle: float, ring: float) -> npt.NDArray[np.bool_]:
    """A cell of one score in the middle of eight of another, 20 µm away, on a slide of nuclei; which are kept."""
    angle = np.arange(8) * np.pi / 4
    centres = np.vstack([[0, 0], 80 * np.column_stack([np.sin(angle), np.cos(angle)])])
    return believed(centres, [middle, *[ring] * 8], level([NUCLEI] * 9))


def test_a_flake_among_flakes_is_dropped_and_the_same_among_nuclei_is_not() -> None:
    assert not around(FLAKES, FLAKES).any()
    assert around(FLAKES, NUCLEI).all()


def test_a_clear_nucleus_among_flakes_is_kept() -> None:
    kept = around(0.96, FLAKES)
    assert kept[0]
    assert not kept[1:].any()


def test_a_cell_without_neighbours_speaks_for_itself() -> None:
    assert believed([[0.0, 0.0], [0.0, 1000.0]], [0.3, 0.2], 2.0).tolist() == [True, False]


def test_a_lowest_score_of_0_keeps_all() -> None:
    cells = table(np.zeros((3, 2)), [0.0, 0.1, 0.1], shares=[0.0, 0.1, 0.8])
    for least, all_of_them in ((0.0, True), (0.01, False)):
        doubt = Doubt(RULE, COLOUR, least, 2.0, Usual(0.8, 0.05))
        assert doubt.believed(cells, 0.25).all() == all_of_them


@given(st.lists(st.floats(0.02, 0.99), min_size=1, max_size=200))
def test_the_level_is_below_the_median_by_the_tolerance(scores: list[float]) -> None:
    middle = np.sort(scores)[(len(scores) - 1) // 2]
    expected = min(RULE.highest, float(logits(np.array([middle]))[0]) - RULE.tolerance)
    assert level(scores) == pytest.approx(expected, abs=0.55 / STEPS / (0.99 * 0.01))


def test_on_a_pale_slide_low_scores_say_nothing() -> None:
    scores = np.full(9, FLAKES, np.float32)
    assert believed(np.zeros((9, 2)), scores, level(scores)).all()
    assert level([]) == RULE.highest


@given(
    middle=st.floats(0.5, 0.9),
    spread=st.floats(0.02, 0.1),
    seed=st.integers(0, 1000),
    parts=st.integers(1, 5),
)
def test_what_is_usual_is_counted_in_any_parts(middle: float, spread: float, seed: int, parts: int) -> None:
    """Median and spread of the clear nuclei alone, from the sum of the counts of all parts of a slide."""
    rng = np.random.default_rng(seed)
    shares = np.concatenate([rng.normal(middle, spread, 4000).clip(0, 1), np.full(500, 0.1)])
    scores = np.concatenate([np.full(4000, 0.93), np.full(500, 0.6)])
    cells = table(np.zeros((4500, 2)), scores, shares)
    split = np.array_split(rng.permutation(4500), parts)
    usual = COLOUR.usual(np.sum([COLOUR.counts(cells.take(rows)) for rows in split], axis=0))
    assert usual is not None
    assert usual.middle == pytest.approx(middle, abs=0.01)
    assert usual.spread == pytest.approx(min(spread, 1 - middle + spread) + 0.01, rel=0.15, abs=0.005)


def test_too_few_clear_nuclei_say_nothing_of_colour() -> None:
    counts = np.zeros(STEPS, np.int64)
    counts[200] = COLOUR.fewest - 1
    assert COLOUR.usual(counts) is None
    counts[200] += 1
    assert COLOUR.usual(counts) is not None
    nothing = Doubt(None, COLOUR, LEAST).on(np.zeros(STEPS, np.int64), np.zeros(STEPS, np.int64))
    assert nothing.believed(table([[0, 0]], [0.3], shares=0.0), 0.25).all()


@given(score=st.floats(0.26, 0.99), below=st.floats(-3, 12))
def test_the_less_haematoxylin_the_higher_a_score_must_be(score: float, below: float) -> None:
    """A spread beyond the tolerance costs one logit; more haematoxylin than usual costs nothing."""
    usual = Usual(0.8, 0.05)
    cells = table([[0, 0]], [score], shares=max(0.0, 0.8 - below * 0.05))
    left = logits(np.array([score]))[0] - max(0.0, below - COLOUR.tolerance)
    least = logits(np.array([LEAST]))[0]
    if abs(left - least) > 0.01:
        kept = Doubt(None, COLOUR, LEAST, usual=usual).believed(cells, 0.25)[0]
        assert kept == (left > least)


def test_a_red_cell_is_dropped_and_a_pale_nucleus_of_the_same_score_is_not() -> None:
    cells = table([[0, 0], [0, 9]], [0.8, 0.8], shares=[0.2, 0.75])
    assert Doubt(RULE, COLOUR, LEAST, 2.0, Usual(0.8, 0.06)).believed(cells, 100.0).tolist() == [False, True]
