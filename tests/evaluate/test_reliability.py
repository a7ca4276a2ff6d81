"""Scores against the share of cells that are true."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.evaluate.reliability import Judged, bins_of, calibration_errors, judge_cells

cells = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=50).map(
    lambda rows: Judged(*(np.array(column) for column in zip(*rows, strict=True)))
)


@given(cells)
def test_bins_hold_every_cell_once_in_order(some: Judged) -> None:
    bins = bins_of(some)
    assert sum(each.cells for each in bins) == len(some.scores)
    assert sum(each.cells * each.overlap for each in bins) == pytest.approx(some.overlap.sum())
    assert sum(each.cells * each.score for each in bins) == pytest.approx(some.scores.sum())
    assert [each.score for each in bins] == sorted(each.score for each in bins)
    for error, share in zip(calibration_errors(some), (some.overlap, some.centre), strict=True):
        # Bins can only hide less than all cells in one.
        assert abs(some.scores.mean() - share.mean()) - 1e-9 <= error <= 1


def test_scores_that_are_right_have_no_error_and_scores_of_one_that_of_what_is_false() -> None:
    true = np.arange(100) % 10 < 7
    assert calibration_errors(Judged(np.full(100, 0.7), true, ~true)) == pytest.approx((0.0, 0.4))
    assert calibration_errors(Judged(np.ones(100), true, true)) == pytest.approx((0.3, 0.3))
    assert calibration_errors(Judged(*(np.zeros(0, kind) for kind in (float, bool, bool)))) == (0, 0)


def test_a_cell_is_true_by_overlap_or_by_its_centre_alone(tmp_path: Path) -> None:
    """One found whole, one found by half, one beside every nucleus; ids need not begin at 1."""
    truth, found = np.zeros((20, 40), np.int64), np.zeros((20, 40), np.int64)
    truth[2:10, 2:10], found[2:10, 2:10] = 5, 12
    truth[2:10, 14:22], found[2:10, 16:28] = 6, 11
    found[12:18, 30:36] = 30
    rows = {"id": [11, 12, 30], "score": [0.6, 0.9, 0.2], "centroid_y": [6.0, 6, 15], "centroid_x": [21.9, 6, 33]}
    pyarrow.parquet.write_table(pa.table(rows), tmp_path / "cells.parquet")
    judged = judge_cells(tmp_path, found, truth)
    assert judged.scores.tolist() == [0.6, 0.9, 0.2]
    assert judged.overlap.tolist() == [False, True, False]
    assert judged.centre.tolist() == [True, True, False]
