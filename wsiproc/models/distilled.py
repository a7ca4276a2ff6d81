"""A small network, trained on labels that nobody drew, that tells nuclei from all else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiproc.models.base import Channel, Instances
from wsiproc.models.cells import cut_cells
from wsiproc.models.folder import DistilledFacts, load_int8_network
from wsiproc.models.learned import Learned
from wsiproc.models.staining import dab_plane

if TYPE_CHECKING:
    from torch import Tensor, nn

_INTERIOR = 3  # plane of the maps


@dataclass(frozen=True)
class Distilled(Learned):
    """A model folder of kind *distilled*: a U-Net's first output is the logit of a nucleus.

    A second one, where there is one, is the logit of its interior: high well inside, low at its border, so that it
    tells touching nuclei apart.
    """

    facts: DistilledFacts

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        return (Channel("interior", (120, 255, 120)),) if self.facts.network.outputs == 2 else ()

    @property
    def int8(self) -> bool:
        """Whether the folder tells how large the values between the layers are."""
        return bool(self.facts.int8_peaks)

    def predict_int8(self, windows: Tensor) -> Tensor:
        """See ``InWholeNumbers``."""
        return self._predict(load_int8_network(self.folder, self.weights_sha256), windows)

    def _read(self, network: nn.Module, pictures: Tensor, od: Tensor) -> Sequence[Tensor]:
        import torch

        logits: Tensor = network(pictures)
        return torch.sigmoid(logits.float()).unbind(1)

    def instances(self, maps: npt.NDArray[np.uint8]) -> Instances:
        """See ``Model``."""
        interior = maps[_INTERIOR] if self._extra_channels else None
        return cut_cells(maps, self.facts.cut, self.facts.split, self.mpp, dab_plane(self.stains), interior)
