"""Semantic clustering: pixels of similar colour and activation, named by a colour prior (Chen et al. 2023).

The published vector of a pixel is the map's JET colour added to the image's, and clusters are found separately for each
image. Here they can also be found once over many images; and ``fit_model_clusters`` uses the map as a separate feature,
as the direct engine (``wsiproc.models.builtin.activation``) reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsiproc.array.kmeans import kmeans_centres
from wsiproc.core.types import Float32Array, Float64Array, FloatArray, UInt8Array, Vector
from wsiproc.models.networks.readout import Clusters

_ITERATIONS, _MOVE = 20, 0.5  # the latter: movement of a centre, in grey levels, below which it has converged


@dataclass(frozen=True)
class JetClusters:
    """Centres of published pixel vectors, the nuclei's first.

    ``centres``: see ``jet_vectors``, by rising sum of the first two channels; ``colours``: mean RGB of each cluster's
    pixels; ``beta``: weight of the image in a vector.
    """

    centres: tuple[Vector, ...]
    colours: tuple[Vector, ...]
    beta: float = 1.0

    def assign(self, activation: FloatArray, image: UInt8Array) -> UInt8Array:
        """(h, w) index of the nearest centre; 0 is nuclei. ``activation``: (h, w) in [0, 1]; ``image``: (h, w, 3)."""
        vectors = jet_vectors(activation, image, self.beta)
        return nearest(vectors.reshape(-1, 3), np.array(self.centres)).reshape(activation.shape)

    def positive_and_negative(self) -> tuple[int, int]:
        """Indices of brown (Ki-67 positive) and blue nuclei: of the two darkest clusters, by blue against red."""
        excess = [blue - red for red, _, blue in self.colours[:2]]
        return (0, 1) if excess[0] < excess[1] else (1, 0)


def jet_vectors(activation: FloatArray, image: UInt8Array, beta: float = 1.0) -> Float32Array:
    """(h, w, 3) the map's JET colour, *blue first*, + ``beta`` × the image, red first; up to 255 (1 + ``beta``).

    This is how the authors' code adds them, and it matters: where the map is high, JET has no blue, and a nucleus has
    little red, so both are low in the first channel. In the same channel order they would cancel.
    """
    levels = np.rint(np.clip(activation, 0, 1) * 255).astype(np.uint8)
    jet = cv2.applyColorMap(levels, cv2.COLORMAP_JET)
    vectors: Float32Array = jet.astype(np.float32) + np.float32(beta) * image
    return vectors


def kmeans(vectors: FloatArray, k: int, seed: int = 0) -> Float64Array:
    """(k, f) centres of vectors (N, f), on the scale of grey levels; the best of several starts.

    Raises ValueError for fewer vectors than centres.
    """
    if len(vectors) < k:
        raise ValueError(f"{len(vectors)} pixels cannot make {k} clusters")
    return kmeans_centres(vectors, k, seed, steps=_ITERATIONS, still=_MOVE)


def nearest(vectors: FloatArray, centres: FloatArray) -> UInt8Array:
    """(N,) index of the centre (k, f) that is nearest to each vector (N, f); the first of equals."""
    squared = np.stack([((vectors - centre) ** 2).sum(axis=1) for centre in centres])
    index: UInt8Array = np.argmin(squared, axis=0).astype(np.uint8)
    return index


def fit_clusters(
    activations: Sequence[FloatArray],
    images: Sequence[UInt8Array],
    k: int = 3,
    *,
    beta: float = 1.0,
    seed: int = 0,
    sample_px: int | None = None,
) -> JetClusters:
    """Clusters of all pixels of maps (h, w) and images (h, w, 3) together: of one image, as published, or many.

    ``k``: how many; ``sample_px``: number of pixels to sample at random.
    """
    pairs = list(zip(activations, images, strict=True))
    vectors = np.concatenate([jet_vectors(a, image, beta).reshape(-1, 3) for a, image in pairs])
    colours = np.concatenate([image.reshape(-1, 3) for image in images])
    if sample_px is not None and sample_px < len(vectors):
        chosen = np.random.default_rng(seed).choice(len(vectors), sample_px, replace=False)
        vectors, colours = vectors[chosen], colours[chosen]
    centres = kmeans(vectors, k, seed)
    centres = centres[np.argsort(centres[:, :2].sum(axis=1), kind="stable")]
    index = nearest(vectors, centres)
    means = [colours[index == i].mean(axis=0) if np.any(index == i) else np.full(3, 255.0) for i in range(k)]
    return JetClusters(tuple(_vector(c) for c in centres), tuple(_vector(m) for m in means), beta)


def _vector(values: FloatArray) -> Vector:
    a, b, c = (float(value) for value in values)
    return a, b, c


def fit_model_clusters(
    features: FloatArray,
    scale: tuple[float, float, float, float],
    k: int = 3,
    *,
    seed: int = 0,
    accepted: UInt8Array | None = None,
) -> Clusters:
    """Clusters for the direct engine, of features (N, 4) sampled over many images: map, optical density × gain.

    ``scale``: weight of each feature in the distance. ``accepted`` (N,): 1 for pixels of accepted nuclei, 0 for
    background, else unknown; clusters whose known pixels are mostly nuclei are nuclei. If there are no accepted nuclei,
    it is the cluster with the highest map + red optical density, each divided by its spread over the pixels:
    haematoxylin and DAB absorb red, eosin does not.
    """
    unit = features * np.array(scale)
    unit *= 64 / max(float(unit.std(axis=0).max()), 1e-9)  # steps as fine as grey levels
    index = nearest(unit, kmeans(unit, k, seed))
    centres = np.stack([features[index == i].mean(axis=0) for i in np.unique(index)])
    spreads = np.maximum(features.std(axis=0), 1e-9)
    darkest = int(np.argmax(centres[:, 0] / spreads[0] + centres[:, 1] / spreads[1]))
    nuclei: tuple[int, ...] = (darkest,)
    if accepted is not None and (accepted == 1).any():
        parts = [accepted[index == i] for i in np.unique(index)]
        yes, no = (np.array([np.sum(part == v) for part in parts]) for v in (1, 0))
        nuclei = tuple(np.flatnonzero(yes > no).tolist()) or (int(np.argmax(yes / np.maximum(yes + no, 1))),)
        if len(nuclei) == len(parts):  # no known background: all but the cluster with the fewest accepted pixels
            fewest = int(np.argmin(yes / [len(part) for part in parts]))
            nuclei = tuple(i for i in nuclei if i != fewest)
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in centres)
    return Clusters(rows, nuclei, scale)
