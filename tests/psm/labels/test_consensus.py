"""Proposals compete: agreement and a border win, overlap is settled, nothing is invented."""

from __future__ import annotations

import cv2
import numpy as np

from wsiproc.psm.labels.consensus import best_iou, compete, object_boxes


def disc(radius: float, middle: tuple[int, int] = (40, 40), side: int = 80) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (np.hypot(y - middle[0], x - middle[1]) <= radius).astype(np.int32)


def stain(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32) * 0.6, (0, 0), 1.0)


def test_the_outline_that_the_picture_supports_wins() -> None:
    truth = disc(12)
    agreed = compete([disc(7), truth, disc(18)], stain(truth))
    assert agreed.labels.max() == 1
    np.testing.assert_array_equal(agreed.labels > 0, truth > 0)


def test_what_all_propose_beats_what_one_proposes() -> None:
    both, alone = disc(10, (22, 22)), disc(10, (56, 56))
    every = np.where(alone > 0, 2, both).astype(np.int32)
    agreed = compete([every, both, both], stain((every > 0).astype(np.int32)))
    assert agreed.labels[22, 22] == 1  # the best comes first
    assert agreed.consensus[0] == 1.0
    assert agreed.consensus[1] == 0.0
    assert agreed.scores[0] > agreed.scores[1]


def test_overlapping_proposals_become_one_object() -> None:
    agreed = compete([disc(12, (40, 40)), disc(12, (40, 43))], stain(disc(12)))
    assert agreed.labels.max() == 1


def test_nothing_of_nothing() -> None:
    empty = np.zeros((30, 30), np.int32)
    agreed = compete([empty, empty], np.zeros((30, 30), np.float32))
    assert agreed.labels.max() == 0
    assert len(agreed.scores) == 0


def test_best_iou_is_that_of_the_best_partner() -> None:
    first = np.zeros((4, 10), np.int32)
    first[:, :4], first[:, 6:] = 1, 2
    other = np.zeros_like(first)
    other[:, :3], other[:2, 3] = 1, 2
    np.testing.assert_allclose(best_iou(first, object_boxes(first), other), [12 / 16, 0.0])
