"""Groups that are there are found, whatever the units of their features."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsiproc.array.kmeans import kmeans_centres, standardised_kmeans

CENTRES = np.array([[30.0, 0.1, 0.0], [60.0, 0.1, 0.5], [30.0, 0.4, 0.5]])


def blobs(seed: int = 0, each: int = 200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, [2.0, 0.02, 0.03], (each, 3)) for centre in CENTRES])


@pytest.mark.parametrize("units", [1.0, np.array([1e-6, 1e6, 1.0])], ids=["as measured", "other units"])
def test_the_centres_of_blobs_are_found_in_their_own_units(units: np.ndarray) -> None:
    scale, centres = standardised_kmeans(blobs() * units, 3)
    found = centres / units
    order = [int(np.abs((found - centre) / CENTRES.std(axis=0)).sum(axis=1).argmin()) for centre in CENTRES]
    assert sorted(order) == [0, 1, 2]
    assert np.allclose(found[order], CENTRES, atol=[0.6, 0.006, 0.01])
    assert np.allclose(scale, (blobs() * units).std(axis=0))


def test_the_same_rows_give_the_same_centres() -> None:
    first, again = (standardised_kmeans(blobs(), 4)[1] for _ in range(2))
    assert np.array_equal(first, again)


def test_random_numbers_of_opencv_neither_decide_nor_change() -> None:
    def drawn() -> list[int]:
        return np.asarray(cv2.randu(np.zeros((1, 8), np.int32), np.zeros(1), np.full(1, 1000.0)))[0].tolist()

    cv2.setRNGSeed(1)
    expected = drawn()
    cv2.setRNGSeed(1)
    centres = kmeans_centres(blobs(), 4, 7, steps=100, still=1e-4)
    assert drawn() == expected
    cv2.setRNGSeed(2)
    assert np.array_equal(kmeans_centres(blobs(), 4, 7, steps=100, still=1e-4), centres)


@pytest.mark.parametrize("rows", [np.zeros((5, 2)), np.array([[0, 0], [0, 0], [1, 1.0]])], ids=["one", "two"])
def test_fewer_distinct_rows_than_centres_have_centres_among_them(rows: np.ndarray) -> None:
    centres = kmeans_centres(rows, 3, 0, steps=20, still=0.5)
    assert {tuple(centre) for centre in centres} == {tuple(row) for row in rows}


def test_a_feature_that_never_varies_decides_nothing() -> None:
    rows = blobs()
    with_constant = np.concatenate([rows, np.full((len(rows), 1), 7.0)], axis=1)
    scale, centres = standardised_kmeans(with_constant, 3)
    assert scale[3] == 1.0
    assert np.allclose(centres[:, 3], 7.0)
    assert np.array_equal(centres[:, :3], standardised_kmeans(rows, 3)[1])
