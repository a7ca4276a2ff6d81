"""Tissue is found on any glass, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiproc.array.tissue import PixelClass, classify_overview, find_tissue, grow, looks_fluorescent

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

MPP = 4.0
SHAPE = (600, 800)
DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

HE, PALE_HE, DAB, BLUE_IHC = (205, 150, 190), (238, 222, 234), (150, 110, 80), (185, 195, 215)
GLASSES = {"white": (252, 252, 252), "grey": (205, 205, 206), "pink": (236, 228, 238), "yellow": (236, 232, 218)}


def empty_slide(glass: tuple[int, int, int] = GLASSES["white"], noise: float = 1.0) -> UInt8Array:
    rng = np.random.default_rng(3)
    return np.clip(np.asarray(glass) + rng.normal(0, noise, (*SHAPE, 1)), 0, 255).astype(np.uint8)


def add_tissue(slide: UInt8Array, stain: tuple[int, int, int], axes: tuple[int, int] = (200, 120)) -> BoolArray:
    """Stain the middle of the slide, darker where the (random) nuclei are; returns the true mask."""
    rng = np.random.default_rng(4)
    where = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(where, (SHAPE[1] // 2, SHAPE[0] // 2), axes, 20, 0, 360, 1, -1)
    amount = cv2.GaussianBlur(rng.random(SHAPE), (0, 0), 0.7)[..., None] * 1.2 + 0.4
    stained = slide * (np.asarray(stain) / 255) ** amount
    slide[where > 0] = stained[where > 0].astype(np.uint8)
    return where > 0


def overlap(found: BoolArray, true: BoolArray) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.mark.parametrize("stain", [HE, PALE_HE, DAB, BLUE_IHC], ids=["he", "pale", "dab", "blue"])
@pytest.mark.parametrize("glass", GLASSES)
def test_tissue_on_glass_of_any_colour(glass: str, stain: tuple[int, int, int]) -> None:
    slide = empty_slide(GLASSES[glass])
    true = add_tissue(slide, stain)
    assert overlap(find_tissue(slide, MPP), true) > 0.9


@pytest.mark.parametrize("mpp", [2.0, 8.0, 16.0])
def test_other_resolutions(mpp: float) -> None:
    slide = empty_slide()
    true = add_tissue(slide, HE)
    found = find_tissue(slide, mpp)
    assert found.shape == SHAPE
    assert overlap(found, true) > 0.9


@pytest.mark.parametrize("glass", GLASSES)
def test_empty_glass_has_no_tissue(glass: str) -> None:
    assert not find_tissue(empty_slide(GLASSES[glass], noise=2.0), MPP).any()


@pytest.mark.parametrize("padding", [0, 255])
def test_padding_of_the_scanner_is_no_tissue(padding: int) -> None:
    slide = empty_slide(GLASSES["pink"])
    true = add_tissue(slide, PALE_HE)
    slide[:150] = padding
    slide[:, -250:-100] = padding
    true[slide.min(axis=-1) == slide.max()] = False
    assert overlap(find_tissue(slide, MPP), true & (slide != padding).any(axis=-1)) > 0.85


@pytest.mark.parametrize(
    "ink",
    [(40, 60, 160), (30, 120, 70), (45, 45, 50), (205, 35, 40)],
    ids=["blue", "green", "black", "red"],
)
def test_pens_are_no_tissue(ink: tuple[int, int, int]) -> None:
    slide = empty_slide()
    true = add_tissue(slide, HE)
    stroke = np.zeros(SHAPE, np.uint8)
    cv2.line(stroke, (60, 40), (740, 60), 1, 150)
    faded = cv2.GaussianBlur(stroke.astype(np.float32), (0, 0), 4)[..., None]
    slide[:] = (slide * (np.asarray(ink) / 255.0) ** faded).astype(np.uint8)
    found = find_tissue(slide, MPP)
    assert found[stroke > 0].mean() < 0.02
    assert overlap(found, true & (faded[..., 0] < 0.01)) > 0.85


INKS = {
    "blue": (20, 60, 200), "dark blue": (40, 60, 160), "green": (30, 120, 70), "bright green": (30, 160, 40),
    "red": (205, 35, 40), "purple": (120, 30, 160), "black": (45, 45, 50), "light blue": (60, 160, 230),
    "orange": (240, 110, 20), "yellow": (245, 225, 40), "pink": (240, 60, 140),
}  # fmt: skip


@pytest.mark.parametrize("width_um", [60, 200, 600])
@pytest.mark.parametrize("ink", INKS)
@settings(max_examples=2, deadline=None)
@given(ends=st.tuples(*[st.integers(40, 560)] * 2))
def test_a_pen_across_tissue_is_left_out_and_the_tissue_beside_it_kept(
    ink: str, width_um: int, ends: tuple[int, int]
) -> None:
    slide = empty_slide()
    true = add_tissue(slide, HE)
    stroke = np.zeros(SHAPE, np.uint8)
    cv2.line(stroke, (30, ends[0]), (770, ends[1]), 1, round(width_um / MPP))
    faded = cv2.GaussianBlur(stroke.astype(np.float32), (0, 0), 1.5)[..., None]
    slide[:] = (slide * (np.asarray(INKS[ink]) / 255.0) ** faded).astype(np.uint8)
    seen = classify_overview(slide, MPP)
    assert (seen[stroke > 0] == PixelClass.TISSUE).mean() < 0.02
    assert (seen[stroke > 0] == PixelClass.PEN).mean() > 0.9
    far = cv2.distanceTransform(1 - stroke, cv2.DIST_L2, 5) * MPP > 200
    before = find_tissue_without(true)
    lost = before & far & (seen != PixelClass.TISSUE)
    assert lost.sum() < 0.02 * max(1, (before & far).sum())


@pytest.mark.parametrize("ink", INKS)
def test_a_pen_that_covers_more_than_the_tissue_is_no_stain(ink: str) -> None:
    """Nor are its dots, which alone would be too small for a pen; what is stained elsewhere is its fringe."""
    slide = empty_slide()
    true = np.zeros(SHAPE, np.bool_)
    true[200:330, 300:420] = True
    slide[true] = np.clip(np.random.default_rng(2).normal(HE, 12, (int(true.sum()), 3)), 0, 255).astype(np.uint8)
    drawn = np.zeros(SHAPE, np.uint8)
    cv2.line(drawn, (30, 480), (770, 450), 1, 60)
    cv2.line(drawn, (30, 60), (770, 90), 1, 12)
    for x in (80, 190, 520, 640):
        cv2.circle(drawn, (x, 250), 22, 1, -1)
    faded = cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), 2.5)[..., None]
    slide[:] = (slide * (np.asarray(INKS[ink]) / 255.0) ** faded).astype(np.uint8)
    seen = classify_overview(slide, MPP)
    assert (seen[drawn > 0] == PixelClass.TISSUE).mean() < 0.02
    assert (seen[true] == PixelClass.TISSUE).mean() > 0.9


def test_rims_of_bubbles_are_no_tissue() -> None:
    slide = empty_slide()
    for y, x, radius in [(150, 200, 90), (400, 500, 60), (120, 560, 40)]:
        cv2.circle(slide, (x, y), radius, (70, 72, 68), 8, cv2.LINE_AA)
    for y, x in np.random.default_rng(0).normal((450, 200), 50, (60, 2)).astype(int).tolist():
        cv2.circle(slide, (x, y), 7, (80, 80, 78), 3, cv2.LINE_AA)
    assert find_tissue(slide, MPP).mean() < 0.002


def find_tissue_without(true: BoolArray) -> BoolArray:
    """The tissue that is surely found where no pen is near: that of the truth but for its rim."""
    return np.asarray(cv2.erode(true.astype(np.uint8), np.ones((9, 9), np.uint8)), np.bool_)


def test_a_slide_with_nothing_but_pen_has_no_tissue() -> None:
    """Also not where the pen has one colour, as a computer draws it."""
    slide = np.full((256, 256, 3), 245, np.uint8)
    cv2.line(slide, (25, 25), (225, 200), (20, 60, 200), 15)
    cv2.circle(slide, (75, 175), 20, (30, 160, 40), 8)
    assert not find_tissue(slide, 2.0).any()


@pytest.mark.parametrize("mpp", [0.25, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("path", sorted(DATA.glob("monuseg_train/images/*.png")), ids=lambda path: path.stem)
def test_no_real_stain_is_taken_for_ink_or_fill(path: Path, mpp: float) -> None:
    crop = cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB)
    side = round(len(crop) * 0.25 / mpp)
    seen = classify_overview(np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), np.uint8), mpp)
    assert (seen == PixelClass.TISSUE).mean() > 0.95
    assert not np.isin(seen, (PixelClass.PEN, PixelClass.FILL)).any()


def test_shadows_scratches_and_dust_are_no_tissue() -> None:
    bright = empty_slide().astype(np.float32)
    bright[:, 100:180] *= np.linspace(1.0, 0.5, 80)[None, :, None]  # the edge of a coverslip
    slide = bright.astype(np.uint8)
    cv2.line(slide, (300, 0), (360, 599), (120, 120, 125), 2)
    rng = np.random.default_rng(5)
    for y, x in rng.integers(20, 580, (60, 2)):
        cv2.circle(slide, (int(x) + 180, int(y)), 2, (90, 80, 80), -1)
    assert find_tissue(slide, MPP).mean() < 0.005


def test_fibres_and_grains_are_no_tissue_however_many_lie_together() -> None:
    """Blue-grey fibres in tangles, with grains around them, drawn at 0.5 µm/px."""
    fine = np.full((2400, 2400, 3), 250, np.uint8)
    rng = np.random.default_rng(1)
    for y, x in rng.integers(500, 1900, (12, 2)):
        points = np.cumsum(rng.normal(0, 25, (40, 2)), axis=0).astype(np.int32) + np.array([x, y], np.int32)
        cv2.polylines(fine, [points], False, (90, 95, 120), 8, cv2.LINE_AA)
    for y, x in rng.integers(400, 2000, (150, 2)).tolist():
        cv2.circle(fine, (x, y), int(rng.integers(3, 25)), rng.integers(20, 160, 1).repeat(3).tolist(), -1, cv2.LINE_AA)
    slide = np.asarray(cv2.resize(fine, (600, 600), interpolation=cv2.INTER_AREA), np.uint8)
    assert find_tissue(slide, 2.0).mean() < 0.01


def test_a_swarm_of_bubbles_is_no_tissue() -> None:
    """Thin rims of 10 to 40 px at 0.5 µm/px, with the glass that is seen through them."""
    fine = np.full((2400, 2400, 3), 250, np.uint8)
    rng = np.random.default_rng(2)
    for y, x in rng.normal(1200, 250, (80, 2)).astype(int).tolist():
        cv2.circle(fine, (x, y), int(rng.integers(10, 40)), (60, 60, 60), 4, cv2.LINE_AA)
    slide = np.asarray(cv2.resize(fine, (600, 600), interpolation=cv2.INTER_AREA), np.uint8)
    assert find_tissue(slide, 2.0).mean() < 0.01


def test_a_tiny_biopsy_is_kept() -> None:
    slide = empty_slide()
    true = add_tissue(slide, HE, axes=(90, 22))  # 180 µm wide
    assert overlap(find_tissue(slide, MPP), true) > 0.75


def test_grey_tissue_is_found_by_its_grain() -> None:
    slide = empty_slide()
    true = add_tissue(slide, (185, 185, 185))
    assert overlap(find_tissue(slide, MPP), true) > 0.9


@pytest.mark.parametrize("stain", [HE, PALE_HE, DAB], ids=["he", "pale", "dab"])
def test_a_slide_of_nothing_but_tissue(stain: tuple[int, int, int]) -> None:
    slide = empty_slide()
    add_tissue(slide, stain, axes=(2000, 2000))
    assert find_tissue(slide, MPP).mean() > 0.99


def test_small_lumina_are_filled_and_large_ones_not() -> None:
    slide = empty_slide()
    add_tissue(slide, HE)
    cv2.circle(slide, (350, 300), 20, (252, 252, 252), -1)  # 0.02 mm²
    cv2.circle(slide, (470, 300), 50, (252, 252, 252), -1)  # 0.13 mm²
    found = find_tissue(slide, MPP)
    assert found[300, 350]
    assert not found[300, 470]


def test_the_picture_may_be_one_pixel() -> None:
    assert find_tissue(np.full((1, 1, 3), HE, np.uint8), 8.0).shape == (1, 1)


def test_fluorescence() -> None:
    dark = np.zeros((100, 100, 3), np.uint8)
    assert not looks_fluorescent(dark)
    dark[40:60, 40:60, 2] = 150
    assert looks_fluorescent(dark)
    assert not looks_fluorescent(empty_slide())
    padded = empty_slide()
    add_tissue(padded, HE)
    padded[:, :500] = 0
    assert not looks_fluorescent(padded)


@pytest.mark.parametrize("name", ["TCGA-18-5592-01Z-00-DX1", "TCGA-A7-A13E-01Z-00-DX1"])
def test_real_crops_are_all_tissue(name: str) -> None:
    found = list(DATA.glob(f"monuseg_train/**/{name}*"))
    if not found:
        pytest.skip(f"the real crops are not at {DATA}")
    crop = cv2.cvtColor(np.asarray(cv2.imread(str(found[0]))), cv2.COLOR_BGR2RGB)
    small = cv2.resize(crop, (125, 125), interpolation=cv2.INTER_AREA)
    assert find_tissue(np.asarray(small, np.uint8), 2.0).mean() > 0.98


@pytest.mark.parametrize(
    ("filename", "least", "most"),
    [
        ("EAS2_HE1_20x.tif", 0.09, 0.12),
        ("EAS2_CD20_ihc_20x.tif", 0.07, 0.10),
        ("CMU-1-Small-Region.svs", 0.38, 0.48),
        ("he_20x.ome.tif", 0.70, 0.88),
    ],
)
def test_share_of_tissue_on_real_slides(filename: str, least: float, most: float) -> None:
    from wsiproc.io.slides.open import open_slide, read_overview

    if not (DATA / "slides" / filename).exists():
        pytest.skip(f"the real slides are not at {DATA / 'slides'}")
    with open_slide(DATA / "slides" / filename) as slide:
        seen = read_overview(slide, max_px=2048)
    assert least < find_tissue(seen.pixels, seen.mpp[0]).mean() < most
    assert not looks_fluorescent(seen.pixels)


def test_the_real_fluorescence_slide_is_recognised() -> None:
    from wsiproc.io.slides.open import describe, open_slide

    if not (DATA / "slides").exists():
        pytest.skip(f"the real slides are not at {DATA / 'slides'}")
    with open_slide(DATA / "slides" / "fluorescence_dapi.ndpi") as slide:
        assert describe(slide)["looks_fluorescent"] is True


def test_growing_reaches_as_far_as_it_says() -> None:
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    grown = grow(mask, 5)
    assert grown[20, 15]
    assert grown[25, 20]
    assert not grown[20, 14]
    assert not grown[24, 24]
