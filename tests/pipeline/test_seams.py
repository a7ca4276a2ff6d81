"""The seam certificate finds what it is there for, and finds nothing where nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsiproc.pipeline.stages.merge
import wsiproc.pipeline.stages.segment
from tests.runs import run_one
from wsiproc.core.cells import CellTable, Rings
from wsiproc.pipeline.stages.seams import SIDE, SeamCounts, SeamPlaces, certificate, compare_outlines
from wsiproc.synthetic import write_synthetic_slide

NONE = {"doubled": 0, "cut": 0, "lost": 0}


def squares(places: list[tuple[int, int]], side: int = 10) -> Rings:
    """Outlines of squares with their top-left corners at ``places``, (y, x)."""
    corners = np.array([(0, 0), (0, side), (side, side), (side, 0)])
    vertices = (np.array(places).reshape(-1, 1, 2) + corners).reshape(-1, 2).astype(np.int32)
    return Rings(np.arange(0, len(vertices) + 1, 4, dtype=np.int64), vertices)


def table(places: list[tuple[int, int]]) -> CellTable:
    count = len(places)
    boxes = np.hstack([np.array(places).reshape(-1, 2), np.full((count, 2), 10)]).astype(np.int32)
    return CellTable(
        np.zeros(count, np.uint8),
        np.ones(count, np.float32),
        boxes[:, :2].astype(np.float64) + 5.0,
        boxes,
        {},
        squares(places),
    )


scattered = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30, unique=True).map(
    lambda some: [(20 * y, 20 * x) for y, x in some]
)


@given(scattered, st.randoms())
def test_the_same_cells_in_any_order_have_no_fault(places: list[tuple[int, int]], random: Any) -> None:
    shuffled = random.sample(places, len(places))
    counts = compare_outlines(squares(places), squares(shuffled), np.ones(len(places), bool))
    assert counts == SeamCounts(len(places))


@given(scattered.filter(bool), st.data())
def test_each_kind_of_fault_is_counted_as_what_it_is(places: list[tuple[int, int]], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.integers(0, len(places) - 1), unique=True))
    count, here = len(places), np.ones(len(places), bool)
    whole = squares(places)
    kept = [place for i, place in enumerate(places) if i not in some]
    assert compare_outlines(whole, squares(kept), here[: len(kept)]) == SeamCounts(count, lost=len(some))
    twice = squares(places + [(places[i][0] + 1, places[i][1]) for i in some])
    assert compare_outlines(whole, twice, np.ones(count + len(some), bool)).doubled == len(some)
    moved = squares([(y + (i in some), x) for i, (y, x) in enumerate(places)])
    assert compare_outlines(whole, moved, here) == SeamCounts(count, cut=len(some))
    # A row of the table whose centre lies outside the place is there to be matched, and is no fault by itself.
    outside = squares([*places, (900, 900)])
    assert compare_outlines(whole, outside, np.append(here, False)) == SeamCounts(count)


def test_neighbours_that_overlap_a_little_are_two_cells() -> None:
    touching = squares([(0, 0), (0, 8)])  # a fifth of each
    assert compare_outlines(touching, touching, np.ones(2, bool)) == SeamCounts(2)
    one = squares([(0, 0)])
    assert compare_outlines(touching, one, np.ones(1, bool)) == SeamCounts(2, lost=1)
    assert compare_outlines(one, touching, np.ones(2, bool)) == SeamCounts(1, doubled=1)


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 1500)), min_size=1, max_size=60), st.integers(0, 9))
def test_places_lie_across_borders_with_cells(places: list[tuple[int, int]], seed: int) -> None:
    def choose() -> list[Any]:
        found = SeamPlaces(512, (2100, 1600), seed)
        found.add(table(places))
        return found.choose(10_000)

    chosen = choose()
    assert chosen == choose()
    centres = np.array(places) + 5.0
    for box in chosen:
        middle = np.array([box.y, box.x]) + SIDE // 2
        assert (middle % 512 == 0).any()
        assert (np.abs(centres - middle).max(axis=1) < 512).any()
    near = np.abs(centres - np.rint(centres / 512) * 512) < 20
    inner = (np.rint(centres / 512) > 0) & (np.rint(centres / 512) * 512 < (2100, 1600))
    if (near & inner).any():
        assert chosen


def test_the_certificate_adds_up() -> None:
    told = certificate([SeamCounts(150, doubled=1, lost=2), SeamCounts(50)])
    assert (told["places"], told["cells"], told["doubled"], told["lost"]) == (2, 200, 1, 2)
    assert told["per_1000"] == {"doubled": 5.0, "cut": 0.0, "lost": 10.0}
    assert certificate([])["per_1000"] == NONE


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crowded nuclei on nine regions of 512 px."""
    path = tmp_path_factory.mktemp("slides") / "crowded.tif"
    write_synthetic_slide(path, (1400, 1400), mpp=0.5, seed=8, tissue_fraction=1.0, crowding=0.9)
    return path


def test_a_run_has_no_faults_at_its_seams(slide: Path, tmp_path: Path) -> None:
    run = run_one(slide, tmp_path, region=512, tissue="all").run
    assert run is not None
    assert run["seams"]["places"] == 1
    assert run["seams"]["cells"] > 50
    assert run["seams"]["per_1000"] == NONE
    assert not run["warnings"]


def test_a_run_whose_regions_see_no_margin_is_convicted(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nuclei are cut where regions end; the certificate, which sees the whole, tells and the run warns."""
    real = wsiproc.pipeline.stages.segment.cells_inside

    def blind(job: Any, box: Any, around: Any, maps: Any) -> Any:
        local = box.relative_to(around)
        return real(job, box, box, np.ascontiguousarray(maps[(slice(None), *local.slices)]))

    monkeypatch.setattr(wsiproc.pipeline.stages.segment, "cells_inside", blind)
    run = run_one(slide, tmp_path, region=512, tissue="all").run
    assert run is not None
    assert run["seams"]["cut"] + run["seams"]["doubled"] + run["seams"]["lost"] > 4
    assert any("at borders of regions, of 1000 cells" in warning for warning in run["warnings"])
