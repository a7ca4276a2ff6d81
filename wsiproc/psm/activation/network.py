"""The network whose shallow layers are read: trained without labels on a pretext task about whole images.

Chen et al. (2023) train a Res2Net-101 (26w, 4s; Gao et al. 2019) from scratch; ``SmallResNet`` can be trained on a CPU.
Both are treated here as a stem, four layers of blocks, their mean, and one linear layer.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from wsiproc.core.types import UInt8Array
from wsiproc.errors import MissingExtraError
from wsiproc.models.networks.unet import SmallResNet

NetworkKind = Literal["small", "res2net101"]
Layer = Literal["layer1", "layer2", "layer3", "layer4"]
NETWORK_KINDS: tuple[NetworkKind, ...] = ("small", "res2net101")
LAYERS: tuple[Layer, ...] = ("layer1", "layer2", "layer3", "layer4")


class ActivationNetwork(Protocol):
    """Protocol of an activation network, in addition to a module: (b, 3, h, w) → (b, outputs)."""

    stem: nn.Module
    features: int

    def embed(self, images: Tensor) -> Tensor:
        """(b, ``features``) means of the last layer."""


class Res2Net101(nn.Module):
    """Res2Net-101, 26w 4s, of the library timm, without pretrained weights; ``layer1`` works at stride 4.

    (b, 3, h, w) → (b, ``outputs``). Raises MissingExtraError if timm cannot be imported.
    """

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        body = _timm().create_model("res2net101_26w_4s", pretrained=False, num_classes=0)
        self.stem = nn.Sequential(body.conv1, body.bn1, body.act1, body.maxpool)
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        self.features = int(body.num_features)
        self.fc = nn.Linear(self.features, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """(b, ``features``) means of the last layer."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))
        means: Tensor = x.mean((2, 3))
        return means

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        outputs: Tensor = self.fc(self.embed(images))
        return outputs


def build_activation_network(kind: NetworkKind, outputs: int = 1) -> nn.Module:
    """A new network with random weights from torch's current state. Raises MissingExtraError without timm."""
    return SmallResNet(outputs=outputs) if kind == "small" else Res2Net101(outputs)


def shallow_blocks(net: nn.Module, layer: Layer = "layer1") -> list[nn.Module]:
    """The blocks of a layer, in order."""
    return list(cast(nn.Sequential, getattr(net, layer)))


def layer_outputs(net: nn.Module, images: Tensor, layer: Layer = "layer1") -> list[Tensor]:
    """Outputs of each block of ``layer`` for images (b, 3, h, w): (b, c, h / stride, w / stride) each. Later layers are
    not computed.
    """
    x: Tensor = cast(ActivationNetwork, net).stem(images)
    for name in LAYERS[: LAYERS.index(layer)]:
        x = getattr(net, name)(x)
    outputs = []
    for block in shallow_blocks(net, layer):
        x = block(x)
        outputs.append(x)
    return outputs


def as_input(images: UInt8Array) -> Tensor:
    """(b, h, w, 3) uint8 → (b, 3, h, w) float32 in [0, 1]."""
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous().float() / 255


def _timm() -> ModuleType:
    """The library; raises MissingExtraError with the remedy."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise MissingExtraError(
            f"Res2Net-101 needs timm, which cannot be imported ({error}): pip install 'wsiproc[timm]'"
        ) from error
    except RuntimeError as error:
        raise MissingExtraError(
            f"timm cannot be imported ({error}): torch and torchvision are of different builds. Install both from one "
            "index, for CPUs: pip install --force-reinstall torch torchvision --index-url "
            "INDEX, the address given on pytorch.org"
        ) from error
