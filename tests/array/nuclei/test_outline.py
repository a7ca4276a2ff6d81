import itertools

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.array.clumps import clumps
from wsiproc.array.nuclei.instances import SplitRule, split_clumps
from wsiproc.array.nuclei.outline import MOST_COMPARED, fill, is_simple, trace
from wsiproc.io.cells.parquet import slide_polygons
from wsiproc.io.geojson.outlines import Outlines

RULE = SplitRule(reach=12, merge=6, saddle=0.8, smooth=1.0, min_area=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_filling_an_outline_gives_back_its_pixels(seed: int, count: int) -> None:
    split = split_clumps(clumps(seed, (200, 230), count), RULE)
    rings = trace(split.labels, np.arange(1, split.count + 1))
    canvas = np.zeros(split.labels.shape, np.int32)
    fill(canvas, rings.offsets, rings.vertices, np.arange(1, split.count + 1, dtype=np.int32), 0, 0)
    assert (canvas == split.labels).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 4.0))
def test_outlines_are_valid_polygons_of_the_right_area_at_any_scale(seed: int, scale: float) -> None:
    split = split_clumps(clumps(seed, (200, 230), 200), RULE)
    rings = trace(split.labels, np.arange(1, split.count + 1))
    polygons = shapely.set_precision(slide_polygons(rings, (scale, scale)), 0.01, mode="pointwise")
    assert shapely.is_valid(polygons).all()
    areas = np.bincount(split.labels.ravel())[1:] * scale**2
    assert np.allclose(shapely.area(slide_polygons(rings, (scale, scale))), areas)


def test_a_part_of_the_canvas_gets_its_part_of_the_ring() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:15, 5:15] = 1
    rings = trace(labels, np.array([1]))
    canvas = np.zeros((8, 8), np.uint8)
    fill(canvas, rings.offsets, rings.vertices, np.array([7], np.uint8), 10, 10)
    assert canvas[:5, :5].tolist() == [[7] * 5] * 5
    assert canvas.sum() == 7 * 25


def test_outlines_longer_than_expected_are_whole() -> None:
    labels = np.zeros((100, 400), np.int32)
    labels[10:12] = 1
    labels[12:90, ::2] = 1  # a comb has far more corners than a nucleus
    rings = trace(labels, np.array([1]))
    canvas = np.zeros_like(labels)
    fill(canvas, rings.offsets, rings.vertices, np.array([1], np.int32), 0, 0)
    assert (canvas == labels).all()


STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12)


@given(STEPS)
def test_what_is_called_simple_is_a_valid_polygon(corners: list[tuple[int, int]]) -> None:
    """Rings along the axes through any points, which mostly cross, touch or run back on themselves."""
    ring = [point for (y, x), (_, x1) in itertools.pairwise(corners) for point in ((y, x), (y, x1))]
    points = np.array([*ring, ring[0]], np.float64)
    if is_simple(np.array([0, len(points)]), points)[0]:
        polygon = shapely.Polygon(points)
        assert polygon.is_valid
        assert polygon.area > 0


def test_no_ring_with_a_single_crossing_is_called_simple() -> None:
    """All rings along the axes through four points of 4 × 4, in both directions."""
    places = np.array(list(itertools.product(range(4), repeat=2)), np.float64)
    corners = places[np.array(list(itertools.product(range(16), repeat=4)))]  # (N, 4, 2)
    between = np.stack([corners[:, :, 0], np.roll(corners[:, :, 1], -1, axis=1)], -1)
    rings = np.stack([corners, between], 2).reshape(len(corners), 8, 2)
    rings = np.concatenate([rings, rings[:, :1]], 1)
    rings = np.concatenate([rings, rings[:, ::-1]])
    called = is_simple(9 * np.arange(len(rings) + 1), rings.reshape(-1, 2))
    valid = shapely.is_valid(shapely.polygons(rings))
    assert called.sum() > 1000
    assert not (called & ~valid).any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 4.0))
def test_outlines_of_cells_are_called_simple_unless_they_are_long(seed: int, scale: float) -> None:
    split = split_clumps(clumps(seed, (200, 230), 200), RULE)
    outlines = Outlines.of(trace(split.labels, np.arange(1, split.count + 1)), (scale, 1 / scale))
    called = is_simple(outlines.offsets, outlines.points)
    assert np.array_equal(called, outlines.corners <= MOST_COMPARED)
    assert outlines.writable().all()
