"""A small network, trained on pseudo-labels, that distinguishes nuclei from everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from wsiproc.array.stains import Stain
from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.models.base import Channel, Instances
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.builtin.learned import LearnedModel
from wsiproc.models.cells import CutRule, OutlineScoring, cell_margin, cut_cells
from wsiproc.models.doubt import Doubt
from wsiproc.models.folder import DistilledConfig, load_int8_network

if TYPE_CHECKING:
    from torch import Tensor, nn

_INTERIOR = 3  # plane of the maps
_GREEN = 0.3  # share of green optical density in what outlines are searched in, beside all of the red


@dataclass(frozen=True)
class Distilled(LearnedModel):
    """A model folder of kind *distilled*: a U-Net's first output is the logit of a nucleus.

    The second, if there is one, is the logit of its interior: high well inside, low at its border, so that touching
    nuclei can be separated. ``classical``: gives a folded network its hints; calibrated on the slide.
    """

    config: DistilledConfig
    classical: Classical | None = None

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        return (Channel("interior", (120, 255, 120)),) if self.config.network.outputs == 2 else ()

    @property
    def int8(self) -> bool:
        """Whether the folder contains the activation ranges."""
        return bool(self.config.int8_peaks)

    @property
    def margin(self) -> int:
        """Px that the extraction of cells can depend on."""
        return cell_margin(self.config.cut, self.config.split, self.mpp, self.config.outline)

    @property
    def doubt(self) -> Doubt | None:
        """See ``DropsInHindsight``. With DAB, fields of pale blue nuclei have low scores, and there is no eosin."""
        neighbours, colour = self.config.neighbours, self.config.colour
        if self.stains.kind == "H-DAB" or not (neighbours or colour):
            return None
        return Doubt(neighbours, colour, self.config.cut.object)

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Self:
        """See ``LearnedModel``; also calibrates the classical model, if the network gets hints from it."""
        calibrated = super().calibrate(samples, stain)
        if self.config.network.fold == 1:
            return calibrated
        import torch

        from wsiproc.models.builtin.hints import half_resolution_density
        from wsiproc.models.staining import optical_density

        windows = (torch.from_numpy(np.ascontiguousarray(s))[None] for s in samples if min(s.shape[:2]) > 1)
        densities = (calibrated.seen_density(optical_density(each, calibrated.stains.white)) for each in windows)
        halves = [half_resolution_density(od) for od in densities]
        classical = Classical(stains=calibrated.stains, mpp=2 * self.mpp)
        return replace(calibrated, classical=classical.calibrate_density(halves))

    def calibration(self) -> dict[str, object]:
        """Stains and gain, and the threshold of the classical model if it is used."""
        found = super().calibration()
        return found | ({"classical": self.classical.calibration()} if self.classical else {})

    def network_sees(self, windows: Tensor, od: Tensor) -> Tensor:
        """See ``LearnedModel``; folded, with hints, if the network is."""
        images = super().network_sees(windows, od)
        if self.config.network.fold == 1:
            return images
        import torch

        from wsiproc.models.builtin.hints import folded_input, half_resolution_density, hints

        classical = self.classical or Classical(stains=self.stains, mpp=2 * self.mpp)
        with torch.autocast(od.device.type, enabled=False):  # the classical model needs full precision
            half = half_resolution_density(self.seen_density(od))
            return folded_input(images, hints(half, self.gain, self.stains, classical))

    def predict_int8(self, windows: Tensor) -> Tensor:
        """See ``SupportsInt8``."""
        return self._predict(load_int8_network(self.folder, self.weights_sha256), windows)

    def _read(self, network: nn.Module, images: Tensor, od: Tensor) -> Sequence[Tensor]:
        import torch

        logits: Tensor = network(images)
        return torch.sigmoid(logits.float()).unbind(1)

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``."""
        interior = maps[_INTERIOR] if self._extra_channels else None
        dab, outlines = self.stains.kind == "H-DAB", self._outlines
        return cut_cells(maps, self._cut, self.config.split, self.mpp, dab, interior, outlines, inner)

    @property
    def _cut(self) -> CutRule:
        """Low scores are those of pale blue nuclei beside brown ones; in a red stain they are its grains."""
        cut = self.config.cut
        return replace(cut, object_dab=max(cut.object, cut.object_dab)) if self.red_stain else cut

    @property
    def _outlines(self) -> OutlineScoring | None:
        if self.config.outline is None:
            return None
        first, second = (round(64 * (red + _GREEN * green)) for red, green, _ in self.stains.vectors)
        shares = (0, first, 0 if self.dab_outside_nuclei else second)
        return OutlineScoring(self.config.outline, self.config.score, shares)
