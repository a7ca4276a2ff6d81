"""TIAToolbox's nucleus models as wsiproc's: HoVer-Net and Micro-Net without seams.

The networks are TIAToolbox's own. Its post-processing works on whole tiles: it stretches the maps between the tile's
smallest and largest value, and floods from a queue of all its pixels. Here the same decisions use fixed numbers and
wsiproc's local rule, so that no cell depends on how the slide was tiled.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from wsiproc.array.nuclei.measure import label_sums
from wsiproc.array.stains import Stain, Stains, estimate_stains
from wsiproc.core.geometry import Box
from wsiproc.core.palette import class_colour
from wsiproc.core.types import UInt8Array
from wsiproc.models.base import Channel, Instances
from wsiproc.models.cells import CutRule, SplitLengths, cell_margin, cut_cells
from wsiproc.models.staining import (
    NUCLEUS,
    optical_density,
    sample_pixels,
    stained_channels,
    stained_maps,
    stains_as_dict,
)
from wsiproc.models.tiatoolbox.pretrained import PREFIX, PRETRAINED_MPP, Pretrained, find_weights, load_pretrained

if TYPE_CHECKING:
    from torch import Tensor, nn

# TIAToolbox keeps every object of ten pixels; here a disc of 1 µm must fit into an object.
_CUT = CutRule(spur_um=0.5)
_SMALLEST_UM2 = 2.5
# HoVer-Net's borders decide rather than the shape: distant peaks are joined if there is no border between them. Chosen
# on the true nuclei of three of MoNuSeg's training images, so that the number of nuclei is preserved.
_HOVER_SPLIT = SplitLengths(
    merge_um=9.0, merge_dab_um=9.0, saddle=0.6, smallest_um2=_SMALLEST_UM2, smallest_dab_um2=_SMALLEST_UM2
)
_SHAPE_SPLIT = SplitLengths(
    merge_dab_um=4.0, saddle_dab=0.75, smallest_um2=_SMALLEST_UM2, smallest_dab_um2=_SMALLEST_UM2
)

_SOBEL_PX = 21  # TIAToolbox's, at 0.25 µm/px
_RAMP = 0.04  # per px: range around 0 in which the slope of the maps changes from border to interior
_HORIZONTAL, _VERTICAL, _FIRST_TYPE = 3, 4, 5  # planes of the maps


def open_nucleus_model(name: str) -> NucleusModel:
    """The model ``tiatoolbox:NAME=FILE``; FILE holds the weights. Raises ModelError."""
    spec, weights, sha256 = find_weights(name)
    kind = MicroNet if spec.name.startswith("micronet") else HoVerNet
    return kind(spec, sha256, weights)


@dataclass(frozen=True)
class NucleusModel:
    """One of TIAToolbox's models with the calibration on the slide; small, since the weights stay in their file."""

    spec: Pretrained
    weights_sha256: str
    weights: Path = field(repr=False)
    stains: Stains = field(default_factory=Stains)
    mpp: float = PRETRAINED_MPP

    @property
    def name(self) -> str:
        """The name as given on the command line, without the weights."""
        return PREFIX + self.spec.name

    @property
    def window(self) -> int:
        """See ``Pretrained``."""
        return self.spec.window

    @property
    def window_multiple(self) -> int:
        """The whole window: the network's output is smaller than its input by a fixed number of px."""
        return self.window

    @property
    def halo(self) -> int:
        """See ``Pretrained``."""
        return self.spec.halo

    @property
    def half_precision(self) -> bool:
        """No: TIAToolbox's networks compute in float32, and some of their layers support nothing else on a CPU."""
        return False

    @property
    def memory_bytes(self) -> int:
        """See ``Pretrained``."""
        return self.spec.memory_bytes

    @property
    @abstractmethod
    def margin(self) -> int:
        """Px that the extraction of cells can depend on."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's types of nuclei; a single class if it has none."""
        return self.spec.types or NUCLEUS

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Probability of a nucleus, both stains, and the network's own planes."""
        return stained_channels(self.stains) + self._extra_channels

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        return ()

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Self:
        """With the stains of the slide that ``samples`` (h, w, 3) are from, for the planes that are measured."""
        return replace(self, stains=estimate_stains(sample_pixels(samples, self.mpp), stain))

    def calibration(self) -> dict[str, object]:
        """The stains."""
        return stains_as_dict(self.stains)

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``. On a CPU one window at a time, since the batch size may change the last digit."""
        import torch

        network = load_pretrained(self.spec, self.weights, self.weights_sha256, str(windows.device))
        step = 1 if windows.device.type == "cpu" else len(windows)
        return torch.cat([self._maps(network, part) for part in torch.split(windows, step)])

    def _maps(self, network: nn.Module, windows: Tensor) -> Tensor:
        nucleus, *others = (self._widen(plane) for plane in self._read(network, windows))
        od = optical_density(windows, self.stains.white)
        return stained_maps(nucleus, od, self.stains, self.mpp, *others)

    def _widen(self, plane: Tensor) -> Tensor:
        """The network's output for a window (b, h, w), padded with zeros in the halo."""
        import torch.nn.functional as nn

        side = (self.spec.sees - plane.shape[-1]) // 2
        return nn.pad(plane.float(), (side, side, side, side))

    @abstractmethod
    def _read(self, network: nn.Module, windows: Tensor) -> Sequence[Tensor]:
        """Probability of a nucleus, then the planes of ``_extra_channels``: (b, h, w) in [0, 1] for its centre."""

    @abstractmethod
    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``."""


@dataclass(frozen=True)
class HoVerNet(NucleusModel):
    """HoVer-Net (Graham et al. 2019): touching nuclei are separated by each pixel's offset from its centre."""

    @property
    def margin(self) -> int:
        """Px that the extraction of cells can depend on, including the border filter."""
        return cell_margin(_CUT, _HOVER_SPLIT, self.mpp) + _SOBEL_PX // 2

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        """Horizontal and vertical position in the nucleus, 128 at its centre; probability of each type."""
        ways = (Channel("horizontal", (255, 120, 120)), Channel("vertical", (120, 255, 120)))
        return ways + tuple(Channel(t, class_colour(t, i)) for i, t in enumerate(self.spec.types))

    def _read(self, network: nn.Module, windows: Tensor) -> Sequence[Tensor]:
        import torch

        found = network(windows.permute(0, 3, 1, 2).float())  # it divides by 255 itself
        nucleus = torch.softmax(found["np"].float(), 1)[:, 1]
        ways = ((found["hv"].float() + 1) / 2).clamp(0, 1).unbind(1)
        types = torch.softmax(found["tp"].float(), 1)[:, 1:].unbind(1) if self.spec.types else ()
        return nucleus, *ways, *types

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``. A cell has the type with the highest probability, summed over its pixels."""
        found = cut_cells(
            maps,
            _CUT,
            _HOVER_SPLIT,
            self.mpp,
            interior=interior_of(maps[_HORIZONTAL], maps[_VERTICAL]),
            inner=inner,
        )
        if not self.spec.types or not len(found.classes):
            return found
        evidence = label_sums(found.labels, len(found.classes), maps[_FIRST_TYPE:]).values
        return replace(found, classes=evidence.argmax(axis=1).astype(np.uint8))


@dataclass(frozen=True)
class MicroNet(NucleusModel):
    """Micro-Net (Raza et al. 2019): the probability of a nucleus.

    TIAToolbox normalises each patch to mean 0 and deviation 1. Here ``level`` and ``spread`` are those of the slide's
    tissue, in grey levels ÷ 255. Touching nuclei are separated by shape, which TIAToolbox does not do.
    """

    level: float = 0.7
    spread: float = 0.2

    @property
    def margin(self) -> int:
        """Px that the extraction of cells can depend on."""
        return cell_margin(_CUT, _SHAPE_SPLIT, self.mpp)

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Self:
        """With the stains, level and spread of the slide that ``samples`` (h, w, 3) are from."""
        values = np.concatenate([sample.ravel() for sample in samples])
        counts = np.bincount(values, minlength=256) / len(values)
        levels = np.arange(256) / 255
        mean = float(counts @ levels)
        spread = max(float(counts @ (levels - mean) ** 2) ** 0.5, 1 / 255)  # pure background has none
        return replace(super().calibrate(samples, stain), level=round(mean, 6), spread=round(spread, 6))

    def calibration(self) -> dict[str, object]:
        """Stains, level and spread."""
        return super().calibration() | {"level": self.level, "spread": self.spread}

    def _read(self, network: nn.Module, windows: Tensor) -> Sequence[Tensor]:
        pixels = windows.permute(0, 3, 1, 2).float() / 255
        return (network((pixels - self.level) / self.spread)[0][:, 1],)

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``."""
        return cut_cells(maps, _CUT, _SHAPE_SPLIT, self.mpp, inner=inner)


def interior_of(horizontal: UInt8Array, vertical: UInt8Array) -> UInt8Array:
    """How certainly each pixel is inside a nucleus, from HoVer-Net's maps (h, w): 255 inside, 0 at its borders.

    The maps rise from one side of a nucleus to the other, and fall steeply from it to the next: where the slope of
    either is negative there is a border. TIAToolbox finds slopes with the same filter, stretches them between the
    tile's smallest and largest, and thresholds at 0.6 of that range, which on a tile full of nuclei is a slope of about
    0. Here it is 0 everywhere. Sums are of integers in float64, so exact for every crop.
    """
    slopes = (
        cv2.Sobel(horizontal, cv2.CV_64F, 1, 0, ksize=_SOBEL_PX),
        cv2.Sobel(vertical, cv2.CV_64F, 0, 1, ksize=_SOBEL_PX),
    )
    slope = np.minimum(*slopes) / (_unit_slope() * 127.5)
    inside: UInt8Array = np.rint(255 * np.clip(slope / _RAMP + 0.5, 0, 1)).astype(np.uint8)
    return inside


@cache
def _unit_slope() -> float:
    """Response of the filter to a plane that rises by 1 per px."""
    along, across = (kernel.ravel() for kernel in cv2.getDerivKernels(1, 0, _SOBEL_PX, ktype=cv2.CV_64F))
    return float((along * (np.arange(_SOBEL_PX) - _SOBEL_PX // 2)).sum() * across.sum())
