from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.psm.shapes import BLUE, Floats, Mask, ellipse, iou, numbered, stained
from wsiproc.core.types import Int32Array
from wsiproc.psm.labels.evidence import AREA_UM2, confidence, outline_shapes, ramp, trace_outlines, tree_objects
from wsiproc.psm.labels.labelling import ACCEPTED_CONFIDENCE

SIDE, MPP = 96, 0.5
MIDDLE = (48.0, 48.0)
NO_SLOPE = np.zeros((SIDE, SIDE), np.float32)

radii, turns = st.floats(6, 20), st.floats(0, np.pi)


# --- facts of outlines -----------------------------------------------------------------------------------------------


@given(st.integers(4, 40), st.integers(4, 40), st.integers(0, 40), st.booleans())
def test_a_rectangle_has_the_facts_that_a_hand_computes(h: int, w: int, corner: int, backwards: bool) -> None:
    points = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.int32) + corner
    shapes = outline_shapes([points[::-1] if backwards else points], NO_SLOPE)
    assert shapes.area == pytest.approx([h * w])
    assert shapes.solidity == pytest.approx([1])
    assert shapes.roundness == pytest.approx([min(h, w) / max(h, w)])
    # Second moments h²/12 and w²/12: the ellipse that has them measures π h w / 3.
    assert shapes.ellipse == pytest.approx([3 / np.pi])
    assert (shapes.slope[0], shapes.closed[0]) == (0, 0)


@given(st.floats(12, 20), st.floats(0.5, 1.0), turns)
def test_an_ellipse_fills_its_ellipse_at_every_size_and_turn(radius: float, roundness: float, turn: float) -> None:
    outlines = trace_outlines(ellipse(SIDE, MIDDLE, radius, roundness, turn).astype(np.int32))
    shapes = outline_shapes(outlines, NO_SLOPE)
    assert shapes.ellipse[0] > 0.96
    assert shapes.solidity[0] > 0.9
    assert shapes.roundness[0] == pytest.approx(roundness, abs=0.1)


@given(radii, st.floats(0.02, 0.2), st.booleans())
def test_the_slope_is_that_of_the_tissue_and_has_a_sign(radius: float, slope: float, backwards: bool) -> None:
    """Over a cone; however the outline is walked."""
    y, x = np.mgrid[:SIDE, :SIDE] - 48.0
    cone = (-slope * np.hypot(y, x)).astype(np.float32)
    outline = trace_outlines(ellipse(SIDE, MIDDLE, radius).astype(np.int32))[0]
    dark, pale = (outline_shapes([outline[::-1] if backwards else outline], d) for d in (cone, -cone))
    assert dark.slope[0] == pytest.approx(slope, rel=0.1)
    assert pale.slope[0] == pytest.approx(-dark.slope[0], rel=1e-6)
    assert (dark.closed[0], pale.closed[0]) == (1, 0)


@given(st.floats(8, 20), st.integers(0, 3))
def test_a_nucleus_that_melts_into_something_dark_is_closed_on_the_other_side_only(radius: float, turn: int) -> None:
    dark = ellipse(SIDE, MIDDLE, radius).astype(np.float32)
    melted = dark.copy()
    melted[:, :48] = 1
    outline = trace_outlines(np.rot90(dark, turn).astype(np.int32))
    alone, half = (outline_shapes(outline, blurred(np.rot90(d, turn))) for d in (dark, melted))
    assert alone.closed[0] == 1
    assert half.closed[0] == pytest.approx(0.5, abs=0.12)


def blurred(picture: npt.NDArray[np.float32]) -> Floats:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0), np.float32)


def test_an_l_is_not_solid() -> None:
    shape = np.zeros((SIDE, SIDE), np.int32)
    shape[20:61, 20:31] = shape[50:61, 20:61] = 1
    # Between pixel centres: two arms of 40 × 10, of which one square is shared; the hull lacks a triangle of 30 × 30.
    area, hull = 2 * 40 * 10 - 10 * 10, 40 * 40 - 30 * 30 / 2
    assert outline_shapes(trace_outlines(shape), NO_SLOPE).solidity == pytest.approx([area / hull], rel=0.01)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(4, 20), st.floats(0.4, 1.0), turns), min_size=1, max_size=2))
def test_an_outline_filled_is_the_object_again(ellipses: list[tuple[float, float, float]]) -> None:
    masks = [ellipse(SIDE, (24 + 48 * i, 24 + 48 * i), *numbers) for i, numbers in enumerate(ellipses)]
    for mask, outline in zip(masks, trace_outlines(numbered(*masks)), strict=True):
        filled = np.zeros((SIDE, SIDE), np.uint8)
        cv2.fillPoly(filled, [outline], 1)
        assert np.array_equal(filled > 0, mask)


def test_an_object_in_pieces_has_the_outline_of_its_largest() -> None:
    piece, speck = ellipse(SIDE, MIDDLE, 10), ellipse(SIDE, (8, 8), 3)
    for labels in (piece | speck, piece | speck[::-1]):
        (outline,) = trace_outlines(labels.astype(np.int32))
        assert np.array_equal(outline, trace_outlines(piece.astype(np.int32))[0])


def test_a_number_that_no_object_has_keeps_its_place() -> None:
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[10:20, 10:20], labels[40:60, 40:60] = 1, 3
    outlines = trace_outlines(labels)
    assert [len(outline) for outline in outlines] == [36, 0, 76]
    assert outline_shapes(outlines, NO_SLOPE).area == pytest.approx([81, 0, 361])


@given(st.floats(-5, 5), st.floats(0.01, 5), st.lists(st.floats(-20, 20), min_size=1))
def test_a_ramp_rises_from_0_to_1_between_its_ends(low: float, width: float, values: list[float]) -> None:
    found = ramp(np.sort(values), low, low + width)
    assert (np.diff(found) >= 0).all()
    assert ramp(np.array([low - 1, low, low + width / 2, low + width, low + width + 1]), low, low + width) == (
        pytest.approx([0, 0, 0.5, 1, 1], abs=1e-6)
    )


# --- the component tree ----------------------------------------------------------------------------------------------

nuclei = st.tuples(st.floats(6.5, 9), st.floats(0.7, 1.0), turns)


@settings(max_examples=15)
@given(st.lists(nuclei, min_size=4, max_size=4), st.floats(0.35, 1.2), st.integers(0, 1000))
def test_the_tree_finds_every_nucleus_once_and_nothing_else(
    drawn: list[tuple[float, float, float]], strength: float, seed: int
) -> None:
    masks = [ellipse(SIDE, (24 + 48 * (i // 2), 24 + 48 * (i % 2)), *numbers) for i, numbers in enumerate(drawn)]
    od = stained(np.any(masks, axis=0), strength)
    od += np.random.default_rng(seed).normal(0, 0.01, od.shape).astype(np.float32)
    found = tree_objects(od, MPP)
    assert np.array_equal(np.unique(found), np.arange(5))
    for mask in masks:
        assert max(iou(mask, found == number) for number in range(1, 5)) > 0.4


@pytest.mark.parametrize(("radius_px", "mpp"), [(1, 0.5), (4, 0.25), (8, 0.5), (30, 0.5), (30, 0.25), (12, 1.8)])
def test_what_is_too_small_or_too_large_for_a_nucleus_is_none(radius_px: float, mpp: float) -> None:
    """By its size in the tissue, not in the picture."""
    fits = AREA_UM2[0] < np.pi * (radius_px * mpp) ** 2 < AREA_UM2[1]
    assert tree_objects(stained(ellipse(128, (64, 64), radius_px)), mpp).max() == int(fits)


def test_of_a_nest_the_blob_with_the_steep_border_wins() -> None:
    """A nucleus in a cloud of stain is found, not the cloud."""
    y, x = np.mgrid[:SIDE, :SIDE] - 48.0
    cloud = 0.4 * np.exp(-(y**2 + x**2) / (2 * 14**2))
    nucleus = ellipse(SIDE, MIDDLE, 7)
    found = tree_objects(stained(nucleus) + (cloud[..., None] * BLUE).astype(np.float32), MPP)
    assert found.max() == 1
    assert iou(found == 1, nucleus) > 0.5


def test_a_nucleus_with_a_pale_middle_is_found_whole() -> None:
    whole, middle = ellipse(SIDE, MIDDLE, 11), ellipse(SIDE, MIDDLE, 7)
    found = tree_objects(stained(whole & ~middle), MPP)
    assert iou(found == found[48, 48], whole) > 0.6
    assert found[48, 48] > 0


def crescent() -> Mask:
    return ellipse(SIDE, MIDDLE, 16) & ~ellipse(SIDE, (48, 56), 14)


def fibre() -> Mask:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[40:48] = True
    return mask


@pytest.mark.parametrize("dark", [np.zeros((SIDE, SIDE), bool), fibre(), crescent()], ids=["even", "fibre", "crescent"])
def test_even_tissue_fibres_and_odd_shapes_are_no_nuclei(dark: Mask) -> None:
    assert not tree_objects(stained(dark), MPP).any()


@settings(max_examples=8)
@given(st.integers(1, 3), st.booleans(), st.lists(nuclei, min_size=4, max_size=4))
def test_what_is_found_does_not_depend_on_how_the_tissue_lies(
    quarters: int, mirror: bool, drawn: list[tuple[float, float, float]]
) -> None:
    masks = [ellipse(SIDE, (24 + 48 * (i // 2), 24 + 48 * (i % 2)), *numbers) for i, numbers in enumerate(drawn)]

    def lay(picture: npt.NDArray[np.generic]) -> npt.NDArray[Any]:
        turned = np.rot90(picture, quarters)
        return np.ascontiguousarray(turned[::-1] if mirror else turned)

    od = stained(np.any(masks, axis=0))
    assert iou(tree_objects(lay(od), MPP) > 0, lay(tree_objects(od, MPP)) > 0) > 0.95


# --- how far an object is believed -----------------------------------------------------------------------------------


def accepted(labels: Int32Array, picture: Floats, probability: float = 0.95) -> npt.NDArray[np.float64]:
    return confidence(labels, np.full(labels.shape, probability, np.float32), picture, MPP)


@given(st.floats(7, 20), st.floats(0.6, 1.0), turns, st.floats(0.3, 1.2))
def test_a_dark_ellipse_on_paler_tissue_is_believed(
    radius: float, roundness: float, turn: float, strength: float
) -> None:
    mask = ellipse(SIDE, MIDDLE, radius, roundness, turn)
    assert accepted(mask.astype(np.int32), stained(mask, strength))[0] > ACCEPTED_CONFIDENCE


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_network_has_a_veto_and_no_more(one: float, other: float) -> None:
    mask = ellipse(SIDE, MIDDLE, 9)
    low, high = (accepted(mask.astype(np.int32), stained(mask), p)[0] for p in sorted((one, other)))
    assert low <= high
    assert accepted(mask.astype(np.int32), stained(mask), 0.5)[0] == 0
    assert accepted(mask.astype(np.int32), stained(mask) * 0, 1.0)[0] == 0


def gear() -> Mask:
    """As round as a nucleus by its moments, and full of teeth."""
    y, x = np.mgrid[:SIDE, :SIDE] - 48.0
    mask: Mask = np.hypot(y, x) < np.where(np.sin(8 * np.arctan2(y, x)) > 0, 20, 14)
    return mask


def test_what_the_picture_does_not_support_is_not_believed() -> None:
    nucleus = ellipse(SIDE, MIDDLE, 9)
    whole = nucleus.astype(np.int32)
    for odd in (crescent(), gear()):
        assert accepted(odd.astype(np.int32), stained(odd))[0] == 0
    assert accepted(whole, stained(~nucleus))[0] == 0, "paler than what is around it"
    assert accepted(whole, stained(ellipse(SIDE, MIDDLE, 20)))[0] == 0, "a part of something larger"


def test_each_confidence_belongs_to_its_object() -> None:
    good, bad = ellipse(SIDE, (20, 20), 9), np.roll(crescent(), (12, 12), (0, 1))
    picture = stained(good | bad)
    labels = numbered(good, np.zeros_like(good), bad)  # no object has the number 2
    assert (accepted(labels, picture) > 0.9).tolist() == [True, False, False]
    assert (accepted(numbered(bad, good), picture) > 0.9).tolist() == [False, True]
    assert accepted(np.zeros_like(labels), picture).shape == (0,)
