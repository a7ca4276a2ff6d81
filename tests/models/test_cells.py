"""Cutting cells out of maps: glass around them changes nothing."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.array.clumps import clumps
from wsiproc.array.nuclei.instances import split_clumps
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.array.nuclei.outline import trace
from wsiproc.core.geometry import Box
from wsiproc.models.base import Instances
from wsiproc.models.cells import (
    CutRule,
    OutlineRule,
    OutlineScoring,
    ScoreRule,
    SplitLengths,
    cell_margin,
    cut_cells,
)
from wsiproc.pipeline.stages.segment import inside

BORDER = 40  # px of glass around the clumps, which is wider than any hole


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 90), st.integers(0, 90), st.sampled_from([0.0, 0.6]))
def test_glass_around_cells_changes_nothing(seed: int, count: int, top: int, left: int, lowest: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.pad(clumps(seed, (90, 110), count), BORDER)
    maps = np.zeros((2, *mask.shape), np.uint8)
    maps[:, mask] = rng.integers(130, 256, (2, int(mask.sum())))
    around = np.pad(maps, ((0, 0), (top, 50), (left, 30)))
    rule = CutRule(object=lowest)
    alone = cut_cells(maps, rule, SplitLengths(), 0.5, interior=maps[1])
    among = cut_cells(around, rule, SplitLengths(), 0.5, interior=around[1])
    assert np.array_equal(np.pad(alone.labels, ((top, 50), (left, 30))), among.labels)
    assert np.array_equal(alone.scores, among.scores)
    assert alone.dropped.keys() == among.dropped.keys()
    for what, places in alone.dropped.items():
        assert np.array_equal(np.add(places, (top, left)).reshape(-1, 2), among.dropped[what].reshape(-1, 2))


def test_a_single_small_nucleus_is_no_ring_of_background() -> None:
    """The glass cut out around it must not pass for a hole in it."""
    maps = np.zeros((1, 200, 200), np.uint8)
    y, x = np.mgrid[:200, :200]
    disc = (y - 90) ** 2 + (x - 120) ** 2 < 36
    maps[0, disc] = 255
    found = cut_cells(maps, CutRule(), SplitLengths(), 0.5)
    assert len(found.classes) == 1
    assert np.array_equal(found.labels > 0, disc)


def test_with_dab_a_deeper_dip_is_still_one_nucleus() -> None:
    """A mask with a waist: two nuclei without DAB, one with; the margin holds for both."""
    maps = np.zeros((2, 120, 160), np.uint8)
    y, x = np.mgrid[:120, :160]
    maps[:, ((y - 60) ** 2 + (x - 66) ** 2 < 200) | ((y - 60) ** 2 + (x - 86) ** 2 < 200)] = 255
    cut, split = CutRule(), SplitLengths(merge_um=6.0, saddle=0.85, smooth_um=0.75)
    found = [len(cut_cells(maps, cut, split, 0.25, dab=dab, interior=maps[1]).classes) for dab in (False, True)]
    assert found == [2, 1]
    longer = replace(split, merge_dab_um=20.0)
    assert cell_margin(cut, longer, 0.25) - cell_margin(cut, split, 0.25) == (20 - 8) / 0.25


def test_pixels_far_from_every_nucleus_are_told_by_their_place() -> None:
    """A bar that is longer than any nucleus may be."""
    maps = np.zeros((1, 60, 200), np.uint8)
    maps[0, 20:40, 30:170] = 255
    lengths = SplitLengths(smooth_um=0)
    found = cut_cells(maps, CutRule(), lengths, 0.5)
    clipped = split_clumps(maps[0] > 0, lengths.at(0.5)).clipped
    places = next(places for what, places in found.dropped.items() if what.startswith("pixels more than"))
    assert len(places) > 100
    assert np.array_equal(places, np.argwhere(clipped))


def cells_in(box: Box, found: Instances) -> dict[bytes, tuple[float, int]]:
    """Score and class of the cells whose centre lies in a box, by their outline."""
    count = len(found.classes)
    centres = centroids(label_sums(found.labels, count, np.zeros((1, *found.labels.shape), np.uint8)))
    rings = trace(found.labels, np.arange(1, count + 1))
    rows = np.flatnonzero(inside(box, centres))
    return {rings[i].tobytes(): (float(found.scores[i]), int(found.classes[i])) for i in rows.tolist()}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(10, 500),
    corner=st.tuples(st.integers(-20, 200), st.integers(-20, 200)),
    side=st.integers(1, 130),
    moved=st.booleans(),
)
def test_cells_in_a_box_are_those_of_the_whole(
    seed: int, count: int, corner: tuple[int, int], side: int, moved: bool
) -> None:
    """Leaving out what cannot matter to them changes no outline, score, class or count of what was dropped."""
    rng = np.random.default_rng(seed)
    maps = np.repeat(np.repeat(rng.integers(0, 256, (3, 65, 65), np.uint8), 4, axis=1), 4, axis=2)
    maps[0] = np.where(clumps(seed, (260, 260), count), maps[0] // 4 + 190, 30)
    maps[0] ^= (rng.random((260, 260)) < 0.01).astype(np.uint8) * 255  # holes and specks
    outlines = OutlineScoring(OutlineRule(), ScoreRule(-3, 1, 2, 2), (0, 40, 20)) if moved else None
    rules = CutRule(object=0.3, spur_um=0.5), SplitLengths(smallest_um2=4)
    cut = functools.partial(cut_cells, maps, *rules, 0.5, dab=True, interior=maps[1], outlines=outlines)
    box = Box(*corner, side, side)
    whole, part = cut(), cut(inner=box)
    assert cells_in(box, part) == cells_in(box, whole)
    for what, places in whole.dropped.items():
        one, other = (
            np.sort(found[inside(box, found.astype(float))], axis=0) for found in (places, part.dropped[what])
        )
        assert np.array_equal(one, other), what
