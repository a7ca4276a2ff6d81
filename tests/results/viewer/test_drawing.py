from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.results.viewer.serving import decoded
from wsiproc.array.nuclei.measure import label_sums
from wsiproc.array.nuclei.outline import trace
from wsiproc.core.cells import DrawnCells
from wsiproc.core.geometry import Box
from wsiproc.results.viewer.colouring import GREY, HIDDEN, SHADES, Look, palette, scale_colours
from wsiproc.results.viewer.drawing import dots, draw_outlines, jpeg, mask_edge, outlines, png, tinted

NAMES, COLOURS = ["Negative", "Positive"], [(0, 114, 178), (213, 94, 0)]
PALETTE = palette(Look(), NAMES, COLOURS)
FADING = 64  # opacity of the outermost pixels of a smooth line


def discs(count: int, side: int = 200, seed: int = 0) -> tuple[np.ndarray, DrawnCells]:
    """Labels (side, side) of discs, and what is drawn of them, of two classes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    for number in range(1, count + 1):
        y, x = rng.integers(15, side - 15, 2)
        disc = cv2.circle(np.zeros_like(labels, np.uint8), (int(x), int(y)), int(rng.integers(5, 10)), 1, -1) > 0
        if not labels[cv2.dilate(disc.astype(np.uint8), np.ones((5, 5))) > 0].any():
            labels[disc] = number
    numbers = np.unique(labels)[1:]
    labels = np.searchsorted(numbers, labels).astype(np.int32) + (labels > 0)
    sums = label_sums(labels, len(numbers), np.zeros((1, side, side), np.uint8))
    kinds = (np.arange(len(numbers)) % 2).astype(np.uint8)
    rings = trace(labels, np.arange(1, len(numbers) + 1))
    return labels, DrawnCells(kinds, sums.boxes.astype(np.int32), rings)


@pytest.mark.parametrize("zoom", [1, 2, 4])
def test_filled_cells_cover_their_pixels_in_their_colours(zoom: int) -> None:
    labels, cells = discs(20)
    box = Box(40, 20, 120, 150)
    picture = outlines(cells, PALETTE, box, zoom, fill=110)
    assert picture.shape == (120 * zoom, 150 * zoom, 4)
    truth = np.kron(labels[box.slices], np.ones((zoom, zoom), np.int32))
    shown = picture[..., 3] > 0
    assert (shown & (truth > 0)).sum() / (truth > 0).sum() > 0.99
    near = cv2.dilate((labels > 0).astype(np.uint8), np.ones((3, 3)))[box.slices]  # the line lies on both sides
    near = np.kron(near, np.ones((zoom, zoom), np.uint8))
    assert not ((picture[..., 3] > FADING) & (near == 0)).any()
    inner = cv2.erode((truth > 0).astype(np.uint8), np.ones((5, 5))) > 0
    for kind, colour in enumerate(COLOURS):
        here = inner & (cells.classes[np.maximum(truth - 1, 0)] == kind)
        assert here.any()
        assert (picture[here][:, :3] == colour).all()


@pytest.mark.parametrize("zoom", [1, 2, 4])
def test_outlines_leave_the_inside_free_and_run_along_the_edge(zoom: int) -> None:
    labels, cells = discs(20)
    picture = outlines(cells, PALETTE, Box(0, 0, 200, 200), zoom, fill=0)
    truth = np.kron(labels > 0, np.ones((zoom, zoom), np.uint8)).astype(np.uint8)
    width = 2 * zoom + 3
    edge = (cv2.dilate(truth, np.ones((width, width))) > 0) & (cv2.erode(truth, np.ones((width, width))) == 0)
    shown = picture[..., 3] > FADING
    assert not (shown & ~edge).any()
    assert shown.sum() > 0.1 * edge.sum()


def test_a_cell_on_the_border_of_two_tiles_is_drawn_by_both() -> None:
    _, cells = discs(20)
    y, x, h, w = (int(v) for v in cells.boxes[3])
    middle = x + w // 2
    left, right = (outlines(cells, PALETTE, box, 2, 110) for box in (Box(0, 0, 200, middle), Box(0, middle, 200, 200)))
    whole = outlines(cells, PALETTE, Box(0, 0, 200, 200 + middle), 2, 110)
    both = np.concatenate([left, right], axis=1)
    far = np.abs(np.arange(both.shape[1]) - 2 * middle) > 2  # where lines are smoothed, the cut shows a little
    assert np.array_equal(both[:, far], whole[:, far])
    assert left[2 * y : 2 * (y + h), -4:, 3].any()
    assert right[2 * y : 2 * (y + h), :4, 3].any()


def test_label_outlines_are_the_last_pixels_of_each_cell_and_hidden_classes_are_not_there() -> None:
    labels, cells = discs(20)
    padded = np.pad(labels.astype(np.uint32), 1)
    inside = cv2.erode((labels > 0).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > 0
    picture = draw_outlines(padded, cells.classes, PALETTE, fill=0)
    assert ((picture[..., 3] > 0) == ((labels > 0) & ~inside)).all()
    filled = draw_outlines(padded, cells.classes, PALETTE, fill=110)
    assert ((filled[..., 3] > 0) == (labels > 0)).all()
    second = np.where(cells.classes == 0, HIDDEN, cells.classes).astype(np.uint8)
    one = draw_outlines(padded, second, PALETTE, fill=110)
    assert ((one[..., 3] > 0) == np.isin(labels, np.flatnonzero(cells.classes == 1) + 1)).all()


@given(
    st.lists(st.tuples(st.floats(0, 99.9), st.floats(0, 149.9), st.integers(0, 1)), max_size=60),
    st.sampled_from([1, 2, 8, 64]),
    st.sampled_from([frozenset(), frozenset([0]), frozenset([0, 1])]),
)
def test_dots_show_every_pixel_with_a_centre_and_no_other(
    cells: list[tuple[float, float, int]], shrink: int, hidden: frozenset[int]
) -> None:
    box = Box(10, 20, 80, 110)
    centres = np.array([[y, x] for y, x, _ in cells], np.float32).reshape(-1, 2)
    kinds = np.array([kind for *_, kind in cells], np.uint8)
    codes = np.where(np.isin(kinds, list(hidden)), HIDDEN, kinds).astype(np.uint8)
    picture = dots(centres, codes, PALETTE, box, shrink, 0.003, scale=False)
    assert picture.shape == (-(-80 // shrink), -(-110 // shrink), 4)
    inside = [
        (int((np.float32(y) - 10) // shrink), int((np.float32(x) - 20) // shrink))
        for y, x, kind in cells
        if kind not in hidden and np.float32(y) >= 10 and np.float32(x) >= 20
    ]
    wanted = {(y, x) for y, x in inside if y < picture.shape[0] and x < picture.shape[1]}
    assert set(zip(*(side.tolist() for side in np.nonzero(picture[..., 3])), strict=True)) == wanted


def test_dots_mix_the_colours_of_their_cells() -> None:
    centres, kinds = np.zeros((4, 2), np.float32), np.array([0, 1, 1, 1], np.uint8)
    (pixel,) = dots(centres, kinds, PALETTE, Box(0, 0, 8, 8), 8, 0.003, scale=False).reshape(-1, 4)
    assert pixel[:3].tolist() == [round((a + 3 * b) / 4) for a, b in zip(*COLOURS, strict=True)]


def test_dots_of_a_scale_show_the_shade_of_the_mean_and_grey_only_where_all_are() -> None:
    centres = np.array([(0, 0), (0, 1), (0, 9), (0, 17), (0, 18)], np.float32)
    codes = np.array([10, 20, GREY, GREY, 40], np.uint8)
    colours = palette(Look(measure="area_um2", paint=True), NAMES, COLOURS)
    first, second, third = dots(centres, codes, colours, Box(0, 0, 8, 24), 8, 0.003, scale=True)[0]
    shades = scale_colours()
    assert len(shades) == SHADES
    assert [tuple(pixel[:3].tolist()) for pixel in (first, third)] == [shades[15], shades[40]]
    assert len(set(second[:3].tolist())) > 1 or second[0] > 100  # the grey of what is not kept
    assert tuple(second[:3].tolist()) not in shades


def test_maps_and_masks_are_clear_where_there_is_nothing() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (tinted(values, (1, 2, 3))[..., 3] == values).all()
    mask = np.zeros((20, 20), np.uint8)
    mask[5:12, 5:12] = 1
    picture = mask_edge(mask, (0, 158, 115))
    assert ((picture[..., 3] > 0) == (mask > 0)).all()
    assert (picture[..., 3] == 255).sum() == 24


def test_pictures_are_what_browsers_take_for_them() -> None:
    rgba = np.random.default_rng(0).integers(0, 255, (30, 40, 4), np.uint8)
    assert (decoded(png(rgba)) == rgba).all()
    red = np.full((30, 40, 3), (200, 30, 40), np.uint8)
    assert np.abs(decoded(jpeg(red)).astype(int) - red).max() < 4
