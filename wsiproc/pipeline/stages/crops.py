"""Small images for the report: cells from all over the slide, and those that the model is least certain of."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from wsiproc.core.cells import CellTable
from wsiproc.core.geometry import Box
from wsiproc.core.types import NumberArray
from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.io.cells.parquet import read_part
from wsiproc.io.slides.open import Slide
from wsiproc.pipeline.stages.job import Job
from wsiproc.pipeline.stages.merge import Block, block_path, block_places, blocks_at
from wsiproc.results.report.page import Crop

SIDE_UM = 96.0
EACH = 6

Place = tuple[float, float]


@dataclass
class CropPlaces:
    """Places for crops, collected block by block: bounded memory, independent of how the slide is divided."""

    doubtful: list[tuple[float, int, Place]] = field(default_factory=list)
    spread: list[list[Place]] = field(default_factory=list)
    seen: int = 0

    def add(self, cells: CellTable) -> None:
        """Add a block: its least certain cells, and some spread evenly over its rows."""
        lowest = np.argsort(cells.scores, kind="stable")[:EACH]
        for row in lowest:
            y, x = cells.centroids[row]
            self.doubtful.append((float(cells.scores[row]), self.seen + int(row), (float(y), float(x))))
        self.doubtful = heapq.nsmallest(EACH, self.doubtful)
        rows = ((np.arange(EACH) + 0.5) / EACH * len(cells)).astype(int)
        self.spread.append([(float(y), float(x)) for y, x in cells.centroids[rows]])
        self.seen += len(cells)

    def typical(self) -> list[Place]:
        """Places spread evenly along the slide's blocks."""
        if not self.spread:
            return []
        indices = ((np.arange(EACH) + 0.5) / EACH * len(self.spread)).astype(int)
        return [self.spread[block][i] for i, block in enumerate(indices)]


def take_crops(job: Job, slide: Slide, blocks: Sequence[Block], places: CropPlaces) -> list[Crop]:
    """Crops of a slide in flight, its cells taken from the merged ``blocks``."""
    by_place = block_places(blocks)

    def near(box: Box) -> Iterator[CellTable]:
        return (read_part(block_path(job, block.region)) for block in blocks_at(job, box, by_place))

    return draw_crops(slide, places, near, job.frame.grid, job.frame.mean_mpp, job.model.mpp)


def draw_crops(
    slide: Slide,
    places: CropPlaces,
    near: Callable[[Box], Iterable[CellTable]],
    grid: tuple[int, int],
    mpp: float,
    read_mpp: float,
) -> list[Crop]:
    """The crops, read from the slide at ``read_mpp``, with the outlines of all cells in view.

    ``near``: tables of all cells that touch a box (grid px); ``grid`` (h, w) of ``mpp`` µm/px. A crop that overlaps a
    damaged area is left out, and so are all crops after a read that times out.
    """
    wanted = [(place, f"typical {i + 1}", False) for i, place in enumerate(places.typical())]
    wanted += [(place, f"score {score:.2f} at the centre", True) for score, _, place in places.doubtful]
    crops = []
    for place, caption, doubtful in wanted:
        try:
            box = _around(place, grid, mpp)
            rings, classes = _outlines(box, near(box))
            centre = (place[0] * slide.shape[0] / grid[0], place[1] * slide.shape[1] / grid[1])
            crops.append(Crop(slide.read(box, read_mpp), rings, classes, caption, mpp, centre, doubtful))
        except SlideTimeoutError:
            break
        except SlideReadError:
            continue
    return crops


def _around(place: Place, grid: tuple[int, int], mpp: float) -> Box:
    side = round(SIDE_UM / mpp)
    y, x = (int(np.clip(int(v) - side // 2, 0, max(0, limit - side))) for v, limit in zip(place, grid, strict=True))
    return Box(y, x, side, side).clip(grid)


def _outlines(box: Box, tables: Iterable[CellTable]) -> tuple[list[NumberArray], list[int]]:
    """Outlines of the cells that touch a box, in px from its corner, and their classes."""
    rings: list[NumberArray] = []
    classes: list[int] = []
    for cells in tables:
        for row in cells.touching(box):
            rings.append(cells.rings[int(row)] - (box.y, box.x))
            classes.append(int(cells.classes[row]))
    return rings, classes
