"""Five pretext tasks that need no labels (Chen et al. 2023, section 2.1 and ablation). Each defines the number of
``outputs`` of the network, the ``loss`` of a batch (b, 3, h, w), additional modules to train, and the ``score`` (b,) of
each image, whose gradient Grad-CAM uses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

_SIMSIAM_SIZE = 64
_VIEW_GAIN = 0.2  # maximum change of a colour channel in a view of SimSiam


class Objective(Protocol):
    """A pretext task; see the module docstring."""

    outputs: int

    def loss(self, net: nn.Module, batch: Tensor) -> Tensor:
        """The value to minimise: a scalar."""

    def score(self, net: nn.Module, images: Tensor) -> Tensor:
        """(b,) the value of each image to differentiate."""

    def modules(self) -> Iterable[nn.Module]:
        """Additional modules, trained with the network."""


class _OneNumber:
    """Base of objectives with a single network output."""

    outputs = 1

    def score(self, net: nn.Module, images: Tensor) -> Tensor:
        """The output itself."""
        number: Tensor = net(images)[:, 0]
        return number

    def modules(self) -> Iterable[nn.Module]:
        """None."""
        return ()


class Similarity(_OneNumber):
    """|f(x) − f(x rotated by 180°)|: the output should not depend on the orientation. The paper's default."""

    def loss(self, net: nn.Module, batch: Tensor) -> Tensor:
        """Mean over the batch."""
        return (self.score(net, batch) - self.score(net, _half_turn(batch))).abs().mean()


class Contrastive(_OneNumber):
    """Similarity, and a difference of at least ``margin`` to another image of the batch (hinge)."""

    def __init__(self, margin: float = 10.0) -> None:
        self.margin = margin

    def loss(self, net: nn.Module, batch: Tensor) -> Tensor:
        """Mean over the batch of at least two images; each is compared with the previous one."""
        if len(batch) < 2:
            raise ValueError(f"a batch of {len(batch)}: the contrastive objective compares images and needs at least 2")
        number = self.score(net, batch)
        same = (number - self.score(net, _half_turn(batch))).abs()
        other = (number - number.roll(1)).abs()
        return (same + (self.margin - other).clamp(min=0)).mean()


class Rotation:
    """By which of 0°, 90°, 180°, 270° was the image rotated? (Gidaris et al. 2018)"""

    outputs = 4

    def loss(self, net: nn.Module, batch: Tensor) -> Tensor:
        """Cross entropy; each image, which must be square, is rotated by a random angle."""
        turns = torch.randint(4, (len(batch),))
        turned = torch.stack([torch.rot90(x, int(k), (1, 2)) for x, k in zip(batch, turns, strict=True)])
        return nnf.cross_entropy(net(turned), turns.to(batch.device))

    def score(self, net: nn.Module, images: Tensor) -> Tensor:
        """The logit of "not rotated"."""
        logit: Tensor = net(images)[:, 0]
        return logit

    def modules(self) -> Iterable[nn.Module]:
        """None."""
        return ()


class SimSiam:
    """Two views of an image are predicted from each other, with a stopped gradient (Chen and He 2021).

    Two linear heads: the network's last layer projects, ``predictor`` predicts.
    """

    outputs = _SIMSIAM_SIZE

    def __init__(self) -> None:
        self.predictor = nn.Linear(_SIMSIAM_SIZE, _SIMSIAM_SIZE)

    def loss(self, net: nn.Module, batch: Tensor) -> Tensor:
        """Negative cosine, the mean of both directions."""
        one, two = net(_view(batch)), net(_view(batch))
        return -(self.agreement(one, two) + self.agreement(two, one)).mean() / 2

    def agreement(self, projected: Tensor, target: Tensor) -> Tensor:
        """(b,) cosine of the prediction from one view (b, 64) and the other view, which is treated as constant."""
        return nnf.cosine_similarity(self.predictor(projected), target.detach(), dim=1)

    def score(self, net: nn.Module, images: Tensor) -> Tensor:
        """The cosine between an image's prediction and the image itself."""
        projected = net(images)
        return self.agreement(projected, projected)

    def modules(self) -> Iterable[nn.Module]:
        """The predictor."""
        return (self.predictor,)


class MeanValue(_OneNumber):
    """The mean of all pixels and channels."""

    def loss(self, net: nn.Module, batch: Tensor) -> Tensor:
        """Mean squared error."""
        return nnf.mse_loss(self.score(net, batch), batch.mean((1, 2, 3)))


OBJECTIVES: dict[str, type[Objective]] = {
    "similarity": Similarity,
    "contrastive": Contrastive,
    "rotation": Rotation,
    "simsiam": SimSiam,
    "mean value": MeanValue,
}
"""By name; each can be built without arguments."""


def _half_turn(images: Tensor) -> Tensor:
    return images.flip((2, 3))


def _view(images: Tensor) -> Tensor:
    """Images flipped at random, with the brightness of each channel changed slightly."""
    flips = torch.rand(len(images), 2) < 0.5
    gains = 1 + _VIEW_GAIN * (2 * torch.rand(len(images), 3, 1, 1) - 1)
    flipped = [x.flip([d + 1 for d in (0, 1) if f[d]]) for x, f in zip(images, flips, strict=True)]
    return torch.stack(flipped) * gains.to(images.device)
