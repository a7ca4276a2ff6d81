"""Pictures that are known to the pixel: dark ellipses on a pale ground, as optical density."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from wsiproc.array.stains import STANDARD

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

BLUE, PINK = (np.array(v, np.float32) / np.float32(np.linalg.norm(v)) for v in STANDARD["H&E"])
BROWN = np.array(STANDARD["H-DAB"][1], np.float32) / np.float32(np.linalg.norm(STANDARD["H-DAB"][1]))


def ellipse(side: int, centre: tuple[float, float], radius: float, roundness: float = 1.0, turn: float = 0.0) -> Mask:
    """(side, side) pixels of an ellipse round ``centre`` (y, x), whose longer half axis is ``radius`` px."""
    y, x = np.mgrid[:side, :side] - np.reshape(centre, (2, 1, 1))
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside: Mask = along**2 + (across / roundness) ** 2 < radius**2
    return inside


def numbered(*masks: Mask) -> npt.NDArray[np.int32]:
    """Labels 1…N of masks, the later ones on top."""
    labels = np.zeros(masks[0].shape, np.int32)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    return labels


def stained(nuclei: Mask, strength: float = 0.6, ground: float = 0.2, blur_px: float = 0.8) -> Floats:
    """Optical density (h, w, 3) of blue nuclei on pink ground, a little out of focus."""
    sharp = np.where(nuclei[..., None], strength * BLUE, ground * PINK).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(sharp, (0, 0), blur_px), np.float32)


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(int((one | other).sum()), 1))
