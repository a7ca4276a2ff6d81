import numpy as np

from wsiproc.array.hilbert import hilbert_index


def test_the_curve_visits_neighbours_one_after_the_other() -> None:
    yx = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), -1).reshape(-1, 2)
    index = hilbert_index(yx)
    assert sorted(index.tolist()) == list(range(1024))
    assert (np.abs(np.diff(yx[np.argsort(index)], axis=0)).sum(axis=1) == 1).all()


def test_an_aligned_square_is_one_stretch_of_the_curve() -> None:
    corner = np.array([5 * 64, 9 * 64])
    yx = corner + np.stack(np.meshgrid(np.arange(64), np.arange(64), indexing="ij"), -1).reshape(-1, 2)
    index = np.sort(hilbert_index(yx))
    assert index[-1] - index[0] == 64 * 64 - 1


def test_far_corners_fit() -> None:
    assert hilbert_index(np.array([[2**24 - 1, 0]]))[0] < 2**48
