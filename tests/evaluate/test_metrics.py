from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiproc.evaluate import metrics
from wsiproc.evaluate.compare import evaluate

TRUTH = np.zeros((4, 8), int)
TRUTH[:2, :4] = 5  # 8 px
TRUTH[2:, 4:6] = 9  # 4 px
PREDICTION = np.zeros((4, 8), int)
PREDICTION[:2, 1:4] = 2  # 6 px, all in the first: IoU 6 / 8
PREDICTION[2:, 5:8] = 1  # 6 px, 2 of the second: IoU 2 / 8
PREDICTION[3, 0] = 7  # stray

labels = hnp.arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    truth = draw(labels)
    return draw(hnp.arrays(np.int64, truth.shape, elements=st.integers(0, 4))), truth


def test_scores_worked_out_by_hand() -> None:
    scores = evaluate(PREDICTION, TRUTH)
    assert scores.dice == pytest.approx(2 * 8 / (13 + 12))
    assert scores.iou == pytest.approx(8 / 17)
    assert scores.aji == pytest.approx((6 + 2) / (8 + 8 + 1))  # the stray one is added to the union
    assert (scores.dq, scores.sq) == pytest.approx((1 / (1 + 0.5 * 2 + 0.5 * 1), 0.75))
    assert scores.pq == pytest.approx(0.3)
    assert (scores.f1, scores.precision, scores.recall) == pytest.approx((0.4, 1 / 3, 1 / 2))
    truths = 8 / 12 * 12 / 14 + 4 / 12 * 4 / 10
    predictions = 6 / 13 * 12 / 14 + 6 / 13 * 4 / 10
    assert scores.object_dice == pytest.approx((truths + predictions) / 2)
    assert (scores.n_pred, scores.n_true) == (3, 2)


def test_aji_may_take_a_prediction_twice() -> None:
    truth = np.repeat([[1, 1, 2, 2]], 2, axis=0)
    assert metrics.aji(metrics.overlap(np.ones_like(truth), truth)) == pytest.approx((4 + 4) / (8 + 8))


def test_aji_takes_the_best_iou_not_the_largest_overlap() -> None:
    truth = np.array([[1] * 5 + [0] * 9])
    prediction = np.array([[1, 1, 2, 2, 2] + [2] * 9])  # IoU 2 / 5 and 3 / 14
    assert metrics.aji(metrics.overlap(prediction, truth)) == pytest.approx(2 / (5 + 12))


def test_iou_of_exactly_one_half_is_no_match() -> None:
    truth, prediction = np.array([[1, 1]]), np.array([[1, 0]])
    assert metrics.detection_f1(metrics.overlap(prediction, truth)) == (0, 0, 0)


@given(labels)
def test_perfect_is_one(truth: np.ndarray) -> None:
    assert set(list(evaluate(truth, truth).__dict__.values())[:10]) == {1.0}


def test_empty_pictures() -> None:
    empty, some = np.zeros((3, 3), int), np.eye(3, dtype=int)
    assert set(list(evaluate(empty, empty).__dict__.values())[:10]) == {1.0}
    for pair in ((empty, some), (some, empty)):
        assert set(list(evaluate(*pair).__dict__.values())[:10]) == {0.0}


@given(pairs(), st.permutations(range(1, 5)), st.permutations(range(1, 5)))
def test_the_numbers_of_labels_mean_nothing(
    pair: tuple[np.ndarray, np.ndarray], one: list[int], other: list[int]
) -> None:
    renamed = np.array([0, *one])[pair[0]] * 70_000, np.array([0, *other])[pair[1]] * 3
    assert evaluate(*renamed) == evaluate(*pair)


@given(pairs())
def test_bounds(pair: tuple[np.ndarray, np.ndarray]) -> None:
    scores = evaluate(*pair)
    assert all(0 <= value <= 1 for value in list(scores.__dict__.values())[:10])
    assert scores.iou <= scores.dice
    assert scores.aji <= scores.iou + 1e-9  # splitting and merging can only cost
    assert scores.pq <= scores.dq


@given(pairs())
def test_strips_do_not_change_the_table(pair: tuple[np.ndarray, np.ndarray]) -> None:
    whole = metrics.overlap(*pair)
    strips = metrics.overlap(*pair, strip_px=10)
    for name, value in whole.__dict__.items():
        np.testing.assert_array_equal(getattr(strips, name), value)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(3, 3\)"):
        metrics.overlap(np.zeros((2, 2), int), np.zeros((3, 3), int))


def test_points_are_matched_in_pairs_not_greedily() -> None:
    pred, true = np.array([[0.0, 0.0], [0.0, 3.0]]), np.array([[0.0, 2.0], [0.0, 5.0]])
    assert [side.tolist() for side in metrics.match_points(pred, true, 2.5)] == [[0, 1], [0, 1]]
    assert [side.tolist() for side in metrics.match_points(pred, true, 1.5)] == [[1], [0]]


def test_points_at_one_place_and_no_points() -> None:
    pred = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert len(metrics.match_points(pred, pred, 0.0)[0]) == 2
    assert len(metrics.match_points(pred, np.zeros((0, 2)), 9)[0]) == 0


@given(
    hnp.arrays(float, st.tuples(st.integers(0, 12), st.just(2)), elements=st.integers(0, 20)),
    hnp.arrays(float, st.tuples(st.integers(0, 12), st.just(2)), elements=st.integers(0, 20)),
    st.integers(0, 8),
)
def test_matches_are_one_to_one_near_and_maximal(pred: np.ndarray, true: np.ndarray, radius: int) -> None:
    one, other = metrics.match_points(pred, true, radius)
    assert len(set(one)) == len(one) == len(other) == len(set(other))
    assert (np.hypot(*(pred[one] - true[other]).T) <= radius).all()
    left, right = np.delete(pred, one, axis=0), np.delete(true, other, axis=0)
    assert (np.hypot(*np.moveaxis(left[:, None] - right[None], 2, 0)) > radius).all()


def test_points_are_matched_within_their_class_only() -> None:
    pred, true = np.array([[0.0, 0.0], [9.0, 9.0], [5.0, 5.0]]), np.array([[9.0, 9.0], [0.0, 1.0]])
    names = np.array(["a", "b", "b"]), np.array(["a", "a"])
    assert [side.tolist() for side in metrics.match_classes(pred, names[0], true, names[1], radius_px=2)] == [[0], [1]]
    none = metrics.match_classes(pred[:0], names[0][:0], true[:0], names[1][:0], radius_px=2)
    assert [len(side) for side in none] == [0, 0]


def test_count_error() -> None:
    assert metrics.mean_count_error([3, 10], [5, 9]) == 1.5
