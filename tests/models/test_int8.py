"""The U-Net in whole numbers is the U-Net but for rounding, and exact about where a pixel is computed."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load
from torch import Tensor, nn

import wsiproc.models.networks.int8
from tests.models.small_networks import INPUT, picture, true_tissue
from wsiproc.errors import ModelError
from wsiproc.models import load_model
from wsiproc.models.base import SupportsInt8
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.device import Device, fast_int8
from wsiproc.models.folder import (
    WEIGHTS,
    DistilledConfig,
    load_int8_network,
    load_network,
    read_folder,
    write_folder,
)
from wsiproc.models.inference import predict
from wsiproc.models.networks.int8 import Int8UNet, find_activation_ranges, self_test
from wsiproc.models.networks.unet import UNet, fuse_batch_norms

pytestmark = pytest.mark.skipif(
    not fast_int8() or bool(self_test()), reason="this processor, or this PyTorch, does not multiply int8 exactly"
)
SIDES = st.integers(1, 5).map(lambda times: 8 * times)


def fused(widths: list[int], seed: int) -> UNet:
    """A U-Net of seeded weights as a model folder is used."""
    torch.manual_seed(seed)
    network = UNet(widths).requires_grad_(False)
    network(torch.randn(4, 3, 64, 64))
    found = fuse_batch_norms(network)
    assert isinstance(found, UNet)
    return found


def blocks_of(level: nn.Module) -> list[nn.Sequential]:
    return [block for block in level.children() if isinstance(block, nn.Sequential)]


def by_definition(network: UNet, peaks: tuple[float, ...], pictures: Tensor) -> Tensor:
    """The same in float64: each layer's values brought to the steps of a byte, and so each channel's weights."""
    double = network.double()
    steps = iter([peak / 255 for peak in peaks])

    def in_steps(weight: Tensor) -> Tensor:
        scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
        return (weight / scale).round() * scale

    def layer(conv: nn.Module, x: Tensor, first: bool = False, last: bool = False) -> Tensor:
        assert isinstance(conv, nn.Conv2d)
        x = nnf.conv2d(x, conv.weight if first else in_steps(conv.weight), conv.bias, padding=conv.padding)
        if last:
            return x
        step = next(steps)
        return (x / step).round().clamp(0, 255) * step

    def joined(conv: nn.Module, deep: Tensor, fine: Tensor) -> Tensor:
        """Of the coarser level each of four places in 2 x 2 pixels sees two rows and two columns, of three repeated."""
        assert isinstance(conv, nn.Conv2d)
        (h, w), c = deep.shape[2:], deep.shape[1]
        step = next(steps)
        summed = nnf.conv2d(fine, in_steps(conv.weight[:, c:]), conv.bias, padding=1)
        seen = [([0], [1, 2]), ([0, 1], [2])]
        for y, x in itertools.product((0, 1), repeat=2):
            taps = [[conv.weight[:, :c, rows][..., cols].sum((2, 3)) for cols in seen[x]] for rows in seen[y]]
            kernel = torch.stack([torch.stack(row, -1) for row in taps], -2)
            part = nnf.conv2d(deep, in_steps(kernel), padding=1)[:, :, y : y + h, x : x + w]
            part = ((part / (1.5 * step)).round() + 85).clamp(0, 255) - 85
            summed[:, :, y::2, x::2] += 1.5 * step * part
        return (summed / step).round().clamp(0, 255) * step

    x, skipped = pictures.double(), []
    for level, block in enumerate(blocks_of(double.down)):
        x = nnf.max_pool2d(x, 2) if level else x
        x = layer(block[3], layer(block[0], x, first=not level))
        skipped.append(x)
    x = skipped.pop()
    for block in reversed(blocks_of(double.up)):
        x = layer(block[3], joined(block[0], x, skipped.pop()))
    found = layer(double.head, x, last=True)
    network.float()
    return found


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=2, max_size=4), SIDES, SIDES, st.integers(1, 2), st.integers(0, 1000))
def test_it_is_what_its_definition_says(widths: list[int], h: int, w: int, batch: int, seed: int) -> None:
    network = fused(widths, seed)
    pictures = torch.randn(batch, 3, h, w)
    peaks = find_activation_ranges(network, [pictures])
    found = Int8UNet(network, peaks)(pictures)
    expected = by_definition(network, peaks, pictures)
    assert found.shape == expected.shape
    # Halves are rounded in float32 there and in float64 here: a step now and then, and what follows from it.
    apart = (found - expected).abs()
    assert float(apart.mean()) <= 0.0005 * float(expected.std()) + 5e-5


def test_a_pixel_does_not_depend_on_what_is_computed_with_it() -> None:
    network = fused([8, 16, 16], seed=4)
    pictures = torch.randn(2, 3, 192, 160)
    whole = Int8UNet(network, find_activation_ranges(network, [pictures]))
    found = whole(pictures)
    assert torch.equal(whole(pictures[1:]), found[1:])
    part = whole(pictures[:, :, 32:160, 16:144].contiguous())
    beyond = 48  # what a pixel can depend on, and more, in whole strides
    inner = (slice(None), slice(None), slice(beyond, -beyond), slice(beyond, -beyond))
    assert torch.equal(part[inner], found[:, :, 32:160, 16:144][inner])


def test_peaks_are_those_behind_each_layer_in_order() -> None:
    network = UNet((2, 3)).eval()
    seen: list[float] = []
    for block in (*network.down, *reversed(list(network.up))):
        for layer in block:
            if isinstance(layer, nn.ReLU):
                layer.register_forward_hook(lambda _l, _i, values: seen.append(float(values.max())))
    pictures = [torch.randn(1, 3, 32, 32), 3 * torch.randn(1, 3, 32, 32)]
    peaks = find_activation_ranges(network, pictures)
    first, second = np.array(seen[:6]), np.array(seen[6:])
    assert len(peaks) == 6
    assert (np.array(peaks) <= np.maximum(first, second) + 1e-4).all()
    assert (np.array(peaks) >= 0.5 * np.maximum(first, second)).all()


def test_a_few_large_values_do_not_make_the_steps_coarse() -> None:
    network = fused([8, 8], seed=1)
    pictures = torch.randn(1, 3, 512, 512)
    calm = find_activation_ranges(network, [pictures])
    pictures[0, :, 100, 100] = 1e4  # 9 of 262,144 values behind the first layer, 25 behind the second
    assert find_activation_ranges(network, [pictures])[:2] == pytest.approx(calm[:2], rel=0.3)


def test_the_default_model_finds_the_same_cells() -> None:
    """On a drawn picture; for real slides, benchmarks/precision.py."""
    model = load_model("default").calibrate([picture(seed=7)])
    window = picture(seed=7)[None]
    assert isinstance(model, SupportsInt8)
    assert model.int8
    exact, found = (predict(model, window, Device("cpu", precision)) for precision in ("float32", "int8"))
    apart = np.abs(exact.astype(int) - found)
    assert apart.max() > 0  # or it was float32
    assert apart.mean() < 0.5
    stains = [channel.stain for channel in model.channels]
    assert apart[:, stains].max() == 0
    counts = [len(model.instances(maps[0]).classes) for maps in (exact, found)]
    assert counts[1] == pytest.approx(counts[0], rel=0.02)
    assert counts[0] > 50


def test_a_model_folder_without_peaks_keeps_its_wider_precision(distilled: Path) -> None:
    model = load_model(str(distilled))
    assert isinstance(model, SupportsInt8)
    assert not model.int8
    assert Device("cpu", "int8", "bfloat16").suited(model) == Device("cpu", "bfloat16")


def test_a_folder_with_peaks_is_computed_in_whole_numbers(distilled: Path, tmp_path: Path) -> None:
    facts = read_folder(distilled)
    assert isinstance(facts, DistilledConfig)
    network = load_network(distilled, facts.weights_sha256, "cpu")
    assert isinstance(network, UNet)
    od = true_tissue()[0]
    peaks = find_activation_ranges(network, [network_input(od, 1.0, INPUT)])
    tensors = load((distilled / WEIGHTS).read_bytes())
    written = write_folder(tmp_path / "m", dataclasses.replace(facts, int8_peaks=peaks), tensors, "")
    model = load_model(str(tmp_path / "m")).calibrate([picture()])
    device = Device("cpu", "int8")
    assert device.suited(model) is device
    window = picture()[None]
    found, exact = (predict(model, window, each).astype(int) for each in (device, Device()))
    assert 0 < np.abs(found - exact)[:, 0].mean() < 6
    made = [load_int8_network(tmp_path / "m", written.weights_sha256) for _ in range(2)]
    assert made[0] is made[1]  # once a process


def test_peaks_that_are_wrong_are_found_before_they_spoil_a_run(distilled: Path, tmp_path: Path) -> None:
    facts = read_folder(distilled)
    assert isinstance(facts, DistilledConfig)
    tensors = load((distilled / WEIGHTS).read_bytes())
    written = write_folder(tmp_path / "m", dataclasses.replace(facts, int8_peaks=(1e-3,) * 10), tensors, "")
    with pytest.raises(ModelError, match="its int8_peaks may be wrong"):
        load_int8_network(tmp_path / "m", written.weights_sha256)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_a_pytorch_without_such_layers_is_told(
    error: type[Exception], distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise error("'_OpNamespace' 'onednn' object has no attribute 'qconv_prepack'")

    facts = read_folder(distilled)
    assert isinstance(facts, DistilledConfig)
    tensors = load((distilled / WEIGHTS).read_bytes())
    written = write_folder(tmp_path / "m", dataclasses.replace(facts, int8_peaks=(1.0,) * 10), tensors, "")
    monkeypatch.setattr(wsiproc.models.networks.int8, "_Convolution", missing)
    with pytest.raises(ModelError, match=r"cannot run 'distilled-test' in int8 .* use --precision float32"):
        load_int8_network(tmp_path / "m", written.weights_sha256)
