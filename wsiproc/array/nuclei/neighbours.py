"""What lies around each cell."""

from __future__ import annotations

import numpy as np

from wsiproc.core.types import Float64Array, Int64Array


def neighbour_means(centres: Float64Array, values: Int64Array, reach: float) -> Float64Array:
    """Mean of ``values`` (N,) over all other cells within ``reach`` of each of ``centres`` (N, 2); NaN where none is.

    Values are integers, so that sums, and with them means, do not depend on the order of the cells.
    """
    from scipy.spatial import cKDTree  # takes a fifth of a second, and only this needs it

    counts, sums = np.zeros(len(centres)), np.zeros(len(centres))
    if len(centres) > 1:
        # The tree accepts whole branches by a bound that is rounded otherwise; the distance itself decides.
        pairs = cKDTree(centres).query_pairs(reach * (1 + 1e-9), output_type="ndarray")
        apart = centres[pairs[:, 0]] - centres[pairs[:, 1]]
        pairs = pairs[(apart**2).sum(axis=1) <= reach**2]
        for one, other in (pairs.T, pairs.T[::-1]):
            counts += np.bincount(one, minlength=len(centres))
            sums += np.bincount(one, values[other], minlength=len(centres))
    with np.errstate(invalid="ignore"):
        means: Float64Array = sums / counts
    return means
