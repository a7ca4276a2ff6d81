"""Which labels are accepted: of three pseudo-labellers for the first round, of network and image later."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from wsiproc.core.types import BoolArray, Float32Array, Int32Array, UInt8Array
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.cells import CutRule, SplitLengths, cut_cells
from wsiproc.models.folder import InputNumbers
from wsiproc.psm.labels.composite import collect_palette
from wsiproc.psm.labels.evidence import confidence, tree_objects
from wsiproc.psm.labels.targets import IGNORE, agreed_background, agreeing, make_target, network_background
from wsiproc.psm.segmenter import Example, computes_bfloat16
from wsiproc.psm.tiles import Tiles

AGREEMENT_IOU = 0.6
LABEL_RING_UM = 2.0
ACCEPTED_CONFIDENCE = 0.6
"""Minimum confidence of an object found by a network to be used in the next round."""
BACKGROUND = 0.5
_STAIN_OD, _STAIN_UM = 0.10, 0.75  # red optical density from which something blue may be present
_STRIDE = 32


def density(tiles: Tiles, number: int) -> Float32Array:
    """Optical density × gain (h, w, 3) of one tile."""
    pixels, levels = tiles.pixels[number], tiles.density
    return np.stack([levels[pixels[..., c], c] for c in range(3)], axis=-1)


def classical_labels(tiles: Tiles, mpp: float) -> list[tuple[Int32Array, UInt8Array]]:
    """Cells and their probability (h, w) by the classical model, calibrated on all tiles of the source."""
    model = Classical(mpp=mpp).calibrate(tiles.pixels)
    found = []
    for pixels in tiles.pixels:
        h, w = pixels.shape[:2]
        around = ((model.halo, model.halo), (model.halo, model.halo), (0, 0))
        windows = torch.from_numpy(np.pad(pixels, around, mode="reflect"))[None]
        maps = model.predict(windows)[0, :, model.halo : model.halo + h, model.halo : model.halo + w].numpy()
        found.append((model.instances(maps).labels, maps[0]))
    return found


def agreed_labels(
    od: Float32Array, classical: tuple[Int32Array, UInt8Array], activation: Float32Array, mpp: float
) -> tuple[Int32Array, UInt8Array]:
    """Objects found by both the component tree and the classical model and confirmed by the map; and a target.

    ``activation``: the self-activation map (h, w), high on nuclei.
    """
    tree = tree_objects(od, mpp)
    labels, probability = classical
    accepted = agreeing(tree, labels, AGREEMENT_IOU)
    accepted = _keep(accepted, stands_out(accepted, activation, mpp))
    return accepted, make_target(accepted, agreed_background(tree, labels, probability, mpp))


def stands_out(labels: Int32Array, activation: Float32Array, mpp: float) -> BoolArray:
    """(N,) whether the map is higher inside an object than around it and its neighbours, within 2 × ``LABEL_RING_UM``.
    Pixels too deep inside to be near any surroundings are ignored, as is an object that has only those.
    """
    count = int(labels.max(initial=0))
    side = 2 * round(LABEL_RING_UM / mpp) + 1
    outside = (labels == 0).astype(np.float32)
    window = (2 * side + 1, 2 * side + 1)
    share = cv2.blur(outside, window)
    near = share > 0.5 / window[0] ** 2
    around = cv2.blur(activation * outside, window) / np.maximum(share, 1e-6)
    difference = np.bincount(labels.ravel(), np.where(near, activation - around, 0).ravel(), count + 1)
    higher: BoolArray = difference[1:] > 0
    return higher


def _keep(labels: Int32Array, kept: BoolArray) -> Int32Array:
    return np.where(np.concatenate([[False], kept])[labels], labels, 0).astype(np.int32)


def network_labels(
    net: nn.Module, od: Float32Array, numbers: InputNumbers, cut: CutRule, split: SplitLengths, mpp: float, device: str
) -> tuple[Int32Array, UInt8Array]:
    """Objects that a network finds and the image itself supports, and a target for the next round."""
    probability, interior = mean_of_views(net, od, numbers, device)
    maps = np.rint(np.stack([probability, interior]) * 255).astype(np.uint8)
    labels = cut_cells(maps[:1], cut, split, mpp, interior=maps[1]).labels
    accepted = _keep(labels, confidence(labels, probability, od, mpp) > ACCEPTED_CONFIDENCE)
    return accepted, make_target(accepted, network_background(labels, probability, accepted, BACKGROUND))


def mean_of_views(
    net: nn.Module, od: Float32Array, numbers: InputNumbers, device: str
) -> tuple[Float32Array, Float32Array]:
    """Probability of nucleus and interior (h, w), means over the tile and a rotated, darker view of it."""
    h, w = od.shape[:2]
    pad = ((_STRIDE, _STRIDE + -h % _STRIDE), (_STRIDE, _STRIDE + -w % _STRIDE), (0, 0))
    image = torch.from_numpy(np.pad(od, pad, mode="reflect")).permute(2, 0, 1)[None].to(device)
    straight = _probabilities(net, image, numbers)
    turned = torch.rot90(_probabilities(net, torch.rot90(image, 1, (2, 3)) * 1.15, numbers), -1, (2, 3))
    both = ((straight + turned) / 2)[0, :, _STRIDE : _STRIDE + h, _STRIDE : _STRIDE + w].cpu().numpy()
    return both[0], both[1]


def _probabilities(net: nn.Module, od: Tensor, numbers: InputNumbers) -> Tensor:
    with (
        torch.inference_mode(),
        torch.autocast(od.device.type, torch.bfloat16, enabled=computes_bfloat16(od.device.type)),
    ):
        logits: Tensor = net(network_input(od, 1.0, numbers))
    return logits.float().sigmoid()


def maybe_blue(od: Float32Array, mpp: float) -> BoolArray:
    """Where (h, w) optical density (h, w, 3) absorbs enough red for a pale blue nucleus."""
    smooth = cv2.GaussianBlur(np.ascontiguousarray(od[..., 0]), (0, 0), _STAIN_UM / mpp)
    return np.asarray(smooth > _STAIN_OD)


def make_example(tiles: Tiles, number: int, accepted: Int32Array, target: UInt8Array, mpp: float) -> Example:
    """The training example of one tile. With DAB, pale blue nuclei are easily missed next to brown ones, so background
    that absorbs red is ignored.
    """
    od, dab = density(tiles, number), tiles.stains.kind == "H-DAB"
    if dab:
        target = target.copy()
        target[maybe_blue(od, mpp) & (target[..., 0] == 0)] = IGNORE
    return Example(
        tiles.pixels[number], tiles.density, target, collect_palette(od, accepted, tiles.stains, mpp), tiles.name
    )
