"""Means over neighbours: as counted pair by pair, in any order."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.array.nuclei.neighbours import neighbour_means

# On a raster, many pairs are exactly as far apart as the reach.
cells = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(-4096, 6144)), max_size=40)


def columns(rows: list[tuple[int, int, int]]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    table = np.array(rows, np.int64).reshape(-1, 3)
    return (table[:, :2] * 0.1).astype(np.float64), table[:, 2]


@given(cells, st.sampled_from([0.1, 0.3, 0.5, 2.0]))
def test_means_are_of_all_others_within_reach(rows: list[tuple[int, int, int]], reach: float) -> None:
    centres, values = columns(rows)
    apart = ((centres[:, None] - centres[None]) ** 2).sum(axis=-1)
    near = (apart <= reach**2) & ~np.eye(len(rows), dtype=bool)
    expected = [values[row].mean() if row.any() else np.nan for row in near]
    np.testing.assert_allclose(neighbour_means(centres, values, reach), expected, rtol=1e-12)


@given(cells, st.randoms())
def test_the_order_of_the_cells_changes_no_bit(rows: list[tuple[int, int, int]], random: Random) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    centres, values = columns(rows)
    means = neighbour_means(centres, values, 0.5)
    np.testing.assert_array_equal(neighbour_means(centres[order], values[order], 0.5), means[order])
