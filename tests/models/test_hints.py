"""Networks that see pixels folded, and are told stains and the classical model's opinion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsiproc.array.stains import STANDARD, Stains
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.builtin.hints import folded_input, half_resolution_density, hints
from wsiproc.models.folder import HINTS, UNetNumbers
from wsiproc.models.networks.int8 import Int8UNet, find_activation_ranges, self_test
from wsiproc.models.networks.unet import UNet, fuse_batch_norms


def coloured(stains: Stains, first: float, second: float) -> torch.Tensor:
    """Optical density (1, 3, 64, 64) of so much of both stains."""
    od = first * np.array(stains.vectors[0]) + second * np.array(stains.vectors[1])
    return torch.from_numpy(np.tile(od.astype(np.float32)[None, :, None, None], (1, 1, 64, 64)))


@pytest.mark.parametrize(("kind", "plane", "absent"), [("H&E", 1, 2), ("H-DAB", 2, 1)])
def test_each_stain_has_its_plane_whatever_its_colour(kind: str, plane: int, absent: int) -> None:
    vectors = tuple(tuple(float(v) for v in np.array(w) / np.linalg.norm(w)) for w in STANDARD[kind])  # type: ignore[index]
    stains = Stains(kind, vectors)  # type: ignore[arg-type]
    told = hints(coloured(stains, 0.49, 0.16), 1.0, stains, Classical(stains=stains))
    assert told.shape == (1, HINTS, 64, 64)
    np.testing.assert_allclose(told[0, 0], 0.7, atol=1e-4)
    np.testing.assert_allclose(told[0, plane], 0.4, atol=1e-4)
    assert not told[0, absent].any()


def test_the_gain_counts_for_amounts_only() -> None:
    stains = Stains()
    od = coloured(stains, 0.3, 0.1)
    once, twice = (hints(od, gain, stains, Classical(stains=stains)) for gain in (1.0, 2.0))
    np.testing.assert_allclose(twice[:, :3], once[:, :3] * 2**0.5, rtol=1e-5)
    np.testing.assert_array_equal(twice[:, 3], once[:, 3])


def test_folding_keeps_each_pixel_and_the_network_unfolds() -> None:
    pictures = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    seen = folded_input(pictures, torch.zeros(2, HINTS, 4, 4))
    assert seen.shape == (2, UNetNumbers(fold=2).inputs, 4, 4)
    np.testing.assert_array_equal(torch.nn.functional.pixel_shuffle(seen[:, :12], 2), pictures)
    np.testing.assert_array_equal(half_resolution_density(pictures)[0, 0, 0, 0], pictures[0, 0, :2, :2].mean())
    net = UNetNumbers(widths=(8, 12), outputs=2, fold=2).build().eval()
    assert net(torch.randn(1, 16, 32, 32)).shape == (1, 2, 64, 64)


@pytest.mark.skipif(bool(self_test()), reason="this PyTorch does not multiply int8 exactly")
def test_a_folded_network_in_int8_gives_nearly_the_same() -> None:
    torch.manual_seed(0)
    net = fuse_batch_norms(UNetNumbers(widths=(16, 32), outputs=2, fold=2).build())
    assert isinstance(net, UNet)
    seen = torch.randn(1, 16, 64, 64)
    with torch.inference_mode():
        whole = Int8UNet(net, find_activation_ranges(net, [seen]))
        exact, found = net(seen), whole(seen)
    assert found.shape == exact.shape
    assert float((found - exact).abs().mean() / exact.std()) < 0.1
