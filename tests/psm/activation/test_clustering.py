from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.psm.drawn_tissue import Drawn, tissue
from wsiproc.psm.activation.clustering import (
    JetClusters,
    fit_clusters,
    fit_model_clusters,
    jet_vectors,
    kmeans,
    nearest,
)

BLUE, BROWN, PINK, GLASS = (70, 60, 140), (110, 70, 40), (225, 160, 200), (243, 243, 245)
COLOURS = np.array([BLUE, BROWN, PINK, GLASS], np.uint8)


def blocks(
    side: int = 16, noise: int = 4
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """A map, a picture of four colours in quarters, and which quarter each pixel is in; the map is high on nuclei."""
    kinds = np.kron([[0, 1], [2, 3]], np.ones((side, side), np.intp))
    rng = np.random.default_rng(0)
    picture = (COLOURS[kinds].astype(int) + rng.integers(-noise, noise + 1, (*kinds.shape, 3))).clip(0, 255)
    return np.array([0.9, 0.9, 0.3, 0.1])[kinds], picture.astype(np.uint8), kinds


def test_a_vector_is_the_jet_colour_blue_first_plus_the_picture() -> None:
    picture = np.full((1, 3, 3), 10, np.uint8)
    vectors = jet_vectors(np.array([[0.0, 0.5, 1.0]]), picture, beta=0.5)
    # JET runs from dark blue over green to dark red.
    assert vectors[0, 0].tolist() == [133, 5, 5]
    assert vectors[0, 1, 1] == 260
    assert vectors[0, 2].tolist() == [5, 5, 133]
    assert np.array_equal(vectors[0, 1] - 5, cv2.applyColorMap(np.array([[128]], np.uint8), cv2.COLORMAP_JET)[0, 0])


def test_the_prior_picks_dark_blue_nuclei() -> None:
    activation, picture, kinds = blocks()
    kinds[kinds == 1] = 2  # no brown here
    picture = COLOURS[kinds]
    activation = np.array([0.9, 0, 0.3, 0.1])[kinds]
    clusters = fit_clusters([activation], [picture])
    assert np.array_equal(clusters.assign(activation, picture) == 0, kinds == 0)
    assert np.allclose(clusters.colours[0], BLUE)


def test_ki67_clusters_are_told_apart_by_their_colour() -> None:
    activation, picture, kinds = blocks()
    clusters = fit_clusters([activation], [picture], k=4)
    positive, negative = clusters.positive_and_negative()
    index = clusters.assign(activation, picture)
    assert {positive, negative} == {0, 1}
    assert np.array_equal(index == positive, kinds == 1)
    assert np.array_equal(index == negative, kinds == 0)


@given(st.integers(2, 4), st.integers(0, 2**31 - 1))
def test_the_seed_decides_the_clusters(k: int, seed: int) -> None:
    activation, picture, _ = blocks(8, 30)
    one, again = (fit_clusters([activation], [picture], k, seed=seed) for _ in range(2))
    assert one == again
    assert len(one.centres) == k
    dark = [a + b for a, b, _ in one.centres]
    assert dark == sorted(dark)


def test_assignment_is_to_the_nearest_centre() -> None:
    rng = np.random.default_rng(0)
    vectors, centres = rng.random((200, 3)), rng.random((5, 3))
    expected = [int(np.argmin([np.linalg.norm(v - c) for c in centres])) for v in vectors]
    assert nearest(vectors, centres).tolist() == expected
    assert nearest(np.zeros((1, 3)), np.array([[1, 0, 0], [-1, 0, 0]])).tolist() == [0]


def test_k_means_finds_what_was_put_in() -> None:
    truth = np.array([[0, 0], [100, 0], [0, 200.0]])
    rng = np.random.default_rng(0)
    found = kmeans(np.concatenate([c + rng.normal(0, 2, (500, 2)) for c in truth]), 3, seed=5)
    assert np.allclose(found[np.argsort(found @ [1, 2])], truth, atol=0.5)
    with pytest.raises(ValueError, match="2 pixels cannot make 3 clusters"):
        kmeans(np.zeros((2, 3)), 3)


def test_clusters_of_many_pictures_hold_for_each(drawn: Drawn) -> None:
    """Fitted to each picture, an empty one gets nuclei all the same; fitted to all together, it gets none."""
    picture, labels = drawn
    rng = np.random.default_rng(0)
    empty = rng.integers(238, 246, picture.shape).astype(np.uint8)
    maps = [((250 - x[..., 0].astype(float)) / 150).clip(0, 1) for x in (picture, empty)]
    alone = fit_clusters([maps[1]], [empty])
    assert np.mean(alone.assign(maps[1], empty) == 0) > 0.1
    together = fit_clusters(maps, [picture, empty], sample_px=20_000)
    assert not np.any(together.assign(maps[1], empty) == 0)
    found = together.assign(maps[0], picture) == 0
    assert 2 * np.sum(found & (labels > 0)) / (np.sum(found) + np.sum(labels > 0)) > 0.7


def test_a_sample_is_enough(drawn: Drawn) -> None:
    activation = 1 - drawn[0][..., 0] / 255.0
    whole, sampled = (fit_clusters([activation], [drawn[0]], sample_px=n) for n in (None, 5000))
    same = whole.assign(activation, drawn[0]) == sampled.assign(activation, drawn[0])
    assert np.mean(same) > 0.97


@pytest.mark.parametrize("stain", ["HE", "HDAB"])
def test_clusters_of_the_direct_engine_find_nuclei(stain: str) -> None:
    picture, labels = tissue(3, stain=stain)
    od = -np.log10(np.maximum(picture, 1) / 243.0).clip(max=0)
    activation = od[..., 0] / od[..., 0].max()
    features = np.concatenate([activation[..., None], od], 2).reshape(-1, 4)
    clusters = fit_model_clusters(features, (1.0, 0.3, 0.3, 0.0), seed=1)
    index = nearest(features * np.array(clusters.scale), np.array(clusters.centres) * np.array(clusters.scale))
    found = np.isin(index, clusters.nuclei).reshape(labels.shape)
    assert len(clusters.centres) == 3
    assert 2 * np.sum(found & (labels > 0)) / (np.sum(found) + np.sum(labels > 0)) > 0.6
    assert clusters == fit_model_clusters(features, (1.0, 0.3, 0.3, 0.0), seed=1)


def test_a_weight_of_nothing_is_no_feature() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 0.1, (600, 4)), rng.normal(1, 0.1, (600, 4))])
    loud = features * [1, 1, 1, 1000]
    rng.shuffle(loud[:, 3])
    one, other = (fit_model_clusters(x, (1.0, 1.0, 1.0, 0.0), 2) for x in (features, loud))
    assert np.allclose(np.array(one.centres)[:, :3], np.array(other.centres)[:, :3])


def test_clusters_can_be_stored() -> None:
    activation, picture, _ = blocks()
    clusters = fit_clusters([activation], [picture], beta=0.5)
    assert JetClusters(**vars(clusters)) == clusters
    assert clusters.beta == 0.5
