"""Training of the activation network: random crops, an objective, Adam."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from wsiproc.core.types import UInt8Array
from wsiproc.psm.activation.network import as_input
from wsiproc.psm.activation.objectives import Objective

OnStep = Callable[[int, float], None]


def train_activation(
    net: nn.Module,
    objective: Objective,
    images: Sequence[UInt8Array],
    *,
    steps: int,
    crop_px: int,
    batch: int,
    seed: int,
    device: torch.device | str = "cpu",
    lr: float = 1e-4,
    bfloat16: bool = False,
    on_step: OnStep | None = None,
) -> nn.Module:
    """``net``, trained in place and in evaluation mode. On a CPU the same seed gives the same weights.

    ``images``: (h, w, 3), any sizes of at least ``crop_px``; ``batch``: crops per step; ``lr``: of Adam, 1e-4 in the
    paper; ``bfloat16``: autocast; ``on_step``: called with the number of steps done and the loss. Raises ValueError if
    an image is too small for a crop.
    """
    rng = np.random.default_rng(seed)
    for module in (net, *objective.modules()):
        module.to(device).train()
    modules = [net, *objective.modules()]
    optimiser = torch.optim.Adam(itertools.chain.from_iterable(m.parameters() for m in modules), lr=lr)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            crops = as_input(random_crops(images, crop_px, batch, rng)[0]).to(device)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
                loss = objective.loss(net, crops)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if on_step is not None:
                on_step(step, float(loss.detach()))
    for module in modules:
        module.eval()
    return net


def random_crops(
    images: Sequence[UInt8Array], crop_px: int, batch: int, rng: np.random.Generator, *others: Sequence[UInt8Array]
) -> list[UInt8Array]:
    """(batch, crop_px, crop_px, …) cropped from ``images`` and from each of ``others``, at the same positions. Each
    is randomly flipped and rotated by a multiple of 90°. ``others``: such as labels, (h, w) or (h, w, c) for each
    image. Raises ValueError if an image is too small.
    """
    small = [image.shape for image in images if min(image.shape[:2]) < crop_px]
    if small or not images:
        raise ValueError(f"crops of {crop_px} px from {len(images)} images, some of which are too small: {small}")
    cut: list[list[UInt8Array]] = [[] for _ in range(1 + len(others))]
    for _ in range(batch):
        number = int(rng.integers(len(images)))
        y, x = (int(rng.integers(side - crop_px + 1)) for side in images[number].shape[:2])
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        for kept, source in zip(cut, (images, *others), strict=True):
            crop = np.rot90(source[number][y : y + crop_px, x : x + crop_px], turns)
            kept.append(crop[::-1] if flip else crop)
    return [np.stack(crops) for crops in cut]
