"""Corrections made in QuPath, imported: ``cells.corrected.parquet`` next to ``cells.parquet``, which stays."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from wsiproc._version import __version__
from wsiproc.array.hilbert import hilbert_index
from wsiproc.core.cells import CellTable
from wsiproc.core.immuno import NEGATIVE, POSITIVE, STRENGTHS, h_score, positive_index
from wsiproc.core.palette import RGB, class_colour
from wsiproc.core.paths import make_place
from wsiproc.core.types import BoolArray, Float64Array, Int64Array
from wsiproc.errors import OutputError, SettingsError
from wsiproc.io.atomic import write_json
from wsiproc.io.cells.parquet import CORRECTED, CellReader, CorrectedWriter
from wsiproc.io.geojson.areas import as_geojson
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.read import read_objects
from wsiproc.results.qupath.diff import EXCLUDED, REVIEWED, Changes, Table, diff_cells
from wsiproc.results.qupath.remeasure import MOST_PX, Maps, cells_in
from wsiproc.results.qupath.split import FOLDER, INDEX
from wsiproc.results.record import RunRecord

TABLE, FACTS = "cells.corrected.parquet", "corrections.json"
Missing = Literal["delete", "keep"]

_MOST_MISSING = 0.5  # beyond that share we ask
_MOST_CLASSES = 100
_UNCHANGED, _CLASS, _OUTLINE, _NEW, _RIGHT = range(len(CORRECTED))


@dataclass(frozen=True)
class Corrections:
    """What was changed, in cells. ``right``: of the unchanged ones, those marked so; ``areas`` in which cells were left
    out, and ``reviewed`` ones, are counted. ``reclassified``: (from, to) → cells; ``positive_index`` and ``h_score``:
    before and after, None where there is none of both; ``compartment``: where DAB counts, None where there is none.
    """

    before: int
    after: int
    unchanged: int
    right: int
    reclassified: dict[tuple[str, str], int]
    outlines: int
    added: int
    deleted: int
    excluded: int
    positive_index: tuple[float, float] | None
    h_score: tuple[float, float] | None
    compartment: str | None
    areas: int
    reviewed: int
    ignored: dict[str, int]
    skipped: int
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """As plain values, for ``corrections.json``."""
        moved = [{"from": old, "to": new, "cells": cells} for (old, new), cells in self.reclassified.items()]
        scores = {"positive_index": self.positive_index, "h_score": self.h_score}
        pairs = {name: pair and dict(zip(("before", "after"), pair, strict=True)) for name, pair in scores.items()}
        return dataclasses.asdict(self) | {"reclassified": moved} | pairs


@dataclass(frozen=True)
class _Result:
    """The corrected table: rows of the old one that stay, what became of each, and the cells from drawn outlines.

    ``drawn``: row → row of ``fresh``, for changed outlines; the rest of ``fresh``, from ``first_new`` on, is new.
    """

    stay: BoolArray
    corrected: Int64Array
    drawn: dict[int, int]
    fresh: CellTable
    new: Int64Array


def import_corrections(
    path: Path, output: Path, *, exclude: list[str], missing: Missing | None = None, dry_run: bool = False
) -> Corrections:
    """Compare a GeoJSON file from QuPath with the cells of a slide's folder, and write the corrected table there.

    ``exclude``: names or classes of annotations in which cells are left out, in addition to exclude and ignore.
    ``missing``: what becomes of cells that are not in the file; None deletes them, but refuses where that is more than
    half. Raises ``OutputError`` for a folder that is not complete, and for a file that cannot be read or is of another
    slide, and where nothing can be written; ``SettingsError`` where it must be said what becomes of missing cells.
    """
    run = RunRecord.read(output)
    if not dry_run:
        make_place(output / TABLE)
    reader = CellReader(output / "cells.parquet")
    table, least_um2 = _table(reader, output, run)
    changes = diff_cells(table, run.slide.fingerprint, read_objects(path), exclude)
    _refuse_foreign(path, changes, run)
    stay = _staying(path, table, changes, least_um2, missing)
    maps = _maps(output, run, reader)
    result, left_out = _apply(table, changes, stay, maps)
    told = _told(run, table, changes, result, stay, left_out)
    if not dry_run:
        colours = {
            name: colour or class_colour(name, index) for index, (name, colour) in enumerate(changes.names.items())
        }
        _write(output / TABLE, reader, table, changes, result, colours)
        write_json(output / FACTS, _facts(path, run, told, changes, exclude, missing))
    return told


# --- reading ---------------------------------------------------------------------------------------------------------


def _table(reader: CellReader, output: Path, run: RunRecord) -> tuple[Table, float]:
    """All cells, and the area below which they were not written for QuPath."""
    index = _index(output, run)
    groups = [reader.read(group) for group in range(len(reader))]
    if not groups:
        raise OutputError(f"{output}: no cells were found on this slide, so that there is nothing to correct")
    h, w = run.slide.shape
    table = Table(
        np.concatenate([ids for ids, _ in groups]),
        CellTable.concat([cells for _, cells in groups]),
        np.repeat(np.arange(len(groups)), [len(ids) for ids, _ in groups]),
        reader.classes,
        reader.scale,
        (h, w),
        float(index.get("simplify_px", 0)),
    )
    return table, float(index.get("min_area_um2", 0))


def _index(output: Path, run: RunRecord) -> dict[str, Any]:
    """What ``wsiproc qupath`` last wrote of these very cells; nothing where it did not."""
    try:
        index: dict[str, Any] = json.loads((output / FOLDER / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if index.get("run") == run.key else {}


def _maps(output: Path, run: RunRecord, reader: CellReader) -> Maps:
    h, w = run.grid.shape
    mpp_y, mpp_x = run.grid.mpp
    return Maps(output / "maps.ome.zarr", (h, w), reader.scale, mpp_y * mpp_x, reader.measurements)


def _refuse_foreign(path: Path, changes: Changes, run: RunRecord) -> None:
    """Raise ``OutputError`` where a file says nothing about this slide."""
    if not (changes.objects or changes.areas or changes.wrong or changes.reviewed):
        others = ", ".join(f"{number} of type {kind}" for kind, number in changes.ignored.items()) or "nothing"
        raise OutputError(
            f"{path}: no cells, and no annotation named exclude, ignore or reviewed (there is {others}); cells are "
            "objects of type detection or cell; give --exclude CLASS for annotations of another name"
        )
    known, strangers = int(changes.present.sum()), changes.foreign + changes.outside
    if changes.objects and not known and strangers:
        h, w = run.slide.shape
        raise OutputError(
            f"{path}: not of this slide, {run.slide.name}: of {changes.objects:,} cells none has an id of a cell "
            f"here, {changes.foreign:,} have ids of another slide or program, and {changes.outside:,} lie outside its "
            f"{w} × {h} px (x, y)"
        )


def _staying(path: Path, table: Table, changes: Changes, least_um2: float, missing: Missing | None) -> BoolArray:
    """Which cells (N,) are not deleted."""
    absent = np.flatnonzero(~changes.present)
    if missing == "keep" or not changes.objects:
        return np.ones(len(table.ids), np.bool_)
    written = Outlines.of(table.cells.rings.take(absent), table.scale).writable()
    gone = absent[written & (table.cells.measurements["area_um2"][absent] >= least_um2)]
    if missing is None and len(gone) > _MOST_MISSING * len(table.ids):
        raise SettingsError(
            f"{path}: {len(gone):,} of {len(table.ids):,} cells are not in it. Were only some imported into QuPath? "
            "--missing keep leaves those as they are; --missing delete deletes them"
        )
    stay = np.ones(len(table.ids), np.bool_)
    stay[gone] = False
    return stay


# --- applying --------------------------------------------------------------------------------------------------------


def _apply(table: Table, changes: Changes, stay: BoolArray, maps: Maps) -> tuple[_Result, BoolArray]:
    """The corrected cells, and which of the old ones (N,) lie in an excluded area."""
    if len(changes.names) > _MOST_CLASSES:
        raise OutputError(f"{len(changes.names)} classes of cells are more than the {_MOST_CLASSES} that a table takes")
    rows = sorted(changes.outlines)
    polygons = [*(changes.outlines[row] for row in rows), *(polygon for polygon, _ in changes.added)]
    taken, fresh = cells_in(np.array(polygons, object), maps)
    kinds = [*changes.classes[rows].tolist(), *(kind for _, kind in changes.added)]
    fresh = dataclasses.replace(fresh, classes=np.array(kinds, np.uint8)[taken])
    for place in sorted(set(range(len(polygons))) - set(taken.tolist())):
        what = f"cell {table.ids[rows[place]]}" if place < len(rows) else f"new cell {place - len(rows) + 1}"
        changes.skip(f"{what} covers no pixel of the maps, or more than {MOST_PX} a side")
    drawn = {rows[place]: index for index, place in enumerate(taken.tolist()) if place < len(rows)}
    new = np.flatnonzero(taken >= len(rows))

    centres = table.cells.centroids.copy()
    centres[list(drawn)] = fresh.centroids[list(drawn.values())]
    excluded = _inside(changes.areas, centres * table.scale)
    # What was drawn in the place of a wrong cell is not that cell.
    wrong = _inside(changes.wrong, centres * table.scale)
    wrong[list(drawn)] = False
    excluded |= wrong
    new = new[~_inside(changes.areas, fresh.centroids[new] * table.scale)]
    corrected = np.where(changes.right, _RIGHT, _UNCHANGED)
    corrected[changes.classes != table.cells.classes] = _CLASS
    corrected[list(drawn)] = _OUTLINE
    new = new[np.argsort(hilbert_index(fresh.centroids[new].astype(np.int64)))]
    return _Result(stay & ~excluded, corrected, drawn, fresh, new), excluded


def _inside(areas: list[shapely.Geometry], centres: Float64Array) -> BoolArray:
    """Which centres (N, 2), (y, x) in level-0 px, lie in one of the areas."""
    if not areas or not len(centres):
        return np.zeros(len(centres), np.bool_)
    area = shapely.union_all(areas)
    shapely.prepare(area)
    found: BoolArray = shapely.contains_xy(area, centres[:, 1], centres[:, 0])
    return found


def _told(
    run: RunRecord,
    table: Table,
    changes: Changes,
    result: _Result,
    stay: BoolArray,
    excluded: BoolArray,
) -> Corrections:
    """The counts."""
    names = list(changes.names)
    old, new = table.cells.classes[result.stay].astype(np.int64), changes.classes[result.stay]
    moved = Counter(zip(old[old != new].tolist(), new[old != new].tolist(), strict=True))
    states = result.corrected[result.stay]
    scored = run.has_index
    after = np.concatenate([new, result.fresh.classes[result.new].astype(np.int64)])
    return Corrections(
        before=len(table.ids),
        after=len(after),
        unchanged=int(np.isin(states, (_UNCHANGED, _RIGHT)).sum()),
        right=int((states == _RIGHT).sum()),
        reclassified={(names[a], names[b]): number for (a, b), number in sorted(moved.items())},
        outlines=int((states == _OUTLINE).sum()),
        added=len(result.new),
        deleted=int((~stay).sum()),
        excluded=int((stay & excluded).sum()),
        positive_index=_before_and_after(positive_index, names, table.cells.classes, after) if scored else None,
        h_score=_before_and_after(h_score, names, table.cells.classes, after) if scored else None,
        compartment=None if run.immuno is None else run.immuno.compartment,
        areas=len(changes.areas) + len(changes.wrong),
        reviewed=len(changes.reviewed),
        ignored=dict(changes.ignored),
        skipped=changes.skipped,
        problems=changes.problems,
        warnings=_warnings(table, changes, result),
    )


def _before_and_after(
    score: Callable[[dict[str, int]], float | None], names: list[str], *tables: npt.NDArray[Any]
) -> tuple[float, float] | None:
    """A score of the classes before and after; None where one of them has none."""
    before, after = (score(_by_strength(names, classes)) for classes in tables)
    return None if before is None or after is None else (before, after)


def _by_strength(names: list[str], classes: npt.NDArray[Any]) -> dict[str, int]:
    """Cells by what DAB says of them, classes as QuPath derives them, such as *Tumor: 2+*, by their last part."""
    known = {name.lower(): name for name in (NEGATIVE, POSITIVE, *STRENGTHS)}
    counts: dict[str, int] = {}
    for name, cells in zip(names, np.bincount(classes, minlength=len(names)).tolist(), strict=True):
        strength = known.get(name.rpartition(":")[2].strip().lower())
        if strength is not None:
            counts[strength] = counts.get(strength, 0) + cells
    return counts


def _warnings(table: Table, changes: Changes, result: _Result) -> list[str]:
    """What a user should look at."""
    told = []
    if changes.foreign:
        told.append(f"{changes.foreign:,} cells with ids of another slide, run or program were taken as new ones")
    if changes.repaired:
        told.append(f"{changes.repaired} areas cross themselves and were repaired")
    known = int(changes.present.sum())
    if known and len(result.drawn) > known / 2:
        rows = list(result.drawn)
        shift = result.fresh.centroids[list(result.drawn.values())] - table.cells.centroids[rows]
        y, x = np.median(shift * table.scale, axis=0)
        told.append(
            f"{len(rows):,} of {known:,} outlines differ from ours; in the median they moved by {x:+.1f} px in x and "
            f"{y:+.1f} in y: is the image in QuPath the same file, and are these the cells of this run?"
        )
    return told


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(
    path: Path, reader: CellReader, table: Table, changes: Changes, result: _Result, classes: dict[str, RGB]
) -> None:
    """The corrected table: the old row groups less what is gone, then the new cells."""
    with CorrectedWriter(path, classes, reader.measurements, reader.scale) as writer:
        for group in range(len(reader)):
            rows = np.flatnonzero((table.groups == group) & result.stay)
            if len(rows):
                cells = _replaced(table.cells.take(rows), rows, result)
                cells = dataclasses.replace(cells, classes=changes.classes[rows].astype(np.uint8))
                writer.write_corrected(cells, table.ids[rows], result.corrected[rows])
        if len(result.new):
            ids = int(table.ids.max()) + 1 + np.arange(len(result.new))
            writer.write_corrected(result.fresh.take(result.new), ids, np.full(len(ids), _NEW))


def _replaced(cells: CellTable, rows: Int64Array, result: _Result) -> CellTable:
    """The cells of ``rows``, those with another outline as they were measured in it."""
    changed = [(place, result.drawn[row]) for place, row in enumerate(rows.tolist()) if row in result.drawn]
    if not changed:
        return cells
    order = np.arange(len(cells))
    order[[place for place, _ in changed]] = len(cells) + np.arange(len(changed))
    return CellTable.concat([cells, result.fresh.take(np.array([row for _, row in changed]))]).take(order)


def _facts(
    path: Path, run: RunRecord, told: Corrections, changes: Changes, exclude: list[str], missing: Missing | None
) -> dict[str, Any]:
    """What ``corrections.json`` says; the areas are GeoJSON geometries in level-0 px."""
    areas = {REVIEWED: changes.reviewed, EXCLUDED: changes.areas}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "wsiproc": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "slide": {"name": run.slide.name, "fingerprint": run.slide.fingerprint},
        "run": run.key,
        "file": {"name": path.name, "bytes": path.stat().st_size, "sha256": digest},
        "settings": {"exclude": exclude, "missing": missing},
        "cells": told.facts(),
        "areas": {name: as_geojson(shapely.union_all(shapes)) for name, shapes in areas.items() if shapes},
        "versions": {name: version(name) for name in ("numpy", "shapely", "pyarrow", "zarr")},
    }
