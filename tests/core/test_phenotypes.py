"""The nearest kind of a cell is a matter of that cell alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.core.phenotypes import Phenotypes


def kinds_of(centres: list[list[float]], scale: list[float]) -> Phenotypes:
    names = tuple(f"Kind {number}" for number in range(1, len(centres) + 1))
    features = tuple(f"feature {number}" for number in range(len(scale)))
    colours = tuple((number, 0, 0) for number in range(len(centres)))
    return Phenotypes(names, colours, features, tuple(scale), tuple(map(tuple, centres)), "m", 0.5, None)


def measurements(values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"feature {number}": column for number, column in enumerate(values.T.astype(np.float32))}


def test_differences_count_in_steps_of_the_scale() -> None:
    phenotypes = kinds_of([[0.0, 0.0], [100.0, 1.0]], [100.0, 0.1])
    # 90 is nearer to 100, but 0.1 is far from 1: 0.9² + 1² against 0.1² + 9².
    assert phenotypes.nearest(measurements(np.array([[90.0, 0.1], [10.0, 0.9]]))).tolist() == [0, 1]


def test_areas_compare_by_their_ratio() -> None:
    phenotypes = dataclasses.replace(kinds_of([[20.0], [45.0]], [1.0]), features=("area_um2",))
    # 30 is 1.5 times either centre's ratio; by difference it would be nearer to 20 up to 32.5.
    areas = np.array([29.9, 30.1, 32.0, 5.0, 500.0], np.float32)
    assert phenotypes.nearest({"area_um2": areas}).tolist() == [0, 1, 1, 0, 1]


def test_of_equally_near_kinds_the_first_is_taken() -> None:
    phenotypes = kinds_of([[2.0], [0.0], [2.0]], [1.0])
    assert phenotypes.nearest(measurements(np.array([[1.0], [2.0]]))).tolist() == [0, 0]


def test_no_cells_have_no_kinds() -> None:
    found = kinds_of([[0.0], [1.0]], [1.0]).nearest(measurements(np.zeros((0, 1))))
    assert found.shape == (0,)
    assert found.dtype == np.uint8


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 12), st.integers(1, 7))
def test_a_cell_has_the_same_kind_alone_and_among_others(seed: int, cells: int, phenotypes: int, features: int) -> None:
    rng = np.random.default_rng(seed)
    # Coarse values, so that cells lie halfway between centres and the last digit would decide.
    values, centres = rng.integers(-3, 4, (cells, features)) / 10, rng.integers(-3, 4, (phenotypes, features)) / 10
    values[:, 0], centres[:, 0] = 10 ** values[:, 0], 10 ** centres[:, 0]  # areas
    some = kinds_of(centres.tolist(), rng.uniform(0.1, 9, features).tolist())
    some = dataclasses.replace(some, features=("area_um2", *some.features[1:]))

    def nearest(rows: np.ndarray) -> list[int]:
        columns = measurements(rows)
        return some.nearest(columns | {"area_um2": columns["feature 0"]}).tolist()

    together = nearest(values)
    alone = [nearest(values[i : i + 1])[0] for i in range(cells)]
    assert together == alone
    assert nearest(values[::-1])[::-1] == alone
    values[:, 0], centres[:, 0] = np.log(values[:, 0]), np.log(centres[:, 0])
    squares = (((values[:, None] - centres) / some.scale) ** 2).sum(axis=2)
    assert np.allclose(squares[np.arange(cells), together], squares.min(axis=1), atol=1e-6)
