"""Common base of models in a folder: configuration, calibration, and a network whose input is optical density."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from wsiproc.array.dab_pattern import dab_pattern
from wsiproc.array.stains import Stain, Stains, estimate_stains
from wsiproc.core.choices import Compartment, CompartmentChoice
from wsiproc.core.types import UInt8Array
from wsiproc.models.base import WINDOW_MULTIPLE, Channel
from wsiproc.models.cells import cell_margin
from wsiproc.models.folder import InputNumbers, ModelConfig, load_network
from wsiproc.models.networks.byte_values import by_lookup_table
from wsiproc.models.staining import (
    NUCLEUS,
    find_gain,
    haematoxylin_alone,
    optical_density,
    sample_pixels,
    stained_channels,
    stained_maps,
    stains_as_dict,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# With DAB, networks see no optical density above this, the transmission of one fortieth. Nuclei full of DAB are black:
# denser than all that the networks were trained on, which take black for no nucleus.
_DENSEST_DAB = 1.6


@dataclass(frozen=True)
class LearnedModel:
    """A model folder with the calibration on the slide; small, since the weights stay in the folder.

    Subclasses define the meaning of the network's output: ``_read``, ``_extra_channels`` and ``instances``.

    ``compartment``: of the DAB, *auto* to recognise it; ``dab_outside_nuclei``: it is in membranes or cytoplasm, so
    nuclei are detected in the haematoxylin alone; ``red_stain``: there is a red stain besides DAB.
    """

    config: ModelConfig
    folder: Path = field(repr=False)
    stains: Stains = field(default_factory=Stains)
    gain: float = 1.0
    compartment: CompartmentChoice = "auto"
    dab_outside_nuclei: bool = False
    red_stain: bool = False

    @property
    def name(self) -> str:
        """As in the folder's configuration."""
        return self.config.name

    @property
    def mpp(self) -> float:
        """As in the folder's configuration."""
        return self.config.mpp

    @property
    def window(self) -> int:
        """As in the folder's configuration."""
        return self.config.window

    @property
    def window_multiple(self) -> int:
        """A size that the network can downsample often enough."""
        return (
            WINDOW_MULTIPLE
            if self.window % WINDOW_MULTIPLE == 0 == WINDOW_MULTIPLE % self.config.network.stride
            else self.window
        )

    @property
    def halo(self) -> int:
        """As in the folder's configuration."""
        return self.config.halo

    @property
    def weights_sha256(self) -> str:
        """As in the folder's configuration."""
        return self.config.weights_sha256

    @property
    def half_precision(self) -> bool:
        """Yes: the networks find nearly the same cells, and everything else is computed in full precision."""
        return True

    @property
    def memory_bytes(self) -> int:
        """Negligible: the networks are small."""
        return 0

    @property
    def margin(self) -> int:
        """Px that the extraction of cells can depend on."""
        return cell_margin(self.config.cut, self.config.split, self.mpp)

    @property
    def classes(self) -> tuple[str, ...]:
        """A single class: which nuclei are DAB-positive is decided by the run."""
        return NUCLEUS

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Probability of a nucleus, both stains, and the planes of the subclass."""
        return stained_channels(self.stains) + self._extra_channels

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        return ()

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Self:
        """With the stains, the gain and the place of the DAB of the slide that ``samples`` (h, w, 3) are from."""
        pixels = sample_pixels(samples, self.mpp)
        stains = estimate_stains(pixels, stain)
        calibrated = replace(self, stains=stains, gain=find_gain(pixels, stains, self.config.input.od99))
        if stains.kind != "H-DAB":
            return calibrated
        pattern = dab_pattern(samples, stains, self.mpp)
        nuclear = pattern.nuclear if self.compartment == "auto" else self.compartment == "nucleus"
        return replace(calibrated, dab_outside_nuclei=not nuclear, red_stain=pattern.has_red_stain)

    def for_compartment(self, compartment: Compartment) -> Self:
        """See ``DetectsBesideDab``."""
        return replace(self, compartment=compartment)

    def calibration(self) -> dict[str, object]:
        """Stains and gain, and with DAB what nuclei are detected in."""
        found = stains_as_dict(self.stains) | {"gain": self.gain}
        return found | ({"dab_outside_nuclei": self.dab_outside_nuclei} if self.stains.kind == "H-DAB" else {})

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``. On a CPU one window at a time, since the batch size may change the last digit."""
        return self._predict(load_network(self.folder, self.weights_sha256, str(windows.device)), windows)

    def _predict(self, network: nn.Module, windows: Tensor) -> Tensor:
        import torch

        step = 1 if windows.device.type == "cpu" else len(windows)
        return torch.cat([self._maps(network, part) for part in torch.split(windows, step)])

    def _maps(self, network: nn.Module, windows: Tensor) -> Tensor:
        od = optical_density(windows, self.stains.white)
        nucleus, *others = self._read(network, self.network_sees(windows, od), od)
        shown = haematoxylin_alone(od, self.stains)[1] if self.dab_outside_nuclei else od
        return stained_maps(nucleus, shown, self.stains, self.mpp, *others)

    def network_sees(self, windows: Tensor, od: Tensor) -> Tensor:
        """The network's input for windows (b, h, w, 3) uint8, whose optical density is ``od`` (b, 3, h, w)."""
        if self.dab_outside_nuclei:  # the stains must be unmixed, so the channels depend on each other
            return network_input(self.seen_density(od), self.gain, self.config.input)
        return by_lookup_table(self._coloured, windows)

    def _coloured(self, windows: Tensor) -> Tensor:
        od = self.seen_density(optical_density(windows, self.stains.white))
        return network_input(od, self.gain, self.config.input)

    def seen_density(self, od: Tensor) -> Tensor:
        """Optical density as the network sees it: the same, but with DAB no darker than dense brown, or without it."""
        if self.dab_outside_nuclei:
            return haematoxylin_alone(od, self.stains)[0]
        return od.clamp(max=_DENSEST_DAB) if self.stains.kind == "H-DAB" else od

    @abstractmethod
    def _read(self, network: nn.Module, images: Tensor, od: Tensor) -> Sequence[Tensor]:
        """Probability of a nucleus, then the planes of ``_extra_channels``: (b, h, w) float32 in [0, 1] each.

        ``images``: the network's input; ``od``: (b, 3, h, w), before the gain.
        """


def network_input(od: Tensor, gain: float, numbers: InputNumbers) -> Tensor:
    """Optical density (b, 3, h, w) as network input, in training and inference alike.

    Takes the square root, so that a pale blue nucleus does not vanish next to one that is ten times darker with DAB.
    """
    import torch

    mean, std = (od.new_tensor(values)[:, None, None] for values in (numbers.mean, numbers.std))
    return (od * gain).clamp_(min=0).sqrt_().sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)
