"""The model that learned nothing: nuclei are where the stain is denser than around them.

The evidence is a weighted optical density, smoothed, less its mean over the tissue within some micrometres; Otsu's
threshold on it is found once a slide, from sampled tissue. It is the floor that every learned model must beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiproc.array.instances import SplitRule, fill_small_holes, open_disc, split_clumps
from wsiproc.array.measure import label_sums
from wsiproc.array.stains import Stains, estimate_stains, unmixing
from wsiproc.models.base import OD_STEP, Channel, Instances

if TYPE_CHECKING:
    from torch import Tensor

# Share of red and green optical density in the evidence. Eosin absorbs green far more than red, so taking some green
# away leaves haematoxylin; brown DAB and blue haematoxylin both absorb red.
_WEIGHTS = {"H&E": (1.0, -0.3), "H-DAB": (1.0, 0.0)}
# Highest density that counts (log10), so that black DAB does not hide the pale blue nuclei around it.
_CAP = {"H&E": 0.43, "H-DAB": 0.22}
_FINE_UM, _COARSE_UM = 0.375, 1.0  # sigmas of the two Gaussians, mixed half and half: sharp borders, whole nuclei
_CELL_UM, _AROUND_CELLS = 1.0, 6  # the local mean: pitch of its coarse grid, half width in cells of it
_LOCAL = 0.7  # share of the local mean that is taken away
_PRIOR = 0.05  # weight of the slide's own mean beside the tissue in the window, for windows with little tissue
_TISSUE_OD = 0.13  # sum over the channels (log10)
# Below this sum the evidence is pulled down, steeply: where the local mean is low, glass must not pass for nuclei.
_GLASS_OD, _GLASS_SLOPE = 0.087, 5.0
_WIDTH = 0.10  # slope of the probability, in distances between the two class means
_HOLE_UM2, _HOLE_UM, _SPUR_UM = 25.0, 8.0, 0.75  # holes up to this are filled, spurs of this radius removed
_POSITIVE_DAB_OD = 0.2  # mean over a nucleus; QuPath's default for positive cells
_SMALLEST_UM2, _REACH_UM, _MERGE_UM, _SMOOTH_UM = 10.0, 12.0, 4.0, 0.5
_SAMPLED_PX = 200_000


@dataclass(frozen=True)
class Cut:
    """What is calibrated besides the stains: mean evidence of tissue, threshold and slope of the probability."""

    level: float = 0.1
    threshold: float = 0.05
    width: float = 0.02


@dataclass(frozen=True)
class Classical:
    """Stain evidence, a threshold a slide, and a local split."""

    stains: Stains = field(default_factory=Stains)
    cut: Cut = field(default_factory=Cut)
    name: str = "classical"
    mpp: float = 0.5
    window: int = 512

    @property
    def halo(self) -> int:
        """Reach of the filters: the local mean and its interpolation, in whole cells of its grid."""
        return (_AROUND_CELLS + 2) * self._pitch

    @property
    def margin(self) -> int:
        """What the split, the filling of holes and the removal of spurs can depend on."""
        return self._rule.margin + round(_HOLE_UM / self.mpp) + 2 * round(2 * _SPUR_UM / self.mpp)

    @property
    def classes(self) -> tuple[str, ...]:
        """Positive and negative nuclei where there is DAB."""
        return ("Nucleus",) if self.stains.kind == "H&E" else ("Negative", "Positive")

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Probability of a nucleus, and both stains."""
        colours = {"hematoxylin": (70, 70, 255), "eosin": (255, 80, 170), "dab": (200, 130, 50)}
        return (
            Channel("nucleus", (255, 255, 255)),
            *(Channel(name, colours[name], stain=True) for name in self.stains.names),
        )

    @property
    def _pitch(self) -> int:
        return max(1, round(_CELL_UM / self.mpp))

    @property
    def _rule(self) -> SplitRule:
        return SplitRule(
            reach=round(_REACH_UM / self.mpp),
            merge=round(_MERGE_UM / self.mpp),
            saddle=0.75,
            smooth=_SMOOTH_UM / self.mpp,
            min_area=round(_SMALLEST_UM2 / self.mpp**2),
        )

    def calibrate(self, samples: Sequence[npt.NDArray[np.uint8]]) -> Classical:
        """With stains, level and threshold of the slide that ``samples`` (h, w, 3) are from."""
        import torch

        step = max(1, round(1.0 / self.mpp))
        small = [_shrink(sample, step).reshape(-1, 3) for sample in samples]
        stained = replace(self, stains=estimate_stains(np.concatenate(small)))
        pictures = [torch.tensor(sample)[None] for sample in samples]
        absorbed = [stained._optical_density(picture) for picture in pictures]
        tissue = [od.sum(1) > _TISSUE_OD for od in absorbed]
        inside = np.concatenate([stained._density(od)[t].numpy() for od, t in zip(absorbed, tissue, strict=True)])
        if len(inside) < 100:
            return stained
        levelled = replace(stained, cut=replace(stained.cut, level=round(float(inside.mean()), 6)))
        values = [levelled._evidence(od)[t].numpy() for od, t in zip(absorbed, tissue, strict=True)]
        return replace(levelled, cut=_find_cut(np.concatenate(values), levelled.cut.level))

    def calibration(self) -> dict[str, object]:
        """Stains and threshold."""
        return {
            "stain": self.stains.kind,
            "vectors": [list(vector) for vector in self.stains.vectors],
            "textbook_vectors": self.stains.standard,
            "white": list(self.stains.white),
            "level": self.cut.level,
            "threshold": self.cut.threshold,
            "width": self.cut.width,
        }

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``."""
        import torch

        od = self._optical_density(windows)
        nucleus = torch.sigmoid((self._evidence(od) - self.cut.threshold) / self.cut.width)
        matrix = torch.as_tensor(unmixing(self.stains).T[:2], dtype=torch.float32, device=windows.device)
        amounts = [(od * row[:, None, None]).sum(1) / OD_STEP for row in matrix]
        return torch.stack([nucleus * 255, *amounts], 1).round_().clamp_(0, 255).to(torch.uint8)

    def _optical_density(self, windows: Tensor) -> Tensor:
        """(b, h, w, 3) uint8 → (b, 3, h, w) float32, log10, never negative."""
        import torch

        white = torch.tensor(self.stains.white, device=windows.device).log10()
        planes = windows.permute(0, 3, 1, 2).contiguous().clamp_(min=1).float().log10_()
        return (white[:, None, None] - planes).clamp_(min=0)

    def _density(self, od: Tensor) -> Tensor:
        """The weighted, capped density (b, h, w) of optical density (b, 3, h, w)."""
        red, green = _WEIGHTS[self.stains.kind]
        return (od[:, 0] * red).add_(od[:, 1], alpha=green).clamp_(max=_CAP[self.stains.kind])

    def _evidence(self, od: Tensor) -> Tensor:
        """Smoothed density of optical density (b, 3, h, w), less what its surroundings explain: (b, h, w)."""
        density = self._density(od)[:, None]
        smooth = _gaussian(density, _FINE_UM / self.mpp).add_(_gaussian(density, _COARSE_UM / self.mpp)).mul_(0.5)
        return smooth.sub_(self._expected(density, od.sum(1, keepdim=True)))[:, 0]

    def _expected(self, density: Tensor, total: Tensor) -> Tensor:
        """A share of the tissue's mean density within some micrometres, raised on glass: (b, 1, h, w).

        Found on a coarse grid and interpolated.
        """
        import torch
        import torch.nn.functional as nn

        h, w = density.shape[-2:]
        pitch = self._pitch
        fill = (0, -w % pitch, 0, -h % pitch)
        both = torch.cat([density, total], 1)
        coarse = nn.avg_pool2d(nn.pad(both, fill, mode="replicate") if any(fill) else both, pitch)
        tissue = (coarse[:, 1:] > _TISSUE_OD).float()
        around = _box_mean(torch.cat([coarse[:, :1] * tissue, tissue], 1), _AROUND_CELLS)
        mean = (around[:, :1] + _PRIOR * self.cut.level) / (around[:, 1:] + _PRIOR)
        glass = (_GLASS_OD - coarse[:, 1:]).clamp(min=0)
        expected = _LOCAL * mean + _GLASS_SLOPE * glass
        return nn.interpolate(expected, scale_factor=pitch, mode="bilinear")[..., :h, :w]

    def instances(self, maps: npt.NDArray[np.uint8]) -> Instances:
        """See ``Model``."""
        rule = self._rule
        mask = fill_small_holes(maps[0] > 127, round(_HOLE_UM2 / self.mpp**2), round(_HOLE_UM / self.mpp))
        split = split_clumps(open_disc(mask, _SPUR_UM / self.mpp), rule)
        sums = label_sums(split.labels, split.count, maps)
        means = sums.values / sums.areas[:, None]
        classes = np.zeros(split.count, np.uint8)
        if len(self.classes) > 1:
            classes[means[:, 2] * OD_STEP > _POSITIVE_DAB_OD] = 1
        dropped: dict[str, npt.NDArray[np.integer]] = {
            f"smaller than {rule.min_area * self.mpp**2:g} µm²": split.small,
            f"pixels more than {_REACH_UM:g} µm from the middle of a nucleus": np.argwhere(split.clipped),
        }
        return Instances(split.labels, classes, (means[:, 0] / 255).astype(np.float32), dropped)


def _shrink(picture: npt.NDArray[np.uint8], step: int) -> npt.NDArray[np.uint8]:
    """Block means, so that single noisy pixels do not decide the stain vectors."""
    h, w = (side // step * step for side in picture.shape[:2])
    blocks = picture[:h, :w].reshape(h // step, step, w // step, step, 3)
    means: npt.NDArray[np.uint8] = blocks.mean(axis=(1, 3)).astype(np.uint8)
    return means


def _find_cut(values: npt.NDArray[np.float32], level: float) -> Cut:
    """Otsu's threshold between background and nuclei, and a slope in proportion to their distance."""
    from skimage.filters import threshold_otsu

    some = values[:: max(1, len(values) // _SAMPLED_PX)]
    some = np.clip(some, *np.percentile(some, [0.1, 99.9]))
    if some.min() == some.max():
        return Cut(level)
    otsu = float(threshold_otsu(some))  # type: ignore[no-untyped-call]
    apart = float(some[some > otsu].mean() - some[some <= otsu].mean())
    return Cut(level, round(otsu, 6), round(_WIDTH * apart, 6))


def _gaussian(picture: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of (b, 1, h, w) by shifted sums, edges repeated: the same sum for every pixel, and on a CPU
    many times faster than a convolution of one channel.
    """
    import torch.nn.functional as nn

    radius = max(1, int(np.ceil(3 * sigma)))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    for dim in (2, 3):
        size = picture.shape[dim]
        pad = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
        wide = nn.pad(picture, pad, mode="replicate")
        picture = wide.narrow(dim, radius, size) * float(taps[0])
        for i in range(1, radius + 1):
            both = wide.narrow(dim, radius - i, size) + wide.narrow(dim, radius + i, size)
            picture.add_(both, alpha=float(taps[i]))
    return picture


def _box_mean(picture: Tensor, radius: int) -> Tensor:
    """Mean over a square of 2·radius + 1, over what lies inside the picture."""
    import torch.nn.functional as nn

    side = 2 * radius + 1
    rows = nn.avg_pool2d(picture, (1, side), 1, (0, radius), count_include_pad=False)
    return nn.avg_pool2d(rows, (side, 1), 1, (radius, 0), count_include_pad=False)
