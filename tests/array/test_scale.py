"""Whether nuclei have the size that the µm/px make of them, seen without finding any."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wsiproc.array.scale import ApparentScale, apparent_scale
from wsiproc.array.stains import Stains, estimate_stains
from wsiproc.models.staining import sample_pixels

# Of the corpus, none of which the weights were fitted on; their own µm/px.
UNSEEN = {"kidney_HE": 0.5, "brain_HE": 0.2524, "stomach_HE": 0.2528, "pancreas_HE": 0.2633}


def windows(folder: Path, given: float) -> list[npt.NDArray[np.uint8]]:
    """Four pictures as they are read at 0.5 µm/px where their own are ``given``."""
    found = []
    for path in sorted(folder.glob("*.jpg"))[:4]:
        picture, zoom = np.asarray(Image.open(path).convert("RGB")), given / 0.5
        how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        found.append(np.asarray(cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=how), np.uint8))
    return found


@cache
def looked_at(folder: Path, given: float) -> ApparentScale:
    some = windows(folder, given)
    scale = apparent_scale(some, estimate_stains(sample_pixels(some, 0.5)), 0.5)
    assert scale is not None
    return scale


@pytest.mark.parametrize("folder", UNSEEN)
def test_a_scale_that_is_wrong_by_two_is_noticed_and_a_right_one_is_not_doubted(data: Path, folder: str) -> None:
    right, large, small = (looked_at(data / "corpus" / folder, UNSEEN[folder] * f) for f in (1, 2, 0.5))
    assert not right.wrong, right
    assert large.wrong, large
    assert small.wrong, small
    assert 1.4 < large.factor < 2.8
    assert 0.35 < small.factor < 0.72


def test_a_larger_picture_of_the_same_looks_larger(data: Path) -> None:
    """The factor grows with what is given, step by step."""
    told = [looked_at(data / "corpus" / "brain_HE", 0.2524 * f).factor for f in (0.5, 0.7, 1, 1.4, 2)]
    assert (np.diff(told) > 0.1).all(), told


def test_much_tissue_is_believed_sooner() -> None:
    assert ApparentScale(1.4, 0.3).wrong
    assert not ApparentScale(1.4, 0.1).wrong
    assert ApparentScale(0.6, 0.1).wrong
    assert not ApparentScale(0.8, 10.0).wrong


@pytest.mark.parametrize(
    ("window", "mpp", "kind"),
    [
        (np.full((256, 256, 3), 245, np.uint8), 0.5, "H&E"),  # glass
        (np.random.default_rng(0).integers(60, 200, (256, 256, 3), np.uint8), 1.0, "H&E"),  # too coarse
        (np.random.default_rng(0).integers(60, 200, (256, 256, 3), np.uint8), 0.5, "H-DAB"),
    ],
)
def test_where_nothing_can_be_told_nothing_is(window: npt.NDArray[np.uint8], mpp: float, kind: str) -> None:
    assert apparent_scale([window], Stains(kind), mpp) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("side", [1, 7, 40, 300])
def test_any_window_can_be_looked_at(side: int) -> None:
    window = np.random.default_rng(side).integers(60, 200, (side, side + 3, 3), np.uint8)
    for some in ([window], [np.full_like(window, 100)]):
        scale = apparent_scale(some, Stains("H&E"), 0.25)
        assert scale is None or np.isfinite(scale.factor)
