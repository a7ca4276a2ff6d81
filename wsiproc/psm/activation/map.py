"""The self-activation map: which positions of a shallow layer influence the network's output.

``grad_cam`` is the published method, with a gradient for every image (Chen et al. 2023, after Selvaraju et al. 2017).
The alternative calibrates the channel weights once over many images; reading a map is then a pass through the first
layers and one weighted sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from wsiproc.core.types import FloatArray
from wsiproc.models.networks.readout import Readout, read_map
from wsiproc.psm.activation.network import Layer, layer_outputs, shallow_blocks

Score = Callable[[nn.Module, Tensor], Tensor]

_TINY = 1e-7
_PERCENTILES = 0.5, 99.5  # percentiles that become 0 and 1 in a fixed readout, robust to single pixels


def grad_cam(net: nn.Module, score: Score, image: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
    """The published map (h, w) in [0, 1] of one image (1, 3, h, w), normalised by that image alone.

    ``score``: (b,) the values to differentiate; ``blocks``: modules of ``net`` whose channels are weighted.
    """
    outputs, gradients = _gradients(net, score, image, blocks)
    enlarged = []
    for output, gradient in zip(outputs, gradients, strict=True):
        weights = gradient.mean((2, 3), keepdim=True)
        weighted = _unit_range((weights * output).sum(1, keepdim=True))
        enlarged.append(nnf.interpolate(weighted, image.shape[2:], mode="bilinear", align_corners=False))
    # The published ReLU has no effect, since each map already begins at 0.
    return _unit_range(torch.stack(enlarged).relu().mean(0))[0, 0]


def _gradients(
    net: nn.Module, score: Score, images: Tensor, blocks: Sequence[nn.Module]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Outputs of the blocks, and the gradient of the score by each: (b, c, h / stride, w / stride)."""
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _net, _in, output: outputs.append(output)) for block in blocks]
    try:
        with torch.enable_grad():
            total = score(net, images).sum()
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(total, outputs)
    return [output.detach() for output in outputs], gradients


def _unit_range(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low + _TINY)


def calibrate_readout(
    net: nn.Module, score: Score, images: Sequence[Tensor], evidence: Sequence[FloatArray], layer: Layer = "layer1"
) -> Readout:
    """Channel weights, range and sign of the map, once for all ``images`` (1, 3, h, w).

    Weights: the gradient's mean over all pixels of all images, divided for each block by the range of its own map, so
    that every block has equal weight. Range: robust percentiles over all images. Sign: such that the map agrees with
    ``evidence``, one map (h, w) per image of where nuclei are likely, such as haematoxylin.
    """
    blocks = shallow_blocks(net, layer)
    sums = [torch.zeros(0) for _ in blocks]
    pixels = 0
    for image in images:
        outputs, gradients = _gradients(net, score, image, blocks)
        found = [gradient.double().sum((0, 2, 3)).cpu() for gradient in gradients]
        sums = [a + b if len(a) else b for a, b in zip(sums, found, strict=True)]
        pixels += outputs[0].shape[2] * outputs[0].shape[3]
    weights = [total / pixels for total in sums]
    parts = [_weighted_maps(net, image, weights, layer) for image in images]
    ranges = [_percentile_range([part[i] for part in parts]) for i in range(len(blocks))]
    scaled = [w / (high - low) for w, (low, high) in zip(weights, ranges, strict=True)]
    totals = [np.sum([m / (high - low) for m, (low, high) in zip(part, ranges, strict=True)], axis=0) for part in parts]
    sign = readout_sign(totals, evidence)
    low, high = _percentile_range([sign * total for total in totals])
    return Readout(tuple(tuple((sign * w).tolist()) for w in scaled), low, high)


def _weighted_maps(net: nn.Module, image: Tensor, weights: Sequence[Tensor], layer: Layer) -> list[FloatArray]:
    """The weighted sum (h / stride, w / stride) of the channels of each block."""
    with torch.no_grad():
        outputs = layer_outputs(net, image, layer)
    return [torch.einsum("chw,c->hw", x[0].double().cpu(), w).numpy() for x, w in zip(outputs, weights, strict=True)]


def _percentile_range(maps: Sequence[FloatArray]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate([values.ravel() for values in maps]), _PERCENTILES)
    return float(low), float(max(high, low + _TINY))


def readout_sign(maps: Sequence[FloatArray], evidence: Sequence[FloatArray]) -> int:
    """1 if ``maps`` agree with the ``evidence`` by correlation over all pixels, else −1: a map's sign is arbitrary.

    A map may be smaller than its evidence (h, w), which is then averaged over blocks.
    """
    pairs = []
    for values, wanted in zip(maps, evidence, strict=True):
        full = torch.tensor(np.asarray(wanted, np.float64))[None, None]
        pairs.append((values.ravel(), nnf.adaptive_avg_pool2d(full, values.shape).numpy().ravel()))
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return 1 if np.dot(a - a.mean(), b - b.mean()) >= 0 else -1


def predict_map(net: nn.Module, readout: Readout, images: Tensor, layer: Layer = "layer1") -> Tensor:
    """The map (b, h, w) in [0, 1] of images (b, 3, h, w), whose sides are multiples of the layer's stride.

    Uses no gradient, nothing after ``layer``, and no normalisation per image.
    """
    with torch.no_grad():
        blocks = layer_outputs(net, images, layer)
        return read_map(blocks, readout, (images.shape[2], images.shape[3]))
