"""K-means clustering."""

from __future__ import annotations

import numpy as np

from wsiproc.core.types import Float32Array, Float64Array, FloatArray, Int32Array

_STARTS = 20  # of k-means++ (Arthur and Vassilvitskii 2007); the most compact result is used
_SEED, _STEPS, _STILL = 0, 100, 1e-4  # of standardised features


def standardised_kmeans(features: FloatArray, count: int) -> tuple[Float64Array, Float64Array]:
    """Scale (F,) and centres (``count``, F) of clusters of the rows of ``features`` (N, F), N ≥ ``count``.

    Each feature is divided by its standard deviation, the scale (1 where it never varies); the centres are in the
    features' own units. The same rows give the same centres, in arbitrary order.
    """
    spread = features.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    mean = features.mean(axis=0, dtype=np.float64)
    rows = (features - mean) / scale
    return scale, mean + kmeans_centres(rows, count, _SEED, steps=_STEPS, still=_STILL) * scale


def kmeans_centres(rows: FloatArray, count: int, seed: int, *, steps: int, still: float) -> Float64Array:
    """Centres (``count``, F) of clusters of ``rows`` (N, F), N ≥ ``count``: the most compact result of 20 starts.

    Each runs at most ``steps`` iterations, fewer once no centre moves further than ``still``. Rows and seed determine
    the centres: OpenCV gets the initial clusters, since its own random numbers are global state.
    """
    import cv2

    points = np.ascontiguousarray(rows, np.float32)
    rng = np.random.default_rng(seed)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, still)
    results = (
        cv2.kmeans(points, count, _initial_clusters(points, count, rng), stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
        for _ in range(_STARTS)
    )
    _, _, centres = min(results, key=lambda result: result[0])
    return np.asarray(centres, np.float64)


def _initial_clusters(points: Float32Array, count: int, rng: np.random.Generator) -> Int32Array:
    """Index (N, 1) of the centre nearest to each of ``points`` (N, F), among ``count`` sampled by k-means++."""
    groups = np.zeros((len(points), 1), np.int32)
    nearest = np.full(len(points), np.inf)  # squared distances
    weights = None
    for number in range(count):
        centre = points[rng.choice(len(points), p=weights)]
        distance = ((points - centre) ** 2).sum(axis=1, dtype=np.float64)
        groups[distance < nearest] = number
        nearest = np.minimum(nearest, distance)
        weights = nearest / nearest.sum() if nearest.any() else None
    return groups
