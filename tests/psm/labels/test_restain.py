from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from wsiproc.array.stains import STANDARD, Stains
from wsiproc.psm.labels.restain import restain

HAEMATOXYLIN, EOSIN = (np.array(v, np.float32) / np.linalg.norm(v) for v in STANDARD["H&E"])
BLUE, BROWN = (np.array(v, np.float32) / np.linalg.norm(v) for v in STANDARD["H-DAB"])


def crop() -> tuple[np.ndarray, np.ndarray]:
    """Pink ground with eight round nuclei: optical density (96, 96, 3) and target (96, 96, 2)."""
    y, x = np.mgrid[:96, :96]
    inside = np.zeros((96, 96), bool)
    for cy in (24, 72):
        for cx in (12, 36, 60, 84):
            inside |= (y - cy) ** 2 + (x - cx) ** 2 < 49
    od = np.where(inside[..., None], 0.9 * HAEMATOXYLIN, 0.5 * EOSIN).astype(np.float32)
    return od, np.repeat(inside[..., None], 2, axis=2).astype(np.uint8)


@given(st.integers(0, 10_000))
@example(588)
def test_the_ground_loses_its_eosin_and_labels_stay(seed: int) -> None:
    od, target = crop()
    before, inside = target.copy(), target[..., 0] == 1
    restain(od, target, Stains(), np.random.default_rng(seed))
    assert (target == before).all()
    assert np.isfinite(od).all()
    assert (od >= 0).all()
    assert od[~inside].sum(axis=1).max() < od[inside].sum(axis=1).min() + 0.5
    # Of the eosin at most a quarter stays, as a tint of both colours.
    assert np.median(od[~inside].sum(axis=1)) <= 0.5 * 0.25 * (BLUE.sum() + BROWN.sum()) + 1e-6


def test_some_nuclei_turn_brown_and_others_stay_blue() -> None:
    brown, blue = 0, 0
    for seed in range(40):
        od, target = crop()
        restain(od, target, Stains(), np.random.default_rng(seed))
        for cy in (24, 72):
            for cx in (12, 36, 60, 84):
                red, _, violet = od[cy, cx]
                brown += violet > red
                blue += violet < red
    assert brown + blue == 320
    assert min(brown, blue) > 60


def test_the_same_seed_gives_the_same_crop() -> None:
    (one, target), (other, _) = crop(), crop()
    for od in (one, other):
        restain(od, target, Stains(), np.random.default_rng(7))
    assert (one == other).all()
