"""TIAToolbox's readers; runs in an environment with the extra ``wsiproc[tiatoolbox]``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.io.slides.slide_writers import MPP, SHAPE, draw_picture, pyramid, write_tiff
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.errors import SlideError
from wsiproc.io.slides.open import Slide, open_slide

pytestmark = pytest.mark.tiatoolbox
pytest.importorskip("tiatoolbox")

SVS = Path(__file__).parents[2] / ".." / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = tmp_path_factory.mktemp("tiatoolbox") / "a.tif"
    write_tiff(path, pyramid(draw_picture()))
    with open_slide(path, reader="tiatoolbox") as slide:
        yield slide


def test_facts(slide: Slide) -> None:
    assert (slide.shape, slide.levels) == (SHAPE, (1.0, 2.0, 4.0, 8.0))
    assert slide.mpp == pytest.approx(MPP)
    assert slide.format == "tiatoolbox TIFFWSIReader"


def test_level_0_is_the_same_picture(slide: Slide) -> None:
    assert np.array_equal(slide.read(Box(0, 0, *SHAPE), MPP), draw_picture())


@pytest.mark.parametrize("mpp", [0.5, 0.77, 1.0, 2.3])
def test_cropping_a_large_box_equals_reading_the_small_one(slide: Slide, mpp: float) -> None:
    h, w = grid_shape(slide.shape, slide.mpp, mpp)
    large = slide.read(Box(-9, -9, h + 18, w + 18), mpp)
    for y, x in ((0, 0), (h // 3, w // 2), (h - 40, w - 40)):
        assert np.array_equal(slide.read(Box(y, x, 40, 40), mpp), large[y + 9 : y + 49, x + 9 : x + 49])


def test_a_real_slide_looks_as_with_the_default_reader() -> None:
    if not SVS.exists():
        pytest.skip(f"the real slide is not at {SVS}")
    box = Box(1000, 800, 300, 300)
    with open_slide(SVS, reader="tiatoolbox") as through, open_slide(SVS) as direct:
        assert (through.mpp, through.objective) == (direct.mpp, direct.objective)
        assert np.array_equal(through.read(box, direct.mpp), direct.read(box, direct.mpp))


def test_what_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"nonsense")
    with pytest.raises(SlideError, match=r"a\.svs: TIAToolbox cannot open this"):
        open_slide(tmp_path / "a.svs", reader="tiatoolbox")
