from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.psm.drawn_tissue import Drawn, tissue
from tests.psm.shapes import BLUE, BROWN, Floats, Mask, ellipse, iou, numbered, stained
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.types import Int32Array, UInt8Array
from wsiproc.models.cells import CutRule, SplitLengths
from wsiproc.models.folder import InputNumbers
from wsiproc.models.networks.unet import UNet
from wsiproc.psm.labels.labelling import (
    agreed_labels,
    classical_labels,
    density,
    make_example,
    mean_of_views,
    network_labels,
    stands_out,
)
from wsiproc.psm.labels.targets import IGNORE
from wsiproc.psm.tiles import Tiles

MPP = 0.5
CUT, SPLIT = CutRule(threshold=0.6), SplitLengths()
PLAIN = InputNumbers()


def tiles_of(*pictures: npt.NDArray[np.uint8], stains: Stains | None = None, gain: float = 1.0) -> Tiles:
    return Tiles("drawn", pictures, stains or Stains(white=(243.0, 243.0, 245.0)), gain)


# --- what the pseudo-labellers find
# ------------------------------------------------------------------------------------


def test_density_is_that_of_the_tile_with_the_gain_in_it(drawn: Drawn) -> None:
    tiles = tiles_of(drawn[0] * 0, drawn[0], gain=1.3)
    expected = 1.3 * np.log10(np.array(tiles.stains.white) / np.maximum(drawn[0], 1.0)).clip(min=0)
    assert density(tiles, 1) == pytest.approx(expected, abs=1e-5)


def test_the_classical_model_answers_for_every_pixel_of_every_tile(drawn: Drawn) -> None:
    picture, truth = drawn
    found = classical_labels(tiles_of(picture[:131, :117], picture[:70]), MPP)
    assert [labels.shape for labels, _ in found] == [(131, 117), (70, 192)]
    assert [probability.shape for _, probability in found] == [(131, 117), (70, 192)]
    assert iou(found[0][1] > 127, truth[:131, :117] > 0) > 0.6


def test_all_tiles_have_one_threshold(drawn: Drawn) -> None:
    """Half a tile is answered as it is in the whole, away from the cut, though one half has more nuclei."""
    picture = drawn[0].copy()
    picture[:, 96:] = picture[:, 96:] // 3 + 160
    ((_, whole),) = classical_labels(tiles_of(picture), MPP)
    (_, left), (_, right) = classical_labels(tiles_of(picture[:, :96], picture[:, 96:]), MPP)
    for half, same in ((left[:, :64], whole[:, :64]), (right[:, 32:], whole[:, 128:])):
        assert np.abs(half.astype(int) - same).max() <= 2


@pytest.fixture(scope="module")
def asked(drawn: Drawn) -> tuple[Floats, tuple[Int32Array, npt.NDArray[np.uint8]], Mask]:
    """Optical density of synthetic tissue, what the classical model says, the true mask."""
    tiles = tiles_of(drawn[0])
    return density(tiles, 0), classical_labels(tiles, MPP)[0], drawn[1] > 0


def test_what_all_three_pseudo_labellers_see_is_nearly_always_a_nucleus(
    asked: tuple[Floats, tuple[Int32Array, npt.NDArray[np.uint8]], Mask], drawn: Drawn
) -> None:
    od, classical, nuclei = asked
    accepted, target = agreed_labels(od, classical, nuclei.astype(np.float32), MPP)
    numbers = np.unique(accepted[accepted > 0])
    true = [max(iou(accepted == n, drawn[1] == k) for k in np.unique(drawn[1][accepted == n])[-2:]) for n in numbers]
    assert len(numbers) > 15
    assert np.mean(np.array(true) > 0.5) > 0.85
    assert nuclei[target[..., 0] == 0].mean() < 0.02, "what is called background is"
    assert np.array_equal(target[..., 0] == 1, accepted > 0)
    assert 0.01 < np.mean(target[..., 0] == IGNORE) < 0.4


def test_each_pseudo_labeller_can_say_no(asked: tuple[Floats, tuple[Int32Array, npt.NDArray[np.uint8]], Mask]) -> None:
    """What only some of them saw is neither nucleus nor background."""
    od, (labels, probability), nuclei = asked
    activation = nuclei.astype(np.float32)
    silent = (np.zeros_like(labels), np.zeros_like(probability))
    answers = (
        agreed_labels(od, (labels, probability), 1 - activation, MPP),
        agreed_labels(od, silent, activation, MPP),
        agreed_labels(od * 0, (labels, probability), activation, MPP),
    )
    for accepted, target in answers:
        assert not accepted.any()
        assert not (target[..., 0] == 1).any()
        assert (target[..., 0] == IGNORE).any()


# --- what stands out -------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.floats(2, 20), st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.booleans())
def test_an_object_stands_out_if_the_map_is_higher_on_it_than_around_it(
    radius: float, inside: float, outside: float, beside: bool
) -> None:
    """At every size; a neighbour that is brighter still does not count as what is around it."""
    assume(abs(inside - outside) > 0.01)
    mask, neighbour = ellipse(96, (48, 32), radius), ellipse(96, (48, 32 + radius + 15), 12)
    labels = numbered(mask, neighbour & beside)
    activation = np.where(labels == 1, inside, np.where(labels == 2, 1.0, outside)).astype(np.float32)
    assert stands_out(labels, activation, MPP).tolist() == [inside > outside, True][: 1 + beside]


def test_what_is_around_is_looked_for_nearby() -> None:
    """The tissue far away may be as high as it likes."""
    labels = ellipse(96, (48, 48), 8).astype(np.int32)
    activation = np.where(labels == 1, 0.5, np.where(ellipse(96, (48, 48), 22), 0.3, 0.9)).astype(np.float32)
    assert stands_out(labels, activation, MPP).tolist() == [True]


def test_an_object_with_nothing_around_it_does_not_stand_out() -> None:
    labels = np.ones((64, 64), np.int32)
    assert stands_out(labels, np.ones(labels.shape, np.float32), MPP).tolist() == [False]


def test_numbers_of_no_object_and_no_objects_at_all() -> None:
    labels = numbered(ellipse(96, (24, 24), 8), np.zeros((96, 96), bool), ellipse(96, (72, 72), 8))
    assert stands_out(labels, (labels > 0).astype(np.float32), MPP).tolist() == [True, False, True]
    assert stands_out(labels * 0, np.ones(labels.shape, np.float32), MPP).shape == (0,)


# --- what a network sees ---------------------------------------------------------------------------------------------


class Absorbs(nn.Module):
    """Red optical density as the logit of a nucleus, green as that of its interior; no context, so known by hand."""

    def forward(self, pictures: Tensor) -> Tensor:
        return torch.stack([12 * (pictures[:, 0] - 0.5), 12 * (pictures[:, 1] - 0.5)], 1)


@settings(max_examples=15)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 1000))
def test_views_are_averaged_where_they_belong(h: int, w: int, seed: int) -> None:
    """Each pixel by itself, in tiles of any size: what it gets as it is and in a stronger stain."""
    od = np.random.default_rng(seed).random((h, w, 3)).astype(np.float32)
    found = mean_of_views(Absorbs(), od, PLAIN, "cpu")
    for plane, probability in enumerate(found):
        both = [1 / (1 + np.exp(-12 * (np.sqrt(gain * od[..., plane]) - 0.5))) for gain in (1.0, 1.15)]
        assert probability == pytest.approx(np.mean(both, axis=0), abs=0.02)  # bfloat16 where a processor has it


def test_a_network_sees_sides_that_it_can_halve() -> None:
    """However odd the tile; here five times."""
    found = mean_of_views(UNet((2, 2, 2, 2, 2, 2)).eval(), np.ones((45, 51, 3), np.float32), PLAIN, "cpu")
    assert [plane.shape for plane in found] == [(45, 51), (45, 51)]


def test_views_leave_no_trace_in_the_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.BatchNorm2d(2)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mean_of_views(net, np.ones((40, 40, 3), np.float32), PLAIN, "cpu")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def seen(od: Floats) -> tuple[Int32Array, UInt8Array]:
    return network_labels(Absorbs(), od, PLAIN, CUT, SPLIT, MPP, "cpu")


def test_what_the_network_finds_and_the_picture_supports_is_learned_next() -> None:
    """A crescent is found as surely as a disc, but no nucleus looks so: nobody learns anything from it."""
    disc = ellipse(128, (40, 40), 10)
    crescent = ellipse(128, (84, 84), 20) & ~ellipse(128, (84, 93), 18)
    accepted, target = seen(stained(disc | crescent, 1.4, 0.0))
    assert iou(accepted > 0, disc) > 0.7
    assert (target[accepted > 0, 0] == 1).all()
    assert (target[crescent, 0] == IGNORE).mean() > 0.8
    assert not (target[crescent, 0] == 1).any()
    assert target[4, 4].tolist() == [0, 0]
    assert target[40, 40].tolist() == [1, 1]


@pytest.mark.parametrize("red", [0.0, 0.29])
def test_where_the_network_is_not_sure_nothing_is_learned(red: float) -> None:
    """A probability just above one half is no nucleus and no background."""
    od = np.zeros((64, 64, 3), np.float32)
    od[..., 0] = red
    accepted, target = seen(od)
    assert not accepted.any()
    assert np.unique(target).tolist() == [IGNORE if red else 0]


# --- what a tile teaches ---------------------------------------------------------------------------------------------


def test_an_example_is_the_tile_with_what_was_believed_in_it(drawn: Drawn) -> None:
    tiles = tiles_of(drawn[0] * 0, drawn[0])
    accepted = np.where(drawn[1] > 0, drawn[1] % 7, 0).astype(np.int32)
    target = np.repeat((accepted > 0)[..., None], 2, 2).astype(np.uint8)
    example = make_example(tiles, 1, accepted, target, MPP)
    assert example.group == "drawn"
    assert np.array_equal(example.pixels, drawn[0])
    assert np.array_equal(example.target, target)
    od, cut = example.cut(20, 30, 64)
    assert np.array_equal(od, density(tiles, 1)[20:84, 30:94])
    assert np.array_equal(cut, target[20:84, 30:94])


def test_where_there_is_dab_tissue_that_absorbs_is_no_background() -> None:
    """A pale blue nucleus is easily missed next to brown ones; bare ground stays background."""
    brown, pale = ellipse(96, (30, 30), 9), ellipse(96, (66, 66), 9)
    od = np.where(brown[..., None], 1.2 * BROWN, np.where(pale[..., None], 0.4 * BLUE, 0.0))
    picture = (243 * 10.0**-od).astype(np.uint8)
    target = np.repeat(brown[..., None], 2, 2).astype(np.uint8)
    before = target.copy()
    for stains in (Stains("H-DAB", STANDARD["H-DAB"]), Stains()):
        tiles = tiles_of(picture, stains=stains)
        found = make_example(tiles, 0, brown.astype(np.int32), target, MPP).target
        left_out = stains.kind == "H-DAB"
        assert (found[66, 66] == (IGNORE if left_out else 0)).all()
        assert (found[brown] == 1).all()
        assert (found[4:10, 80:90] == 0).all()
    assert np.array_equal(target, before)


def test_palettes_of_synthetic_tissue_have_the_colours_of_its_nuclei() -> None:
    picture, truth = tissue(2, stain="HDAB")
    tiles = tiles_of(picture, stains=Stains("H-DAB", STANDARD["H-DAB"], (243.0, 243.0, 245.0)))
    _, accepted = np.unique(truth, return_inverse=True)
    example = make_example(
        tiles, 0, accepted.reshape(truth.shape).astype(np.int32), np.zeros((*truth.shape, 2), np.uint8), MPP
    )
    assert len(example.palette.nuclei) > 20
    assert example.palette.colours.sum(axis=1).min() > np.median(density(tiles, 0)[truth == 0].sum(axis=1))
