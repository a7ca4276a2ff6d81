"""What someone changed in QuPath: the objects of a corrected file next to the cells of the slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely

from wsiproc.core.cells import CellTable
from wsiproc.core.palette import RGB
from wsiproc.core.types import BoolArray, Int64Array, ObjectArray, UInt8Array, UInt32Array, UInt64Array
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.read import Objects
from wsiproc.io.geojson.write import cell_uuids

# QuPath keeps corners as float32 (0.01 px on a slide of 100,000 px), and later versions leave out corners on a line.
_SAME_PX = 0.1
_CELLS = {"detection", "cell"}
_EXCLUDES = {"exclude", "ignore"}
REVIEWED, EXCLUDED = "reviewed", "excluded"
"""What is said of areas: every cell in it was checked, or cells in it are left out."""
RIGHT, WRONG = "right", "wrong"
"""Names of cells, and of areas over cells, that were marked in the page of `wsiproc view`."""
_NAMED = 20  # problems reported in full


@dataclass(frozen=True)
class Table:
    """The cells of a slide, whole: ``ids`` (N,), ``groups``, the row group of each (N,), and colours by class name.

    ``simplify_px``: how the outlines were simplified for QuPath, 0 for not; ``slide`` (h, w) level-0 px.
    """

    ids: UInt32Array
    cells: CellTable
    groups: Int64Array
    classes: dict[str, RGB]
    scale: tuple[float, float]
    slide: tuple[int, int]
    simplify_px: float = 0.0


@dataclass
class Changes:
    """What a corrected file says of a table of N cells.

    ``present`` (N,): is in the file; ``classes`` (N,): index into ``names``, the classes with the colours of new ones;
    ``right`` (N,): marked as correct; ``outlines``: row → polygon that is not the cell's; ``added``: polygons and
    classes of cells that were not there; ``areas``: polygons in which cells are to be left out; ``wrong``: the same,
    around single cells that are none; ``reviewed``: polygons in which every cell was checked. ``repaired`` of all these
    crossed themselves. ``objects``: cells in the file; ``foreign`` of them have an id that only programs give, but of
    no cell here; ``outside`` are off the slide; ``ignored``: other objects by kind; ``problems``: what could not be
    taken, in words; ``skipped``: how many those are.
    """

    present: BoolArray
    classes: Int64Array
    right: BoolArray
    names: dict[str, RGB | None]
    outlines: dict[int, shapely.Geometry] = field(default_factory=dict)
    added: list[tuple[shapely.Geometry, int]] = field(default_factory=list)
    areas: list[shapely.Geometry] = field(default_factory=list)
    wrong: list[shapely.Geometry] = field(default_factory=list)
    reviewed: list[shapely.Geometry] = field(default_factory=list)
    foreign: int = 0
    outside: int = 0
    objects: int = 0
    repaired: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    skipped: int = 0

    def skip(self, problem: str) -> None:
        """Count an object that cannot be taken, and name it if it is among the first."""
        self.skipped += 1
        if len(self.problems) < _NAMED:
            self.problems.append(problem)


def diff_cells(table: Table, fingerprint: str, batches: Iterable[Objects], exclude: Sequence[str] = ()) -> Changes:
    """Compare the objects of a file with the cells of the slide with that fingerprint.

    Annotations whose name or class is exclude or ignore, or is in ``exclude``, become ``areas``, and those whose name
    or class is reviewed become ``reviewed``, whatever the case and with or without QuPath's asterisk. An outline counts
    as changed where it is more than 0.1 px from the cell's, as it is or as it was simplified.
    """
    nothing = np.zeros(len(table.ids), np.bool_)
    names = dict[str, RGB | None](table.classes)
    changes = Changes(nothing, table.cells.classes.astype(np.int64), nothing.copy(), names)
    index = _Index(cell_uuids(fingerprint, table.ids))
    for batch in batches:
        is_cell = np.array([kind in _CELLS for kind in batch.kinds], np.bool_)
        rows = np.where(is_cell, index.rows(batch.ids), -1)
        changes.objects += int(is_cell.sum())
        _compare_known(table, changes, batch, np.flatnonzero(rows >= 0), rows)
        for place in np.flatnonzero(is_cell & (rows < 0)):
            _take_new(table, changes, batch, int(place))
        for place in np.flatnonzero(~is_cell):
            _take_area(changes, batch, int(place), exclude)
    return changes


def area_use(name: str, kind: str, exclude: Iterable[str] = ()) -> str | None:
    """What an annotation of that name and class says: ``EXCLUDED``, ``WRONG`` or ``REVIEWED``, or None for nothing."""
    called = {_plain(name), _plain(kind)}
    if called & (_EXCLUDES | {_plain(each) for each in exclude}):
        return WRONG if WRONG in called else EXCLUDED
    return REVIEWED if REVIEWED in called else None


class _Index:
    """Rows of UUIDs (N, 16)."""

    def __init__(self, uuids: UInt8Array) -> None:
        self._low = _halves(uuids)[1]
        high = _halves(uuids)[0]
        self._order = np.argsort(high)
        self._high = high[self._order]

    def rows(self, uuids: UInt8Array) -> Int64Array:
        """The row of each of (M, 16), -1 for none."""
        if not len(self._high):
            return np.full(len(uuids), -1, np.int64)
        high, low = _halves(uuids)
        places = np.minimum(np.searchsorted(self._high, high), len(self._high) - 1)
        rows = self._order[places]
        found: Int64Array = np.where((self._high[places] == high) & (self._low[rows] == low), rows, -1)
        return found


def _halves(uuids: UInt8Array) -> tuple[UInt64Array, UInt64Array]:
    """The first and the last 8 bytes as numbers."""
    both = np.ascontiguousarray(uuids).view(">u8").astype(np.uint64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _plain(name: str) -> str:
    """A class name as it is compared: QuPath marks classes that it leaves out of measurements with an asterisk."""
    return name.strip().rstrip("*").strip().lower()


def _class(changes: Changes, name: str, colour: RGB | None) -> int:
    """Index of a class, which is added where it is new; QuPath writes a blank behind the colon of a class of parts."""
    for index, known in enumerate(changes.names):
        if known == name or known.replace(": ", ":") == name.replace(": ", ":"):
            return index
    changes.names[name] = colour
    return len(changes.names) - 1


def _compare_known(table: Table, changes: Changes, batch: Objects, places: Int64Array, rows: Int64Array) -> None:
    """Classes and outlines of cells that we know; ``rows``: the row of each object of the batch."""
    fresh = []
    for place in places.tolist():
        if changes.present[rows[place]]:
            changes.skip(
                f"object {batch.first + place}: cell {table.ids[rows[place]]} is there twice; the first counts"
            )
            continue
        changes.present[rows[place]] = True
        changes.classes[rows[place]] = _class(changes, batch.classes[place], batch.colours[place])
        changes.right[rows[place]] = batch.names[place] == RIGHT
        fresh.append(place)
    mine = rows[fresh]
    same = same_outlines(table, mine, batch.polygons[fresh])
    for place, row in zip(np.array(fresh, np.int64)[~same].tolist(), mine[~same].tolist(), strict=True):
        reason = _fault(batch.polygons[place], table.slide)
        if reason is None:
            changes.outlines[row] = batch.polygons[place]
        else:
            changes.skip(f"object {batch.first + place}: cell {table.ids[row]} {reason}; its own outline is kept")


def same_outlines(table: Table, rows: Int64Array, polygons: ObjectArray) -> BoolArray:
    """Which polygons (M,) are the outlines of the cells in ``rows`` (M,), but for what QuPath rounds."""
    own = Outlines.of(table.cells.rings.take(rows), table.scale)
    same = _close(own.polygons(), polygons)
    left = np.flatnonzero(~same)
    if table.simplify_px and len(left):
        some = Outlines.of(table.cells.rings.take(rows[left]), table.scale).simplified(table.simplify_px)[0]
        same[left] = _close(some.polygons(), polygons[left])
    return same


def _close(ours: ObjectArray, theirs: ObjectArray) -> BoolArray:
    """Which outlines lie nowhere farther apart than 0.1 px."""
    same: BoolArray = shapely.equals_exact(ours, theirs, _SAME_PX / 10)
    left = np.flatnonzero(~same & (shapely.get_type_id(theirs) == shapely.GeometryType.POLYGON))
    same[left] = shapely.hausdorff_distance(ours[left], theirs[left]) <= _SAME_PX
    return same


def _fault(polygon: shapely.Geometry | None, slide: tuple[int, int]) -> str | None:
    """Why a geometry cannot be the outline of a cell, or None."""
    if polygon is None or not isinstance(polygon, shapely.Polygon | shapely.MultiPolygon) or polygon.is_empty:
        return "has no outline that can be read"
    if not polygon.is_valid:
        return f"has an invalid outline ({shapely.is_valid_reason(polygon)})"
    if not polygon.area > 0:
        return "has no area"
    centre = polygon.centroid
    if not (0 <= centre.x <= slide[1] and 0 <= centre.y <= slide[0]):
        return f"lies outside the slide, at x {centre.x:.0f}, y {centre.y:.0f}"
    return None


def _take_new(table: Table, changes: Changes, batch: Objects, place: int) -> None:
    """A cell that we do not know: it was drawn, or is of another slide."""
    polygon = batch.polygons[place]
    # Programs derive ids from names (version 5), as we do; QuPath gives random ones (version 4) to what one draws.
    changes.foreign += int(batch.ids[place, 6] >> 4 == 5)
    reason = _fault(polygon, table.slide)
    if reason is None:
        changes.added.append((polygon, _class(changes, batch.classes[place], batch.colours[place])))
    else:
        changes.outside += "outside" in reason
        changes.skip(f"object {batch.first + place}: a new cell {reason}")


def _take_area(changes: Changes, batch: Objects, place: int, exclude: Sequence[str]) -> None:
    """An annotation: an area in which cells are left out, or were all checked, or nothing to us."""
    kind, polygon = batch.kinds[place], batch.polygons[place]
    use = area_use(batch.names[place], batch.classes[place], exclude)
    if kind != "annotation" or use is None:
        changes.ignored[kind] += 1
        return
    if not isinstance(polygon, shapely.Polygon | shapely.MultiPolygon) or polygon.is_empty:
        said = "that was reviewed" if use == REVIEWED else "to exclude"
        changes.skip(f"object {batch.first + place}: the area {said} is not a polygon")
        return
    changes.repaired += not polygon.is_valid
    taken = {REVIEWED: changes.reviewed, EXCLUDED: changes.areas, WRONG: changes.wrong}[use]
    taken.append(polygon if polygon.is_valid else shapely.make_valid(polygon))
