"""The first look at a slide: what models cannot make sense of is refused, unless it is forced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from wsiproc.array.stains import Stains
from wsiproc.core.geometry import Box
from wsiproc.errors import SlideKindError
from wsiproc.io.slides.open import SlideSource
from wsiproc.models.builtin.classical import Classical
from wsiproc.pipeline.planning.survey import survey_slide
from wsiproc.synthetic import Scene


def source(path: Path, mpp: float | None = None) -> SlideSource:
    return SlideSource(path, mpp, "auto", 60.0)


def test_real_fluorescence_is_refused(data: Path) -> None:
    with pytest.raises(SlideKindError, match=r"looks like fluorescence.*--force"):
        survey_slide(source(data / "slides/fluorescence_dapi.ndpi"), Classical(), "auto", None)


def test_forced_it_is_worked_on_with_a_warning(tmp_path: Path) -> None:
    picture = Image.new("RGB", (900, 900), (4, 3, 8))
    draw = ImageDraw.Draw(picture)
    for y, x in np.random.default_rng(0).integers(40, 860, (60, 2)).tolist():
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=(30, 60, 250))
    picture.save(tmp_path / "dapi.png")
    with pytest.raises(SlideKindError, match="looks like fluorescence"):
        survey_slide(source(tmp_path / "dapi.png", 0.25), Classical(), "all", None)
    seen = survey_slide(source(tmp_path / "dapi.png", 0.25), Classical(), "all", None, force=True)
    assert "looks like fluorescence" in seen.warnings[0]
    assert "cannot be trusted" in seen.warnings[0]


def stains(pixels: np.ndarray, path: Path) -> Stains:
    Image.fromarray(pixels).save(path, compress_level=1)
    model = survey_slide(source(path, 0.5), Classical(), "auto", None).model
    assert isinstance(model, Classical)
    return model.stains


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Stains]:
    """A scan of 1300 × 1500 px, and its stains."""
    h, w = 1300, 1500
    pixels = Scene((h, w), 0.5, seed=3, tissue_fraction=0.8).render(Box(0, 0, h, w))
    return pixels, stains(pixels, tmp_path_factory.mktemp("scan") / "scan.png")


@pytest.mark.parametrize(
    ("fill", "corner"), [((0, 0, 0), (900, 900)), ((128, 128, 128), (333, 77)), ((40, 90, 200), (333, 900))]
)
def test_calibration_never_sees_an_unscanned_canvas(
    scan: tuple[np.ndarray, Stains], tmp_path: Path, fill: tuple[int, int, int], corner: tuple[int, int]
) -> None:
    """The same stains with a canvas around the scan, wherever it begins, as without; windows may move by 2 µm."""
    pixels, alone = scan
    canvas = np.empty((3000, 3000, 3), np.uint8)
    canvas[:] = fill
    canvas[corner[0] : corner[0] + pixels.shape[0], corner[1] : corner[1] + pixels.shape[1]] = pixels
    inside = stains(canvas, tmp_path / "canvas.png")
    assert not alone.standard
    assert np.abs(np.subtract(alone.vectors, inside.vectors)).max() < 0.01
    assert np.abs(np.subtract(alone.white, inside.white)).max() <= 1


def test_a_wrong_pixel_size_of_a_real_slide_is_noticed(data: Path) -> None:
    name = "CMU-1-Small-Region.svs"
    with source(data / "slides" / name).open() as slide:
        mpp = slide.mpp
    for factor, what in ((1.0, None), (0.5, "too small"), (2.0, "too large")):
        seen = survey_slide(source(data / "slides" / name, mpp * factor), Classical(), "auto", None)
        told = [text for text in seen.warnings if "nuclei and their chromatin look" in text]
        assert mpp / 1.4 < seen.slide["likely_mpp"] < mpp * 1.4
        assert bool(told) is (what is not None), (factor, seen.slide["likely_mpp"])
        assert what is None or (what in told[0] and "pass it with --mpp" in told[0])
