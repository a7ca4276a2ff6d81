"""Texture of a slide at a finer resolution than its overview: read in strips and reduced to the overview's size."""

from __future__ import annotations

import cv2
import numpy as np

from wsiproc.array.tissue import local_texture
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import Float32Array
from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.io.slides.open import Overview, Slide

# Nuclei and fibres give tissue texture at about 4 µm/px; at 8 they begin to merge, and the overview of a large slide is
# coarser still.
_TEXTURE_MPP = 4.0
_NEAR_ENOUGH = 1.25  # a level within this factor is used without resampling
_STRIP_PX = 4_000_000


def read_texture(slide: Slide, overview: Overview, strip_px: int = _STRIP_PX) -> Float32Array | None:
    """Texture (h, w, 2) of a slide at about 4 µm/px, see ``local_texture``; None if the overview is as fine as that.

    This makes tissue detection independent of the size of the slide. Unreadable parts get the texture of the overview.
    ``strip_px``: pixels that are read at a time.
    Raises SlideTimeoutError at the first read that hangs.
    """
    if max(overview.mpp) <= _TEXTURE_MPP * _NEAR_ENOUGH:
        return None
    far = local_texture(overview.pixels)
    h, w = far.shape[:2]
    mpp = _mpp(slide)
    shape = grid_shape(slide.shape, slide.mpp, mpp)
    fold = max(1, shape[0] // h)  # rows averaged together; a strip has a multiple of this, so its size does not matter
    folds = shape[0] // fold
    step = max(1, round(strip_px / shape[1] / fold))
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
    """Texture of a strip (h, w, 2), taking adjacent rows into account."""
    seen = box.pad(1).clip(shape)
    texture = local_texture(slide.read(seen, mpp))
    return texture[box.y - seen.y : box.y1 - seen.y]


def _mpp(slide: Slide) -> float:
    """µm/px of the level nearest to the wanted one, if near enough; else the wanted one."""
    levels = [slide.mpp * factor for factor in slide.levels]
    near = [mpp for mpp in levels if _TEXTURE_MPP / _NEAR_ENOUGH <= mpp <= _TEXTURE_MPP * _NEAR_ENOUGH]
    return min(near, key=lambda mpp: abs(mpp - _TEXTURE_MPP)) if near else max(_TEXTURE_MPP, slide.mpp)
