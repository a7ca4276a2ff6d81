"""Beyond its edge a slide is its own mirror image, whatever box is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiproc.core.geometry import Box, grid_shape
from wsiproc.io.slides.open import Slide, open_slide
from wsiproc.io.slides.pixels.mirror import read_mirrored

SHAPE = (61, 47)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    """Noise, so that no two pixels are alike."""
    path = tmp_path_factory.mktemp("slides") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)).save(path)
    with open_slide(path, 0.5) as slide:
        yield slide


@pytest.mark.parametrize("mpp", [0.5, 1.0, 0.77])
def test_it_is_the_whole_grid_padded(slide: Slide, mpp: float) -> None:
    h, w = grid_shape(slide.shape, slide.mpp, mpp)
    whole = slide.read(Box(0, 0, h, w), mpp)
    around = 3 * max(SHAPE)  # further than the slide is large: mirrored again and again
    padded = np.pad(whole, ((around, around), (around, around), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(read_mirrored(slide, Box(0, 0, h, w).pad(around), mpp), padded)


@given(y=st.integers(-150, 150), x=st.integers(-150, 150), h=st.integers(1, 90), w=st.integers(1, 90), data=st.data())
def test_cropping_a_large_box_equals_reading_the_small_one(
    slide: Slide, y: int, x: int, h: int, w: int, data: st.DataObject
) -> None:
    large = Box(y, x, h, w)
    top, left = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    small = Box(y + top, x + left, data.draw(st.integers(1, h - top)), data.draw(st.integers(1, w - left)))
    part = read_mirrored(slide, large, 0.5)[small.relative_to(large).slices]
    np.testing.assert_array_equal(read_mirrored(slide, small, 0.5), part)


def test_nothing_outside_the_slide_is_read_and_no_more_than_shows(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Box] = []
    read = slide.read

    def noted(box: Box, mpp: float) -> Any:
        asked.append(box)
        return read(box, mpp)

    monkeypatch.setattr(slide, "read", noted)
    read_mirrored(slide, Box(-9, 20, 30, 10), 0.5)
    read_mirrored(slide, Box(40, 30, 30, 30), 0.5)
    read_mirrored(slide, Box(5, 5, 10, 10), 0.5)
    # Rows 61 … 69 show 59 … 51, and columns 47 … 59 show 45 … 33: nothing that is not there already.
    assert asked == [Box(0, 20, 21, 10), Box(40, 30, 21, 17), Box(5, 5, 10, 10)]


def test_a_slide_of_one_pixel_goes_on_as_that(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.png")
    with open_slide(tmp_path / "dot.png", 5.0) as dot:  # finer ones are narrower than a nucleus
        assert (read_mirrored(dot, Box(-3, -3, 7, 7), 5.0) == (1, 2, 3)).all()
