import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.core.geometry import Box, Grid

shapes = st.tuples(st.integers(1, 60), st.integers(1, 60))
boxes = st.builds(Box, st.integers(-20, 70), st.integers(-20, 70), st.integers(0, 60), st.integers(0, 60))


@given(shapes, st.integers(1, 70))
def test_regions_cover_every_pixel_exactly_once(shape: tuple[int, int], step: int) -> None:
    seen = np.zeros(shape, int)
    for region in Grid(shape, step):
        seen[region.box.slices] += 1
    assert (seen == 1).all()
    assert len(Grid(shape, step)) == len(list(Grid(shape, step)))


@given(shapes, st.integers(1, 70), boxes)
def test_touching_are_the_regions_that_share_a_pixel(shape: tuple[int, int], step: int, box: Box) -> None:
    grid = Grid(shape, step)
    assert grid.touching(box) == [r for r in grid if r.box.intersect(box).area]


@given(boxes, boxes)
def test_an_intersection_holds_the_common_pixels(a: Box, b: Box) -> None:
    both = a.intersect(b)
    count = sum(a.contains(y, x) and b.contains(y, x) for y in (both.y, both.y1) for x in (both.x, both.x1))
    assert both == b.intersect(a)
    assert both.area <= min(a.area, b.area)
    assert count == (1 if both.area else count)


def test_a_box_moves_between_frames() -> None:
    assert Box(10, 20, 3, 4).relative_to(Box(8, 15, 100, 100)) == Box(2, 5, 3, 4)
    assert Box(10, 20, 3, 4).pad(2) == Box(8, 18, 7, 8)
    assert Box(-2, 5, 10, 10).clip((4, 9)) == Box(0, 5, 4, 4)
