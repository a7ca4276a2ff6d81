"""Random clumps of ellipses, as nuclei are after thresholding."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def clumps(seed: int, shape: tuple[int, int], count: int) -> npt.NDArray[np.bool_]:
    """A mask (h, w) of ``count`` overlapping ellipses."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    for _ in range(count):
        centre = (int(rng.integers(0, shape[1])), int(rng.integers(0, shape[0])))
        axes = (int(rng.integers(2, 14)), int(rng.integers(2, 14)))
        cv2.ellipse(mask, centre, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
    return mask.astype(bool)
