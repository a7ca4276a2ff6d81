"""Pasted things that are no nuclei: they change the picture where they say background, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from wsiproc.array.stains import Stains
from wsiproc.psm.labels import negatives
from wsiproc.psm.labels.negatives import paste_negatives
from wsiproc.psm.labels.targets import IGNORE


@pytest.mark.parametrize("kind", sorted({draw.__name__ for draw in negatives._KINDS}))
def test_what_is_covered_is_background_or_left_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "_PASTED", 1.0)
    monkeypatch.setattr(negatives, "_KINDS", (getattr(negatives, kind),))
    changed = 0
    for seed in range(6):
        od = np.full((128, 128, 3), 0.1, np.float32)
        target = np.full((128, 128, 2), IGNORE, np.uint8)
        target[40:60, 40:60] = 1
        paste_negatives(od, target, Stains(), 0.25, np.random.default_rng(seed))
        moved = np.abs(od - 0.1).max(axis=2) > 0.05
        background = target[..., 0] == 0
        assert od.shape == (128, 128, 3)
        assert np.isfinite(od).all()
        assert (od >= 0).all()
        assert not (background & ~(np.abs(od - 0.1).max(axis=2) > 1e-3)).any()
        assert set(np.unique(target)) <= {0, 1, IGNORE}
        changed += int(moved.any())
    assert changed >= 3, kind


def test_the_same_numbers_draw_the_same() -> None:
    drawn = []
    for _ in range(2):
        od, target = np.full((96, 96, 3), 0.1, np.float32), np.full((96, 96, 2), IGNORE, np.uint8)
        rng = np.random.default_rng(5)
        for _ in range(10):
            paste_negatives(od, target, Stains(), 0.25, rng)
        drawn.append((od, target))
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])
