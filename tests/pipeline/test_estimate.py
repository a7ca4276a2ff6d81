"""What is planned depends on the slide's tissue alone; how the work is cut up leaves no trace in it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsiproc.core.frame import Frame, WindowRule, mask_box, needed_windows, sample_windows
from wsiproc.core.geometry import Box, Grid, at_points, grid_shape
from wsiproc.core.types import BoolArray
from wsiproc.errors import PlanError
from wsiproc.executors.limits import require
from wsiproc.pipeline.planning.estimate import (
    DRIVER_BYTES,
    NEXT_SLIDE_BYTES,
    PREDICT_BYTES_PER_PX,
    WORKER_BYTES,
    disk_bytes,
    driver_bytes,
    run_seconds,
    small_last,
    split_regions,
    worker_bytes,
)

WINDOW = 16
sides = st.integers(1, 150)
shapes = st.tuples(sides, sides)
masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(np.bool_, shape))
multiples = st.integers(1, 6)
margins = st.integers(0, 40)
grains = st.sampled_from([1, 4, 8, WINDOW])


def covered(mask: BoolArray, grid: tuple[int, int]) -> BoolArray:
    """``mask`` drawn at the grid's size, pixel by pixel: what the arithmetic should agree with."""
    rows = np.arange(grid[0]) * mask.shape[0] // grid[0]
    cols = np.arange(grid[1]) * mask.shape[1] // grid[1]
    return mask[np.ix_(rows, cols)]


@given(masks, shapes, multiples, margins, grains)
def test_the_needed_windows_are_the_same_for_every_region_size(
    mask: BoolArray, grid: tuple[int, int], multiple: int, margin: int, window_multiple: int
) -> None:
    rule = WindowRule(WINDOW, window_multiple, margin)
    whole = needed_windows(mask, grid, Box(0, 0, *grid), rule)
    infer, _ = split_regions(mask, grid, multiple * WINDOW, margin)
    cut = [window for region in infer for window in needed_windows(mask, grid, region.box, rule)]
    assert sorted(cut) == sorted(whole)


@given(masks, shapes, multiples, margins, grains)
def test_every_px_within_the_margin_of_tissue_is_inferred(
    mask: BoolArray, grid: tuple[int, int], multiple: int, margin: int, window_multiple: int
) -> None:
    rule = WindowRule(WINDOW, window_multiple, margin)
    inferred = np.zeros(grid, bool)
    for region in split_regions(mask, grid, multiple * WINDOW, margin)[0]:
        for window in needed_windows(mask, grid, region.box, rule):
            inferred[window.slices] = True
    for y, x in np.argwhere(covered(mask, grid)):
        assert inferred[Box(int(y), int(x), 1, 1).pad(margin).clip(grid).slices].all()


@given(masks, shapes, margins, grains)
def test_no_window_is_larger_than_it_must_be(
    mask: BoolArray, grid: tuple[int, int], margin: int, window_multiple: int
) -> None:
    """Without its first or last grains, rows or columns, it would leave out something near tissue."""
    for box in needed_windows(mask, grid, Box(0, 0, *grid), WindowRule(WINDOW, window_multiple, margin)):
        assert box.y // WINDOW == (box.y1 - 1) // WINDOW
        assert box.x // WINDOW == (box.x1 - 1) // WINDOW
        assert box.y % window_multiple == box.x % window_multiple == 0
        assert box.h % window_multiple == 0 or box.y1 == grid[0]
        assert box.w % window_multiple == 0 or box.x1 == grid[1]
        last_y, last_x = (
            (box.y1 - 1) // window_multiple * window_multiple,
            (box.x1 - 1) // window_multiple * window_multiple,
        )
        for edge in (
            Box(box.y, box.x, window_multiple, box.w),
            Box(box.y, box.x, box.h, window_multiple),
            Box(last_y, box.x, box.y1 - last_y, box.w),
            Box(box.y, last_x, box.h, box.x1 - last_x),
        ):
            assert mask_box(mask, grid, edge.pad(margin)).any()


@given(masks, shapes, multiples, margins)
def test_regions_with_tissue_are_segmented_and_every_segmented_region_is_inferred(
    mask: BoolArray, grid: tuple[int, int], multiple: int, margin: int
) -> None:
    infer, segment = split_regions(mask, grid, multiple * WINDOW, margin)
    assert set(segment) <= set(infer)
    tissue = covered(mask, grid)
    assert {r for r in Grid(grid, multiple * WINDOW) if tissue[r.box.slices].any()} <= set(segment)


@given(st.lists(st.integers(0, 20), max_size=30))
def test_the_last_regions_are_those_with_the_least_work(work: list[int]) -> None:
    regions = list(Grid((1, WINDOW * max(1, len(work))), WINDOW))
    given = dict(zip(regions, work, strict=False))
    order = small_last(given)
    assert sorted(order) == list(given)
    first, last = order[: len(order) - len(order) // 4], order[len(order) - len(order) // 4 :]
    assert first == sorted(first)
    assert [given[region] for region in last] == sorted((given[region] for region in last), reverse=True)
    assert not last or min(given[region] for region in first) >= given[last[0]]


@given(masks, shapes, st.data())
def test_a_box_on_the_slide_sees_the_tissue_under_each_of_its_px(
    mask: BoolArray, grid: tuple[int, int], data: st.DataObject
) -> None:
    y, x = data.draw(st.integers(0, grid[0] - 1)), data.draw(st.integers(0, grid[1] - 1))
    box = Box(y, x, data.draw(st.integers(1, grid[0] - y)), data.draw(st.integers(1, grid[1] - x)))
    part = mask_box(mask, grid, box)
    assert part.size > 0
    assert part.any() >= covered(mask, grid)[box.slices].any()
    centre = np.array([[box.y + 0.5, box.x + 0.5]])
    assert part.any() >= at_points(mask, grid, centre)[0]


def test_a_box_beside_the_slide_sees_nothing() -> None:
    mask = np.ones((4, 4), bool)
    for box in (Box(-9, 0, 9, 9), Box(40, 0, 5, 5), Box(0, 0, 0, 5)):
        assert mask_box(mask, (40, 40), box).size == 0


def test_points_on_the_far_edge_take_the_last_px() -> None:
    mask = np.array([[False, False], [False, True]])
    assert at_points(mask, (10, 10), np.array([[10.0, 10.0], [0.0, 10.0]])).tolist() == [True, False]


@given(masks, shapes, st.integers(1, 10))
def test_samples_are_different_windows_with_tissue(mask: BoolArray, grid: tuple[int, int], count: int) -> None:
    chosen = sample_windows(mask, grid, WINDOW, count)
    assert len(set(chosen)) == len(chosen) <= count
    assert set(chosen) <= {region.box for region in Grid(grid, WINDOW)}
    assert all(mask_box(mask, grid, box).any() for box in chosen)
    assert bool(chosen) == any(mask_box(mask, grid, region.box).any() for region in Grid(grid, WINDOW))


def test_samples_come_from_all_over_the_tissue_and_from_its_inside() -> None:
    mask = np.zeros((40, 40), bool)
    mask[4:36, 7:33] = True  # the windows of columns 4 and 32, four mask px wide, are a quarter full
    chosen = sample_windows(mask, (160, 160), WINDOW, 6)
    assert len(chosen) == 6
    assert np.ptp([box.y for box in chosen]) >= 80
    assert all(mask_box(mask, (160, 160), box).mean() >= 0.7 for box in chosen)


@given(multiples, st.integers(0, 200), st.integers(1, 8), st.floats(1, 8))
def test_memory_grows_with_all_that_is_held(multiple: int, margin: int, channels: int, zoom: float) -> None:
    def projected(step: int, margin: int, channels: int, zoom: float) -> int:
        return worker_bytes(step, margin, 512, 16, channels, zoom)

    step = 512 * multiple
    here = projected(step, margin, channels, zoom)
    assert here > WORKER_BYTES
    for more in ((2 * step, margin, channels, zoom), (step, margin + 1, channels, zoom)):
        assert projected(*more) >= here
    for more in ((step, margin, channels + 1, zoom), (step, margin, channels, zoom + 1)):
        assert projected(*more) >= here
    assert projected(64 * step, margin, channels, zoom) > 2 * here
    for window, halo in ((1024, 16), (512, 64)):
        assert worker_bytes(step, margin, window, halo, channels, zoom) >= here


def test_one_large_window_is_counted_with_its_halo() -> None:
    """On a GPU's worth of window the network's own memory is what decides."""
    windows = [worker_bytes(512, 16, 4096, halo, 3, 1.0) for halo in (0, 64, 128)]
    assert windows == sorted(set(windows))
    assert windows[0] - WORKER_BYTES >= 4096**2 * PREDICT_BYTES_PER_PX


def test_each_further_slide_is_counted_in_the_planning_process() -> None:
    assert driver_bytes(1) == DRIVER_BYTES
    assert driver_bytes(3) == DRIVER_BYTES + 2 * NEXT_SLIDE_BYTES


def test_time_grows_with_all_that_is_done_and_is_shared_by_workers() -> None:
    one = run_seconds(100, 1.0, 10, 1e5, workers=1)
    for more in ((200, 1.0, 10, 1e5), (100, 2.0, 10, 1e5), (100, 1.0, 20, 1e5), (100, 1.0, 10, 2e5)):
        assert run_seconds(*more, workers=1) > one
    start = run_seconds(0, 1.0, 0, 0, workers=1)
    assert run_seconds(100, 1.0, 10, 1e5, workers=4) - start == pytest.approx((one - start) / 4)


def test_disk_grows_with_the_area_and_the_cells() -> None:
    assert disk_bytes(10**6, 3, 0) < disk_bytes(2 * 10**6, 3, 0) < disk_bytes(2 * 10**6, 3, 1.0)


def test_what_does_not_fit_is_refused_with_both_numbers_and_the_remedy() -> None:
    require("slide.svs: memory", 2e9, 2e9, "unused")
    with pytest.raises(PlanError) as error:
        require("slide.svs: memory", 3.25e9, 2e9, "Use fewer workers.")
    assert str(error.value) == "slide.svs: memory: 3.25 GB needed, 2.00 GB available. Use fewer workers."


@given(shapes, st.floats(0.1, 2), st.floats(0.1, 2))
def test_both_frames_cover_the_same_extent(slide: tuple[int, int], slide_mpp: float, mpp: float) -> None:
    frame = Frame(slide, grid_shape(slide, slide_mpp, mpp), slide_mpp)
    for axis in (0, 1):
        assert math.isclose(frame.grid[axis] * frame.scale[axis], slide[axis])
        assert math.isclose(frame.grid[axis] * frame.mpp[axis], slide[axis] * slide_mpp)
    assert math.isclose(frame.px_um2 * frame.grid[0] * frame.grid[1], slide[0] * slide[1] * slide_mpp**2)
