from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.psm.shapes import BLUE, BROWN, PINK, Floats, ellipse, numbered, stained
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.types import UInt8Array
from wsiproc.psm.labels import composite
from wsiproc.psm.labels.composite import Palette, collect_palette, paste_nuclei
from wsiproc.psm.labels.targets import IGNORE, interior, make_target

SIDE, MPP = 64, 0.5
HE, HDAB = Stains(), Stains("H-DAB", STANDARD["H-DAB"])
seeds = st.integers(0, 10_000)


def ground(value: int = 0, strength: float = 0.2) -> tuple[Floats, UInt8Array]:
    """Pink tissue without nuclei, and a target that says ``value`` everywhere."""
    od = np.broadcast_to(np.float32(strength) * PINK, (SIDE, SIDE, 3)).astype(np.float32)
    return od, np.full((SIDE, SIDE, 2), value, np.uint8)


def one_colour(colour: Floats = 0.7 * BLUE, stains: Stains = HE) -> Palette:
    """Nothing but a colour: all nuclei are drawn."""
    return Palette((), colour[None].astype(np.float32), stains)


def crops(palette: Palette, count: int = 60, mpp: float = MPP, **start: float) -> list[tuple[Floats, UInt8Array]]:
    """Crops with nuclei pasted into plain tissue, a seed each."""
    made = []
    for seed in range(count):
        od, target = ground(**start)  # type: ignore[arg-type]
        paste_nuclei(od, target, palette, mpp, np.random.default_rng(seed))
        made.append((od, target))
    return made


# --- what can be pasted ----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.floats(3, 8), min_size=1, max_size=4), st.integers(0, 3))
def test_a_palette_holds_every_believed_nucleus_and_its_mean_colour(radii: list[float], missing: int) -> None:
    """Also at the border of the tile, and where a number is missing since its object was not accepted."""
    masks = [ellipse(SIDE, (32 * (i // 2), 4 + 36 * (i % 2)), radius) for i, radius in enumerate(radii)]
    labels = numbered(*masks)
    labels[labels == missing] = 0
    od = np.random.default_rng(0).random((SIDE, SIDE, 3)).astype(np.float32)
    palette = collect_palette(od, labels, HE, 0.5)
    numbers = np.unique(labels[labels > 0])
    assert len(palette.nuclei) == len(numbers)
    assert palette.colours.shape == (len(numbers), 3)
    for number, nucleus, colour in zip(numbers, palette.nuclei, palette.colours, strict=True):
        assert colour == pytest.approx(od[labels == number].mean(axis=0), abs=1e-5)
        assert nucleus.inside.sum() == (labels == number).sum()
        assert nucleus.od.shape[:2] == nucleus.opacity.shape == nucleus.inside.shape == nucleus.interior.shape
        assert (nucleus.opacity[nucleus.inside] > 0.5).all()
        assert not (nucleus.interior & ~nucleus.inside).any()


def test_large_objects_are_not_cut_out_since_they_are_seldom_one_nucleus() -> None:
    labels = numbered(ellipse(96, (48, 48), 30), ellipse(96, (8, 8), 6))
    assert len(collect_palette(np.ones((96, 96, 3), np.float32), labels, HE, 0.5).nuclei) == 1


def test_a_cut_out_is_a_copy() -> None:
    od, labels = np.ones((SIDE, SIDE, 3), np.float32), numbered(ellipse(SIDE, (32, 32), 6))
    palette = collect_palette(od, labels, HE, 0.5)
    od[:] = 0
    assert (palette.nuclei[0].od == 1).all()


def test_a_palette_without_nuclei_pastes_nothing() -> None:
    empty = collect_palette(np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.int32), HE, 0.5)
    assert empty.colours.shape == (0, 3)
    for od, target in crops(empty, 5):
        assert np.array_equal(od, ground()[0])
        assert not target.any()


@pytest.mark.parametrize(("stains", "dab"), [(HE, False), (HDAB, True)])
def test_brown_is_expected_where_the_stain_is_dab(stains: Stains, dab: bool) -> None:
    assert one_colour(stains=stains).dab is dab


# --- what pasting does -----------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seeds, st.sampled_from([0, 1, IGNORE]), st.booleans())
def test_a_crop_stays_a_crop_and_a_target_a_target(seed: int, value: int, dab: bool) -> None:
    od, target = ground(value)
    paste_nuclei(od, target, one_colour(stains=HDAB if dab else HE), MPP, np.random.default_rng(seed))
    assert od.shape == (SIDE, SIDE, 3)
    assert [od.dtype, target.dtype] == [np.dtype(np.float32), np.dtype(np.uint8)]
    assert np.isfinite(od).all()
    assert od.min() >= 0
    assert set(np.unique(target)) <= {0, 1, IGNORE}
    if value != 1:
        assert (target[..., 0] == 1).any()
    if value != IGNORE:
        assert not ((target[..., 1] == 1) & (target[..., 0] != 1)).any(), "an interior outside of every nucleus"


def test_the_same_seed_pastes_the_same() -> None:
    palette = real_nuclei()
    for (one, first), (other, second) in zip(crops(palette, 10), crops(palette, 10), strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(first, second)


def test_what_is_called_nucleus_is_seen_and_keeps_its_colour() -> None:
    """Blue on bare glass: all that was pasted is blue to pale blue, and all of it visible."""
    shades = np.concatenate([od[target[..., 0] == 1] for od, target in crops(one_colour(), strength=0.0)])
    strengths = np.linalg.norm(shades, axis=1)
    assert np.mean(strengths > 0.05) > 0.97
    assert np.median(shades @ BLUE / np.maximum(strengths, 1e-6)) > 0.98
    assert np.percentile(strengths, 90) > 3 * np.percentile(strengths, 10), "pale ones and dark ones"


def texture(od: Floats, target: UInt8Array) -> list[tuple[float, float]]:
    """Of each nucleus: spread ÷ mean of its interior, and its interior ÷ the darker part of its rim."""
    density, facts = od.sum(axis=-1), []
    parts, count = ndimage.label(target[..., 1] == 1)
    for number in range(1, count + 1):
        deep = parts == number
        rim = ndimage.binary_dilation(deep, iterations=2) & ~deep & (target[..., 0] == 1)
        if 20 < deep.sum() < 300 and rim.any():
            mean = density[deep].mean()
            facts.append((density[deep].std() / mean, mean / np.percentile(density[rim], 75)))
    return facts


def test_drawn_nuclei_are_even_or_clumped_and_some_have_a_pale_middle_in_a_dark_rim() -> None:
    """The last are what the pseudo-labellers miss."""
    spread, middle = np.array([fact for crop in crops(one_colour(), 40, strength=0.0) for fact in texture(*crop)]).T
    assert np.mean(spread < 0.1) > 0.05
    assert np.mean(spread > 0.25) > 0.15
    assert 0.12 < np.mean(middle < 0.75) < 0.6


def test_where_there_is_dab_nuclei_are_pasted_in_blue_and_brown_of_all_strengths() -> None:
    colour = 0.4 * BLUE + 0.3 * BROWN
    for stains, both in ((HDAB, True), (HE, False)):
        made = crops(one_colour(colour, stains), 40, strength=0.0)
        shades = np.concatenate([od[target[..., 1] == 1] for od, target in made])
        excess = (shades[:, 2] - shades[:, 0]) / np.maximum(shades.sum(axis=1), 1e-6)
        blue, brown = ((v[2] - v[0]) / v.sum() for v in (BLUE, BROWN))
        near = [np.mean(np.abs(excess - kind) < 0.1) > 0.05 for kind in (blue, brown)]
        assert near == [both, both]
        assert not both or np.percentile(shades.sum(axis=1), 98) > 5 * np.percentile(shades.sum(axis=1), 20)


def test_sizes_are_those_of_nuclei_at_the_resolution_of_the_crop() -> None:
    fine, coarse = (np.mean([target[..., 0].mean() for _, target in crops(one_colour(), 30, m)]) for m in (0.4, 0.8))
    assert fine > 1.5 * coarse


def test_holes_are_pasted_as_background_and_are_pale() -> None:
    """As round as a nucleus, and none: the network must not learn roundness alone."""
    holes = [od[target[..., 0] == 0] for od, target in crops(one_colour(), 60, value=1, strength=0.5)]
    found = [hole for hole in holes if len(hole) > 20]
    assert 4 < len(found) < 30
    assert np.median(np.concatenate(found).sum(axis=1)) < 0.2 * 0.5 * PINK.sum()


def test_clouds_of_stain_are_pasted_and_are_no_nuclei() -> None:
    """Far from every pasted nucleus, some crops are darker than the tissue was."""
    cloudy = []
    for od, target in crops(one_colour(), 50):
        away = ~ndimage.binary_dilation(target[..., 0] == 1, iterations=4)
        cloudy.append((od[away, 0] > 1.3 * 0.2 * PINK[0]).mean() > 0.05)
    assert 5 < sum(cloudy) < 30


# --- real nuclei -----------------------------------------------------------------------------------------------------


def real_nuclei() -> Palette:
    """Four accepted nuclei of 14 px, equal and longish."""
    labels = numbered(*(ellipse(SIDE, (16 + 32 * (i // 2), 16 + 32 * (i % 2)), 7, 0.7, 0.5) for i in range(4)))
    return collect_palette(stained(labels > 0), labels, HE, 0.5)


@pytest.fixture
def only_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real nuclei in every crop, so that what was pasted is known."""
    monkeypatch.setattr(composite, "_REAL", 1.0)


@pytest.mark.usefixtures("only_real")
def test_real_nuclei_are_pasted_whole_with_the_interior_that_labels_would_have() -> None:
    nucleus = real_nuclei().nuclei[0]
    assert np.mean(nucleus.interior == interior(nucleus.inside.astype(np.int32))) > 0.9
    for od, target in crops(real_nuclei(), 20, strength=0.0):
        assert np.percentile(od[target[..., 1] == 1] @ BLUE, 5) > 0.3 * 0.6 * 0.8
        parts, count = ndimage.label(target[..., 0] == 1)
        areas = ndimage.sum_labels(target[..., 0] == 1, parts, np.arange(1, count + 1))
        assert areas.max() >= nucleus.inside.sum()


@pytest.mark.usefixtures("only_real")
def test_a_pasted_nucleus_hides_what_lay_there() -> None:
    """Even on tissue much darker than itself; what fades is its edge."""
    darkest = max(float(nucleus.od[nucleus.interior].sum(axis=-1).max()) for nucleus in real_nuclei().nuclei)
    for od, target in crops(real_nuclei(), 20, strength=1.5):
        assert np.percentile(od[target[..., 1] == 1].sum(axis=1), 90) < 1.2 * darkest


@pytest.mark.usefixtures("only_real")
def test_nuclei_on_top_of_each_other_keep_apart_in_the_plane_of_interiors() -> None:
    """A part of that plane is never larger than the interior of one nucleus, however they lie."""
    largest = max(nucleus.interior.sum() for nucleus in real_nuclei().nuclei)
    merged = 0
    for _, target in crops(real_nuclei(), 40):
        parts, count = ndimage.label(target[..., 1] == 1)
        assert ndimage.sum_labels(target[..., 1] == 1, parts, np.arange(1, count + 1)).max() <= largest
        clumps, clump_count = ndimage.label(target[..., 0] == 1)
        sizes = ndimage.sum_labels(target[..., 0] == 1, clumps, np.arange(1, clump_count + 1))
        merged += sizes.max() > 1.2 * real_nuclei().nuclei[0].inside.sum()
    assert merged > 10, "many do touch"


def borders_of_nuclei(target: UInt8Array) -> list[int]:
    """Sizes of the parts of the crop that are no interior, those that lie within it and hold no hole."""
    parts, count = ndimage.label(target[..., 1] == 0, np.ones((3, 3)))
    open_ones = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    holes = np.unique(parts[target[..., 0] == 0])
    whole = set(range(1, count + 1)) - set(open_ones.tolist()) - set(holes.tolist())
    return [int((parts == number).sum()) for number in whole]


@pytest.mark.usefixtures("only_real")
def test_a_nucleus_over_another_takes_the_border_of_its_neighbour_out_of_the_interior() -> None:
    """Pasted into what is all interior, each is surrounded by its own border and by one pixel more."""
    nucleus = real_nuclei().nuclei[0]
    wide = ndimage.binary_dilation(np.pad(nucleus.inside, 2), np.ones((3, 3)))
    found = [size for _, target in crops(real_nuclei(), 20, value=1) for size in borders_of_nuclei(target)]
    assert len(found) > 10
    assert min(found) == wide.sum() - nucleus.interior.sum()


@settings(max_examples=30)
@given(seeds)
def test_a_target_made_of_labels_takes_what_is_pasted(seed: int) -> None:
    """Beside believed nuclei and ignored pixels, planes stay consistent."""
    labels = numbered(ellipse(SIDE, (20, 20), 8), ellipse(SIDE, (44, 40), 7))
    od, target = stained(labels > 0), make_target(labels, ellipse(SIDE, (32, 32), 24))
    before = target.copy()
    paste_nuclei(od, target, real_nuclei(), MPP, np.random.default_rng(seed))
    assert not ((target[..., 1] == 1) & (target[..., 0] != 1)).any()
    became = target[..., 0] != before[..., 0]
    assert set(np.unique(target[became, 0])) <= {0, 1}, "nothing becomes ignored by pasting"
