from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.psm.shapes import BLUE, ellipse, numbered, stained
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.types import UInt8Array
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.folder import InputNumbers
from wsiproc.models.networks.unet import UNet
from wsiproc.psm import segmenter
from wsiproc.psm.activation.training import OnStep
from wsiproc.psm.labels.composite import Palette, collect_palette
from wsiproc.psm.labels.targets import IGNORE, make_target
from wsiproc.psm.segmenter import (
    Example,
    Training,
    draw_batch,
    jitter,
    mean_weights,
    segmentation_loss,
    train_segmenter,
)
from wsiproc.psm.tiles import Tiles

HE, HDAB = Stains(), Stains("H-DAB", STANDARD["H-DAB"])
DENSITY = Tiles("drawn", (), HE, 1.0).density
INPUT = InputNumbers((0.45, 0.45, 0.45), (0.25, 0.25, 0.25))
SMALL = Training(steps=4, mpp=0.5, crop_px=32, batch=2)


def pixels_of(od: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """The picture (h, w, 3) of an optical density."""
    pixels: npt.NDArray[np.uint8] = (np.array(HE.white) * 10.0**-od).round().astype(np.uint8)
    return pixels


def plain(target: UInt8Array, stains: Stains = HE, group: str = "a") -> Example:
    """A tile that shows its target, in grey, and from which nothing can be pasted."""
    grey = np.where(target[..., :1] == 1, 60, 180).astype(np.uint8).repeat(3, 2)
    return Example(grey, DENSITY, target, Palette((), np.zeros((0, 3), np.float32), stains), group)


def even(value: int, stains: Stains = HE, group: str = "a", side: int = 32) -> Example:
    """A tile whose target is one value everywhere, so that a crop says where it is from."""
    return plain(np.full((side, side, 2), value, np.uint8), stains, group)


def tissue_example(seed: int = 0) -> Example:
    """Nine nuclei, believed, and around each some pixels that nobody is sure of."""
    rng = np.random.default_rng(seed)
    places = [(y, x) for y in (16, 48, 80) for x in (16, 48, 80)]
    labels = numbered(*(ellipse(96, place, rng.uniform(5, 10)) for place in places))
    unsure = np.any([ellipse(96, place, 12) for place in places], axis=0)
    pixels = pixels_of(stained(labels > 0))
    od = np.stack([DENSITY[pixels[..., c], c] for c in range(3)], axis=-1)
    return Example(pixels, DENSITY, make_target(labels, ~unsure), collect_palette(od, labels, HE, 0.5), "drawn")


# --- batches ---------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 100), st.integers(1, 5), st.integers(1, 1000))
def test_a_batch_has_the_range_of_a_scanner_and_the_values_of_a_target(seed: int, number: int, step: int) -> None:
    od, target, _ = draw_batch([tissue_example()], replace(SMALL, seed=seed, round=number), step)
    assert (od.shape, od.dtype) == ((2, 3, 32, 32), torch.float32)
    assert (target.shape, target.dtype) == ((2, 2, 32, 32), torch.uint8)
    assert float(od.min()) >= 0
    assert float(od.max()) <= segmenter._DARKEST_OD
    assert set(np.unique(target).tolist()) <= {0, 1, IGNORE}


def test_seed_round_and_step_decide_a_batch_and_each_of_them_matters() -> None:
    """A training that was killed draws the same again; a later round draws something else."""
    example = tissue_example()
    batches = [
        draw_batch([example], replace(SMALL, seed=seed, round=number), step)[0]
        for seed, number, step in [(0, 1, 1), (0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 1, 2)]
    ]
    assert torch.equal(batches[0], batches[1])
    assert not any(torch.equal(batches[0], other) for other in batches[2:])
    assert not torch.equal(*batches[0].unbind()), "crops of one batch differ"


def test_a_tile_is_not_changed_by_what_is_pasted_into_its_crops() -> None:
    example = tissue_example()
    before = copy.deepcopy(example)
    for step in range(1, 6):
        draw_batch([example], SMALL, step)
    assert np.array_equal(example.pixels, before.pixels)
    assert np.array_equal(example.target, before.target)
    for nucleus, other in zip(example.palette.nuclei, before.palette.nuclei, strict=True):
        assert np.array_equal(nucleus.od, other.od)
        assert np.array_equal(nucleus.inside, other.inside)


def drawn_values(examples: Sequence[Example], count: int = 300) -> npt.NDArray[np.uint8]:
    """The target in the middle of each of many crops."""
    _, target, _ = draw_batch(examples, Training(1, 0.5, crop_px=16, batch=count), 1)
    return target[:, 0, 8, 8].numpy()


def test_every_slide_is_drawn_equally_often_whatever_it_gave() -> None:
    """A slide with twenty tiles does not outweigh one with a single tile."""
    values = drawn_values([even(0, group="large")] * 20 + [even(1, group="small"), even(IGNORE, group="third")])
    shares = [np.mean(values == value) for value in (0, 1, IGNORE)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.1)


def test_slides_with_dab_have_a_fixed_share_of_the_crops() -> None:
    blue = [even(0, group=name) for name in "abcdefghij"]
    brown = [even(1, HDAB, group="brown")]
    assert np.mean(drawn_values(blue + brown)) == pytest.approx(segmenter._SHARE_DAB, abs=0.08)
    assert drawn_values(brown, 10).all()
    assert not drawn_values(blue, 10).any()


def test_picture_and_target_are_cut_turned_and_scaled_together() -> None:
    shape = ellipse(96, (30, 40), 20, 0.5, 0.6)
    example = plain(make_target(shape.astype(np.int32), ~shape), HDAB)  # with DAB, so that no colour is changed
    od, target, _ = draw_batch([example], Training(1, 0.5, crop_px=48, batch=24), 1)
    dark = od[:, 0] > DENSITY[[60, 180], 0].mean()
    assert float((dark == (target[:, 0] == 1)).float().mean()) > 0.98
    assert 0.05 < float(dark.float().mean()) < 0.95


def test_crops_come_in_all_eight_orientations_and_in_several_sizes() -> None:
    corners = np.kron([[0, 1], [IGNORE, IGNORE]], np.ones((8, 8))).astype(np.uint8)
    whole = plain(np.stack([corners, corners], -1), HDAB)  # smaller than a crop, so always taken whole
    _, target, _ = draw_batch([whole], Training(1, 0.5, crop_px=32, batch=120), 1)
    seen = {tuple(crop[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()) for crop in target[:, 0].numpy()}
    assert len(seen) == 8
    stripes = np.broadcast_to((np.arange(256) // 4 % 2)[:, None, None], (256, 256, 2)).astype(np.uint8)
    _, target, _ = draw_batch([plain(stripes, HDAB)], Training(1, 0.5, crop_px=96, batch=60), 1)
    edges = sum((target[:, 0].diff(dim=dim) != 0).float().mean((1, 2)) for dim in (1, 2))
    widths = 1 / np.asarray(edges) / 4  # of a stripe, against what it was
    assert np.quantile(widths, 0.1) < 0.9
    assert np.quantile(widths, 0.9) > 1.1
    assert widths.min() > segmenter._SCALES[0] * 0.9
    assert widths.max() < segmenter._SCALES[1] * 1.1


def test_nuclei_are_pasted_into_nearly_every_crop() -> None:
    """Tissue in which nobody believed anything still teaches, from one colour of a nucleus."""
    bare = replace(even(0, side=64), palette=Palette((), 0.7 * BLUE[None], HE))
    _, target, _ = draw_batch([bare], Training(1, 0.5, crop_px=48, batch=40), 1)
    assert float((target[:, 0] == 1).flatten(1).any(1).float().mean()) > 0.8


def test_crops_of_h_and_e_sometimes_look_like_dab_and_those_of_dab_never_lose_their_colour() -> None:
    """Eosin all but gone."""
    pink = np.zeros((48, 48, 2), np.uint8)
    losses = []
    for stains in (HE, HDAB):
        example = replace(plain(pink, stains), pixels=np.full((48, 48, 3), (225, 130, 180), np.uint8))
        od, _, _ = draw_batch([example], Training(1, 0.5, crop_px=32, batch=100), 1)
        green = od[:, 1].mean((1, 2))
        losses.append(float((green < 0.5 * green.max()).float().mean()))
    assert losses[0] == pytest.approx(segmenter._SHARE_RESTAINED, abs=0.12)
    assert losses[1] == 0


# --- other laboratories ----------------------------------------------------------------------------------------------


def jittered(od: Tensor, seed: int) -> Tensor:
    return jitter(od, torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000))
def test_jitter_is_repeatable_and_leaves_what_it_was_given(seed: int) -> None:
    od = torch.rand(3, 3, 8, 8)
    before = od.clone()
    assert torch.equal(jittered(od, seed), jittered(od, seed))
    assert not torch.equal(jittered(od, seed), jittered(od, seed + 1))
    assert torch.equal(od, before)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(4, 12))
def test_a_nucleus_stays_where_it_was_and_darker_than_what_is_around_it(seed: int, radius: float) -> None:
    """Otherwise its label would be wrong."""
    mask = ellipse(48, (24, 24), radius)
    od = torch.from_numpy(stained(mask, 0.8)).permute(2, 0, 1)[None].repeat(8, 1, 1, 1)
    found = jittered(od, seed)
    assert found.shape == od.shape
    assert bool(found.isfinite().all())
    inside, around = (found[:, 0, torch.from_numpy(m)].mean(1) for m in (mask, ~ellipse(48, (24, 24), radius + 2)))
    assert bool((inside > 1.5 * around).all())


def test_pictures_of_a_batch_become_unlike_each_other_in_strength_colour_noise_and_sharpness() -> None:
    mask = ellipse(48, (24, 24), 8)
    od = torch.from_numpy(stained(mask, 0.8)).permute(2, 0, 1)[None].repeat(200, 1, 1, 1)
    found = jittered(od, 0)
    inside = found[:, :, torch.from_numpy(ellipse(48, (24, 24), 5))].mean(2)
    strength, hue = inside.sum(1), inside[:, 0] / inside.sum(1)
    assert float(strength.std() / strength.mean()) > 0.15
    assert float(hue.std()) > 0.035
    noise = found[:, 1, :8, :8].flatten(1).std(1)
    assert float(noise.min()) < 0.005
    assert 0.02 < float(noise.max()) < 0.1
    edge = found[:, 0, 24].diff(dim=1).abs().amax(1) / (inside[:, 0] - found[:, 0, :6].mean((1, 2)))
    calm = noise < 0.01
    before = float(od[0, 0, 24].diff().abs().max() / (od[0, 0, 24, 24] - od[0, 0, 0, 0]))
    assert float(edge[calm].min()) < 0.9 * before
    assert float(edge[calm].max()) > 1.1 * before


# --- the loss --------------------------------------------------------------------------------------------------------

planes = st.lists(st.sampled_from([0, 1, IGNORE]), min_size=32, max_size=32)


def of(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).reshape(1, 2, 4, 4)


@given(planes, st.integers(0, 100))
def test_ignored_pixels_teach_nothing_and_all_others_something(values: list[int], seed: int) -> None:
    target = of(values)
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    loss = segmentation_loss(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, target != IGNORE)
    assert float(loss.detach()) >= 0


@given(planes)
def test_the_truth_costs_nothing_and_its_opposite_much(values: list[int]) -> None:
    target = of(values)
    truth = torch.where(target == 1, 20.0, -20.0)
    assert float(segmentation_loss(truth, target)) < 1e-6
    for plane in (0, 1):
        wrong = truth.clone()
        wrong[:, plane] *= -1
        assert (float(segmentation_loss(wrong, target)) > 5) == bool((target[:, plane] != IGNORE).any())


def test_a_batch_in_which_all_is_ignored_costs_nothing() -> None:
    assert float(segmentation_loss(torch.randn(2, 2, 4, 4), torch.full((2, 2, 4, 4), IGNORE))) == 0


@given(planes, st.integers(0, 100))
def test_the_loss_does_not_depend_on_how_much_was_looked_at(values: list[int], seed: int) -> None:
    target, logits = of(values), torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    assert float(segmentation_loss(logits.repeat(3, 1, 2, 1), target.repeat(3, 1, 2, 1))) == pytest.approx(
        float(segmentation_loss(logits, target)), rel=1e-5
    )


def test_a_missed_nucleus_costs_more_than_an_invented_one_and_both_more_than_a_wrong_interior() -> None:
    target = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    target[..., :2, :] = 1
    truth = torch.where(target == 1, 20.0, -20.0)

    def cost(plane: int, row: int) -> float:
        wrong = truth.clone()
        wrong[0, plane, row] *= -1
        return float(segmentation_loss(wrong, target))

    missed, invented = cost(0, 0), cost(0, 3)
    assert missed > invented > cost(1, 0) > cost(1, 3)


# --- training --------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 3000))
def test_the_rate_rises_shortly_falls_to_nothing_and_is_never_nothing(steps: int) -> None:
    shares = [segmenter._schedule(step, steps, segmenter._WARM_UP) for step in range(1, steps + 1)]
    top = int(np.argmax(shares))
    assert all(0 < share <= 1 for share in shares)
    assert (np.diff(shares[: top + 1]) > 0).all()
    assert (np.diff(shares[top:]) <= 0).all()
    assert top <= segmenter._WARM_UP
    assert shares[0] < 0.1
    assert steps < 500 or (max(shares) > 0.9 and shares[-1] < 0.001)


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return UNet((4, 8))


def trained(
    training: Training = SMALL,
    net: nn.Module | None = None,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    return train_segmenter(net or fresh(), [tissue_example()], training, INPUT, checkpoint=checkpoint, on_step=on_step)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_network_learns_nuclei_and_comes_back_ready_for_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tissue that it has not seen, after seconds."""
    monkeypatch.setattr(segmenter, "_WARM_UP", 5)
    net = fresh()
    before, steps = copy.deepcopy(net), []
    training = Training(steps=20, mpp=0.5, crop_px=32, batch=4, lr=0.05)
    learned = trained(training, net, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(1, 21))
    assert not learned.training
    assert same(net, before), "the network that was given is left as it was"
    od, target = tissue_example(5).cut(0, 0, 96)
    with torch.no_grad():
        found = learned(network_input(torch.from_numpy(od).permute(2, 0, 1)[None], 1.0, INPUT)).sigmoid()[0].numpy()
    nuclei, deep = (target[..., plane] == 1 for plane in (0, 1))
    assert found[0][nuclei].mean() > found[0][~nuclei].mean() + 0.3
    assert found[1][deep].mean() > found[1][~deep].mean()


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    one = trained()
    torch.rand(100)
    assert same(one, trained())
    assert not same(one, trained(replace(SMALL, seed=1)))
    assert not same(one, trained(replace(SMALL, round=2)))


def flat(state: dict[str, Tensor]) -> Tensor:
    """All weights of a network that training moves, as one vector."""
    return torch.cat([state[name].flatten() for name, _ in fresh().named_parameters()])


def test_the_mean_of_two_networks_lies_halfway_and_keeps_its_counters() -> None:
    one, other = (UNet((4, 6), 2) for _ in range(2))
    with torch.no_grad():
        other(torch.randn(2, 3, 32, 32))  # batch norms count what they see
    mean = mean_weights(one, other)
    assert mean.keys() == one.state_dict().keys()
    for name, value in mean.items():
        old, new = one.state_dict()[name], other.state_dict()[name]
        expected = (old + new) / 2 if old.dtype.is_floating_point else new
        torch.testing.assert_close(value, expected)
        assert value.dtype == old.dtype


def test_what_comes_back_is_a_mean_in_which_each_step_weighs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the weights of the last step, which are noisy."""
    monkeypatch.setattr(segmenter, "_CHECKPOINT_STEPS", 1)
    path, states = tmp_path / "round.pt", [{"average": fresh().state_dict()}]

    def note(*_: object) -> None:
        if path.exists():
            states.append(torch.load(path))

    learned = trained(replace(SMALL, steps=8, lr=1e-2), checkpoint=path, on_step=note)
    states.append(torch.load(path))
    means = [flat(state["average"]) for state in states]
    assert torch.equal(means[-1], flat(learned.state_dict()))
    weights = []
    for old, mean, state in zip(means[:-1], means[1:], states[1:], strict=True):
        away = flat(state["net"]) - old
        weights.append(float((mean - old) @ away / (away @ away)))
        assert torch.allclose(mean, old + weights[-1] * away, atol=1e-6)
    assert len(weights) == 8
    assert all(0 < later < earlier < 1 for earlier, later in itertools.pairwise(weights))


def stopped(training: Training, at: int, checkpoint: Path) -> None:
    """A training that is interrupted at a step."""

    def stop(step: int, _: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(training, checkpoint=checkpoint, on_step=stop)


@pytest.mark.parametrize(("at", "goes_on_with"), [(1, 1), (2, 1), (3, 3), (5, 5)])
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    at: int, goes_on_with: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "_CHECKPOINT_STEPS", 2)
    training, path, steps = replace(SMALL, steps=5), tmp_path / "round.pt", []
    stopped(training, at, path)
    found = trained(training, checkpoint=path, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(goes_on_with, 6))
    assert same(found, trained(training))
    assert [entry.name for entry in tmp_path.iterdir()] == ["round.pt"]


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    steps: list[int] = []
    one = trained(checkpoint=tmp_path / "round.pt")
    again = trained(checkpoint=tmp_path / "round.pt", on_step=lambda step, _: steps.append(step))
    assert steps == []
    assert same(one, again)
    assert not again.training


class _Harmful:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.touched,)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    path, touched = tmp_path / "round.pt", tmp_path / "touched"
    torch.save({"net": _Harmful(touched), "step": 1}, path)
    with pytest.raises(pickle.UnpicklingError):
        trained(checkpoint=path)
    assert not touched.exists()


def flushed() -> bool:
    """Whether numbers too small for a normal float32 count as nothing."""
    return float(torch.tensor(1e-40) * 1) == 0


@pytest.fixture(scope="module")
def can_flush() -> bool:
    """Not every processor can."""
    able = torch.set_flush_denormal(True)
    torch.set_flush_denormal(False)
    return able


def test_small_numbers_are_flushed_while_a_network_trains_and_count_again_afterwards(
    can_flush: bool, tmp_path: Path
) -> None:
    assert not flushed()
    seen: list[bool] = []
    trained(on_step=lambda *_: seen.append(flushed()))
    assert seen == [can_flush] * SMALL.steps
    assert not flushed()
    stopped(SMALL, 2, tmp_path / "round.pt")
    assert not flushed(), "after an interruption too"
