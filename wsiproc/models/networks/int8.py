"""A U-Net in int8: three times as fast as float32 on CPUs with VNNI.

Weights are int8 with one scale per output channel; activations are uint8 with one scale per layer, found once per model
(Jacob et al. 2018). Sums are exact, so a pixel does not depend on the rest of its batch. The first layer is computed in
float32: it is small, and rounding the input would lose information. Where two levels are joined, the coarser one is
never upsampled, see ``join_kernels``, and its part of the sum is rounded to a byte of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from wsiproc.models.networks.byte_values import as_uint8
from wsiproc.models.networks.unet import UNet, fuse_batch_norms, interleave, join_kernels, max_pool

_Layer = Callable[[Tensor], Tensor]

_STEPS = 255  # of uint8
_WEIGHT_STEPS = 127  # of int8
_SHARE = 99.99  # percentile of activations that a layer's scale covers; the few above are clipped
_BELOW = 0.5  # of the range, how far the coarser level's part of a sum may go below zero; lower sums are rare


def find_activation_ranges(network: UNet, images: Iterable[Tensor]) -> tuple[float, ...]:
    """The upper limit of nearly all activations after each ReLU, in order of computation.

    ``network``: in evaluation mode; ``images``: inputs, (b, inputs, h, w) each, the more the better.
    """
    seen: list[list[float]] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.ReLU)]
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, values: seen[-1].append(_activation_range(values)))
        for layer in layers
    ]
    try:
        with torch.inference_mode():
            for image in images:
                seen.append([])
                network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(round(float(top), 4) for top in np.max(seen, axis=0))


def _activation_range(values: Tensor) -> float:
    return float(np.percentile(values.float().cpu().numpy(), _SHARE))


class Int8UNet(nn.Module):
    """The same function as ``network``, up to rounding: (b, inputs, h, w) float32 → (b, outputs, h, w) float32.

    ``network``: a U-Net without batch norms; ``ranges``: see ``find_activation_ranges``. Only for CPUs.
    """

    def __init__(self, network: UNet, ranges: Sequence[float]) -> None:
        super().__init__()
        blocks = [*network.down, *reversed(network.up)]
        steps = [top / _STEPS for top in ranges]
        convs = [layer for block in blocks for layer in block if isinstance(layer, nn.Conv2d)]
        # Each with the step size of its input and output; the first has a float input.
        layers = zip(convs, [0.0, *steps[:-1]], steps, strict=True)
        self.first, self.fold = _scaled(convs[0], steps[0]), network.fold
        self.down: list[tuple[_Layer, _Layer]] = []
        for level in range(len(network.down)):
            first, second = next(layers), next(layers)
            self.down.append((_Convolution(*first) if level else self._first_bytes, _Convolution(*second)))
        self.up: list[tuple[_Join, _Layer]] = []
        for level in reversed(range(len(network.up))):
            (conv, before, step), second = next(layers), next(layers)
            self.up.append((_Join(conv, before, steps[2 * level + 1], step), _Convolution(*second)))
        self.head = _Convolution(network.head, steps[-1])

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        x, skipped = images, []
        for level, block in enumerate(self.down):
            x = max_pool(x) if level else x
            for layer in block:
                x = layer(x)
            skipped.append(x)
        x = skipped.pop()
        for join, layer in self.up:
            x = layer(join(x, skipped.pop()))
        return nn.functional.pixel_shuffle(self.head(x), self.fold)

    def _first_bytes(self, images: Tensor) -> Tensor:
        """Output of the first layer as uint8; its weights are scaled to steps and its bias includes the half for
        rounding. Clamping at zero is the ReLU.
        """
        return as_uint8(self.first(images).clamp_(0, _STEPS))


def difference(network: UNet, quantised: Int8UNet) -> float:
    """Mean difference between the logits of both, in standard deviations, on an image of soft stripes."""
    stripes = torch.linspace(-1.5, 1.5, 64).expand(1, network.inputs, 64, 64)
    with torch.inference_mode():
        exact, found = network(stripes), quantised(stripes)
    return float((found - exact).abs().mean() / exact.std().clamp(min=1e-6))


_TINY = 4, 8  # widths of the network of the self-test
_TINY_APART = 0.1  # standard deviations; rounding makes 0.02, halved sums make 0.46


@cache
def self_test() -> str:
    """Why int8 in PyTorch is unusable here; empty if it works. Runs once per process, some 20 ms. The operators are
    private, so any release may change them. Compares a tiny network with random weights with itself in float32.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # layers draw random weights; the caller's random state is preserved
            torch.default_generator.manual_seed(0)
            network = fuse_batch_norms(UNet(_TINY).requires_grad_(False))
            assert isinstance(network, UNet)
            image = torch.randn(1, 3, 64, 64)
            quantised = Int8UNet(network, find_activation_ranges(network, [image]))
            with torch.inference_mode():
                exact, found = network(image), quantised(image)
            off, spread = (found - exact).abs().mean((0, 2, 3)), exact.std((0, 2, 3))
            apart = float((off / spread).max())
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"PyTorch {torch.__version__} cannot compute in int8 here ({str(error).partition(chr(10))[0]})"
    if not apart <= _TINY_APART:
        return (
            f"PyTorch {torch.__version__} computes wrong results in int8 here (off by {apart:.2f} standard deviations)"
        )
    return ""


def _scaled(conv: nn.Conv2d, step: float) -> nn.Conv2d:
    """The layer with its output in units of ``step``, plus one half."""
    assert conv.bias is not None
    scaled = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    scaled.weight.data = (conv.weight / step).contiguous(memory_format=torch.channels_last)
    scaled.bias.data = conv.bias / step + 0.5  # type: ignore[union-attr]
    return scaled.requires_grad_(False)


class _Weights:
    """Kernels (outputs, inputs, h, w) as int8, and the other arguments of an int8 layer; ``step``: of its input."""

    def __init__(self, kernels: Tensor, bias: Tensor | None, padding: int, step: float) -> None:
        scales = kernels.abs().amax((1, 2, 3)).clamp(min=1e-12) / _WEIGHT_STEPS
        quantised = (kernels / scales[:, None, None, None]).round_().to(torch.int8)
        zeros = torch.zeros(len(kernels), dtype=torch.int32)
        once, around = [1, 1], [padding, padding]
        packed = torch.ops.onednn.qconv_prepack(quantised, scales, step, 0, once, around, once, 1, None)
        self.given = step, 0, packed, scales, zeros
        self.rest = bias, once, around, once, 1


class _Convolution:
    """An int8 layer, for input (b, c, h, w).

    ``before``, ``step``: step size of input and output of the layer, which ends in a ReLU; without ``step`` there is no
    ReLU, and the output is float32.
    """

    def __init__(self, conv: nn.Conv2d, before: float, step: float | None = None) -> None:
        self._weights = _Weights(conv.weight.detach(), conv.bias, int(conv.padding[0]), before)
        self._behind = (1.0, 0, torch.float32, "none") if step is None else (step, 0, torch.uint8, "relu")

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, *self._weights.given, *self._weights.rest, *self._behind, [], ""
        )
        return found


class _Join:
    """A layer, with its ReLU, on a coarser level (b, c, h, w) and a finer one (b, c', 2h, 2w), as the U-Net joins them.

    ``deep``, ``fine``, ``step``: step size of either input and of the output.
    """

    def __init__(self, conv: nn.Conv2d, deep: float, fine: float, step: float) -> None:
        channels = conv.in_channels - conv.out_channels
        weight = conv.weight.detach()
        self._deep = _Weights(join_kernels(weight[:, :channels]), None, 1, deep)
        self._fine = _Weights(weight[:, channels:], conv.bias, 1, fine)
        self._step, self._part = step, (step * (1 + _BELOW), round(_STEPS * _BELOW / (1 + _BELOW)))

    def __call__(self, deep: Tensor, fine: Tensor) -> Tensor:
        deep_sum = torch.ops.onednn.qconv2d_pointwise(
            deep, *self._deep.given, *self._deep.rest, *self._part, torch.uint8, "none", [], ""
        )
        found: Tensor = torch.ops.onednn.qconv2d_pointwise.binary(
            fine, *self._fine.given, interleave(deep_sum), *self._fine.rest, self._step, 0, torch.uint8, *self._part,
            "sum", 1.0, "relu", [], "",
        )  # fmt: skip
        return found
