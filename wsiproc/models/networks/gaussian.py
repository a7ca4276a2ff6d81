"""The Gaussian filter of models: sums in the same order for every pixel, wherever a window begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of (b, c, h, w) by shifted sums, edges repeated: the same order of summation for every pixel,
    and on a CPU many times faster than a single-channel convolution.
    """
    import torch.nn.functional as nn

    radius = max(1, int(np.ceil(3 * sigma)))
    taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    taps /= taps[0] + 2 * taps[1:].sum()
    for dim in (2, 3):
        size = image.shape[dim]
        pad = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
        wide = nn.pad(image, pad, mode="replicate")
        image = wide.narrow(dim, radius, size) * float(taps[0])
        for i in range(1, radius + 1):
            both = wide.narrow(dim, radius - i, size) + wide.narrow(dim, radius + i, size)
            image.add_(both, alpha=float(taps[i]))
    return image
