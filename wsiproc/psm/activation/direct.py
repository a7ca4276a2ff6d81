"""The direct engine of a fit: the activation map's readout and the clusters of its pixels, as a separate model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsiproc.core.types import Float32Array, UInt8Array
from wsiproc.models.folder import ActivationConfig, InputNumbers, ShallowNumbers
from wsiproc.models.networks.readout import Readout
from wsiproc.psm.activation.clustering import fit_model_clusters

# The network's input is the root of optical density × gain as an 8-bit image, in which this value becomes white.
_TOP_ROOT = 1.7
ACTIVATION_INPUT = InputNumbers((0.0, 0.0, 0.0), (_TOP_ROOT, _TOP_ROOT, _TOP_ROOT), od99=1.6)

CLUSTERS = 8
_SAMPLED_PX = 200_000
_SCALE = (0.5, 1.0, 0.5, 0.5)


def activation_pixels(od: Float32Array) -> UInt8Array:
    """Optical density × gain (h, w, 3) as the image (h, w, 3) on which the activation network is trained."""
    pixels: UInt8Array = np.clip(np.rint(np.sqrt(od) * (255 / _TOP_ROOT)), 0, 255).astype(np.uint8)
    return pixels


def activation_config(
    readout: Readout,
    width: int,
    maps: Sequence[Float32Array],
    densities: Sequence[Float32Array],
    accepted: Sequence[UInt8Array],
    mpp: float,
    name: str,
    training: dict[str, Any],
) -> ActivationConfig:
    """Configuration of the direct engine.

    ``maps`` (h, w) and ``densities`` (h, w, 3): activation map and optical density × gain, smoothed, of tiles over all
    sources; ``accepted`` (h, w): 1 nucleus, 0 background, else unknown. Blue, brown, dark and pale nuclei form separate
    clusters, which are identified by the accepted pseudo-labels.
    """
    features = np.concatenate(
        [np.concatenate([m[..., None], od], axis=-1).reshape(-1, 4) for m, od in zip(maps, densities, strict=True)]
    )
    known = np.concatenate([plane.ravel() for plane in accepted])
    chosen = np.random.default_rng(0).choice(len(features), min(_SAMPLED_PX, len(features)), replace=False)
    return ActivationConfig(
        name=name,
        description="Self-activation map, clusters and local split, learned without labels by wsiproc fit",
        mpp=mpp,
        network=ShallowNumbers(width=width),
        input=ACTIVATION_INPUT,
        readout=readout,
        clusters=fit_model_clusters(features[chosen], _SCALE, CLUSTERS, accepted=known[chosen]),
        training=training,
    )
