from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.psm.published.pseudo import BACKGROUND, IGNORED, NUCLEUS, find_points, pseudo_mask, voronoi_label


def test_small_objects_go_and_small_holes_close() -> None:
    mask = np.zeros((60, 60), bool)
    mask[2:22, 2:12] = True  # 200 px
    mask[30:40, 2:21] = True  # 190 px
    mask[25:60, 25:60] = True
    mask[30:38, 30:38] = False  # 64 px
    mask[45:54, 45:54] = False  # 81 px
    found = pseudo_mask(mask)
    assert found[2:22, 2:12].all()
    assert not found[30:40, 2:21].any()
    assert found[30:38, 30:38].all()
    assert not found[45:54, 45:54].any()
    assert pseudo_mask(mask, smallest_px=100, largest_hole_px=100)[25:60, 25:60].all()
    assert pseudo_mask(mask, smallest_px=100)[30:40, 2:21].all()
    assert not pseudo_mask(np.zeros((50, 50), bool)).any()


def bumps(*places: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[:100, :100]
    return np.max([np.exp(-((y - a) ** 2 + (x - b) ** 2) / 50.0) for a, b in places], axis=0)


def test_points_are_the_peaks() -> None:
    places = [(20, 30), (20, 70), (70, 50)]
    found = find_points(bumps(*places))
    assert sorted(map(tuple, found.tolist())) == places
    assert len(find_points(0.5 * bumps(*places))) == 0, "the smoothed peak is below one half"
    assert find_points(np.zeros((30, 30))).shape == (0, 2)


def test_peaks_that_are_close_become_one_in_the_middle() -> None:
    places = [(50, 40), (50, 56)]
    assert find_points(bumps(*places)).tolist() == [[50, 48]]
    assert sorted(find_points(bumps(*places), merge_px=10).tolist()) == [[50, 40], [50, 56]]


@given(st.integers(1, 12), st.integers(0, 1000))
def test_voronoi_against_brute_force(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (24, 31)
    points = np.unique(rng.integers(0, shape, (count, 2)), axis=0)
    label = voronoi_label(points, shape)
    grid = np.moveaxis(np.mgrid[: shape[0], : shape[1]], 0, -1)
    squared = ((grid[:, :, None] - points) ** 2).sum(-1)
    near = np.sqrt(squared.min(-1)) <= 2
    assert np.array_equal(label == NUCLEUS, near)
    owners = squared == squared.min(-1, keepdims=True)
    for y in range(shape[0]):
        for x in range(shape[1]):
            if near[y, x]:
                continue
            beside = [(y + 1, x)] * (y + 1 < shape[0]) + [(y, x + 1)] * (x + 1 < shape[1])
            # Where two points are equally near, either may own the pixel.
            certain = any(not (owners[y, x] & owners[other]).any() for other in beside)
            possible = any((owners[y, x] | owners[other]).sum() > 1 for other in beside)
            if certain:
                assert label[y, x] == BACKGROUND
            elif not possible:
                assert label[y, x] == IGNORED


def test_one_point_has_no_edges_and_none_no_label() -> None:
    label = voronoi_label(np.array([[4, 4]]), (9, 9))
    assert np.sum(label == NUCLEUS) == 13, "the pixels within 2 of a pixel"
    assert not np.any(label == BACKGROUND)
    assert np.all(voronoi_label(np.zeros((0, 2), np.int64), (3, 3)) == IGNORED)


def test_discs_carry_the_kind_of_their_point() -> None:
    points = np.array([[3, 3], [3, 12], [12, 3]])
    label = voronoi_label(points, (16, 16), kinds=np.array([2, 1, 2], np.uint8))
    assert label[tuple(points.T)].tolist() == [2, 1, 2]
    assert (label[3, 1:6] == 2).all()
    assert [int(np.sum(label == kind)) for kind in (1, 2)] == [13, 26]


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_discs_have_the_radius_asked_for(radius: int) -> None:
    label = voronoi_label(np.array([[5, 5], [5, 6]]), (12, 12), radius)
    assert label[5, 5] == label[5, 6] == NUCLEUS
    assert np.flatnonzero((label == NUCLEUS).any(0)).tolist() == list(range(5 - radius, 7 + radius))
