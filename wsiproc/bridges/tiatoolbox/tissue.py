"""TIAToolbox's tissue maskers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from wsiproc.bridges.tiatoolbox import load


def tissue_mask(
    thumbnail: npt.NDArray[np.uint8], method: Literal["otsu", "morphological"], mpp: float
) -> npt.NDArray[np.bool_]:
    """TIAToolbox's tissue mask (h, w) of a (h, w, 3) uint8 thumbnail of ``mpp`` µm/px."""
    tissuemask = load("tools.tissuemask")
    masker = tissuemask.OtsuTissueMasker() if method == "otsu" else tissuemask.MorphologicalMasker(mpp=mpp)
    return np.asarray(masker.fit_transform(thumbnail[None])[0], np.bool_)
