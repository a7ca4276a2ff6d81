"""Groups of alike rows: k-means on features that count alike."""

from __future__ import annotations

import numpy as np

from wsiproc.core.types import Float64Array, FloatArray

_SEED = 0
_STARTS = 10  # of k-means++ (Arthur and Vassilvitskii 2007); the tightest result is taken
_STEPS, _STILL = 100, 1e-4


def standardised_kmeans(features: FloatArray, count: int) -> tuple[Float64Array, Float64Array]:
    """Scale (F,) and centres (``count``, F) of groups of the rows of ``features`` (N, F), N ≥ ``count``.

    Each feature is divided by its standard deviation, the scale (1 where it never varies); the centres are in the
    features' own units. The same rows give the same centres, in an order that means nothing.
    """
    import cv2

    spread = features.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    mean = features.mean(axis=0, dtype=np.float64)
    rows = ((features - mean) / scale).astype(np.float32)
    cv2.setRNGSeed(_SEED)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _STILL)
    _, _, centres = cv2.kmeans(rows, count, None, stop, _STARTS, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return scale, mean + centres * scale
