"""A small network, trained on labels that it was not given by hand, that tells nuclei from all else.

Its input is optical density, brought to one strength for all slides by a gain found once a slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiproc.array.stains import Stains, estimate_stains
from wsiproc.errors import ModelError
from wsiproc.models.base import Channel, Instances
from wsiproc.models.cells import cell_margin, cut_cells
from wsiproc.models.folder import DistilledFacts, InputNumbers, load_weights, read_folder
from wsiproc.models.staining import (
    dab_plane,
    find_gain,
    optical_density,
    sample_pixels,
    stain_facts,
    stained_channels,
    stained_classes,
    stained_maps,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Distilled:
    """A model folder of kind *distilled*, and what was calibrated on the slide; the weights stay in the folder."""

    facts: DistilledFacts
    folder: Path = field(repr=False)
    stains: Stains = field(default_factory=Stains)
    gain: float = 1.0

    @property
    def name(self) -> str:
        """As the folder says."""
        return self.facts.name

    @property
    def mpp(self) -> float:
        """As the folder says."""
        return self.facts.mpp

    @property
    def window(self) -> int:
        """As the folder says."""
        return self.facts.window

    @property
    def halo(self) -> int:
        """As the folder says."""
        return self.facts.halo

    @property
    def weights_sha256(self) -> str:
        """See ``Model``."""
        return self.facts.weights_sha256

    @property
    def margin(self) -> int:
        """What the cutting out of cells can depend on."""
        return cell_margin(self.facts.cut, self.facts.split, self.mpp)

    @property
    def classes(self) -> tuple[str, ...]:
        """Positive and negative nuclei where there is DAB."""
        return stained_classes(self.stains)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Probability of a nucleus, both stains, and the probability of its interior where the network tells it."""
        interior = (Channel("interior", (120, 255, 120)),) if self._interior else ()
        return stained_channels(self.stains) + interior

    @property
    def _interior(self) -> bool:
        return self.facts.network.outputs == 2

    def calibrate(self, samples: Sequence[npt.NDArray[np.uint8]]) -> Distilled:
        """With the stains and the gain of the slide that ``samples`` (h, w, 3) are from."""
        pixels = sample_pixels(samples, self.mpp)
        stains = estimate_stains(pixels)
        return replace(self, stains=stains, gain=find_gain(pixels, stains.white, self.facts.input.od99))

    def calibration(self) -> dict[str, object]:
        """Stains and gain."""
        return stain_facts(self.stains) | {"gain": self.gain}

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``. On a CPU one window at a time, since the size of a batch may change the last digit."""
        import torch

        network = load_network(self.folder, self.weights_sha256, str(windows.device))
        step = 1 if windows.device.type == "cpu" else len(windows)
        return torch.cat([self._maps(network, part) for part in torch.split(windows, step)])

    def _maps(self, network: nn.Module, windows: Tensor) -> Tensor:
        import torch

        od = optical_density(windows, self.stains.white)
        inputs = network_input(od, self.gain, self.facts.input).to(memory_format=torch.channels_last)
        nucleus, *interior = torch.sigmoid(network(inputs).float()).unbind(1)
        return stained_maps(nucleus, od, self.stains, *interior)

    def instances(self, maps: npt.NDArray[np.uint8]) -> Instances:
        """See ``Model``."""
        interior = maps[3] if self._interior else None
        return cut_cells(maps, self.facts.cut, self.facts.split, self.mpp, dab_plane(self.stains), interior)


def network_input(od: Tensor, gain: float, numbers: InputNumbers) -> Tensor:
    """Optical density (b, 3, h, w) as a distilled network wants it, in training as in use."""
    mean, std = (od.new_tensor(values)[:, None, None] for values in (numbers.mean, numbers.std))
    return (od * gain - mean) / std


@lru_cache(maxsize=4)
def load_network(folder: Path, sha256: str, device: str) -> nn.Module:
    """The network of a folder on ``device``, for use only, loaded once a process. Raises ModelError."""
    import torch

    from wsiproc.models.networks import UNet, fuse_batch_norms

    facts = read_folder(folder)
    if not isinstance(facts, DistilledFacts) or facts.weights_sha256 != sha256:
        raise ModelError(f"{folder} holds another model than when the run began; start the run anew")
    with torch.device("meta"):
        network = UNet(facts.network.widths, facts.network.outputs)
    load_weights(folder, facts, network)
    fused = fuse_batch_norms(network.requires_grad_(False)).to(device)
    for weights in fused.parameters():
        if weights.ndim == 4:  # channels last: a quarter faster on a CPU, and what tensor cores want
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    return fused
