"""The published method from end to end, as a reference: everything is computed per image (Chen et al. 2023).

Activation network → Grad-CAM → clusters → pseudo masks → first network → points → Voronoi labels → final network.
Differences from the paper: networks are small by default, for CPUs, and a U-Net without pretrained weights replaces the
ResUNet-34; the sign of each map is fixed. It handles neither seams nor slides, unlike ``wsiproc.models``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from scipy import ndimage
from torch import Tensor, nn

from wsiproc.core.types import Float32Array, FloatArray, Int32Array, Int64Array, UInt8Array
from wsiproc.models.networks.unet import UNet
from wsiproc.psm.activation.clustering import fit_clusters
from wsiproc.psm.activation.map import grad_cam, readout_sign
from wsiproc.psm.activation.network import Layer, NetworkKind, as_input, build_activation_network, shallow_blocks
from wsiproc.psm.activation.objectives import OBJECTIVES, Objective
from wsiproc.psm.activation.training import random_crops, train_activation
from wsiproc.psm.published.pseudo import BACKGROUND, IGNORED, find_points, pseudo_mask, voronoi_label

VORONOI_WEIGHT = 1.5
POSITIVE, NEGATIVE = 1, 2  # of the pseudo masks of Ki-67


@dataclass(frozen=True)
class Schedule:
    """Training schedule: steps of each network, ``batch`` crops of ``crop_px`` per step (paper: 512 px)."""

    activation: int
    first: int
    final: int
    crop_px: int = 256
    batch: int = 4


@dataclass(frozen=True)
class PixelNetwork:
    """A trained network: probabilities of background and each class, and cells derived from them."""

    net: UNet

    def probabilities(self, image: UInt8Array) -> Float32Array:
        """(1 + classes, h, w), background first, of an image (h, w, 3)."""
        h, w = image.shape[:2]
        stride = self.net.stride
        device = next(self.net.parameters()).device
        padded = nnf.pad(as_input(image[None]).to(device), (0, -w % stride, 0, -h % stride), mode="replicate")
        with torch.no_grad():
            found: Float32Array = self.net(padded).softmax(1)[0, :, :h, :w].cpu().numpy()
        return found

    def labels(self, image: UInt8Array) -> Int32Array:
        """(h, w) instances 1…N: connected components of pixels more likely to be nucleus than background."""
        labels: Int32Array = ndimage.label(self.probabilities(image).argmax(0) != BACKGROUND)[0]
        return labels

    def points(self, image: UInt8Array) -> list[Int64Array]:
        """(N, 2) points (y, x) of each class: peaks of its smoothed probability."""
        return [find_points(plane) for plane in self.probabilities(image)[1:]]


def fit_published(
    images: Sequence[UInt8Array],
    schedule: Schedule,
    *,
    kind: NetworkKind = "small",
    objective: str = "similarity",
    layer: Layer = "layer1",
    k: int = 3,
    two_classes: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PixelNetwork:
    """The final network, trained on images (h, w, 3) at 0.25 µm/px without labels.

    ``objective``: a key of ``OBJECTIVES``; ``k``: clusters per image; ``two_classes``: brown, then blue nuclei (Ki-67).
    """
    question, net = fit_activation(images, schedule, kind=kind, objective=objective, seed=seed, device=device)
    maps = activation_maps(net, question, images, layer)
    masks = cluster_masks(maps, images, k, two_classes, seed)
    first = train_pixels(images, masks, None, schedule.first, schedule, seed=seed, device=device)
    voronoi = [point_label(first.points(image), masks[0].shape) for image in images]
    return train_pixels(images, masks, voronoi, schedule.final, schedule, seed=seed + 1, device=device)


def fit_activation(
    images: Sequence[UInt8Array],
    schedule: Schedule,
    *,
    kind: NetworkKind,
    objective: str,
    seed: int,
    device: torch.device | str,
) -> tuple[Objective, nn.Module]:
    """The objective and the activation network that was trained on it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        question = OBJECTIVES[objective]()
        net = build_activation_network(kind, question.outputs)
    steps, crop_px, batch = schedule.activation, schedule.crop_px, schedule.batch
    train_activation(net, question, images, steps=steps, crop_px=crop_px, batch=batch, seed=seed, device=device)
    return question, net


def activation_maps(
    net: nn.Module, objective: Objective, images: Sequence[UInt8Array], layer: Layer = "layer1"
) -> list[FloatArray]:
    """Grad-CAM (h, w) of each image, by its own gradient, range and sign. In the paper the sign is arbitrary; here the
    map is inverted if it disagrees with the absorption of red light.
    """
    device, blocks = next(net.parameters()).device, shallow_blocks(net, layer)
    maps = []
    for image in images:
        found = grad_cam(net, objective.score, as_input(image[None]).to(device), blocks).cpu().numpy()
        maps.append(found if readout_sign([found], [255.0 - image[..., 0]]) > 0 else 1 - found)
    return maps


def cluster_masks(
    maps: Sequence[FloatArray], images: Sequence[UInt8Array], k: int = 3, two_classes: bool = False, seed: int = 0
) -> list[UInt8Array]:
    """Pseudo masks (h, w) of maps and images: ``BACKGROUND``, 1 nucleus; for Ki-67 ``POSITIVE`` and ``NEGATIVE``."""
    masks = []
    for activation, image in zip(maps, images, strict=True):
        clusters = fit_clusters([activation], [image], k, seed=seed)
        index = clusters.assign(activation, image)
        mask = np.full(index.shape, BACKGROUND, np.uint8)
        chosen = clusters.positive_and_negative() if two_classes else (0,)
        for number, cluster in enumerate(chosen, start=1):
            mask[pseudo_mask(index == cluster)] = number
        masks.append(mask)
    return masks


def point_label(points: Sequence[Int64Array], shape: tuple[int, ...]) -> UInt8Array:
    """Voronoi label (h, w) of the points of all classes together, discs with the number of their class."""
    kinds = np.concatenate([np.full(len(of_class), 1 + i, np.uint8) for i, of_class in enumerate(points)])
    return voronoi_label(np.concatenate(points), (shape[0], shape[1]), kinds=kinds)


def train_pixels(
    images: Sequence[UInt8Array],
    masks: Sequence[UInt8Array],
    voronoi: Sequence[UInt8Array] | None,
    steps: int,
    schedule: Schedule,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    lr: float = 1e-3,
) -> PixelNetwork:
    """A pixel classifier, trained with ``pixel_loss`` on pseudo masks and, finally, on Voronoi labels (h, w)."""
    rng = np.random.default_rng(seed)
    classes = 1 + max(int(mask.max()) for mask in masks)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = UNet(outputs=max(2, classes)).to(device).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=lr)
    targets = [masks] if voronoi is None else [masks, voronoi]
    for _ in range(steps):
        crops, *cut = random_crops(images, schedule.crop_px, schedule.batch, rng, *targets)
        logits = net(as_input(crops).to(device))
        loss = pixel_loss(logits, *(torch.from_numpy(target).long().to(device) for target in cut))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return PixelNetwork(net.eval())


def pixel_loss(logits: Tensor, mask: Tensor, voronoi: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits (b, 1 + classes, h, w) with the mask (b, h, w), + 1.5 × that with the Voronoi label.

    ``IGNORED`` pixels of the Voronoi label have no weight.
    """
    loss = nnf.cross_entropy(logits, mask)
    if voronoi is None:
        return loss
    voronoi_loss = nnf.cross_entropy(logits, voronoi, ignore_index=IGNORED, reduction="sum")
    return loss + VORONOI_WEIGHT * voronoi_loss / (voronoi != IGNORED).sum().clamp(min=1)
