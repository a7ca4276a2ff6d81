from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from tests.psm.shapes import Mask, ellipse, iou, numbered
from wsiproc.core.types import Int32Array
from wsiproc.psm.labels.targets import IGNORE, agreed_background, agreeing, interior, make_target, network_background

SIDE = 48

# Blocks of numbers, some of them missing, that touch and lie apart: the shapes do not matter to a rule about pixels.
coarse = hnp.arrays(np.int32, (6, 6), elements=st.integers(0, 5))


def enlarged(blocks: npt.NDArray[np.int32]) -> Int32Array:
    return np.kron(blocks, np.ones((8, 8), np.int32))


def discs(*places: tuple[int, int, float]) -> Int32Array:
    return numbered(*(ellipse(SIDE, (y, x), radius) for y, x, radius in places))


# --- who agrees ------------------------------------------------------------------------------------------------------


@given(coarse, coarse, st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.9]))
def test_an_object_stays_if_the_other_pseudo_labeller_has_its_match(
    one: Int32Array, other: Int32Array, least: float
) -> None:
    kept = agreeing(one, other, least)
    for number in np.unique(one[one > 0]):
        best = max((iou(one == number, other == k) for k in np.unique(other[other > 0])), default=0.0)
        assert np.array_equal(kept == number, (one == number) & (best > least))
    assert not kept[one == 0].any()


def test_without_objects_nobody_agrees() -> None:
    nothing, something = discs((24, 24, 0)), discs((24, 24, 9))
    assert not agreeing(nothing, something, 0.5).any()
    assert not agreeing(something, nothing, 0.5).any()


# --- the target ------------------------------------------------------------------------------------------------------


@given(coarse, hnp.arrays(bool, (6, 6)))
def test_a_target_says_nucleus_background_or_nothing(blocks: Int32Array, elsewhere: Mask) -> None:
    accepted, background = enlarged(blocks), enlarged(elsewhere.astype(np.int32)) > 0
    before = accepted.copy()
    target = make_target(accepted, background)
    inside = accepted > 0
    assert np.array_equal(accepted, before)
    assert (target[inside, 0] == 1).all(), "an accepted nucleus is one, whatever the background says"
    assert (target[background & ~inside] == 0).all()
    assert (target[~background & ~inside] == IGNORE).all()
    assert np.array_equal(target[inside, 1] == 1, interior(accepted)[inside])
    assert set(np.unique(target[inside, 1])) <= {0, 1}


@given(coarse)
def test_interiors_lie_within_their_objects_and_apart(blocks: Int32Array) -> None:
    """So that nuclei that touch can be told apart."""
    labels = enlarged(blocks)
    deep = interior(labels)
    assert not deep[labels == 0].any()
    parts, count = ndimage.label(deep)
    owners = [np.unique(labels[parts == number]) for number in range(1, count + 1)]
    assert all(len(owner) == 1 for owner in owners)
    assert {int(owner[0]) for owner in owners} == set(np.unique(labels)) - {0}


@given(st.floats(4, 20), st.booleans())
def test_an_interior_is_the_deep_part_of_every_object_by_its_own_depth(radius: float, neighbour: bool) -> None:
    """A small object has an interior beside a large one, at the same share of its depth."""
    masks = [ellipse(96, (48, 26), radius), ellipse(96, (48, 82), 12)]
    labels = numbered(*masks[: 1 + neighbour])
    share = interior(labels)[masks[0]].mean()
    assert share == pytest.approx(0.6**2, abs=0.2)
    assert interior(labels)[48, 26]


def test_no_objects_have_no_interior() -> None:
    assert not interior(np.zeros((8, 8), np.int32)).any()


# --- background ------------------------------------------------------------------------------------------------------


def test_background_is_what_no_pseudo_labeller_sees() -> None:
    first, second, third = discs((12, 12, 6)), discs((12, 36, 6)), discs((36, 12, 6)) > 0
    background = agreed_background(first, second, np.where(third, 200, 0).astype(np.uint8), 0.5)
    assert not background[(first > 0) | (second > 0) | third].any()
    assert background[36, 36]
    assert background[0].all()


@pytest.mark.parametrize(("pale_um", "left_out"), [(2.0, True), (9.0, False)])
def test_the_pale_middle_of_a_dark_rim_is_no_background(pale_um: float, left_out: bool) -> None:
    """It may be a vesicular nucleus; what is larger than a nucleus is a gland."""
    for mpp in (0.5, 0.25):
        middle, rim = (ellipse(128, (64, 64), um / mpp) for um in (pale_um, pale_um + 1.5))
        nothing = np.zeros((128, 128), np.int32)
        found = agreed_background(nothing, nothing, np.where(rim & ~middle, 90, 10).astype(np.uint8), mpp)
        assert found[64, 64] != left_out
        assert found[4, 4]


@given(st.floats(0, 1), st.floats(0.1, 0.9))
def test_what_a_network_calls_none_is_background_except_where_it_saw_something(level: float, below: float) -> None:
    labels = discs((14, 14, 6), (34, 34, 6))
    accepted = np.where(labels == 1, 1, 0).astype(np.int32)
    probability = np.full(labels.shape, level, np.float32)
    background = network_background(labels, probability, accepted, below)
    assert not background[labels > 0].any()
    assert background[44, 4] == (np.float32(level) < below)
    ring = (ndimage.binary_dilation(labels == 1, np.ones((3, 3))) & (labels == 0), labels == 1)
    assert background[ring[0]].all(), "the border of an accepted object is learned, however sure the network was"
    doubted = ndimage.binary_dilation(labels == 2, np.ones((3, 3)))
    assert not background[doubted].any(), "around an object that is not accepted nothing is"
