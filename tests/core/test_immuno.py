"""The one definition of a positive cell, and what is counted from it."""

from __future__ import annotations

import numpy as np
import pytest

from wsiproc.core.immuno import Scoring, checked_cuts, h_score, positive_index
from wsiproc.errors import SettingsError

CELLS = {
    "dab_od_mean": np.array([0.1, 0.2, 0.3, 0.5, 0.9], np.float32),
    "ring_dab_od_mean": np.array([0.9, 0.5, 0.3, np.nan, 0.1], np.float32),
    "ring_dab_completeness": np.array([1, 0.4, 0.5, np.nan, 1], np.float32),
}


@pytest.mark.parametrize(
    ("compartment", "cuts", "classes"),
    [
        ("nucleus", (0.2,), [0, 0, 1, 1, 1]),
        ("nucleus", (0.2, 0.4, 0.6), [0, 0, 1, 2, 3]),
        ("cytoplasm", (0.2,), [1, 1, 1, 0, 0]),
        ("membrane", (0.2,), [1, 0, 1, 0, 0]),
        ("membrane", (0.2, 0.4, 0.6), [3, 0, 1, 0, 0]),
    ],
)
def test_a_cell_is_positive_above_the_cut_in_its_compartment(
    compartment: str, cuts: tuple[float, ...], classes: list[int]
) -> None:
    rule = Scoring(compartment, cuts, 0.2)  # type: ignore[arg-type]
    assert rule.classify(CELLS).tolist() == classes
    assert len(rule.classes) == len(cuts) + 1


def test_three_cuts_name_strengths_and_give_an_h_score() -> None:
    names = list(Scoring("nucleus", (0.2, 0.4, 0.6), 0.2).classes)
    assert names == ["Negative", "1+", "2+", "3+"]
    counts = dict(zip(names, (40, 30, 20, 10), strict=True))
    assert h_score(counts) == 30 + 2 * 20 + 3 * 10
    assert positive_index(counts) == 0.6


def test_an_index_needs_negative_and_positive_cells_as_classes() -> None:
    assert positive_index({"Negative": 3, "Positive": 1}) == 0.25
    assert positive_index({"Negative": 3, "Positive": 0}) == 0
    assert positive_index({"Negative": 0, "Positive": 0}) is None
    assert positive_index({"Nucleus": 4}) is None
    assert h_score({"Negative": 3, "Positive": 1}) is None


@pytest.mark.parametrize(
    "cuts", [(), (0.2, 0.4), (0.0,), (-1.0,), (4.0,), (0.4, 0.2, 0.6), (0.2, 0.2, 0.6), (float("nan"),)]
)
def test_cuts_that_make_no_sense_are_refused(cuts: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="positive_dab"):
        checked_cuts(cuts)
