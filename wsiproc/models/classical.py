"""Placeholder until stain evidence lands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiproc.array.instances import SplitRule, split_clumps
from wsiproc.models.base import Channel, Instances

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Classical:
    """Red optical density, smoothed, above a threshold."""

    threshold: float = 0.3
    name: str = "classical"
    mpp: float = 0.5
    window: int = 512
    halo: int = 8
    classes: tuple[str, ...] = ("Nucleus",)
    channels: tuple[Channel, ...] = (
        Channel("nucleus", (255, 255, 255)),
        Channel("hematoxylin", (0, 0, 255), True),
        Channel("eosin", (255, 0, 200), True),
    )
    rule: SplitRule = SplitRule(reach=24, merge=8, saddle=0.8, smooth=1.0, min_area=30)

    @property
    def margin(self) -> int:
        """See Model."""
        return self.rule.margin

    def calibrate(self, samples: Sequence[npt.NDArray[np.uint8]]) -> Classical:
        """See Model."""
        from skimage.filters import threshold_otsu

        red = np.concatenate([s[..., 0].ravel()[::7] for s in samples])
        od = -np.log10((red.astype(float) + 1) / 256)
        return replace(self, threshold=float(threshold_otsu(od)))

    def calibration(self) -> dict[str, object]:
        """See Model."""
        return {"threshold": self.threshold}

    def predict(self, windows: Tensor) -> Tensor:
        """See Model."""
        import torch
        import torch.nn.functional as F

        od = -torch.log10((windows.permute(0, 3, 1, 2).float() + 1) / 256)
        red = F.avg_pool2d(od[:, :1], 3, 1, 1)
        p = torch.sigmoid((red - self.threshold) / 0.05)
        return torch.cat([p * 255, od[:, :1] * 100, od[:, 1:2] * 100], 1).clamp(0, 255).round().to(torch.uint8)

    def instances(self, maps: npt.NDArray[np.uint8]) -> Instances:
        """See Model."""
        from wsiproc.array.measure import label_sums

        split = split_clumps(maps[0] > 127, self.rule)
        sums = label_sums(split.labels, split.count, maps[:1])
        scores = (sums.values[:, 0] / sums.areas / 255).astype(np.float32)
        return Instances(
            split.labels,
            np.zeros(split.count, np.uint8),
            scores,
            {
                f"smaller than {self.rule.min_area * self.mpp**2:g} µm²": split.small,
                "px beyond the reach of a nucleus": np.argwhere(split.clipped),
            },
        )
