"""Small pictures for the report: cells from all over the slide, and those that the model doubts most."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsiproc.core.cells import CellTable
from wsiproc.core.geometry import Box, Grid
from wsiproc.errors import SlideReadError
from wsiproc.io.parquet import read_cells
from wsiproc.io.slides import Slide
from wsiproc.pipeline import BLOCK, Block
from wsiproc.regions import Job
from wsiproc.report import Crop

SIDE_UM = 96.0
EACH = 6

Place = tuple[float, float]


@dataclass
class CropPlaces:
    """Places for crops, gathered while the cells go by: bounded memory, the same for every cutting of the slide."""

    doubtful: list[tuple[float, int, Place]] = field(default_factory=list)
    spread: list[list[Place]] = field(default_factory=list)
    seen: int = 0

    def add(self, cells: CellTable) -> None:
        """Look at a block: its least certain cells, and one in its middle for the spread."""
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
        turns = ((np.arange(EACH) + 0.5) / EACH * len(self.spread)).astype(int)
        return [self.spread[block][i] for i, block in enumerate(turns)]


def take_crops(job: Job, slide: Slide, blocks: Sequence[Block], places: CropPlaces) -> list[Crop]:
    """The pictures, read from the slide at the model's resolution, with the outlines of all cells in view.

    One that reaches into a damaged place is left out.
    """
    groups = {(block.region.row, block.region.col): number for number, block in enumerate(blocks)}
    wanted = [(place, f"typical {i + 1}", False) for i, place in enumerate(places.typical())]
    wanted += [(place, f"score {score:.2f} at the centre", True) for score, _, place in places.doubtful]
    crops = []
    for place, caption, doubtful in wanted:
        with suppress(SlideReadError):
            crops.append(_crop(job, slide, groups, place, caption, doubtful))
    return crops


def _crop(
    job: Job, slide: Slide, groups: dict[tuple[int, int], int], place: Place, caption: str, doubtful: bool
) -> Crop:
    mpp = float(np.mean(job.frame.mpp))
    side = round(SIDE_UM / mpp)
    h, w = job.frame.grid
    corner = (np.clip(int(v) - side // 2, 0, max(0, limit - side)) for v, limit in zip(place, (h, w), strict=True))
    y, x = (int(v) for v in corner)
    box = Box(y, x, side, side).clip(job.frame.grid)
    rings: list[npt.NDArray[np.number]] = []
    classes: list[int] = []
    for block in Grid(job.frame.grid, BLOCK).touching(box.pad(side)):
        if (block.row, block.col) not in groups:
            continue
        _, cells = read_cells(job.cells, groups[block.row, block.col])
        low, high = cells.boxes[:, :2], cells.boxes[:, :2] + cells.boxes[:, 2:]
        inside = ((high > (box.y, box.x)) & (low < (box.y1, box.x1))).all(axis=1)
        for row in np.flatnonzero(inside):
            rings.append(cells.rings[int(row)] - (box.y, box.x))
            classes.append(int(cells.classes[row]))
    return Crop(slide.read(box, job.model.mpp), rings, classes, caption, mpp, doubtful)
