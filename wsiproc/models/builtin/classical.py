"""The model without training: nuclei are where the stain is denser than around them.

The evidence is a weighted optical density, smoothed, minus its mean over the tissue within some micrometres; Otsu's
threshold on it is found once per slide, from sampled tissue. It is the baseline that every trained model must beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from wsiproc.array.stains import Stain, Stains, estimate_stains
from wsiproc.core.geometry import Box
from wsiproc.core.types import Float32Array, UInt8Array
from wsiproc.models.base import WINDOW_MULTIPLE, Channel, Instances
from wsiproc.models.cells import CutRule, SplitLengths, cell_margin, cut_cells
from wsiproc.models.networks.gaussian import gaussian
from wsiproc.models.staining import (
    NUCLEUS,
    TISSUE_OD,
    optical_density,
    sample_pixels,
    stained_channels,
    stained_maps,
    stains_as_dict,
)

if TYPE_CHECKING:
    from torch import Tensor

# Share of red and green optical density in the evidence. Eosin absorbs green far more than red, so taking some green
# away leaves haematoxylin; brown DAB and blue haematoxylin both absorb red.
_WEIGHTS = {"H&E": (1.0, -0.3), "H-DAB": (1.0, 0.0)}
# Highest density that counts (log10), so that black DAB does not hide the pale blue nuclei around it.
_CAP = {"H&E": 0.43, "H-DAB": 0.22}
_FINE_UM, _COARSE_UM = 0.375, 1.0  # sigmas of the two Gaussians, mixed half and half: sharp borders, whole nuclei
_CELL_UM, _AROUND_CELLS = 1.0, 6  # the local mean: pitch of its coarse grid, half width in cells of that grid
_LOCAL = 0.7  # share of the local mean that is subtracted
_PRIOR = 0.05  # weight of the slide's mean relative to the tissue in the window, for windows with little tissue
# Below this sum the evidence is lowered steeply: where the local mean is low, background must not pass for nuclei.
_GLASS_OD, _GLASS_SLOPE = 0.087, 5.0
_WIDTH = 0.10  # slope of the probability, in distances between the two class means
_SAMPLED_PX = 200_000
_CUT, _SPLIT = CutRule(), SplitLengths(merge_dab_um=4.0, saddle_dab=0.75)  # with DAB as without: there is no interior


@dataclass(frozen=True)
class Cut:
    """Calibrated in addition to the stains: mean evidence of tissue, threshold and slope of the probability."""

    level: float = 0.1
    threshold: float = 0.05
    width: float = 0.02


@dataclass(frozen=True)
class Classical:
    """Stain evidence, one threshold per slide, and a local split."""

    stains: Stains = field(default_factory=Stains)
    cut: Cut = field(default_factory=Cut)
    min_score: float = 0.0
    name: str = "classical"
    mpp: float = 0.5
    window: int = 512
    weights_sha256: None = field(default=None, repr=False)
    half_precision: bool = field(default=False, repr=False)
    memory_bytes: int = field(default=0, repr=False)

    @property
    def window_multiple(self) -> int:
        """Its filters accept any image size."""
        return WINDOW_MULTIPLE

    @property
    def halo(self) -> int:
        """Reach of the filters: the local mean and its interpolation, in whole cells of its grid."""
        return (_AROUND_CELLS + 2) * self._pitch

    @property
    def margin(self) -> int:
        """Px that the extraction of cells can depend on."""
        return cell_margin(_CUT, _SPLIT, self.mpp)

    @property
    def classes(self) -> tuple[str, ...]:
        """A single class: which nuclei are DAB-positive is decided by the run."""
        return NUCLEUS

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Probability of a nucleus, and both stains."""
        return stained_channels(self.stains)

    @property
    def _pitch(self) -> int:
        return max(1, round(_CELL_UM / self.mpp))

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Classical:
        """With stains, level and threshold of the slide that ``samples`` (h, w, 3) are from."""
        import torch

        stained = replace(self, stains=estimate_stains(sample_pixels(samples, self.mpp), stain))
        images = [torch.tensor(sample)[None] for sample in samples]
        return stained.calibrate_density([optical_density(image, stained.stains.white) for image in images])

    def calibrate_density(self, absorbed: Sequence[Tensor]) -> Classical:
        """With level and threshold of the slide whose optical densities (1, 3, h, w) are ``absorbed``; stains are left
        unchanged.
        """
        tissue = [od.sum(1) > TISSUE_OD for od in absorbed]
        inside = np.concatenate([self._density(od)[t].numpy() for od, t in zip(absorbed, tissue, strict=True)])
        if len(inside) < 100:
            return self
        levelled = replace(self, cut=replace(self.cut, level=round(float(inside.mean()), 6)))
        values = [levelled._evidence(od)[t].numpy() for od, t in zip(absorbed, tissue, strict=True)]
        return replace(levelled, cut=_find_cut(np.concatenate(values), levelled.cut.level))

    def calibration(self) -> dict[str, object]:
        """Stains and threshold."""
        cut = {"level": self.cut.level, "threshold": self.cut.threshold, "width": self.cut.width}
        return stains_as_dict(self.stains) | cut

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``."""
        import torch

        od = optical_density(windows, self.stains.white)
        return stained_maps(torch.sigmoid(self.logit(od)), od, self.stains, self.mpp)

    def logit(self, od: Tensor) -> Tensor:
        """Logit of a nucleus (b, h, w) where the optical density is ``od`` (b, 3, h, w)."""
        return (self._evidence(od) - self.cut.threshold) / self.cut.width

    def _density(self, od: Tensor) -> Tensor:
        """The weighted, capped density (b, h, w) of optical density (b, 3, h, w)."""
        red, green = _WEIGHTS[self.stains.kind]
        return (od[:, 0] * red).add_(od[:, 1], alpha=green).clamp_(max=_CAP[self.stains.kind])

    def _evidence(self, od: Tensor) -> Tensor:
        """Smoothed density of optical density (b, 3, h, w), minus what its surroundings explain: (b, h, w)."""
        density = self._density(od)[:, None]
        smooth = gaussian(density, _FINE_UM / self.mpp).add_(gaussian(density, _COARSE_UM / self.mpp)).mul_(0.5)
        return smooth.sub_(self._expected(density, od.sum(1, keepdim=True)))[:, 0]

    def _expected(self, density: Tensor, total: Tensor) -> Tensor:
        """A share of the tissue's mean density within some micrometres, raised on background: (b, 1, h, w).

        Computed on a coarse grid and interpolated.
        """
        import torch
        import torch.nn.functional as nn

        h, w = density.shape[-2:]
        pitch = self._pitch
        fill = (0, -w % pitch, 0, -h % pitch)
        both = torch.cat([density, total], 1)
        coarse = nn.avg_pool2d(nn.pad(both, fill, mode="replicate") if any(fill) else both, pitch)
        tissue = (coarse[:, 1:] > TISSUE_OD).float()
        around = _box_mean(torch.cat([coarse[:, :1] * tissue, tissue], 1), _AROUND_CELLS)
        mean = (around[:, :1] + _PRIOR * self.cut.level) / (around[:, 1:] + _PRIOR)
        glass = (_GLASS_OD - coarse[:, 1:]).clamp(min=0)
        expected = _LOCAL * mean + _GLASS_SLOPE * glass
        return nn.interpolate(expected, scale_factor=pitch, mode="bilinear")[..., :h, :w]

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``."""
        return cut_cells(
            maps,
            replace(_CUT, object=self.min_score, object_dab=self.min_score),
            _SPLIT,
            self.mpp,
            self.stains.kind == "H-DAB",
            inner=inner,
        )


def _find_cut(values: Float32Array, level: float) -> Cut:
    """Otsu's threshold between background and nuclei, and a slope in proportion to their distance."""
    from skimage.filters import threshold_otsu

    some = values[:: max(1, len(values) // _SAMPLED_PX)]
    some = np.clip(some, *np.percentile(some, [0.1, 99.9]))
    if some.min() == some.max():
        return Cut(level)
    otsu = float(threshold_otsu(some))  # type: ignore[no-untyped-call]
    apart = float(some[some > otsu].mean() - some[some <= otsu].mean())
    return Cut(level, round(otsu, 6), round(_WIDTH * apart, 6))


def _box_mean(image: Tensor, radius: int) -> Tensor:
    """Mean over a square of side 2·radius + 1, within the image."""
    import torch.nn.functional as nn

    side = 2 * radius + 1
    rows = nn.avg_pool2d(image, (1, side), 1, (0, radius), count_include_pad=False)
    return nn.avg_pool2d(rows, (side, 1), 1, (radius, 0), count_include_pad=False)
