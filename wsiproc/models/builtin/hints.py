"""Inputs of a network besides colours: the amount of each stain, and where the classical model sees nuclei.

Both are calibrated once per slide, so hue is evidence however a laboratory stains: the planes mean *haematoxylin*,
*eosin*, *DAB*, whatever their colours are on the slide. A stain that the slide lacks is a plane of zeros, which
identifies the stain for the network. All are at half the resolution of the pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as nnf
from numba import njit

from wsiproc.array.stains import Stains, unmixing
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.folder import HINTS

if TYPE_CHECKING:
    from torch import Tensor

# The planes: haematoxylin, eosin, DAB, classical.
_LARGEST_LOGIT, _PER_LOGIT = 8.0, 0.25
_AMOUNT_MEAN, _AMOUNT_STD = 0.45, 0.25


def half_resolution_density(od: Tensor) -> Tensor:
    """Optical density (b, 3, h, w) of blocks of 2 × 2 px."""
    return nnf.avg_pool2d(od, 2)


def hints(od: Tensor, gain: float, stains: Stains, classical: Classical) -> Tensor:
    """(b, HINTS, h, w) of optical density ``od`` (b, 3, h, w) at half resolution, before the gain; ``classical``:
    calibrated on the slide.
    """
    import torch

    amounts = torch.einsum("ck,bchw->bkhw", torch.as_tensor(unmixing(stains)[:, :2].astype(np.float32)).to(od), od)
    amounts = (amounts * gain).clamp_(min=0).sqrt_()
    found = od.new_zeros(len(od), HINTS, *od.shape[2:])
    found[:, 0] = amounts[:, 0]
    found[:, 1 if stains.kind == "H&E" else 2] = amounts[:, 1]
    found[:, 3] = classical.logit(od).clamp_(-_LARGEST_LOGIT, _LARGEST_LOGIT).mul_(_PER_LOGIT)
    return found


def folded_input(images: Tensor, hint_planes: Tensor) -> Tensor:
    """Input of a folded network, (b, 12 + HINTS, h / 2, w / 2): ``images`` (b, 3, h, w), the input of other networks,
    with each 2 × 2 px as one, and ``hint_planes`` (b, HINTS, h / 2, w / 2). In channels-last layout.
    """
    import torch

    scaled = torch.cat([(hint_planes[:, :3] - _AMOUNT_MEAN) / _AMOUNT_STD, hint_planes[:, 3:]], 1)
    if images.device.type != "cpu":
        joined = torch.cat([nnf.pixel_unshuffle(images, 2), scaled], 1)
        return joined.contiguous(memory_format=torch.channels_last)
    return torch.from_numpy(_folded(images.numpy(), scaled.numpy())).permute(0, 3, 1, 2)


@njit(cache=True, nogil=True)
def _folded(images, hint_planes):  # type: ignore[no-untyped-def]
    """Both as one array (b, h / 2, w / 2, 4 c + HINTS), written once in order."""
    b, c, h, w = images.shape
    joined = np.empty((b, h // 2, w // 2, 4 * c + hint_planes.shape[1]), images.dtype)
    for i in range(b):
        for y in range(h // 2):
            for x in range(w // 2):
                for k in range(c):
                    joined[i, y, x, 4 * k] = images[i, k, 2 * y, 2 * x]
                    joined[i, y, x, 4 * k + 1] = images[i, k, 2 * y, 2 * x + 1]
                    joined[i, y, x, 4 * k + 2] = images[i, k, 2 * y + 1, 2 * x]
                    joined[i, y, x, 4 * k + 3] = images[i, k, 2 * y + 1, 2 * x + 1]
                for k in range(hint_planes.shape[1]):
                    joined[i, y, x, 4 * c + k] = hint_planes[i, k, y, x]
    return joined
