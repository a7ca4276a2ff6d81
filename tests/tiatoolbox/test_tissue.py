"""TIAToolbox's tissue maskers; runs in an environment with the extra ``wsiproc[tiatoolbox]``."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from wsiproc.core.choices import TissueMasker
from wsiproc.pipeline.planning.tissue_mask import tissue_mask

pytestmark = pytest.mark.tiatoolbox
pytest.importorskip("tiatoolbox")


@pytest.mark.parametrize("method", get_args(TissueMasker))
def test_tissue_mask(method: TissueMasker) -> None:
    rng = np.random.default_rng(0)
    thumbnail = rng.integers(240, 250, (200, 200, 3)).astype(np.uint8)
    thumbnail[60:140, 50:150] = rng.integers(0, 20, (80, 100, 3)) + np.array([180, 110, 160])
    mask = tissue_mask(thumbnail, method, mpp=8.0)
    assert mask.dtype == bool
    assert mask[70:130, 60:140].mean() > 0.95
    assert mask.mean() < 0.25
