"""Synthetic tissue with known nuclei."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import Box
from wsiproc.synthetic import Scene

SIDE = 192
Drawn = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]


def tissue(seed: int = 1, side: int = SIDE, stain: str = "HE") -> Drawn:
    """(side, side, 3) picture at 0.5 µm/px and its true labels."""
    box = Box(0, 0, side, side)
    scene = Scene(box.shape, mpp=0.5, seed=seed, tissue_fraction=1.0, stain=stain)  # type: ignore[arg-type]
    return scene.render(box), scene.labels(box)
