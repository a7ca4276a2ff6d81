"""What the neighbours of cells say against labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.array.stains import STANDARD, Stains
from wsiproc.models.doubt import NeighbourRule, count_steps, logits
from wsiproc.psm.labels.doubt import ScoredCells, doubted, forgive, withdraw
from wsiproc.psm.labels.targets import IGNORE

RULE, LEAST, MPP = NeighbourRule(), 0.25, 0.25
Scores = npt.NDArray[np.float32]


def spread(scores: Scores, rng: np.random.Generator) -> ScoredCells:
    """Cells without pixels, somewhere in a square of 200 µm."""
    return ScoredCells(np.zeros((1, 1), np.int32), scores, rng.uniform(0, 800, (len(scores), 2)))


@given(st.integers(0, 10_000), st.lists(st.integers(0, 60), min_size=1, max_size=4), st.floats(0.3, 0.95))
def test_it_is_the_rule_of_a_run(seed: int, counts: list[int], middle: float) -> None:
    """Cells with a score that counts are doubted exactly where a run would drop them, or would for a lower score."""
    rng = np.random.default_rng(seed)
    tiles = [spread(np.clip(rng.normal(middle, 0.2, n), 0.02, 0.99).astype(np.float32), rng) for n in counts]
    kept = [tile.scores >= LEAST for tile in tiles]
    every = [count_steps(tile.scores[which]) for tile, which in zip(tiles, kept, strict=True)]
    level = RULE.level(np.sum(every, axis=0))
    for tile, which, (rejected, unclear) in zip(tiles, kept, doubted(tiles, RULE, LEAST, MPP), strict=True):
        lowered = RULE.deduction(tile.centres[which], tile.scores[which], MPP, level)
        believed = logits(tile.scores[which]) - lowered >= logits(np.array([LEAST]))
        np.testing.assert_array_equal(~rejected[which], believed)
        assert (tile.scores[unclear] >= RULE.clear).all()
        assert not (rejected & unclear).any()


def test_doubted_cells_become_background_and_clear_ones_unknown() -> None:
    cells, accepted = np.zeros((40, 90), np.int32), np.zeros((40, 90), np.int32)
    for number, x in enumerate((10, 40, 70), start=1):
        cells[10:30, x : x + 16] = number
        accepted[10:30, x - 2 : x + 12] = number
    target = np.where(accepted > 0, 1, IGNORE)[..., None].repeat(2, axis=2).astype(np.uint8)
    against: Any = np.array([True, False, False]), np.array([False, True, False])
    withdraw(accepted, target, ScoredCells(cells, np.zeros(3, np.float32), np.zeros((3, 2))), against, MPP)
    assert set(np.unique(accepted)) == {0, 3}
    assert (target[10:30, 8:26] == 0).all()
    assert (target[10:30, 38:56] == IGNORE).all()
    assert (target[10:30, 68:82] == 1).all()


def test_background_with_the_colour_of_nuclei_is_not_taught() -> None:
    """Two objects that the teacher detects and the labels deny: one blue like the accepted nucleus, one pink."""
    blue, pink = (np.array(vector) for vector in STANDARD["H&E"])
    od = np.full((60, 120, 3), 0.02, np.float32)
    target = np.zeros((60, 120, 2), np.uint8)
    seen = np.zeros((60, 120), bool)
    for x, colour in ((10, blue), (50, blue), (90, pink)):
        od[20:40, x : x + 20] = 0.6 * colour
        seen[20:40, x : x + 20] = True
    seen[5:7] = True  # a rim of a pixel or two: an outline that the labels correct
    target[20:40, 10:30] = 1
    forgive([target], [seen], [od], Stains(), MPP)
    assert (target[24:36, 54:66] == IGNORE).all()
    assert (target[20:40, 90:110] == 0).all()
    assert (target[20:40, 10:30] == 1).all()
    assert (target[5:7] == 0).all()
