import itertools

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.array.clumps import clumps
from wsiproc.array.nuclei.instances import SplitRule, _height, content, fill_small_holes, split_clumps
from wsiproc.core.geometry import Box

RULE = SplitRule(reach=12, merge=6, saddle=0.8, smooth=1.0, min_area=20)


def _partition(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Labels renamed by their first pixel, so that equal partitions are equal arrays."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    names = np.where(values > 0, first + 1, 0)
    return names[inverse].reshape(labels.shape)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(50, 700), st.integers(0, 160), st.integers(0, 160))
def test_any_cut_out_gives_the_same_nuclei(seed: int, count: int, y: int, x: int) -> None:
    mask = clumps(seed, (400, 400), count)
    piece = (slice(y, y + 240), slice(x, x + 240))
    whole, cut = split_clumps(mask, RULE).labels, split_clumps(mask[piece].copy(), RULE).labels
    m = RULE.margin
    assert (_partition(whole[piece][m:-m, m:-m]) == _partition(cut[m:-m, m:-m])).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 400))
def test_nuclei_are_connected_and_without_holes_and_inside_the_mask(seed: int, count: int) -> None:
    mask = clumps(seed, (256, 256), count)
    split = split_clumps(mask, RULE)
    assert set(np.unique(split.labels)) - {0} == set(range(1, split.count + 1))
    assert not (split.labels.astype(bool) & ~ndimage.binary_fill_holes(mask)).any()
    for label, box in enumerate(ndimage.find_objects(split.labels), start=1):
        alone = np.pad(split.labels[box] == label, 1)
        assert ndimage.label(alone)[1] == 1
        assert (ndimage.binary_fill_holes(alone) == alone).all()
        assert alone.sum() >= RULE.min_area


def by_definition(mask: npt.NDArray[np.bool_], rule: SplitRule) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Labels and what is clipped (h, w), by the text of the rule, a pixel at a time."""
    height = _height(mask, rule, None).astype(int)
    pixels = [(int(y), int(x)) for y, x in np.argwhere(mask)]
    padded = np.pad(mask, 1)

    def climb(y: int, x: int) -> tuple[int, int]:
        near = [
            (y + dy, x + dx)
            for dy, dx in itertools.product((-1, 0, 1), repeat=2)
            if padded[y + dy + 1, x + dx + 1]
            and (0 in (dy, dx) or padded[y + 1, x + dx + 1] or padded[y + dy + 1, x + 1])
        ]
        return min(near, key=lambda p: (-height[p], p))

    def ridge(a: tuple[int, int], b: tuple[int, int]) -> int:
        (y0, x0), (y1, x1) = sorted((a, b))
        n = max(abs(y1 - y0), abs(x1 - x0))
        places = [
            (y0 + (2 * i * (y1 - y0) + n) // (2 * n), x0 + (2 * i * (x1 - x0) + n) // (2 * n)) for i in range(n + 1)
        ]
        return min(int(height[p]) for p in places)

    parent = {p: climb(*p) for p in pixels}
    peaks = [p for p in pixels if parent[p] == p]
    joined = {}
    for p in peaks:
        higher = [q for q in peaks if (-height[q], q) < (-height[p], p) and apart(p, q) <= rule.merge]
        for q in sorted(higher, key=lambda q: (apart(p, q), q)):
            if ridge(p, q) > 0 and ridge(p, q) >= rule.saddle * height[p]:
                joined[p] = q
                break
    parent |= joined
    roots = [p for p in peaks if parent[p] == p]
    labels, clipped = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.bool_)
    for p in pixels:
        way = [p]
        while parent[way[-1]] != way[-1]:
            way.append(parent[way[-1]])
        clipped[p] = max(apart(p, q) for q in way) > rule.reach
        labels[p] = 0 if clipped[p] else 1 + roots.index(way[-1])
    return whole_parts(labels, roots, rule.min_area), clipped


def apart(a: tuple[int, int], b: tuple[int, int]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def whole_parts(labels: npt.NDArray[np.int32], seeds: list[tuple[int, int]], min_area: int) -> npt.NDArray[np.int32]:
    """Of each label the part around its seed, holes filled, unless it lies in a hole or is small."""
    parts = []
    for number, seed in enumerate(seeds, start=1):
        found = ndimage.label(labels == number)[0]
        parts.append(found == found[seed])
    filled = [ndimage.binary_fill_holes(part) for part in parts]
    kept = np.zeros(labels.shape, np.int32)
    for number, part in enumerate(parts):
        inside = any(other[part].all() for k, other in enumerate(filled) if k != number)
        if not inside and filled[number].sum() >= min_area:
            kept[filled[number]] = number + 1
    return kept


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.builds(
        SplitRule,
        reach=st.integers(8, 12),
        merge=st.integers(2, 12),
        saddle=st.floats(0.5, 0.95),
        smooth=st.sampled_from([0.0, 1.0]),
        min_area=st.integers(2, 40),
    ),
)
def test_nuclei_are_what_the_rule_says(seed: int, count: int, rule: SplitRule) -> None:
    mask = clumps(seed, (60, 70), count)
    split = split_clumps(mask, rule)
    labels, clipped = by_definition(mask, rule)
    assert (_partition(split.labels) == _partition(labels)).all()
    assert (split.clipped == clipped).all()


def test_two_touching_discs_are_two_and_a_long_oval_is_one() -> None:
    y, x = np.mgrid[:60, :120]
    touching = ((y - 30) ** 2 + (x - 30) ** 2 < 100) | ((y - 30) ** 2 + (x - 48) ** 2 < 100)
    oval = ((y - 30) / 6) ** 2 + ((x - 85) / 11) ** 2 < 1
    assert split_clumps(touching, RULE).count == 2
    assert split_clumps(oval, RULE).count == 1


@pytest.mark.parametrize(("saddle", "count"), [(0.3, 1), (0.8, 2)])
def test_near_peaks_are_one_nucleus_where_the_ridge_between_them_hardly_dips(saddle: float, count: int) -> None:
    y, x = np.mgrid[:30, :40]
    two = ((y - 15) ** 2 + (x - 15) ** 2 <= 16) | ((y - 15) ** 2 + (x - 22) ** 2 <= 16)  # the waist is half as wide
    rule = SplitRule(reach=12, merge=8, saddle=saddle, smooth=0.0, min_area=10)
    assert split_clumps(two, rule).count == count


def test_holes_count_in_the_area_of_a_nucleus() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:10] = True
    mask[6:9, 6:9] = False
    split = split_clumps(mask, SplitRule(reach=12, merge=6, saddle=0.8, smooth=0.0, min_area=20))
    assert split.labels[5:10, 5:10].tolist() == [[1] * 5] * 5
    assert len(split.small) == 0


def test_what_is_left_out_is_told() -> None:
    mask = np.zeros((80, 200), bool)
    mask[30:50, 10:190] = True  # a bar, far longer than any nucleus
    mask[5:8, 5:8] = True
    split = split_clumps(mask, RULE)
    assert split.small.tolist() == [[6, 6]]
    assert ((split.labels > 0) | split.clipped)[30:50, 10:190].all()


def test_an_empty_mask_has_no_nuclei() -> None:
    split = split_clumps(np.zeros((40, 50), bool), RULE)
    assert split.count == 0
    assert not split.labels.any()


def test_a_learned_interior_splits_what_the_shape_does_not() -> None:
    y, x = np.mgrid[:60, :80]
    oval = ((y - 30) / 9) ** 2 + ((x - 40) / 13) ** 2 < 1
    interior = np.full(oval.shape, 255, np.uint8)
    assert split_clumps(oval, RULE).count == split_clumps(oval, RULE, interior).count == 1
    interior[:, 38:43] = 0
    split = split_clumps(oval, RULE, interior)
    assert split.count == 2
    assert split.labels[30, 33] != split.labels[30, 47]
    assert (split.labels > 0).sum() == oval.sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 8))
def test_holes_that_are_small_enough_are_filled_and_nothing_else(seed: int, area: int, side: int) -> None:
    """Those at the edge of the picture too, since nobody knows how they go on."""
    mask = np.random.default_rng(seed).random((40, 50)) < 0.75
    holes, _ = ndimage.label(~mask)
    expected = mask.copy()
    for number, box in enumerate(ndimage.find_objects(holes), start=1):
        fits = max(part.stop - part.start for part in box) <= side
        if fits and (holes[box] == number).sum() <= area:
            expected[holes == number] = True
    before = mask.copy()
    assert (fill_small_holes(mask, area, side) == expected).all()
    assert (mask == before).all()


@pytest.mark.parametrize("smooth", [0.0, 1.0, 2.0])
def test_the_height_is_the_distance_to_the_background_capped_and_smoothed(smooth: float) -> None:
    mask = clumps(11, (120, 150), 60)
    rule = SplitRule(reach=9, merge=6, saddle=0.8, smooth=smooth, min_area=20)
    expected = np.minimum(ndimage.distance_transform_edt(mask), rule.reach)
    assert expected.max() == rule.reach
    if smooth:
        expected = np.where(mask, cv2.GaussianBlur(expected, (0, 0), smooth), 0)
    height = _height(mask, rule, None)
    # In steps of a 64th of a px; the Gaussian ends early, after 2.5 sigma.
    np.testing.assert_allclose(height / 64, expected, atol=0.1 if smooth else 1 / 128)
    assert not height[~mask].any()


def test_content_is_all_of_a_mask_with_a_border() -> None:
    mask = np.zeros((40, 50), bool)
    assert content(mask, 3) == Box(0, 0, 4, 4)
    mask[10:12, 20:25] = True
    assert content(mask, 3) == Box(7, 17, 8, 11)
    mask[39, 49] = True
    assert content(mask, 3) == Box(7, 17, 33, 33)
