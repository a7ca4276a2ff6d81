from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from wsiproc.errors import MissingExtraError
from wsiproc.models.networks.unet import SmallResNet
from wsiproc.psm.activation.network import LAYERS, build_activation_network, layer_outputs, shallow_blocks


def test_the_outputs_of_a_layer_are_those_of_the_whole_network(small: SmallResNet, seen: torch.Tensor) -> None:
    with torch.no_grad():
        for layer, stride in zip(LAYERS, (2, 4, 8, 16), strict=True):
            outputs = layer_outputs(small, seen, layer)
            assert len(outputs) == len(shallow_blocks(small, layer)) == 2
            assert outputs[-1].shape[2:] == (seen.shape[2] // stride, seen.shape[3] // stride)
        assert torch.equal(layer_outputs(small, seen)[0], small.shallow(seen)[0])
        assert torch.equal(outputs[-1].mean((2, 3)), small.embed(seen))


def test_nothing_behind_the_layer_runs(small: SmallResNet, seen: torch.Tensor) -> None:
    ran = []
    hooks = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer in LAYERS
        for block in shallow_blocks(small, layer)
    ]
    layer_outputs(small, seen, "layer2")
    for hook in hooks:
        hook.remove()
    assert ran == ["layer1", "layer1", "layer2", "layer2"]


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (ImportError("No module named 'timm'"), r"pip install 'wsiproc\[timm\]'"),
        (RuntimeError("operator torchvision::nms does not exist"), r"torch and torchvision .*--index-url"),
    ],
)
def test_without_timm_the_error_names_the_remedy(
    failure: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Refuse(failure), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=remedy) as caught:
        build_activation_network("res2net101")
    assert str(failure) in str(caught.value)


class _Refuse:
    """A finder that fails as a broken installation of timm does."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "timm":
            raise self.failure


@pytest.mark.tiatoolbox
def test_res2net_101_has_the_same_face() -> None:
    """timm comes with tiatoolbox, so this runs in the environment of the bridge's tests."""
    pytest.importorskip("timm", exc_type=ImportError)
    torch.manual_seed(0)
    net = build_activation_network("res2net101", outputs=4).eval()
    pictures = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert net(pictures).shape == (1, 4)
        assert [tuple(x.shape) for x in layer_outputs(net, pictures)] == [(1, 256, 16, 16)] * 3
        assert [len(shallow_blocks(net, layer)) for layer in LAYERS] == [3, 4, 23, 3]
        embed: Any = net.embed
        assert torch.equal(layer_outputs(net, pictures, "layer4")[-1].mean((2, 3)), embed(pictures))
    assert 40e6 < sum(p.numel() for p in net.parameters()) < 46e6, "45 M with the classes of ImageNet, less those"
