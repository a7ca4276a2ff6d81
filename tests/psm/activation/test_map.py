from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.psm.drawn_tissue import Drawn
from wsiproc.models.networks.readout import Readout
from wsiproc.models.networks.unet import SmallResNet
from wsiproc.psm.activation.map import calibrate_readout, grad_cam, predict_map, readout_sign
from wsiproc.psm.activation.network import LAYERS, Layer, shallow_blocks
from wsiproc.psm.activation.objectives import Similarity

SCORE = Similarity().score


class Tiny(nn.Module):
    """One block of two channels, red and green × 2, and a score whose gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.block.weight[:] = torch.tensor([[1.0, 0, 0], [0, 2.0, 0]])[..., None, None]

    def forward(self, pictures: Tensor) -> Tensor:
        red, green = self.block(pictures).unbind(1)
        return (red.square() - 3 * green).mean((1, 2))[:, None]


def test_grad_cam_is_what_a_hand_computes() -> None:
    net, picture = Tiny(), torch.rand(1, 3, 8, 6)
    red, green = picture[0, 0], 2 * picture[0, 1]
    # The gradient of the mean by a pixel is 2 red ÷ n and −3 ÷ n.
    expected = (2 * red.mean() * red - 3 * green) / 48
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    found = grad_cam(net, SCORE, picture, [net.block])
    assert found.shape == (8, 6)
    assert torch.allclose(found, expected, atol=1e-5)


def test_grad_cam_fills_its_range_and_leaves_no_gradients(small: SmallResNet, seen: Tensor) -> None:
    found = grad_cam(small, SCORE, seen, shallow_blocks(small))
    assert (float(found.min()), float(found.max())) == pytest.approx((0, 1), abs=1e-5)
    assert all(p.grad is None for p in small.parameters())
    assert not found.requires_grad
    assert all(not block._forward_hooks for block in shallow_blocks(small))


def own_weights(net: SmallResNet, picture: Tensor, layer: Layer) -> tuple[Readout, Tensor]:
    """The picture's Grad-CAM weights as a readout over the full range, and the mean of min-max maps by itself."""
    blocks: list[Tensor] = []
    x = net.stem(picture)
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        for block in shallow_blocks(net, name):
            x = block(x)
            if name == layer:
                x.retain_grad()
                blocks.append(x)
    y = x
    for name in LAYERS[LAYERS.index(layer) + 1 :]:
        y = getattr(net, name)(y)
    net.fc(y.mean((2, 3))).sum().backward()
    weights = [block.grad.mean((0, 2, 3)) for block in blocks if block.grad is not None]
    net.zero_grad()
    maps = [torch.einsum("chw,c->hw", block.detach()[0], w) for block, w in zip(blocks, weights, strict=True)]
    ranges = [m.max() - m.min() for m in maps]
    low = float(sum(m.min() / r for m, r in zip(maps, ranges, strict=True)))
    rows = tuple(tuple((w / r).tolist()) for w, r in zip(weights, ranges, strict=True))
    expected = torch.stack([(m - m.min()) / r for m, r in zip(maps, ranges, strict=True)]).mean(0)
    return Readout(rows, low, low + 2.0), expected


@pytest.mark.parametrize(("layer", "stride"), [("layer1", 2), ("layer3", 8)])
def test_with_a_pictures_own_weights_the_readout_is_grad_cam(
    small: SmallResNet, seen: Tensor, layer: Layer, stride: int
) -> None:
    readout, expected = own_weights(small, seen, layer)
    fixed = predict_map(small, readout, seen, layer)[0]
    assert torch.allclose(fixed[::stride, ::stride], expected, atol=1e-4)
    published = grad_cam(small, SCORE, seen, shallow_blocks(small, layer))
    # Grad-CAM is resized by another rule, which moves it by half a step: so not equal between the steps.
    shrunk = nn.functional.avg_pool2d(published[None, None], stride)[0, 0]
    assert correlation(shrunk, expected) > 0.97


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_calibrated_weights_are_the_mean_gradient_in_a_robust_range(small: SmallResNet, seen: Tensor) -> None:
    pictures = [seen, seen.flip(3) * 0.9]
    evidence = [np.random.default_rng(i).random(seen.shape[2:]) for i in range(2)]
    readout = calibrate_readout(small, SCORE, pictures, evidence)
    grads = [own_weights(small, picture, "layer1")[0].weights for picture in pictures]
    for row, one, other in zip(readout.weights, *grads, strict=True):
        directions = [np.array(side) for side in (row, one, other)]
        # Each picture's row is its gradient over its own range: the calibrated one lies in their plane.
        _, residual, *_ = np.linalg.lstsq(np.stack(directions[1:], 1), directions[0], rcond=None)
        assert float(residual[0]) < 1e-6 * float(directions[0] @ directions[0])
    maps = torch.cat([predict_map(small, readout, picture) for picture in pictures])
    assert float((maps == 0).float().mean()) < 0.01
    assert float((maps == 1).float().mean()) < 0.01
    assert float(maps.max() - maps.min()) > 0.95


def test_the_sign_follows_the_evidence(small: SmallResNet, seen: Tensor, drawn: Drawn) -> None:
    nuclei = (drawn[1] > 0).astype(np.float64)
    towards = calibrate_readout(small, SCORE, [seen], [nuclei])
    away = calibrate_readout(small, SCORE, [seen], [-nuclei])
    assert np.allclose(towards.weights, -np.array(away.weights))
    one, other = (predict_map(small, readout, seen)[0] for readout in (towards, away))
    assert torch.allclose(one, 1 - other, atol=1e-4)
    assert float(one[nuclei > 0].mean()) > float(one[nuclei == 0].mean())


def test_orientation_weighs_all_pictures_together() -> None:
    rng = np.random.default_rng(0)
    strong, weak = 10 * rng.random((8, 8)), rng.random((8, 8))
    full = [np.kron(x, np.ones((2, 2))) for x in (strong, weak)]
    assert readout_sign([strong, weak], full) == 1
    assert readout_sign([strong, -weak], full) == 1
    assert readout_sign([-strong, weak], full) == -1


def test_maps_of_a_batch_are_those_of_its_pictures(small: SmallResNet, seen: Tensor) -> None:
    readout = calibrate_readout(small, SCORE, [seen], [np.asarray(1 - seen[0, 0])])
    pictures = torch.cat([seen, seen.flip(2), seen * 0])
    together = predict_map(small, readout, pictures)
    assert together.shape == (3, *seen.shape[2:])
    assert all(
        torch.allclose(one, predict_map(small, readout, x[None])[0], atol=1e-5)
        for one, x in zip(together, pictures, strict=True)
    )
    assert not together.requires_grad
