"""Shared by all models of stained slides: sampled pixels, optical density, stain planes and class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsiproc.array.stains import Stains, looks_unstained, unmixing
from wsiproc.core.palette import RGB
from wsiproc.core.types import UInt8Array, Vector
from wsiproc.models.base import OD_STEP, WINDOW_MULTIPLE, Channel
from wsiproc.models.networks.byte_values import as_uint8, by_lookup_table

if TYPE_CHECKING:
    from torch import Tensor

TISSUE_OD = 0.13  # sum over the channels (log10); paler is background
_FEWEST = 100  # minimum number of tissue pixels
_GAINS = 0.7, 1.5
# Where DAB lies outside nuclei, haematoxylin counts fully from the second share of both stains on, and not at all below
# the first; likewise DAB hides it between these densities in blue light, in which haematoxylin absorbs little.
_BLUE_SHARE = 0.30, 0.45
_HIDING_OD = 0.4, 0.55
_LEAST_DAB = 0.1  # less hides nothing
_GREY_PITCH_UM = 1.05  # pitch of the grid on which grey is found, at most
NUCLEUS = ("Nucleus",)
"""The classes of models that only find nuclei: which are DAB-positive is decided by the run."""
_COLOURS: dict[str, RGB] = {"hematoxylin": (70, 70, 255), "eosin": (255, 80, 170), "dab": (200, 130, 50)}


def sample_pixels(samples: Sequence[UInt8Array], mpp: float) -> UInt8Array:
    """(N, 3) pixels of sampled windows (h, w, 3), means of blocks of about 1 µm, which suppress noise."""
    step = max(1, round(1.0 / mpp))
    return np.concatenate([_shrink(sample, step).reshape(-1, 3) for sample in samples])


def _shrink(image: UInt8Array, step: int) -> UInt8Array:
    h, w = (side // step * step for side in image.shape[:2])
    sums = np.zeros((h // step, w // step, 3), np.uint32)
    for y, x in np.ndindex(step, step):  # several times faster than NumPy's mean over two axes
        sums += image[y:h:step, x:w:step]
    means: UInt8Array = (sums // step**2).astype(np.uint8)
    return means


def optical_density(windows: Tensor, white: Vector) -> Tensor:
    """(b, h, w, 3) uint8 → (b, 3, h, w) float32, log10 of ``white`` ÷ pixel, never negative."""
    return by_lookup_table(partial(_optical_density, white=white), windows)


def _optical_density(windows: Tensor, white: Vector) -> Tensor:
    import torch

    glass = torch.tensor(white, device=windows.device).log10()
    planes = windows.permute(0, 3, 1, 2).contiguous().clamp_(min=1).float().log10_()
    return planes.neg_().add_(glass[:, None, None]).clamp_(min=0)


def find_gain(pixels: UInt8Array, stains: Stains, od99: float) -> float:
    """The gain that normalises the stain strength of a slide, sampled as ``pixels`` (N, 3).

    The 99th percentile over tissue of optical density summed over the channels × the gain is ``od99``, within limits: a
    pale slide may be a pale tissue, and strong gains would turn its noise into nuclei. With DAB it is 1, since that
    percentile reflects the amount of DAB rather than the pale blue nuclei.
    """
    od = np.maximum(-np.log10(np.maximum(pixels, 1) / np.array(stains.white)), 0.0).sum(axis=1)
    tissue = od[od > TISSUE_OD]
    if len(tissue) < _FEWEST or stains.kind == "H-DAB":
        return 1.0
    return round(float(np.clip(od99 / np.percentile(tissue, 99), *_GAINS)), 4)


def haematoxylin_alone(od: Tensor, stains: Stains) -> tuple[Tensor, Tensor]:
    """Optical density without DAB and what DAB hides, (b, 3, h, w) like ``od``, and the same with the DAB.

    For slides whose DAB is in membranes or cytoplasm, so that it outlines no nucleus. Each pixel counts alone.
    """
    import torch

    first, second = torch.as_tensor(unmixing(stains)[:, :2].T, dtype=torch.float32, device=od.device)
    blue, dab = (torch.einsum("c,bchw->bhw", row, od).clamp_(min=0) for row in (first, second))
    share = blue / (blue + dab).clamp_(min=1e-6)
    seen = _ramp(share, *_BLUE_SHARE).masked_fill_(dab < _LEAST_DAB, 1) * (1 - _ramp(od[:, 2], *_HIDING_OD))
    vectors = torch.nn.functional.normalize(torch.tensor(stains.vectors, device=od.device))[:, None, :, None, None]
    alone = (blue * seen)[:, None] * vectors[0]
    return alone, alone + dab[:, None] * vectors[1]


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp_(0, 1)


def stained_maps(nucleus: Tensor, od: Tensor, stains: Stains, mpp: float, *others: Tensor) -> Tensor:
    """The maps of a model: (b, 3 + len(others), h, w) uint8.

    ``nucleus`` and ``others``: probabilities (b, h, w) in [0, 1]; ``od``: (b, 3, h, w) at ``mpp`` µm/px, unmixed into
    both stains. The order is nucleus, first stain, second stain, others. Where it is grey there is no nucleus, but dust
    or a bubble.
    """
    import torch

    matrix = torch.as_tensor(unmixing(stains).T[:2], dtype=torch.float32, device=od.device)
    red, green, blue = od.unbind(1)
    amounts = [torch.addcmul(red * row[0], green, row[1]).addcmul_(blue, row[2]) for row in matrix / OD_STEP]
    if not stains.grey:
        nucleus = nucleus.masked_fill(_grey(od, stains, mpp), 0)
    planes = [nucleus * 255, *amounts, *(other * 255 for other in others)]
    return as_uint8(torch.stack(planes, 1).round_().clamp_(0, 255))


def _grey(od: Tensor, stains: Stains, mpp: float) -> Tensor:
    """Where optical density (b, 3, h, w) is grey throughout a square of some 5 µm, and 1 µm around: (b, h, w) bool.

    On a coarse grid of about 1 µm, whose pitch divides the corners of all windows. A pixel of a nucleus may be grey by
    chance, and so may its rim.
    """
    import torch.nn.functional as nn

    h, w = od.shape[-2:]
    pitch = 1
    while 2 * pitch * mpp <= _GREY_PITCH_UM and pitch < WINDOW_MULTIPLE:
        pitch *= 2
    coarse = nn.avg_pool2d(od, pitch, ceil_mode=True, count_include_pad=False)
    smooth = nn.avg_pool2d(coarse, 3, 1, 1, count_include_pad=False)
    found = looks_unstained(stains.kind, *smooth.unbind(1)).to(od.dtype)[:, None]
    cores = 1 - nn.max_pool2d(1 - found, 3, 1, 1)
    around = nn.max_pool2d(cores, 5, 1, 2)
    return nn.interpolate(around, scale_factor=float(pitch), mode="nearest")[:, 0, :h, :w] > 0


def stained_channels(stains: Stains) -> tuple[Channel, ...]:
    """The first three planes of ``stained_maps``."""
    return (
        Channel("nucleus", (255, 255, 255)),
        *(Channel(name, _COLOURS[name], stain=True) for name in stains.names),
    )


def stains_as_dict(stains: Stains) -> dict[str, object]:
    """The stains of a slide, for ``run.json``."""
    return {
        "stain": stains.kind,
        "vectors": [list(vector) for vector in stains.vectors],
        "textbook_vectors": stains.standard,
        "white": list(stains.white),
    }
