"""Slides that are read well and still are none to work on, and what a look at a slide passes on of its warnings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.io.slides.odd_slides import ome_metadata, write
from tests.io.slides.slide_writers import Picture
from wsiproc.core.geometry import Box
from wsiproc.errors import PlanError, SlideKindError
from wsiproc.io.slides.open import SlideSource, describe, open_slide
from wsiproc.models import load_model
from wsiproc.pipeline.planning.survey import Survey, survey_slide
from wsiproc.synthetic.scene import Scene


@pytest.fixture(scope="module")
def tissue() -> Picture:
    return np.ascontiguousarray(Scene((700, 700), 0.5, seed=1, tissue_fraction=1.0).render(Box(0, 0, 700, 700)))


def look(path: Path, force: bool = False) -> Survey:
    return survey_slide(SlideSource(path), load_model("classical"), "auto", None, force=force)


def grey_slides(folder: Path, tissue: Picture) -> list[Path]:
    """One channel; three equal ones; and these as JPEG rounds them."""
    grey = np.asarray(cv2.cvtColor(tissue, cv2.COLOR_RGB2GRAY), np.uint8)
    same = np.stack([grey] * 3, axis=-1)
    return [
        write(folder / "one.tif", grey, photometric="minisblack"),
        write(folder / "inverted.tif", 255 - grey, photometric="miniswhite"),
        write(folder / "deep.tif", grey.astype(np.uint16) * 257, photometric="minisblack"),
        write(folder / "three.tif", same),
        write(folder / "jpeg.tif", same, compression="jpeg"),
    ]


def test_slides_without_colour_are_refused_and_forced_with_a_warning(tmp_path: Path, tissue: Picture) -> None:
    for path in grey_slides(tmp_path, tissue):
        with open_slide(path) as slide:
            assert describe(slide)["looks_grey"] is True
        with pytest.raises(SlideKindError, match=r"it has no colour: .*--force") as caught:
            look(path)
        assert str(path) in str(caught.value)
        assert any("it has no colour" in warning for warning in look(path, force=True).warnings)


def test_the_palest_colour_is_one(tmp_path: Path, tissue: Picture) -> None:
    pale = 255 - (255 - tissue) // 4
    with open_slide(write(tmp_path / "a.tif", pale)) as slide:
        assert describe(slide)["looks_grey"] is False
    assert look(write(tmp_path / "b.tif", tissue)).warnings == ()


def test_glass_alone_is_without_tissue_rather_than_without_colour(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no tissue"):
        look(write(tmp_path / "a.tif", np.full((700, 700, 3), 240, np.uint8)))


def test_what_the_reader_warns_of_is_passed_on(tmp_path: Path, tissue: Picture) -> None:
    stack = np.stack([tissue] * 3)
    path = write(tmp_path / "a.ome.tif", stack, ome=True, metadata=ome_metadata("ZYXS"))
    assert look(path).warnings == ("it contains 3 focal planes; the middle one, 2, is used",)
