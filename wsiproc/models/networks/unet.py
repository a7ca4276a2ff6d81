"""Network architectures in plain PyTorch, built from a name and parameters, so a model folder can specify its own.

Both are small: they run on every pixel of every slide. Weights come from the model folder or from training.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 × 3 convolutions with batch norm and ReLU, size kept."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015): (b, ``inputs``, h, w) → (b, ``outputs``, h, w) logits; sides a multiple of
    ``stride``.

    ``widths``: channels at each level, finest first; every level below the first halves the sides. ``fold``: each
    output pixel becomes a square of this side, (b, ``outputs``, fold · h, fold · w), by sub-pixel convolution (Shi et
    al. 2016).
    """

    def __init__(
        self, widths: Sequence[int] = (16, 32, 64, 96), outputs: int = 2, inputs: int = 3, fold: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.inputs, self.fold = 2 ** (len(widths) - 1), inputs, fold
        ends = [inputs, *widths]
        self.down = nn.ModuleList(conv_block(a, b) for a, b in itertools.pairwise(ends))
        self.up = nn.ModuleList(conv_block(fine + deep, fine) for fine, deep in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[0], outputs * fold**2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x, skipped = images, []
        for level, block in enumerate(self.down):
            x = block(max_pool(x) if level else x)
            skipped.append(x)
        x = skipped.pop()
        for block in reversed(self.up):
            first, *others = block.children()
            x = _join(first, x, skipped.pop())
            for layer in others:
                x = layer(x)
        return nnf.pixel_shuffle(self.head(x), self.fold)


def max_pool(x: Tensor) -> Tensor:
    """2 × 2 max pooling; in half precision on a CPU faster than a pooling layer."""
    even, odd = x[:, :, ::2], x[:, :, 1::2]
    return torch.maximum(torch.maximum(even[..., ::2], even[..., 1::2]), torch.maximum(odd[..., ::2], odd[..., 1::2]))


def _join(conv: nn.Module, deep: Tensor, fine: Tensor) -> Tensor:
    """``conv`` of ``deep`` (b, c, h, w), upsampled to twice the size, concatenated with ``fine`` (b, c', 2h, 2w).

    Three rows of repeated pixels contain two different ones. So, for each of the four positions of an output pixel in a
    2 × 2 block, the kernel's 3 × 3 weights on ``deep`` add up to 2 × 2, and nothing is upsampled: 4 products instead of
    9, the same sum up to rounding. Also known as sub-pixel convolution (Shi et al. 2016).
    """
    assert isinstance(conv, nn.Conv2d)
    channels = deep.shape[1]
    parts = nnf.conv2d(deep, join_kernels(conv.weight[:, :channels]), padding=1)
    fine_kernels = conv.weight[:, channels:].contiguous(memory_format=torch.channels_last)
    return nnf.conv2d(fine, fine_kernels, conv.bias, padding=1) + interleave(parts)


def join_kernels(kernels: Tensor) -> Tensor:
    """The 3 × 3 ``kernels`` (outputs, c, 3, 3) on repeated pixels as 2 × 2 kernels, by position: see ``_join``."""
    for dim in (2, 4):
        first, middle, last = kernels.unbind(dim)
        above = torch.stack([first, middle + last], dim)
        below = torch.stack([first + middle, last], dim)
        kernels = torch.stack([above, below])
    return kernels.transpose(0, 1).flatten(0, 2).contiguous(memory_format=torch.channels_last)


def interleave(parts: Tensor) -> Tensor:
    """(b, 4c, h + 1, w + 1), the output for ``join_kernels`` with one pixel of padding, as one image (b, c, 2h, 2w)."""
    b, c, (h, w) = len(parts), parts.shape[1] // 4, (side - 1 for side in parts.shape[2:])
    joined = parts.new_empty(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)  # channels-last layout
    for part, (y, x) in zip(parts.chunk(4, 1), itertools.product((0, 1), repeat=2), strict=True):
        joined[:, :, y::2, x::2] = part[:, :, y : y + h, x : x + w]
    return joined


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) → (b, outputs, h / stride, w / stride)."""
        inside = self.bn2(self.conv2(nnf.relu(self.bn1(self.conv1(x)))))
        return nnf.relu(inside + self.shortcut(x))


class ShallowResNet(nn.Module):
    """The first layers of a ``SmallResNet``, enough to read its self-activation map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)
        )
        self.layer1 = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, width))

    def shallow(self, images: Tensor) -> list[Tensor]:
        """(b, 3, h, w) → output of each block of ``layer1``, (b, ``width``, h / 2, w / 2)."""
        x, blocks = self.stem(images), []
        for block in self.layer1:
            x = block(x)
            blocks.append(x)
        return blocks


class SmallResNet(ShallowResNet):
    """An activation network that a CPU can train: stem of stride 2, four stages of two blocks, mean, one linear layer.

    (b, 3, h, w) → (b, ``outputs``). ``layer1`` works at stride 2, half that of an ImageNet ResNet, since the map is
    read from it; ``layer2`` … ``layer4`` at strides 4, 8, 16.
    """

    def __init__(self, width: int = 16, outputs: int = 1) -> None:
        super().__init__(width)
        self.layer2 = nn.Sequential(ResidualBlock(width, 2 * width, 2), ResidualBlock(2 * width, 2 * width))
        self.layer3 = nn.Sequential(ResidualBlock(2 * width, 4 * width, 2), ResidualBlock(4 * width, 4 * width))
        self.layer4 = nn.Sequential(ResidualBlock(4 * width, 8 * width, 2), ResidualBlock(8 * width, 8 * width))
        self.features = 8 * width
        self.fc = nn.Linear(self.features, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """(b, ``features``) means of the last stage."""
        x = self.layer4(self.layer3(self.layer2(self.shallow(images)[-1])))
        means: Tensor = x.mean((2, 3))
        return means

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        outputs: Tensor = self.fc(self.embed(images))
        return outputs


def fuse_batch_norms(network: nn.Module) -> nn.Module:
    """The same function in evaluation mode with fewer passes: each batch norm merged into the convolution before it.

    Assumes that a batch norm defined right after a convolution is applied to its output, as here.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for module in network.eval().modules():
        before = ""
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(conv := getattr(module, before, None), nn.Conv2d):
                setattr(module, before, fuse_conv_bn_eval(conv, child))
                setattr(module, name, nn.Identity())
            before = name
    return network
