"""H&E tissue as if it had been stained for a nuclear marker: the same nuclei, blue or brown on a pale background.

Slides with DAB are rarer than those with eosin, and few of them show it in nuclei. Unmixed into its stains, a crop of
H&E can be recombined: haematoxylin paler, eosin nearly gone, some of the accepted nuclei brown. The reverse, for DAB
that is not in nuclei: the haematoxylin alone.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from wsiproc.array.stains import STANDARD, Stains, unmixing
from wsiproc.core.types import BoolArray, Float32Array, UInt8Array
from wsiproc.models.staining import haematoxylin_alone

_BLUE = -1.2, 0.0  # logarithm of the share of haematoxylin that is left
_BROWN = -0.5, 1.8  # logarithm of DAB ÷ haematoxylin in a positive nucleus
_GROUND = 0.25  # largest share of eosin that stays as a background tint
_MOST_POSITIVE = 0.8
_EDGE_PX = 0.7
_HIDDEN_OD = 0.15  # in blue light, from which a pixel without visible haematoxylin is DAB


def restain(od: Float32Array, target: UInt8Array, stains: Stains, rng: np.random.Generator) -> None:
    """Turn a crop of H&E, ``od`` (h, w, 3), into one of haematoxylin and DAB, in place."""
    amounts = np.maximum(od @ unmixing(stains), 0.0)
    blue, brown = (vector / np.linalg.norm(vector) for vector in np.array(STANDARD["H-DAB"]))
    haematoxylin, eosin = amounts[..., :1], amounts[..., 1:2]
    ground = eosin * rng.uniform(0, _GROUND) * (blue + rng.uniform(0, 1) * brown)
    negative = haematoxylin * np.exp(rng.uniform(*_BLUE)) * blue + ground
    strength, share = _positive_nuclei(target, rng)
    positive = haematoxylin * strength[..., None] * brown + negative * 0.5
    od[:] = negative * (1 - share[..., None]) + positive * share[..., None]


def _positive_nuclei(target: UInt8Array, rng: np.random.Generator) -> tuple[Float32Array, Float32Array]:
    """Strength of DAB (h, w), constant in each nucleus, and membership of each pixel in a positive one, in [0, 1]."""
    count, places = cv2.connectedComponents((target[..., 0] == 1).astype(np.uint8), connectivity=4)
    chosen = np.less(rng.random(count), rng.uniform(0, _MOST_POSITIVE))
    chosen[0] = False
    overall = rng.uniform(*_BROWN)
    strength = np.exp(overall + 0.4 * rng.normal(size=count)).astype(np.float32)
    share = np.asarray(cv2.GaussianBlur(chosen[places].astype(np.float32), (0, 0), _EDGE_PX), np.float32)
    positive = np.where(chosen, strength, 0).astype(np.float32)
    spread = np.asarray(cv2.dilate(positive[places], np.ones((5, 5), np.uint8)), np.float32)
    return spread, share


def without_dab(od: Float32Array, stains: Stains) -> tuple[Float32Array, BoolArray]:
    """Optical density (h, w, 3) of the haematoxylin alone, and mask (h, w) of pixels in which DAB hides it."""
    given = torch.from_numpy(np.ascontiguousarray(od, np.float32)).permute(2, 0, 1)[None]
    alone: Float32Array = haematoxylin_alone(given, stains)[0][0].permute(1, 2, 0).numpy()
    return alone, (od[..., 2] > _HIDDEN_OD) & (alone[..., 0] == 0)
