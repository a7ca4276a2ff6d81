"""Samples for the report: which cells they show, and where these lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.pipeline.stages.crops import EACH, SIDE_UM, CropPlaces, draw_crops

GRID, MPP = (1000, 500), 0.5
SIDE = round(SIDE_UM / MPP)


class Cells:
    """Scores and centres of a block of cells, as a table has them."""

    def __init__(self, scores: list[float], first: int = 0) -> None:
        self.scores = np.array(scores, np.float32)
        self.centroids = np.array([(first + row, 2 * (first + row)) for row in range(len(scores))], np.float32)

    def __len__(self) -> int:
        return len(self.scores)


class Slide:
    """A slide twice as fine as the grid, which notes what is read; some of it raises an error."""

    shape = (2 * GRID[0], 2 * GRID[1])

    def __init__(self, broken: Box | None = None, error: type[Exception] = SlideReadError) -> None:
        self.boxes: list[Box] = []
        self._broken, self._error = broken, error

    def read(self, box: Box, mpp: float) -> UInt8Array:
        self.boxes.append(box)
        if box == self._broken:
            raise self._error("damaged there")
        return np.zeros((*box.shape, 3), np.uint8)


def collected(*blocks: Cells) -> CropPlaces:
    places = CropPlaces()
    for block in blocks:
        places.add(block)  # type: ignore[arg-type]
    return places


def crops_of(places: list[tuple[float, float]], slide: Slide) -> list[Any]:
    wanted = CropPlaces([(0.25, number, place) for number, place in enumerate(places)])
    return draw_crops(slide, wanted, lambda _: [], GRID, MPP, MPP)  # type: ignore[arg-type]


def test_the_least_certain_cells_are_shown_the_first_ones_among_equals() -> None:
    equal = collected(Cells([0.5] * 4), Cells([0.5] * 4, first=4))
    assert [place for _, _, place in equal.doubtful] == [(row, 2 * row) for row in range(EACH)]
    some = collected(Cells([0.9] * 20), Cells([0.9, 0.1, 0.9, 0.2], first=20))
    assert [place[0] for _, _, place in some.doubtful[:2]] == [21, 23]


def test_typical_cells_come_from_all_blocks() -> None:
    places = collected(*(Cells([0.9] * 10, first=10 * block) for block in range(EACH))).typical()
    assert [int(place[0]) // 10 for place in places] == list(range(EACH))
    assert collected().typical() == []


def test_a_crop_lies_around_its_cell_and_tells_its_place_on_the_slide() -> None:
    slide = Slide()
    crops = crops_of([(700.0, 200.0), (3.0, 499.0)], slide)
    assert [crop.centre for crop in crops] == [(1400.0, 400.0), (6.0, 998.0)]
    middle, corner = slide.boxes
    assert middle == Box(700 - SIDE // 2, 200 - SIDE // 2, SIDE, SIDE)
    assert corner == Box(0, GRID[1] - SIDE, SIDE, SIDE)  # moved onto the slide, as large as the others
    assert [crop.caption for crop in crops] == ["score 0.25 at the centre"] * 2


@pytest.mark.parametrize(("error", "left"), [(SlideReadError, 2), (SlideTimeoutError, 1)])
def test_damage_costs_a_crop_and_a_read_that_hangs_the_rest(error: type[Exception], left: int) -> None:
    places = [(300.0, 200.0), (500.0, 200.0), (700.0, 200.0)]
    slide = Slide(Box(500 - SIDE // 2, 200 - SIDE // 2, SIDE, SIDE), error)
    assert len(crops_of(places, slide)) == left
