"""TIAToolbox's tissue maskers."""

from __future__ import annotations

import numpy as np

from wsiproc.core.choices import TissueMasker
from wsiproc.core.extras import load
from wsiproc.core.types import BoolArray, UInt8Array


def tissue_mask(thumbnail: UInt8Array, method: TissueMasker, mpp: float) -> BoolArray:
    """TIAToolbox's tissue mask (h, w) of a (h, w, 3) uint8 thumbnail of ``mpp`` µm/px."""
    tissuemask = load("tools.tissuemask")
    masker = tissuemask.OtsuTissueMasker() if method == "tiatoolbox:otsu" else tissuemask.MorphologicalMasker(mpp=mpp)
    return np.asarray(masker.fit_transform(thumbnail[None])[0], np.bool_)
