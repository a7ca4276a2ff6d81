"""The direct engine: the self-activation map and colour, and cluster centres that were found once per model.

The map is read from the first layers of a network trained without labels, with fixed channel weights instead of a
gradient for each image (see ``readout``). A pixel is a nucleus where its features are nearer to a nucleus' centre than
to any other (after Chen et al. 2023, arXiv 2308.11144, who fit clusters to each image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.models.base import Channel, Instances
from wsiproc.models.builtin.learned import LearnedModel
from wsiproc.models.cells import cut_cells
from wsiproc.models.folder import ActivationConfig
from wsiproc.models.networks.readout import nucleus_probability, pixel_features, read_map

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsiproc.models.networks.unet import ShallowResNet


@dataclass(frozen=True)
class Activation(LearnedModel):
    """A model folder of kind *activation*."""

    config: ActivationConfig

    @property
    def _extra_channels(self) -> tuple[Channel, ...]:
        return (Channel("activation", (255, 160, 60)),)

    def _read(self, network: nn.Module, images: Tensor, od: Tensor) -> Sequence[Tensor]:
        blocks = cast("ShallowResNet", network).shallow(images)
        activation = read_map(blocks, self.config.readout, (od.shape[2], od.shape[3]))
        clusters = self.config.clusters
        features = pixel_features(activation, od * self.gain, clusters.smooth_um / self.mpp)
        return nucleus_probability(features, clusters), activation

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``."""
        dab = self.stains.kind == "H-DAB"
        return cut_cells(maps, self.config.cut, self.config.split, self.mpp, dab, inner=inner)
