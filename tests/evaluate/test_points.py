from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.datasets_on_disk import write_points
from wsiproc.errors import SettingsError
from wsiproc.evaluate.points import (
    Count,
    Points,
    count_points,
    headline_f1,
    load_points,
    point_dataset_columns,
    point_image_columns,
    write_point_figure,
)


def points(*rows: tuple[float, float, str]) -> Points:
    return Points(np.array([row[:2] for row in rows], float).reshape(-1, 2), np.array([row[2] for row in rows], str))


# One match of each class, one cell of the wrong class, one false and one missed negative.
TRUTH = points((10, 10, "positive"), (50, 50, "negative"), (90, 90, "negative"), (90, 10, "negative"))
FOUND = points((12, 10, "positive"), (50, 51, "negative"), (90, 90, "positive"), (10, 90, "negative"))
COUNTS = count_points(FOUND, TRUTH, radius_px=5, by_class=True)


def test_points_are_counted_a_class_at_a_time_and_all_together() -> None:
    assert {"positive": Count(1, 2, 1), "negative": Count(1, 2, 3), "all": Count(3, 4, 4)} == COUNTS
    assert count_points(FOUND, TRUTH, 5, by_class=False) == {"all": Count(3, 4, 4)}
    assert count_points(FOUND, TRUTH, 1.5, by_class=True)["positive"].matched == 0


def test_scores_of_a_picture_worked_out_by_hand() -> None:
    columns = point_image_columns(COUNTS)
    positive, negative = 2 / 3, 2 / 5
    assert columns["positive_f1"] == pytest.approx(positive)
    assert (columns["positive_precision"], columns["positive_recall"]) == (0.5, 1)
    assert columns["negative_f1"] == pytest.approx(negative)
    assert (columns["negative_precision"], columns["negative_recall"]) == pytest.approx((1 / 2, 1 / 3))
    assert columns["f1"] == headline_f1(COUNTS) == pytest.approx((positive + negative) / 2)
    assert columns["precision"] == 0.5
    assert columns["recall"] == pytest.approx((1 + 1 / 3) / 2)
    assert columns["detection_f1"] == 0.75
    assert (columns["ki67_predicted"], columns["ki67_true"]) == (0.5, 0.25)
    assert (columns["all_matched"], columns["all_predicted"], columns["all_true"]) == (3, 4, 4)


def test_a_dataset_is_scored_by_its_counts_and_its_pictures_by_their_errors() -> None:
    empty = count_points(points(), points((5, 5, "negative")), radius_px=5, by_class=True)
    columns = point_dataset_columns([COUNTS, empty])
    assert columns["negative_f1"] == pytest.approx(2 * 1 / (2 + 4))
    assert columns["positive_f1"] == pytest.approx(2 / 3)
    assert columns["f1"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert columns["detection_recall"] == pytest.approx(3 / 5)
    assert columns["mean_picture_f1"] == pytest.approx(
        (headline_f1(COUNTS) + 0.5) / 2
    )  # no positive: found all of none
    assert [columns[f"{name}_count_error"] for name in ("positive", "negative", "all")] == [0.5, 1, 0.5]
    assert columns["ki67_error"] == pytest.approx(0.25 / 2)


def test_without_classes_there_is_detection_only() -> None:
    counts = count_points(FOUND, TRUTH, 5, by_class=False)
    assert point_dataset_columns([counts, counts]) == {
        "f1": 0.75, "precision": 0.75, "recall": 0.75, "mean_picture_f1": 0.75, "all_count_error": 0,
    }  # fmt: skip


def test_points_are_read_from_csv(tmp_path: Path) -> None:
    write_points(tmp_path / "a.csv", [(1, 2.5, "Positive"), (3, 4, " negative ")])
    read = load_points(tmp_path / "a.csv")
    assert read.yx.tolist() == [[1, 2.5], [3, 4]]
    assert read.classes.tolist() == ["positive", "negative"]
    write_points(tmp_path / "a.csv", [])
    assert load_points(tmp_path / "a.csv").yx.shape == (0, 2)


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "x,y,class\none,2,positive\n", "x,y,class\n1\n", "x,y\n1,2\n"])
def test_other_csv_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(SettingsError, match=r"a\.csv: points are read from CSV with the header x,y,class"):
        load_points(tmp_path / "a.csv")


def test_the_figure_tells_matched_missed_and_false_apart(tmp_path: Path) -> None:
    write_point_figure(tmp_path / "f.png", FOUND, TRUTH, np.full((100, 100, 3), 255, np.uint8), 5, by_class=True)
    with Image.open(tmp_path / "f.png") as figure:
        at = {
            (y, x): figure.getpixel((2 * x, 2 * y))
            for y, x in [(10, 10), (50, 50), (90, 10), (10, 90), (90, 90), (30, 30)]
        }
    black, blue, orange = (0, 0, 0), (0, 114, 178), (230, 159, 0)
    assert at[10, 10] == at[50, 50] == black
    assert at[90, 10] == blue
    assert at[10, 90] == at[90, 90] == orange  # of the wrong class: the cross lies on the disc
    assert at[30, 30] == (255, 255, 255)
