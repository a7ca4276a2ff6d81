"""The stain of real tissue is told by its colours, tile by tile and slide by slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wsiproc.array.stains import STANDARD, estimate_stains, unmixing
from wsiproc.io.slides.open import SlideSource
from wsiproc.models import load_model
from wsiproc.models.staining import sample_pixels
from wsiproc.pipeline.planning.survey import survey_slide

MPP = 0.25  # near enough: pixels are averaged over a µm before they are looked at
OTHER_PICTURES = ("bcdata_dev/images", "judges/tnbc/images", "judges/brca_m2c/images", "nucls/segmentation/images")


def tiles(folder: Path) -> list[npt.NDArray[np.uint8]]:
    """The pictures of a folder, each as sampled pixels (N, 3)."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))
    return [sample_pixels([np.asarray(Image.open(p).convert("RGB"))], MPP) for p in paths]


def test_the_stain_of_every_slide_and_tile_of_the_corpus_is_right(data: Path) -> None:
    folders = [p for p in sorted((data / "corpus").iterdir()) if p.name.endswith(("_HE", "-IHC"))]
    assert len(folders) == 26
    for folder in folders:
        expected = "H&E" if folder.name.endswith("_HE") else "H-DAB"
        some = tiles(folder)
        assert [estimate_stains(tile).kind for tile in some] == [expected] * len(some), folder.name
        assert estimate_stains(np.concatenate(some)).kind == expected


@pytest.mark.parametrize("folder", OTHER_PICTURES)
def test_the_stain_of_pictures_of_other_laboratories_is_right(data: Path, folder: str) -> None:
    expected = "H-DAB" if folder.startswith("bcdata") else "H&E"
    some = tiles(data / folder)
    assert [estimate_stains(tile).kind for tile in some] == [expected] * len(some)


def test_dust_and_bubbles_make_no_dab_of_he() -> None:
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0.1, 0.7, (10_000, 2))
    tissue = 245 * 10 ** -(amounts @ np.array(STANDARD["H&E"]))
    dust = rng.uniform(20, 120, (800, 1)) + rng.uniform(-10, 10, (800, 3))
    mixed = np.rint(np.concatenate([tissue, dust, np.full((2000, 3), 245)])).clip(0, 255).astype(np.uint8)
    stains = estimate_stains(mixed)
    assert stains.kind == "H&E"
    assert not stains.grey


def test_of_a_grey_picture_nothing_is_taken_for_dust() -> None:
    grey = np.random.default_rng(0).integers(60, 245, (5000, 1), dtype=np.uint8).repeat(3, axis=1)
    assert estimate_stains(grey).grey


def without_brown(path: Path) -> npt.NDArray[np.uint8]:
    """Sampled pixels of a tile but for its brown cells and what is around them."""
    import cv2

    small = np.asarray(Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BOX))
    od = -np.log10(np.maximum(small, 1) / small.max(axis=(0, 1)))
    brown = ((od[..., 2] > od[..., 1]) & (od.sum(axis=2) > 0.25)).astype(np.uint8)
    return small[cv2.dilate(brown, np.ones((5, 5), np.uint8)) == 0]


def test_ki67_without_a_positive_nucleus_is_no_he_and_has_hardly_any_dab(data: Path) -> None:
    for path in sorted((data / "corpus/OS2_Ki67-IHC").glob("*.jpg")):
        pixels = without_brown(path)
        stains = estimate_stains(pixels)
        assert stains.kind == "H-DAB"
        od = np.maximum(-np.log10(np.maximum(pixels, 1) / np.array(stains.white)), 0)
        assert np.percentile((od @ unmixing(stains))[:, 1], 99) < 0.2


def test_the_stain_can_be_given(data: Path) -> None:
    tile = tiles(data / "corpus/OS2_Ki67-IHC")[0]
    assert estimate_stains(tile, "H&E").names == ("hematoxylin", "eosin")
    glass = np.full((1000, 3), 240, np.uint8)
    assert estimate_stains(glass, "H-DAB").vectors == STANDARD["H-DAB"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("EAS2_HE1_20x.tif", "H&E"),  # pale, with little eosin
        ("EAS2_CD20_ihc_20x.tif", "H-DAB"),
        ("CMU-1-Small-Region.svs", "H&E"),
        ("he_20x.ome.tif", "H&E"),
    ],
)
def test_the_stain_of_a_real_slide_is_told(data: Path, name: str, kind: str) -> None:
    """On the windows that a run is calibrated on."""
    seen = survey_slide(SlideSource(data / "slides" / name), load_model("classical"), "auto", None)
    assert seen.model.calibration()["stain"] == kind
