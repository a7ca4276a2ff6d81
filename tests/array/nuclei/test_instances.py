import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.array.conftest import clumps
from wsiproc.array.nuclei.instances import SplitRule, content, split_clumps
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


def test_two_touching_discs_are_two_and_a_long_oval_is_one() -> None:
    y, x = np.mgrid[:60, :120]
    touching = ((y - 30) ** 2 + (x - 30) ** 2 < 100) | ((y - 30) ** 2 + (x - 48) ** 2 < 100)
    oval = ((y - 30) / 6) ** 2 + ((x - 85) / 11) ** 2 < 1
    assert split_clumps(touching, RULE).count == 2
    assert split_clumps(oval, RULE).count == 1


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


def test_content_is_all_of_a_mask_with_a_border() -> None:
    mask = np.zeros((40, 50), bool)
    assert content(mask, 3) == Box(0, 0, 4, 4)
    mask[10:12, 20:25] = True
    assert content(mask, 3) == Box(7, 17, 8, 11)
    mask[39, 49] = True
    assert content(mask, 3) == Box(7, 17, 33, 33)
