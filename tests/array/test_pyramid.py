import numpy as np
import pytest

from wsiproc.array.pyramid import downsample_mean, downsample_mode, level_count, level_shape


def test_means_round_half_up_and_odd_edges_repeat_themselves() -> None:
    picture = np.array([[0, 1, 10], [1, 0, 20], [5, 5, 30]], np.uint8)
    assert downsample_mean(picture).tolist() == [[1, 15], [5, 30]]
    assert downsample_mean(np.stack([picture, picture])).shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("block", "winner"),
    [([1, 1, 2, 3], 1), ([3, 1, 2, 1], 1), ([4, 2, 3, 3], 3), ([1, 2, 3, 4], 1), ([0, 0, 7, 7], 0), ([9, 7, 7, 0], 7)],
)
def test_the_commonest_label_wins(block: list[int], winner: int) -> None:
    assert downsample_mode(np.array(block, np.uint32).reshape(2, 2)).tolist() == [[winner]]


def test_levels_shrink_to_a_thumbnail() -> None:
    assert level_count((900, 1000)) == 1
    assert level_count((12605, 25059)) == 6
    assert level_shape((12605, 25059), 5) == (394, 784)
