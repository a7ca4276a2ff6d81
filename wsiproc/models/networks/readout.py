"""The forward-only readout: the self-activation map as a weighted sum of shallow channels, and clusters of pixels.

Grad-CAM (Selvaraju et al. 2017) weights each channel by the mean of its gradient over the image, separately for each
image. Here the weights are found once per model, so neighbouring windows agree and no backward pass is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Len

from wsiproc.models.networks.gaussian import gaussian

if TYPE_CHECKING:
    from torch import Tensor

Features = tuple[float, float, float, float]
_Scale = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Readout:
    """``weights``: a row of channel weights for each shallow block; ``low``, ``high``: sums that become 0 and 1. The
    sign is part of the weights: the map is high on nuclei.
    """

    weights: Annotated[tuple[tuple[float, ...], ...], Len(1, 16)]
    low: float
    high: float

    def __post_init__(self) -> None:
        """Reject an empty range."""
        if self.high <= self.low:
            raise ValueError(f"readout.high is {self.high}; it must be above readout.low, {self.low}")


@dataclass(frozen=True)
class Clusters:
    """Centres of pixels' features: the map, and optical density × gain of red, green and blue, slightly smoothed.

    ``scale`` multiplies each feature's difference in the distance; ``nuclei``: rows of ``centres`` that are nuclei;
    ``softness``: squared distance that moves the probability by one logit; ``smooth_um``: sigma of the Gaussian on
    the optical density.
    """

    centres: Annotated[tuple[Features, ...], Len(2, 64)]
    nuclei: Annotated[tuple[Annotated[int, Ge(0)], ...], Len(1, 63)]
    scale: tuple[_Scale, _Scale, _Scale, _Scale] = (1.0, 1.0, 1.0, 1.0)
    softness: Annotated[float, Gt(0)] = 0.05
    smooth_um: Annotated[float, Ge(0), Le(5)] = 0.5

    def __post_init__(self) -> None:
        """Reject indices that select none, all, or missing centres."""
        chosen = set(self.nuclei)
        if not chosen or len(chosen) >= len(self.centres) or max(chosen) >= len(self.centres):
            raise ValueError(
                f"clusters.nuclei is {list(self.nuclei)}; it must name some of the {len(self.centres)} centres, not all"
            )


def read_map(blocks: Sequence[Tensor], readout: Readout, shape: tuple[int, int]) -> Tensor:
    """The self-activation map (b, h, w) of ``shape``, in [0, 1].

    ``blocks``: the shallow blocks' outputs (b, c, h / stride, w / stride), as many as the readout has rows.
    """
    import torch

    sums = [
        (block.float() * torch.tensor(row, device=block.device)[:, None, None]).sum(1)  # not a matrix product, which
        for block, row in zip(blocks, readout.weights, strict=True)  # autocast would do in half precision
    ]
    total = torch.stack(sums, 1).sum(1, keepdim=True)
    return _enlarge(((total - readout.low) / (readout.high - readout.low)).clamp(0, 1), shape)[:, 0]


def _enlarge(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bilinear (b, 1, h, w) of ``shape``, a multiple of the image's.

    A strided convolution with an odd kernel is centred on the first pixel of each step, which is the position of its
    value; plain interpolation would shift the map by half a step.
    """
    import torch.nn.functional as nn

    factor = shape[0] // image.shape[2]
    more = nn.pad(image, (0, 1, 0, 1), mode="replicate")
    size = (shape[0] + 1, shape[1] + 1)
    assert (size[0] - 1, size[1] - 1) == (image.shape[2] * factor, image.shape[3] * factor)
    return nn.interpolate(more, size, mode="bilinear", align_corners=True)[..., : shape[0], : shape[1]]


def pixel_features(activation: Tensor, od: Tensor, smooth_px: float) -> Tensor:
    """(b, 4, h, w) of the map (b, h, w) and optical density × gain (b, 3, h, w), smoothed."""
    import torch

    return torch.cat([activation[:, None], gaussian(od, smooth_px) if smooth_px else od], 1)


def nucleus_probability(features: Tensor, clusters: Clusters) -> Tensor:
    """(b, h, w) in [0, 1] of features (b, 4, h, w): one half where a nuclear centre and another are equally near."""
    import torch

    scale = features.new_tensor(clusters.scale)[:, None, None]
    squared = [
        ((features - features.new_tensor(centre)[:, None, None]) * scale).square_().sum(1)
        for centre in clusters.centres
    ]
    nuclei = torch.stack([d for i, d in enumerate(squared) if i in clusters.nuclei]).amin(0)
    others = torch.stack([d for i, d in enumerate(squared) if i not in clusters.nuclei]).amin(0)
    return torch.sigmoid((others - nuclei) / clusters.softness)
