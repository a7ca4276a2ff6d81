from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.psm.drawn_tissue import tissue
from wsiproc.models.networks.unet import SmallResNet
from wsiproc.psm.activation.objectives import MeanValue, SimSiam
from wsiproc.psm.activation.training import random_crops, train_activation

PICTURES = [tissue(seed)[0] for seed in (1, 2)]


def trained(seed: int, losses: list[float] | None = None, steps: int = 3) -> nn.Module:
    torch.manual_seed(7)
    net, objective = SmallResNet(4, 64), SimSiam()
    note = None if losses is None else lambda _, loss: losses.append(loss)
    return train_activation(
        net, objective, PICTURES, steps=steps, crop_px=32, batch=4, seed=seed, lr=1e-3, on_step=note
    )


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    one = trained(0).state_dict()
    np.random.default_rng().random()
    torch.rand(100)
    again, other = trained(0).state_dict(), trained(1).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_loss_falls_and_the_network_comes_back_ready() -> None:
    losses: list[float] = []
    torch.manual_seed(7)
    net = train_activation(
        SmallResNet(4),
        MeanValue(),
        PICTURES,
        steps=60,
        crop_px=32,
        batch=4,
        seed=0,
        lr=3e-3,
        on_step=lambda step, loss: losses.append(loss) if step == len(losses) + 1 else None,
    )
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:5])
    assert not net.training


def test_half_precision_is_used_only_where_asked() -> None:
    found: dict[bool, torch.dtype] = {}
    for half in (False, True):
        net = SmallResNet(4)
        hook = net.fc.register_forward_hook(lambda _net, _in, out, half=half: found.update({half: out.dtype}))
        train_activation(net, MeanValue(), PICTURES, steps=1, crop_px=32, batch=2, seed=0, bfloat16=half)
        hook.remove()
    assert found == {False: torch.float32, True: torch.bfloat16}


def test_the_outside_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    net, objective = SmallResNet(4, 64), SimSiam()
    torch.random.set_rng_state(before)
    train_activation(net, objective, PICTURES, steps=2, crop_px=32, batch=2, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_crops_of_pictures_and_labels_stay_together() -> None:
    labels = [picture[..., 1] for picture in PICTURES]
    crops, cut = random_crops(PICTURES, 48, 16, np.random.default_rng(0), labels)
    assert crops.shape == (16, 48, 48, 3)
    assert np.array_equal(crops[..., 1], cut)
    assert len({crop.tobytes() for crop in crops}) == 16


def test_crops_show_all_eight_orientations() -> None:
    picture = np.arange(16, dtype=np.uint8).reshape(4, 4)[..., None].repeat(3, 2)
    (crops,) = random_crops([picture], 4, 200, np.random.default_rng(0))
    turned = [np.rot90(side, k)[..., 0].tobytes() for side in (picture, picture[::-1]) for k in range(4)]
    assert {crop[..., 0].tobytes() for crop in crops} == set(turned)


def test_a_picture_too_small_for_a_crop_is_named() -> None:
    with pytest.raises(ValueError, match=r"crops of 200 px .*\(192, 192, 3\)"):
        random_crops(PICTURES, 200, 1, np.random.default_rng(0))
