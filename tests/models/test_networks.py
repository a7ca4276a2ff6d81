"""The networks' shortcuts compute what the plain layers compute."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsiproc.models.networks.unet import UNet

SIDES = st.integers(1, 6).map(lambda times: 8 * times)


def plain(network: UNet, pictures: Tensor) -> Tensor:
    """The U-Net as it is drawn in papers: pool, enlarge, concatenate, convolve."""
    x, skipped = pictures, []
    for level, block in enumerate(network.down):
        x = block(nnf.max_pool2d(x, 2) if level else x)
        skipped.append(x)
    x = skipped.pop()
    for block in reversed(list(network.up)):
        enlarged = nnf.interpolate(x, scale_factor=2.0, mode="nearest")
        x = block(torch.cat([enlarged, skipped.pop()], 1))
    return network.head(x)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), SIDES, SIDES, st.integers(1, 3), st.integers(0, 1000))
def test_a_unet_without_enlarged_maps_is_the_same_function(
    widths: list[int], h: int, w: int, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    network = UNet(widths).double().eval()
    pictures = torch.rand(batch, 3, h, w, dtype=torch.float64)
    assert torch.allclose(network(pictures), plain(network, pictures), rtol=0, atol=1e-10)


def test_it_learns_the_same() -> None:
    torch.manual_seed(0)
    network = UNet((4, 6, 8)).double()
    pictures = torch.rand(2, 3, 32, 40, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(forward(pictures).square().sum(), list(network.parameters()))
        for forward in (network, lambda given: plain(network, given))
    ]
    for one, other in itertools.zip_longest(*gradients):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_is_no_matter(channels_last: bool) -> None:
    torch.manual_seed(0)
    network, pictures = UNet().eval(), torch.rand(1, 3, 64, 64)
    expected = plain(network, pictures)
    if channels_last:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(network(pictures), expected, atol=1e-5)
