"""What models that come in a folder have in common: facts, calibration, and a network that sees optical density."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from wsiproc.array.stains import Stain, Stains, estimate_stains
from wsiproc.core.types import UInt8Array
from wsiproc.models.base import GRAIN, Channel
from wsiproc.models.cells import cell_margin
from wsiproc.models.folder import InputNumbers, ModelConfig, load_network
from wsiproc.models.networks.byte_values import of_each_byte
from wsiproc.models.staining import (
    NUCLEUS,
    find_gain,
    optical_density,
    sample_pixels,
    stain_facts,
    stained_channels,
    stained_maps,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LearnedModel:
    """A model folder, and what was calibrated on the slide; small, since the weights stay in the folder.

    Kinds say what the network's output means: ``_read``, ``_extra_channels`` and ``instances``.
    """

    facts: ModelConfig
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
    def window_multiple(self) -> int:
        """What the network can halve often enough."""
        return GRAIN if self.window % GRAIN == 0 == GRAIN % self.facts.network.stride else self.window

    @property
    def halo(self) -> int:
        """As the folder says."""
        return self.facts.halo

    @property
    def weights_sha256(self) -> str:
        """As the folder says."""
        return self.facts.weights_sha256

    @property
    def half_precision(self) -> bool:
        """Yes: the networks find the same cells but for few, and all else is computed in full."""
        return True

    @property
    def memory_bytes(self) -> int:
        """Nothing worth counting: the networks are small."""
        return 0

    @property
    def margin(self) -> int:
        """What the cutting out of cells can depend on."""
        return cell_margin(self.facts.cut, self.facts.split, self.mpp)

    @property
    def classes(self) -> tuple[str, ...]:
        """One: which nuclei are positive by DAB is a matter of the run."""
        return NUCLEUS

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Probability of a nucleus, both stains, and what the kind adds."""
        return stained_channels(self.stains) + self._extra_channels

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        return ()

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Self:
        """With the stains and the gain of the slide that ``samples`` (h, w, 3) are from."""
        pixels = sample_pixels(samples, self.mpp)
        stains = estimate_stains(pixels, stain)
        return replace(self, stains=stains, gain=find_gain(pixels, stains, self.facts.input.od99))

    def calibration(self) -> dict[str, object]:
        """Stains and gain."""
        return stain_facts(self.stains) | {"gain": self.gain}

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``. On a CPU one window at a time, since the size of a batch may change the last digit."""
        return self._predict(load_network(self.folder, self.weights_sha256, str(windows.device)), windows)

    def _predict(self, network: nn.Module, windows: Tensor) -> Tensor:
        import torch

        step = 1 if windows.device.type == "cpu" else len(windows)
        return torch.cat([self._maps(network, part) for part in torch.split(windows, step)])

    def _maps(self, network: nn.Module, windows: Tensor) -> Tensor:
        od = optical_density(windows, self.stains.white)
        nucleus, *others = self._read(network, self.network_sees(windows, od), od)
        return stained_maps(nucleus, od, self.stains, *others)

    def network_sees(self, windows: Tensor, od: Tensor) -> Tensor:
        """What the network is given for windows (b, h, w, 3) uint8, whose optical density is ``od`` (b, 3, h, w)."""
        return of_each_byte(self._coloured, windows)

    def _coloured(self, windows: Tensor) -> Tensor:
        return network_input(optical_density(windows, self.stains.white), self.gain, self.facts.input)

    @abstractmethod
    def _read(self, network: nn.Module, pictures: Tensor, od: Tensor) -> Sequence[Tensor]:
        """Probability of a nucleus, then the planes of ``_extra_channels``: (b, h, w) float32 in [0, 1] each.

        ``pictures``: what the network sees; ``od``: (b, 3, h, w), before the gain.
        """


def network_input(od: Tensor, gain: float, numbers: InputNumbers) -> Tensor:
    """Optical density (b, 3, h, w) as a learned network wants it, in training as in use.

    Its square root: a pale blue nucleus must not vanish beside one that is ten times darker with DAB.
    """
    import torch

    mean, std = (od.new_tensor(values)[:, None, None] for values in (numbers.mean, numbers.std))
    return (od * gain).clamp_(min=0).sqrt_().sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
