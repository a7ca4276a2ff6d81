"""The numbers of slides and areas, against sums written out here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.core.geometry import at_points
from wsiproc.core.numbers import CellCounts, ClassCounts, area_numbers, slide_numbers

COUNTS = ClassCounts(12, {"Negative": 9, "Positive": 3}, {"Negative": 8, "Positive": 2})


def test_density_is_of_cells_in_tissue_and_the_index_of_all() -> None:
    told = slide_numbers(COUNTS, 0.5, indexed=True)
    assert (told.cells, told.cells_in_tissue, told.tissue_mm2) == (12, 10, 0.5)
    assert (told.cells_per_mm2, told.positive_index, told.h_score) == (20.0, 0.25, None)


def test_what_is_not_known_is_none_and_not_another_number() -> None:
    assert slide_numbers(COUNTS, 0.0, indexed=True).cells_per_mm2 is None
    older = slide_numbers(ClassCounts(12, {"Nucleus": 12}, None), 0.5, indexed=True)
    assert older.cells_in_tissue is older.cells_per_mm2 is None
    strengths = {"Negative": 1, "1+": 1, "2+": 0, "3+": 2}
    scored = ClassCounts(4, strengths, strengths)
    assert slide_numbers(scored, 0.5, indexed=True).h_score == 175
    recognised = slide_numbers(scored, 0.5, indexed=False)
    assert recognised.positive_index is recognised.h_score is None


def test_an_area_is_told_in_words_that_qupath_shows() -> None:
    found = area_numbers({"Negative": 3, "Positive": 1}, 0.02, indexed=True)
    assert found.measurements() == {
        "Area mm^2": 0.02,
        "Cells": 4,
        "Cells per mm^2": 200.0,
        "Positive %": 25.0,
        "Cells: Negative": 3,
        "Cells: Positive": 1,
    }
    assert "Positive %" not in area_numbers({"Negative": 3, "Positive": 1}, 0.02, indexed=False).measurements()


@given(st.lists(st.tuples(st.floats(-2, 42), st.floats(-2, 22), st.integers(0, 2)), max_size=50), st.integers(0, 50))
def test_cells_are_counted_alike_in_any_blocks(cells: list[tuple[float, float, int]], cut: int) -> None:
    tissue = np.zeros((4, 4), bool)
    tissue[1:3, 2:] = True
    centres = np.array([cell[:2] for cell in cells], np.float64).reshape(-1, 2)
    kinds = np.array([cell[2] for cell in cells], np.uint8)
    counts = CellCounts.empty(tissue, (40, 20), 3)
    for part in (slice(cut), slice(cut, None)):
        counts.add(centres[part], kinds[part])
    inside = np.array([10 <= y < 30 and x >= 10 for y, x, _ in cells], bool)
    near_an_edge = np.abs(centres / [10, 5] - np.round(centres / [10, 5])).min(initial=1) < 1e-5
    if not near_an_edge:
        assert counts.in_tissue.tolist() == [int((inside & (kinds == kind)).sum()) for kind in range(3)]
    assert counts.everywhere.tolist() == [int((kinds == kind).sum()) for kind in range(3)]


@pytest.mark.parametrize("scale", [0.9973, 1.00013, 4.00002])
def test_a_centre_on_the_border_of_two_px_is_in_the_same_one_in_every_frame(scale: float) -> None:
    labels = np.arange(1000)[:, None]
    centres = np.stack([np.arange(0, 4000, 4.0), np.zeros(1000)], axis=1)
    in_grid = at_points(labels, (4000, 1), centres)
    in_slide = at_points(labels, (4000 * scale, scale), centres * scale)  # type: ignore[arg-type]
    assert in_grid.tolist() == in_slide.tolist() == list(range(1000))
