"""The seam certificate: sites across borders of regions, recomputed in one piece and compared with the final table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import shapely

from wsiproc.array.nuclei.outline import as_polygons
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.frame import needed_windows
from wsiproc.core.geometry import Box, Grid
from wsiproc.core.types import BoolArray, IntpArray, ObjectArray, UInt8Array
from wsiproc.errors import SlideReadError
from wsiproc.executors import Task
from wsiproc.io.cells.parquet import read_part
from wsiproc.pipeline.stages.infer import predict_windows
from wsiproc.pipeline.stages.job import Job, search_mask, stage, stage_task
from wsiproc.pipeline.stages.merge import Block, block_path, doubtful_path, squares_near
from wsiproc.pipeline.stages.segment import cells_inside, inside
from wsiproc.results.profile import Stage

SIDE = 192
"""Side of a site, grid px: with the margin of the default model around it, it lies in four windows at most."""
_MOST_SITES, FEWEST_SITES = 24, 1
_WINDOWS_PER_SITE = 200  # of the slide: the certificate takes about 2 % of the network's work
_NEAR, _PER_BLOCK = 24, 4  # px from a border; points kept per block
_SAME = 0.5  # two outlines are of one cell if they share more than this fraction of the smaller one


class SeamPlaces:
    """Sites for the certificate, collected block by block: a random choice of where cells lie at borders of regions."""

    def __init__(self, region_px: int, shape: tuple[int, int], seed: int) -> None:
        self._step, self._shape = region_px, np.array(shape)
        self._rng = np.random.default_rng(seed)
        self._corners: list[tuple[int, int]] = []
        self._edges: list[tuple[int, int]] = []

    def add(self, cells: CellTable) -> None:
        """Add a block: a few of its cells at an edge, and at a corner, of regions."""
        centres = np.rint(cells.centroids).astype(np.int64)
        border = np.rint(centres / self._step).astype(np.int64) * self._step
        near = (np.abs(centres - border) < _NEAR) & (border > 0) & (border < self._shape)
        on_border = np.where(near, border, centres)
        for kept, rows in ((self._corners, near.all(axis=1)), (self._edges, near.any(axis=1) & ~near.all(axis=1))):
            chosen = self._rng.permutation(np.flatnonzero(rows))[:_PER_BLOCK]
            kept.extend((int(y), int(x)) for y, x in on_border[chosen])

    def choose(self, windows: int) -> list[Box]:
        """Squares around some of the points, for a slide of ``windows`` windows; half of them at corners, if there are
        enough. A single one is at a corner.
        """
        count = int(np.clip(windows // _WINDOWS_PER_SITE, FEWEST_SITES, _MOST_SITES))
        corners = self._some(sorted(set(self._corners)), (count + 1) // 2)
        points = corners + self._some(sorted(set(self._edges)), count - len(corners))
        return [Box(y - SIDE // 2, x - SIDE // 2, SIDE, SIDE) for y, x in sorted(points)]

    def _some(self, points: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
        return [points[i] for i in self._rng.permutation(len(points))[:count]]


@dataclass(frozen=True)
class SeamCounts:
    """Number of cells at some sites, and how many of them differ from those computed in one piece."""

    cells: int = 0
    doubled: int = 0
    cut: int = 0
    lost: int = 0


def seam_task(job: Job, place: Box, blocks: Sequence[Block]) -> Task:
    """The task that checks a site."""
    return stage_task(Stage.SEAM, f"{place.y} {place.x}", check_seam, (job, place, blocks), gpu=True)


@stage
def check_seam(job: Job, place: Box, blocks: Sequence[Block]) -> SeamCounts | None:
    """Recompute a site from the slide in one piece, and compare it with the merged ``blocks`` that touch it.

    None where it cannot be read.
    """
    box = place.clip(job.frame.grid)
    try:
        uncut = cells_inside(job, box, *_uncut_maps(job, box))[0]
    except SlideReadError:  # reported by the region that it lies in
        return None
    tables = [read_part(block_path(job, block.region)) for block in blocks]
    # A site sees too little to judge a cell by its neighbours; those that were dropped for them are no seam's fault.
    doubtful = [doubtful_path(job, square) for square in squares_near(job, box)]
    tables += [read_part(path) for path in doubtful if path.exists()]
    near = CellTable.concat([t.take(t.touching(box)) for t in [*tables, uncut.take(np.arange(0))]])
    return compare_outlines(uncut.rings, near.rings, inside(box, near.centroids))


def _uncut_maps(job: Job, box: Box) -> tuple[Box, UInt8Array]:
    """A box with its margin, and newly predicted maps (c, h, w) of that."""
    model, grid = job.model, job.frame.grid
    around = box.pad(model.margin).clip(grid)
    tiles = [region.box for region in Grid(grid, model.window).touching(around)]
    covered = Box(tiles[0].y, tiles[0].x, tiles[-1].y1 - tiles[0].y, tiles[-1].x1 - tiles[0].x)
    maps = np.zeros((len(model.channels), *covered.shape), np.uint8)
    predict_windows(job, covered, needed_windows(search_mask(job), grid, covered, job.window_rule), maps)
    return around, maps[(slice(None), *around.relative_to(covered).slices)]


def compare_outlines(uncut: Rings, table: Rings, here: BoolArray) -> SeamCounts:
    """Compare cells of a site computed in one piece with those of the table around it, of which ``here`` (N,) lie in
    the site.

    *lost*: nothing in the table covers half of the cell; *cut*: something does, with another outline; *doubled*: rows
    here that cover half of another row, or no cell that was computed in one piece.
    """
    if not len(uncut) and not here.any():
        return SeamCounts()
    truth, rows = (as_polygons(r.vertices.astype(np.float64), r.offsets) for r in (uncut, table))
    found, partner = _same_cell(truth, rows)
    identical = np.zeros(len(truth), bool)
    exact = [_outline(uncut, i) == _outline(table, k) for i, k in zip(found, partner, strict=True)]
    identical[found[np.array(exact, bool)]] = True
    covered = np.zeros(len(truth), bool)
    covered[found] = True
    first, second = _same_cell(rows, rows)
    twice = np.zeros(len(rows), bool)
    twice[np.maximum(first, second)[first != second]] = True  # the later one of two
    alone = np.ones(len(rows), bool)
    alone[partner] = False
    return SeamCounts(
        cells=len(truth),
        doubled=int((here & (twice | alone)).sum()),
        cut=int((covered & ~identical).sum()),
        lost=int((~covered).sum()),
    )


def _same_cell(left: ObjectArray, right: ObjectArray) -> tuple[IntpArray, IntpArray]:
    """Pairs of polygons that have more than half of the smaller one in common."""
    i, k = shapely.STRtree(right).query(left)
    smaller = np.minimum(shapely.area(left[i]), shapely.area(right[k]))
    same = shapely.area(shapely.intersection(left[i], right[k])) > _SAME * smaller
    return i[same], k[same]


def _outline(rings: Rings, index: int) -> bytes:
    return rings[index].tobytes()


def certificate(results: Iterable[SeamCounts]) -> dict[str, Any]:
    """The entry of ``run.json`` about seams: sites, cells in them, how many per 1000 differ from the uncut result."""
    seen = [asdict(result) for result in results]
    sums = {name: sum(r[name] for r in seen) for name in ("cells", "doubled", "cut", "lost")}
    faults = {name: sums[name] for name in ("doubled", "cut", "lost")}
    per_1000 = {name: round(1000 * n / max(1, sums["cells"]), 2) for name, n in faults.items()}
    return {"places": len(seen), **sums, "per_1000": per_1000}
