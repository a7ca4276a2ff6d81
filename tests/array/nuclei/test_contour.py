"""Outlines moved to the steepest fall of the stain: they get there, they are whole, and no cut-out changes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiproc.array.nuclei.contour import ContourRule, refine

RULE = ContourRule(reach=40)


def discs(shape: tuple[int, int], places: list[tuple[int, int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of discs (y, x, radius), the first wins, and their stain with soft borders."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels, density = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for number, (cy, cx, radius) in enumerate(places, start=1):
        inside = np.hypot(y - cy, x - cx) <= radius
        labels[inside & (labels == 0)] = number
        density[inside] = 60
    return labels, np.rint(cv2.GaussianBlur(density, (0, 0), 1.5)).astype(np.uint8)


@pytest.mark.parametrize("wrong", [-4, -2, 0, 2, 4])
def test_an_outline_that_is_too_narrow_or_too_wide_finds_the_border(wrong: int) -> None:
    truth, density = discs((96, 96), [(48, 48, 20)])
    given, _ = discs((96, 96), [(48, 48, 20 + wrong)])
    found = refine(given, density, RULE, 10)
    overlap = ((found.labels > 0) & (truth > 0)).sum() / ((found.labels > 0) | (truth > 0)).sum()
    assert overlap > (19 / 20) ** 2, overlap  # a pixel off at most
    for axis in (0, 1):
        ends, true_ends = (np.flatnonzero(mask.any(axis))[[0, -1]] for mask in (found.labels > 0, truth > 0))
        assert np.abs(ends - true_ends).max() <= (wrong != 0)
    assert found.closed[0] == 1.0
    assert found.fall[0] == pytest.approx(0.6, abs=0.35)


@pytest.mark.parametrize(("dy", "dx"), [(3, 0), (-3, 0), (0, 3), (0, -3), (2, -2)])
def test_an_outline_that_lies_beside_the_border_goes_there(dy: int, dx: int) -> None:
    truth, density = discs((96, 96), [(48 + dy, 48 + dx, 18)])
    given, _ = discs((96, 96), [(48, 48, 18)])
    found = refine(given, density, RULE, 10).labels > 0
    assert np.logical_xor(found, truth > 0).sum() < np.logical_xor(given, truth > 0).sum() / 4


def test_without_a_border_an_outline_stays_and_is_said_to_have_none() -> None:
    given, _ = discs((96, 96), [(48, 48, 15)])
    found = refine(given, np.full((96, 96), 30, np.uint8), RULE, 10)
    assert abs(int((found.labels > 0).sum()) - int((given > 0).sum())) < 60
    assert found.closed[0] == 0.0


def test_none_takes_what_another_had_and_small_ones_go() -> None:
    given, density = discs((96, 128), [(48, 40, 18), (48, 74, 18), (10, 118, 2)])
    found = refine(given, density, RULE, 60)
    assert list(found.source) == [0, 1]
    for new, old in enumerate(found.source, start=1):
        others = (given > 0) & (given != old + 1)
        assert not (others & (found.labels == new)).any()


@pytest.mark.parametrize("first", [0, 1])
def test_of_free_pixels_that_two_reach_for_the_nearer_middle_gets_them(first: int) -> None:
    """Stiff outlines, so that both reach over the border that is missing between them."""
    stiff = ContourRule(reach=40, stay=0.0001, bend=0.3)
    given, _ = discs((96, 128), [(48, 40, 13), (48, 72, 13)])
    _, density = discs((96, 128), [(48, 40, 17), (48, 72, 17)])
    alone = [refine((given == number).astype(np.int32), density, stiff, 10).labels > 0 for number in (1, 2)]
    assert (alone[0] & alone[1]).sum() > 10
    y, x = np.mgrid[:96, :128]
    apart = [(y - 48) ** 2 + (x - cx) ** 2 for cx in (40, 72)]
    names = [first + 1, 2 - first]
    expected = np.select(
        [alone[0] & alone[1], alone[0], alone[1]],
        [np.where(apart[0] == apart[1], 1, np.where(apart[0] < apart[1], *names)), *names],
        0,
    )
    found = refine(np.choose(given, [0, *names]).astype(np.int32), density, stiff, 10).labels
    np.testing.assert_array_equal(found, expected)


def test_an_object_that_does_not_hold_its_middle_keeps_its_outline() -> None:
    y, x = np.mgrid[:96, :96]
    away = np.hypot(y - 48, x - 48)
    given = ((away <= 24) & (away >= 17) & (x < 56)).astype(np.int32)
    density = np.asarray(cv2.GaussianBlur(np.where(away <= 22, 60, 0).astype(np.uint8), (0, 0), 1.5), np.uint8)
    found = refine(given, density, RULE, 10)
    np.testing.assert_array_equal(found.labels, given)
    assert (found.closed[0], found.fall[0]) == (0.0, 0.0)


def test_an_empty_picture_has_none() -> None:
    found = refine(np.zeros((40, 50), np.int32), np.zeros((40, 50), np.uint8), RULE, 10)
    assert (found.labels.max(), len(found.source), len(found.closed)) == (0, 0, 0)


def random_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Crowded discs, some touching, over noise."""
    rng = np.random.default_rng(seed)
    places = [
        (int(y), int(x), float(r))
        for y, x, r in zip(*rng.integers(0, 260, (2, 45)), rng.uniform(4, 16, 45), strict=True)
    ]
    labels, density = discs((260, 260), places)
    labels = np.where(ndimage.binary_erosion(labels > 0), labels, 0).astype(np.int32)
    noisy = density + rng.normal(0, 6, density.shape)
    return labels, np.clip(noisy, 0, 255).astype(np.uint8)


@given(seed=st.integers(0, 10_000), y=st.integers(0, 70), x=st.integers(0, 70))
@settings(max_examples=25, deadline=None)
def test_a_cut_out_finds_the_same_outlines(seed: int, y: int, x: int) -> None:
    labels, density = random_scene(seed)
    rule = ContourRule(reach=18)
    whole = refine(labels, density, rule, 20)
    part = labels[y:, x:]
    numbers = np.unique(part[part > 0])
    renumbered = np.searchsorted(np.concatenate([[0], numbers]), part).astype(np.int32)
    cut = refine(renumbered, np.ascontiguousarray(density[y:, x:]), rule, 20)
    margin = rule.margin
    ids = lambda found, names: np.concatenate([[0], names[found.source]])[found.labels]  # noqa: E731
    first = ids(whole, np.arange(1, labels.max() + 1))[y + margin :, x + margin :]
    second = ids(cut, numbers)[margin:, margin:]
    np.testing.assert_array_equal(first, second)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_each_is_one_piece_without_holes(seed: int) -> None:
    labels, density = random_scene(seed)
    found = refine(labels, density, ContourRule(reach=18), 20)
    for number in range(1, len(found.source) + 1):
        mask = np.pad(found.labels == number, 1)
        assert ndimage.label(mask)[1] == 1
        assert ndimage.label(~mask, np.ones((3, 3)))[1] == 1 or (ndimage.binary_fill_holes(mask) == mask).all()
        assert mask.sum() >= 20
