"""What counts as tissue is no matter of how large the slide is, and with it how coarse its overview."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsiproc.array.tissue import find_tissue
from wsiproc.core.geometry import Box
from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.io.slides.open import Overview, Slide, SlideSource, read_overview
from wsiproc.io.slides.texture import read_texture

Picture = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def pale(data: Path) -> Path:
    """A biopsy whose tissue is hardly coloured."""
    return data / "slides/EAS2_HE1_20x.tif"


def tissue(slide: Slide, max_px: int, *, near: bool = True) -> tuple[Overview, npt.NDArray[np.bool_]]:
    """An overview and its tissue; ``near``: with the grain that is seen from near."""
    seen = read_overview(slide, max_px)
    return seen, find_tissue(seen.pixels, sum(seen.mpp) / 2, read_texture(slide, seen) if near else None)


@pytest.mark.parametrize("times_coarser", [2, 4])
def test_tissue_is_the_same_on_coarser_overviews(pale: Path, times_coarser: int) -> None:
    with SlideSource(pale).open() as slide:
        usual, expected = tissue(slide, 3072)
        assert read_texture(slide, usual) is None
        coarse, found = tissue(slide, 3072 // times_coarser)
        _, blind = tissue(slide, 3072 // times_coarser, near=False)
    area = np.prod(usual.mpp) * expected.sum()
    assert 0.97 < np.prod(coarse.mpp) * found.sum() / area < 1.03
    assert np.prod(coarse.mpp) * blind.sum() / area < 0.7  # what this is for


def test_strips_leave_no_trace(pale: Path) -> None:
    with SlideSource(pale).open() as slide:
        seen = read_overview(slide, 768)
        whole = read_texture(slide, seen)
        strips = read_texture(slide, seen, strip_px=1_000_000)
    assert whole is not None
    assert strips is not None
    assert np.allclose(whole, strips, atol=1e-5)


class Damaged:
    """A slide of which some rows cannot be read."""

    def __init__(self, slide: Slide, error: type[SlideReadError]) -> None:
        self._slide, self._error = slide, error
        self.shape, self.mpp, self.levels = slide.shape, slide.mpp, slide.levels

    def read(self, box: Box, mpp: float) -> Picture:
        if box.y < 100:
            raise self._error("damaged there")
        return self._slide.read(box, mpp)


def test_what_cannot_be_read_from_near_is_judged_from_afar(pale: Path) -> None:
    with SlideSource(pale).open() as slide:
        seen = read_overview(slide, 768)
        near = read_texture(slide, seen, 1_000_000)
        found = read_texture(Damaged(slide, SlideReadError), seen, 1_000_000)  # type: ignore[arg-type]
        with pytest.raises(SlideTimeoutError):
            read_texture(Damaged(slide, SlideTimeoutError), seen, 1_000_000)  # type: ignore[arg-type]
    assert near is not None
    assert found is not None
    differs = (near != found).any(axis=1)
    assert differs.any()
    assert not differs[len(differs) // 4 :].any()
