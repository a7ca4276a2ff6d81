"""How grainy a slide is, seen from nearer than its overview: read in strips and reduced to the overview's size."""

from __future__ import annotations

import cv2
import numpy as np

from wsiproc.array.tissue import local_grain
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import Float32Array
from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.io.slides.open import Overview, Slide

# Nuclei and fibres make tissue grainy at some 4 µm/px; at 8 they have begun to melt into one another, and the overview
# of a large slide is coarser still.
_GRAIN_MPP = 4.0
_NEAR_ENOUGH = 1.25  # a level of the slide that is so near to it is taken as it is
_STRIP_PX = 4_000_000


def read_grain(slide: Slide, overview: Overview) -> Float32Array | None:
    """Grain (h, w) of a slide at some 4 µm/px, see ``local_grain``; None where the overview is as fine as that.

    So what counts as tissue is no matter of how large the slide is. Places that cannot be read have the overview's own.
    Raises SlideTimeoutError at the first read that hangs.
    """
    if max(overview.mpp) <= _GRAIN_MPP * _NEAR_ENOUGH:
        return None
    far = local_grain(overview.pixels)
    h, w = far.shape
    mpp = _mpp(slide)
    shape = grid_shape(slide.shape, slide.mpp, mpp)
    fold = max(1, shape[0] // h)  # rows that are averaged at once; a strip has whole folds, so its size does not matter
    folds = shape[0] // fold
    step = max(1, round(_STRIP_PX / shape[1] / fold))
    strips = []
    for first in range(0, folds, step):
        count = min(step, folds - first)
        try:
            near = _strip(slide, mpp, Box(first * fold, 0, count * fold, shape[1]), shape)
        except SlideTimeoutError:
            raise
        except SlideReadError:
            near = far[first * h // folds : -(-(first + count) * h // folds)]
        strips.append(cv2.resize(near, (w, count), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.resize(np.concatenate(strips), (w, h), interpolation=cv2.INTER_AREA), np.float32)


def _strip(slide: Slide, mpp: float, box: Box, shape: tuple[int, int]) -> Float32Array:
    """Grain of a strip (h, w), with a look at the rows beside it."""
    seen = box.pad(1).clip(shape)
    texture = local_grain(slide.read(seen, mpp))
    return texture[box.y - seen.y : box.y1 - seen.y]


def _mpp(slide: Slide) -> float:
    """µm/px of the level that is nearest to what is wanted, if it is near; else what is wanted."""
    levels = [slide.mpp * factor for factor in slide.levels]
    near = [mpp for mpp in levels if _GRAIN_MPP / _NEAR_ENOUGH <= mpp <= _GRAIN_MPP * _NEAR_ENOUGH]
    return min(near, key=lambda mpp: abs(mpp - _GRAIN_MPP)) if near else max(_GRAIN_MPP, slide.mpp)
