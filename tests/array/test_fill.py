"""Fill of any colour is glass to whoever reads the slide, however the reading is cut up."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiproc.array.fill import find_fill, where_filled, without_fill
from wsiproc.array.tissue import PixelClass, classify_overview
from wsiproc.core.geometry import Box
from wsiproc.synthetic import Scene

UInt8Array = npt.NDArray[np.uint8]
MPP = 2.0


@cache
def drawn(seed: int = 0) -> UInt8Array:
    """1 × 1 mm with tissue, at 2 µm/px."""
    scene = Scene((512, 512), mpp=MPP, seed=seed, tissue_fraction=0.5)
    return np.asarray(scene.render(Box(0, 0, 512, 512)), np.uint8)


@pytest.mark.parametrize("colour", [(0, 0, 0), (64, 64, 64), (128, 128, 128), (0, 255, 0), (255, 0, 255)])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 3), y=st.integers(0, 400), x=st.integers(0, 400), side=st.integers(40, 300))
def test_fill_over_tissue_is_no_tissue_and_elsewhere_nothing_changes(
    colour: tuple[int, int, int], seed: int, y: int, x: int, side: int
) -> None:
    whole = drawn(seed)
    masked = whole.copy()
    masked[y : y + side, x : x + side] = colour
    fill = find_fill(masked)
    assert fill is not None
    assert len(fill.colours) == 1
    box = (slice(y, y + side), slice(x, x + side))
    seen = classify_overview(masked, MPP)
    assert (seen[box] != PixelClass.TISSUE).all()
    assert (seen[box] != PixelClass.GLASS).all()
    painted = without_fill(masked, fill)
    assert (painted[box] == fill.background).all()
    far = np.ones(whole.shape[:2], bool)
    far[max(0, y - 1) : y + side + 1, max(0, x - 1) : x + side + 1] = False
    assert (painted[far] == masked[far]).all()


def test_no_fill_on_an_ordinary_slide() -> None:
    assert find_fill(drawn()) is None
    assert find_fill(np.full((200, 200, 3), 255, np.uint8)) is None
    assert find_fill(np.full((200, 200, 3), (243, 242, 245), np.uint8)) is None


@settings(max_examples=10, deadline=None)
@given(y=st.integers(1, 300), x=st.integers(1, 300), h=st.integers(1, 200), w=st.integers(1, 200))
def test_a_piece_is_painted_as_the_whole_is(y: int, x: int, h: int, w: int) -> None:
    masked = drawn(3)
    masked[100:250, 50:400] = 0
    fill = find_fill(masked)
    assert fill is not None
    whole = without_fill(masked, fill)
    piece = without_fill(masked[y - 1 : y + h + 1, x - 1 : x + w + 1], fill)[1:-1, 1:-1]
    assert (piece == whole[y : y + h, x : x + w]).all()


def test_black_with_the_noise_of_compression_is_fill() -> None:
    masked = drawn(1)
    noise = np.random.default_rng(0).integers(0, 9, (200, 200, 3))
    masked[:200, :200] = noise
    fill = find_fill(masked)
    assert fill is not None
    assert where_filled(masked, fill)[:200, :200].all()
    assert (classify_overview(masked, MPP)[:198, :198] == PixelClass.FILL).all()


@pytest.mark.parametrize("width_px", [15, 50, 150])
def test_black_that_fades_is_ink_and_black_that_ends_is_fill(width_px: int) -> None:
    """Also where the overview was reduced, so that one px between the two is mixed of both."""
    edge = np.zeros((512, 512), np.float32)
    cv2.line(edge, (20, 60), (490, 400), 1.0, width_px)
    for fading_px, is_fill in ((0.0, True), (0.5, True), (1.5, False)):
        amount = cv2.GaussianBlur(edge, (0, 0), fading_px) if fading_px else edge
        marked = np.rint(drawn(2) ** (1 - amount[..., None]) * 45.0 ** amount[..., None]).astype(np.uint8)
        fill = find_fill(marked)
        assert (fill is not None) == is_fill
        assert (
            classify_overview(marked, MPP)[amount > 0.95] == (PixelClass.FILL if is_fill else PixelClass.PEN)
        ).mean() > 0.98


def test_a_black_stroke_of_uneven_thickness_is_ink_throughout() -> None:
    """Its thickest parts are as black as fill, in patches; what lies between them is ink too, not tissue."""
    amount = np.zeros((512, 512), np.float32)
    cv2.line(amount, (-20, 200), (530, 330), 1.0, 120)
    amount = np.asarray(cv2.GaussianBlur(amount, (0, 0), 2.0), np.float32)
    uneven = np.random.default_rng(0).normal(1.1, 0.15, (18, 18)).astype(np.float32)
    thickness = amount * cv2.resize(uneven, (512, 512), interpolation=cv2.INTER_CUBIC)
    lost = np.exp(-thickness[..., None] * -np.log(np.array([25, 25, 30], np.float32) / 255))
    marked = np.rint(drawn(2) * lost).astype(np.uint8)
    assert ((marked.max(axis=-1) < 16) & (amount > 0.95)).sum() > 1000
    assert find_fill(marked) is None
    assert (classify_overview(marked, MPP)[amount > 0.95] == PixelClass.PEN).mean() > 0.98
