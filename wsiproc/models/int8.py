"""A U-Net in whole numbers: on a CPU that multiplies bytes three times as fast as in float32.

Weights are bytes with a scale for each channel of output, values between layers bytes with a scale for each layer,
found once a model (Jacob et al. 2018). Sums are exact, so a pixel does not depend on what it is computed together with.
The first layer is computed in float32: it is small, and all that a pixel's byte tells goes through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wsiproc.models.networks import UNet, halved

_Layer = Callable[[Tensor], Tensor]

_STEPS = 255  # of a byte
_WEIGHT_STEPS = 127  # of a byte with a sign
_SHARE = 99.99  # per cent of values that a layer's scale reaches; the few above are cut


def find_peaks(network: UNet, pictures: Iterable[Tensor]) -> tuple[float, ...]:
    """What all but a few of the values behind each ReLU stay below, in the order in which they are computed.

    ``network``: in evaluation mode; ``pictures``: what it sees, (b, 3, h, w) each, the more the better.
    """
    seen: list[list[float]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.ReLU)]
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, values: seen[-1].append(_peak(values))) for layer in layers
    ]
    try:
        with torch.inference_mode():
            for picture in pictures:
                seen.append([])
                network(picture)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(round(float(peak), 4) for peak in np.max(seen, axis=0))


def _peak(values: Tensor) -> float:
    return float(np.percentile(values.float().cpu().numpy(), _SHARE))


class Int8UNet(nn.Module):
    """The same function as ``network``, but for rounding: (b, 3, h, w) float32 → (b, outputs, h, w) float32.

    ``network``: a U-Net without batch norms; ``peaks``: see ``find_peaks``. Only for CPUs.
    """

    def __init__(self, network: UNet, peaks: Sequence[float]) -> None:
        super().__init__()
        blocks = [*network.down, *reversed(network.up)]
        steps = _joined_alike([peak / _STEPS for peak in peaks], len(network.down))
        convs = [layer for block in blocks for layer in block if isinstance(layer, nn.Conv2d)]
        self.first = _scaled(convs[0], steps[0])
        layers: list[_Layer] = [self._first_bytes]
        for conv, (before, step) in zip(convs[1:], itertools.pairwise(steps), strict=True):
            layers.append(_Convolution(conv, before, step, torch.uint8))
        pairs = list(zip(layers[::2], layers[1::2], strict=True))
        self.down, self.up = pairs[: len(network.down)], pairs[len(network.down) :]
        self.head = _Convolution(network.head, steps[-1], 1.0, torch.float32)

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        x, skipped = pictures, []
        for level, block in enumerate(self.down):
            x = halved(x) if level else x
            for layer in block:
                x = layer(x)
            skipped.append(x)
        x = skipped.pop()
        for block in self.up:
            x = _joined(x, skipped.pop())
            for layer in block:
                x = layer(x)
        return self.head(x)

    def _first_bytes(self, pictures: Tensor) -> Tensor:
        """What the first layer gives, as bytes; its weights are in their steps and its bias has the half to round by.

        What is below zero becomes zero, which is the ReLU.
        """
        values: Tensor = self.first(pictures).clamp_(0, _STEPS)
        return torch.from_numpy(values.numpy().astype(np.uint8))  # several times faster than PyTorch's


def difference(network: UNet, whole: Int8UNet) -> float:
    """Mean difference of the logits of both, in standard deviations of them, on a picture of soft stripes."""
    stripes = torch.linspace(-1.5, 1.5, 64).expand(1, 3, 64, 64)
    with torch.inference_mode():
        exact, found = network(stripes), whole(stripes)
    return float((found - exact).abs().mean() / exact.std().clamp(min=1e-6))


def _joined_alike(steps: list[float], levels: int) -> list[float]:
    """``steps`` of the layers, but where two are joined both have the larger one."""
    steps = list(steps)
    for level in range(levels - 1):
        fine, deep = 2 * level + 1, 2 * (2 * levels - 2 - level) - 1
        steps[fine] = steps[deep] = max(steps[fine], steps[deep])
    return steps


def _scaled(conv: nn.Conv2d, step: float) -> nn.Conv2d:
    """The layer with its output in ``step``s, and a half more."""
    assert conv.bias is not None
    scaled = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    scaled.weight.data = (conv.weight / step).contiguous(memory_format=torch.channels_last)
    scaled.bias.data = conv.bias / step + 0.5  # type: ignore[union-attr]
    return scaled.requires_grad_(False)


class _Convolution:
    """A layer on bytes (b, c, h, w): bytes with ReLU, or ``kind`` float32 without.

    ``before``, ``step``: what one step of a byte is worth, before and behind the layer.
    """

    def __init__(self, conv: nn.Conv2d, before: float, step: float, kind: torch.dtype) -> None:
        weight = conv.weight.detach()
        self._scales = weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / _WEIGHT_STEPS
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        steps = (weight / self._scales[:, None, None, None]).round_().to(torch.int8)
        ones, padding = [1, 1], list(conv.padding)
        self._weight = torch.ops.onednn.qconv_prepack(steps, self._scales, before, 0, ones, padding, ones, 1, None)
        self._bias, self._before, self._padding = conv.bias, before, padding
        self._step, self._kind, self._ending = step, kind, "relu" if kind is torch.uint8 else "none"

    def __call__(self, x: Tensor) -> Tensor:
        ones = [1, 1]
        found: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, self._before, 0, self._weight, self._scales, self._zeros, self._bias, ones, self._padding, ones, 1,
            self._step, 0, self._kind, self._ending, [], "",
        )  # fmt: skip
        return found


def _joined(deep: Tensor, fine: Tensor) -> Tensor:
    """``deep`` (b, c, h, w), each pixel repeated to twice the size, and ``fine`` (b, c', 2h, 2w) behind it."""
    (b, c, h, w), more = deep.shape, fine.shape[1]
    both = deep.new_empty(b, h, 2, w, 2, c + more)
    both[..., :c] = deep.permute(0, 2, 3, 1)[:, :, None, :, None]
    joined = both.view(b, 2 * h, 2 * w, c + more)
    joined[..., c:] = fine.permute(0, 2, 3, 1)
    return joined.permute(0, 3, 1, 2)
