"""Labels for the final network: proposals of a teacher, averaged over eight views, and of the classical model compete.

Their logits are mixed with several weights and thresholded at several levels, outlines are moved to where the stain
drops most steeply, and the proposals compete (``wsiproc.psm.labels.consensus``). Clear winners are nuclei; pixels in no
proposal, or without the colour of a nucleus, are background; everything else is ignored. If the teacher is a finished
model, its scores tell which winners their neighbours speak against (``wsiproc.psm.labels.doubt``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from wsiproc.array.nuclei.contour import ContourRule, refine
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.array.stains import Stains
from wsiproc.core.types import BoolArray, Float32Array, FloatArray, Int32Array, UInt8Array
from wsiproc.models.base import Instances
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.builtin.hints import folded_input, half_resolution_density, hints
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.cells import CutRule, OutlineRule, OutlineScoring, SplitLengths, cut_cells
from wsiproc.models.folder import DistilledConfig, InputNumbers
from wsiproc.models.networks.unet import UNet
from wsiproc.psm.labels.composite import collect_palette
from wsiproc.psm.labels.consensus import Agreed, compete
from wsiproc.psm.labels.doubt import ScoredCells, doubted, forgive, haematoxylin_share, withdraw
from wsiproc.psm.labels.labelling import density, maybe_blue
from wsiproc.psm.labels.restain import without_dab
from wsiproc.psm.labels.targets import IGNORE, interior
from wsiproc.psm.segmenter import Example, computes_bfloat16
from wsiproc.psm.tiles import Tiles

ACCEPTED_SCORE = 0.5
"""Minimum score of an object used for training."""
MIXES = (0.0, 0.4, 0.8)
"""Weights of the classical model in the mixed logits."""
THRESHOLDS = (0.4, 0.55, 0.7)
_REJECTED_SCORE = 0.35
_RING_UM, _APART_UM = 1.5, 0.5
_NOBODY = 0.3  # mean probability below which there is no nucleus
_PALE_OD = 0.10  # sum of haematoxylin and the second stain below which colour is unreliable
_ODD = 1.0  # per cent of pixels of accepted nuclei that have less haematoxylin for their density
_SMALLEST_UM2 = 10.0
_HALO = 64


@dataclass(frozen=True)
class Teacher:
    """A network and its input: pixels at twice the tiles' µm/px or, folded, the tiles themselves.

    ``config``: of a finished model; ``others``: further teachers, whose logits are averaged with its own.
    """

    net: nn.Module
    numbers: InputNumbers
    config: DistilledConfig | None = None
    others: tuple[Teacher, ...] = ()

    def logits(self, od: Float32Array, tiles: Tiles, classical: Classical, device: str, views: int = 8) -> Float32Array:
        """Mean logits (2, h, w) of nucleus and interior over ``views`` rotated and mirrored views of a tile (h, w, 3)
        of optical density × gain.
        """
        h, w = od.shape[:2]
        padded = np.pad(od, ((_HALO, _HALO + -h % _HALO), (_HALO, _HALO + -w % _HALO), (0, 0)), mode="reflect")
        image = torch.from_numpy(padded).permute(2, 0, 1)[None].to(device)
        total = torch.zeros(1, 2, *image.shape[2:])
        for view in range(views):
            total += _unseen_from(self._logits(_seen_from(image, view), tiles, classical).cpu(), view)
        mean: Float32Array = (total / views)[0, :, _HALO : _HALO + h, _HALO : _HALO + w].numpy()
        return mean

    def _logits(self, od: Tensor, tiles: Tiles, classical: Classical) -> Tensor:
        """One view (1, 3, h, w), at the tile's resolution (1, 2, h, w)."""
        assert isinstance(self.net, UNet)
        self.net.to(od.device)
        with (
            torch.inference_mode(),
            torch.autocast(od.device.type, torch.bfloat16, enabled=computes_bfloat16(od.device.type)),
        ):
            if self.net.fold == 1:
                seen = network_input(half_resolution_density(od), 1.0, self.numbers)
            else:
                seen = folded_tissue(od, tiles, classical, self.numbers)
            found: Tensor = self.net(seen).float()
        if self.net.fold == 1:
            found = nn.functional.interpolate(found, scale_factor=2, mode="bilinear")
        return found


def folded_tissue(od: Tensor, tiles: Tiles, classical: Classical, numbers: InputNumbers) -> Tensor:
    """Input of a folded network for tissue of a source, (1, 3, h, w) optical density × gain."""
    hint_planes = hints(half_resolution_density(od) / tiles.gain, tiles.gain, tiles.stains, classical)
    return folded_input(network_input(od, 1.0, numbers), hint_planes)


def whole_input(net: UNet, od: Float32Array, tiles: Tiles, classical: Classical, numbers: InputNumbers) -> Tensor:
    """A network's input for a tile (h, w, 3) of optical density × gain, cropped to sides that it can downsample."""
    side = net.fold * net.stride
    h, w = (length // side * side for length in od.shape[:2])
    image = torch.from_numpy(np.ascontiguousarray(od[:h, :w])).permute(2, 0, 1)[None]
    if net.fold == 1:
        return network_input(image, 1.0, numbers)
    return folded_tissue(image, tiles, classical, numbers)


def _seen_from(image: Tensor, view: int) -> Tensor:
    turned = torch.rot90(image, view % 4, (2, 3))
    return turned.flip(3) if view >= 4 else turned


def _unseen_from(found: Tensor, view: int) -> Tensor:
    return torch.rot90(found.flip(3) if view >= 4 else found, -(view % 4), (2, 3))


def classical_logits(od: Float32Array, tiles: Tiles, classical: Classical) -> Float32Array:
    """Logit (h, w) by the classical model, at half the resolution of a tile of optical density × gain, upsampled."""
    h, w = od.shape[:2]
    reach = 2 * classical.halo
    padded = np.pad(od, ((reach, reach + h % 2), (reach, reach + w % 2), (0, 0)), mode="reflect")
    half = half_resolution_density(torch.from_numpy(padded / np.float32(tiles.gain)).permute(2, 0, 1)[None])
    logit = nn.functional.interpolate(classical.logit(half)[:, None], scale_factor=2, mode="bilinear")[0, 0]
    found: Float32Array = logit[reach : reach + h, reach : reach + w].numpy()
    return found


def calibrated_classical(tiles: Tiles, mpp: float) -> Classical:
    """The classical model of a source whose tiles have ``mpp`` µm/px, working at twice that."""
    halves = [
        half_resolution_density(torch.from_numpy(density(tiles, i) / np.float32(tiles.gain)).permute(2, 0, 1)[None])
        for i in range(len(tiles.pixels))
    ]
    return Classical(stains=tiles.stains, mpp=2 * mpp).calibrate_density(halves)


def search_density(od: FloatArray) -> Float32Array:
    """(h, w) density in which nuclear borders are searched, from optical density (h, w, 3): mostly red, some green."""
    found: Float32Array = (od[..., 0] + 0.3 * od[..., 1]).astype(np.float32)
    return found


def propose(
    classical: Float32Array, network: Float32Array, od: Float32Array, split: SplitLengths, mpp: float
) -> Agreed:
    """Winning objects from the logits of both, (h, w) and (2, h, w), over optical density (h, w, 3) without gain."""
    searched = search_density(od)
    steps = _density_steps(searched)
    inside = _bytes(network[1])
    rule, least = ContourRule(reach=round(15 / mpp)), round(_SMALLEST_UM2 * 0.6 / mpp**2)
    proposals = []
    for share in MIXES:
        maps = _bytes(share * classical + (1 - share) * network[0])[None]
        for threshold in THRESHOLDS:
            cells = cut_cells(maps, CutRule(threshold=threshold), split, mpp, interior=inside)
            proposals.append(refine(cells.labels, steps, rule, least).labels)
    return compete(proposals, np.asarray(cv2.GaussianBlur(searched, (0, 0), 0.25 / mpp), np.float32))


def _bytes(logit: Float32Array) -> UInt8Array:
    found: UInt8Array = np.rint(255 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.uint8)
    return found


def _density_steps(searched: Float32Array) -> UInt8Array:
    steps: UInt8Array = np.rint(np.clip(searched * 100, 0, 255)).astype(np.uint8)
    return steps


def make_teacher_target(
    agreed: Agreed, classical: Float32Array, network: Float32Array, od: Float32Array, stains: Stains, mpp: float
) -> tuple[Int32Array, UInt8Array]:
    """Accepted objects (h, w) and the target (h, w, 2) of one tile; see the module docstring for the rules."""
    score = np.concatenate([[0.0], agreed.scores])[agreed.labels]
    accepted = np.where(score >= ACCEPTED_SCORE, agreed.labels, 0).astype(np.int32)
    somebody = (1 / (1 + np.exp(-np.maximum(network[0], classical * 0.5 + network[0] * 0.5)))) > _NOBODY
    near = cv2.dilate(((agreed.labels > 0) | somebody).astype(np.uint8), _disc(_APART_UM / mpp)) > 0
    ring = cv2.dilate((accepted > 0).astype(np.uint8), _disc(_RING_UM / mpp)) > 0
    background = (~near) | (ring & (agreed.labels == 0))
    if stains.kind == "H&E":
        background |= _not_a_nucleus_colour(od, stains, accepted) & (score < _REJECTED_SCORE)
    else:  # pale blue nuclei are easily missed next to brown ones
        background &= ~maybe_blue(od, mpp)
        background |= ring & (agreed.labels == 0)
    target = np.full((*accepted.shape, 2), IGNORE, np.uint8)
    target[background & (accepted == 0)] = 0
    inside = accepted > 0
    target[inside, 0] = 1
    target[..., 1][inside] = interior(accepted)[inside]
    return accepted, target


def _disc(radius: float) -> UInt8Array:
    side = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _not_a_nucleus_colour(od: Float32Array, stains: Stains, accepted: Int32Array) -> BoolArray:
    """Stained pixels (h, w) with a smaller share of haematoxylin than nearly all pixels of accepted nuclei."""
    share, total = haematoxylin_share(od, stains)
    inside = accepted > 0
    if inside.sum() < 1000:
        return np.zeros(inside.shape, bool)
    odd: BoolArray = (total > _PALE_OD) & (share < np.percentile(share[inside], _ODD))
    return odd


def teach(
    tiles: Tiles, teacher: Teacher, classical: Classical, split: SplitLengths, mpp: float, device: str
) -> list[tuple[Int32Array, UInt8Array]]:
    """Accepted objects and target of each tile of a source at ``mpp`` µm/px. If the source declares DAB outside nuclei,
    they are searched in the haematoxylin alone.
    """
    found, seen = [], []
    for number in range(len(tiles.pixels)):
        stained = density(tiles, number)
        brown = None
        if tiles.dab_outside_nuclei:
            stained, brown = without_dab(stained, tiles.stains)
        od = stained / np.float32(tiles.gain)
        own = teacher.logits(stained, tiles, classical, device)
        all_of_them = [own, *(other.logits(stained, tiles, classical, device) for other in teacher.others)]
        network: Float32Array = np.mean(all_of_them, axis=0, dtype=np.float32)
        shallow = classical_logits(stained, tiles, classical)
        agreed = propose(shallow, network, od, split, mpp)
        accepted, target = make_teacher_target(agreed, shallow, network, od, tiles.stains, mpp)
        if brown is not None:
            target[brown & (accepted == 0)] = 0
        found.append((accepted, target))
        seen.append(own)
    if teacher.config is not None and tiles.stains.kind == "H&E":
        _question(found, seen, tiles, teacher.config, mpp)
    return found


def _question(
    found: Sequence[tuple[Int32Array, UInt8Array]],
    seen: Sequence[Float32Array],
    tiles: Tiles,
    config: DistilledConfig,
    mpp: float,
) -> None:
    """Take back, in place, what the neighbours of the cells of a finished model speak against; ``seen``: its logits."""
    if config.score is None or config.outline is None or config.neighbours is None:
        return
    densities = [density(tiles, number) for number in range(len(seen))]
    cells = []
    for stained, logits in zip(densities, seen, strict=True):
        od = stained / np.float32(tiles.gain)
        instances = outlined_cells(logits, od, config.cut, config.split, config.outline, mpp)
        assert instances.evidence is not None
        labels = instances.labels
        empty = np.zeros((1, *labels.shape), np.uint8)
        centres = centroids(label_sums(labels, int(labels.max(initial=0)), empty))
        cells.append(ScoredCells(labels, config.score.scores(instances.evidence), centres))
    against = doubted(cells, config.neighbours, config.cut.object, mpp)
    for (accepted, target), some, which in zip(found, cells, against, strict=True):
        withdraw(accepted, target, some, which, mpp)
    forgive([target for _, target in found], [logits[0] > 0 for logits in seen], densities, tiles.stains, mpp)


def outlined_cells(
    logits: Float32Array, od: Float32Array, cut: CutRule, split: SplitLengths, outline: OutlineRule, mpp: float
) -> Instances:
    """All cells of a network's logits (2, h, w), with the evidence for their scores, over optical density (h, w, 3)
    without gain.
    """
    nucleus, inside = _bytes(logits)
    searched = _density_steps(search_density(od))
    scoring = OutlineScoring(outline, None, (0, 64))
    return cut_cells(np.stack([nucleus, searched]), replace(cut, object=0.0), split, mpp, False, inside, scoring)


def taught_example(
    tiles: Tiles, number: int, accepted: Int32Array, target: UInt8Array, classical: Classical, mpp: float
) -> Example:
    """The training example of one tile for the final network."""
    stained = (
        without_dab(density(tiles, number), tiles.stains)[0] if tiles.dab_outside_nuclei else density(tiles, number)
    )
    palette = collect_palette(stained, accepted, tiles.stains, mpp)
    return Example(
        tiles.pixels[number],
        tiles.density,
        target,
        palette,
        group=tiles.name,
        gain=tiles.gain,
        classical=classical,
        dab_outside_nuclei=tiles.dab_outside_nuclei,
    )
