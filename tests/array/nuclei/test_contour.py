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
    assert found.closed[0] == 1.0
    assert found.fall[0] == pytest.approx(0.6, abs=0.35)


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
