"""The rule that drops cells among doubtful ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.models.neighbours import SCORE_STEPS, NeighbourRule, logits, score_counts

RULE = NeighbourRule()
FLAKES, NUCLEI = 0.6, 0.95


def level(scores: npt.ArrayLike) -> float:
    return RULE.level(np.array(score_counts(np.array(scores, np.float32))))


def around(middle: float, ring: float) -> npt.NDArray[np.bool_]:
    """A cell of one score in the middle of eight of another, 20 µm away, on a slide of nuclei; which are kept."""
    angle = np.arange(8) * np.pi / 4
    centres = np.vstack([[0, 0], 80 * np.column_stack([np.sin(angle), np.cos(angle)])])
    scores = np.array([middle, *[ring] * 8], np.float32)
    return RULE.believed(centres, scores, 0.25, level([NUCLEI] * 9), 0.25)


def test_a_flake_among_flakes_is_dropped_and_the_same_among_nuclei_is_not() -> None:
    assert not around(FLAKES, FLAKES).any()
    assert around(FLAKES, NUCLEI).all()


def test_a_clear_nucleus_among_flakes_is_kept() -> None:
    kept = around(0.96, FLAKES)
    assert kept[0]
    assert not kept[1:].any()


def test_a_cell_without_neighbours_speaks_for_itself() -> None:
    centres, scores = np.array([[0.0, 0.0], [0.0, 1000.0]]), np.array([0.3, 0.2], np.float32)
    assert RULE.believed(centres, scores, 0.25, 2.0, 0.25).tolist() == [True, False]


def test_a_lowest_score_of_0_keeps_all() -> None:
    scores = np.array([0.0, 0.1, 0.1], np.float32)
    assert RULE.believed(np.zeros((3, 2)), scores, 0.25, 2.0, 0.0).all()
    assert not RULE.believed(np.zeros((3, 2)), scores, 0.25, 2.0, 0.01).all()


@given(st.lists(st.floats(0.02, 0.99), min_size=1, max_size=200))
def test_the_level_is_below_the_median_by_the_tolerance(scores: list[float]) -> None:
    middle = np.sort(scores)[(len(scores) - 1) // 2]
    expected = min(RULE.highest, float(logits(np.array([middle]))[0]) - RULE.tolerance)
    assert level(scores) == pytest.approx(expected, abs=0.55 / SCORE_STEPS / (0.99 * 0.01))


def test_on_a_pale_slide_low_scores_say_nothing() -> None:
    scores = np.full(9, FLAKES, np.float32)
    assert RULE.believed(np.zeros((9, 2)), scores, 0.25, level(scores), 0.25).all()
    assert level([]) == RULE.highest
