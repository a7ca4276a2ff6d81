"""What is connected, and what is near what, against SciPy and against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiproc.array.nuclei.connected import objects_at, related, seeded_parts
from wsiproc.core.geometry import Box

EVERY_NEIGHBOUR = np.ones((3, 3))
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))
INNER = st.builds(Box, st.integers(-10, 40), st.integers(-10, 40), st.integers(1, 30), st.integers(1, 30))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), SHAPES, st.floats(0.05, 0.7), INNER)
def test_whole_objects_are_kept_over_corners_too(seed: int, shape: tuple[int, int], share: float, inner: Box) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    numbers, _ = ndimage.label(mask, EVERY_NEIGHBOUR)
    boxes = [
        Box(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        for rows, cols in ndimage.find_objects(numbers)
    ]
    there = [box for box in boxes if box.intersect(inner).area]
    kept = [any(box.intersect(other).area for other in there) for box in boxes]  # what lies between the arms of one too
    expected = np.array([False, *kept])[numbers]
    objects_at(mask, inner, 0, 0, 0)
    np.testing.assert_array_equal(mask, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), INNER, st.integers(1, 9), st.integers(0, 3), st.integers(0, 20))
def test_neighbours_of_neighbours_are_related(seed: int, inner: Box, px: int, rounds: int, within: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.integers(-60, 90, (40, 2)), rng.integers(1, 12, (40, 2))], axis=1)
    all_boxes = [Box(*map(int, box)) for box in boxes]
    found = {i for i, box in enumerate(all_boxes) if box.pad(px).intersect(inner).area}
    for apart in [2 * px] * rounds + [within]:
        found |= {
            i for i, k in itertools.product(range(len(all_boxes)), found)
            if all_boxes[i].pad(apart).intersect(all_boxes[k]).area
        }  # fmt: skip
    assert set(np.flatnonzero(related(boxes, inner, px, rounds, within))) == found


def _labels(seed: int, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Speckled patches of four labels, with background between them."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 5, (11, 11)), np.ones((4, 4), int))[: shape[0], : shape[1]]
    return np.where(rng.random(shape) < 0.8, coarse, rng.integers(0, 5, shape)).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), SHAPES)
def test_the_part_around_a_seed_and_whether_it_has_holes(seed: int, shape: tuple[int, int]) -> None:
    labels = _labels(seed, shape)
    present = [int(label) for label in np.unique(labels) if label]
    seeds = np.array([np.flatnonzero(labels == label)[seed % (labels == label).sum()] for label in present], np.int32)
    kept, areas, boxes, holed = seeded_parts(labels, seeds, 5)
    for label, first in zip(present, seeds, strict=True):
        parts, _ = ndimage.label(labels == label)
        part = parts == parts.ravel()[first]
        np.testing.assert_array_equal(kept == label, part)
        rows, cols = ndimage.find_objects(part.astype(int))[0]
        assert areas[label] == part.sum()
        assert boxes[label].tolist() == [rows.start, cols.start, rows.stop - 1, cols.stop - 1]
        # SciPy's holes are 4-connected background too, as long as objects are told over corners.
        background, count = ndimage.label(np.pad(~part, 1, constant_values=True))
        assert holed[label] == (count > 1), background
