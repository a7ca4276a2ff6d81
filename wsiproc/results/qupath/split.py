"""Cells in files that QuPath can read one after the other: a file a square of the slide, and a list of them.

QuPath's reader holds a whole file in memory as a tree. Memory here is that of one row group of ``cells.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc._version import __version__
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.core.paths import make_folder
from wsiproc.core.types import BoolArray, Int64Array
from wsiproc.errors import SettingsError
from wsiproc.io.atomic import atomic_file, write_json
from wsiproc.io.cells.parquet import CellReader
from wsiproc.io.geojson.outlines import SNAP_DECIMALS, Outlines
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, outlined_features
from wsiproc.results.record import RunRecord

FOLDER, INDEX = "qupath", "index.json"
SCRIPTS = ("import-cells.groovy", "export-corrections.groovy")

# Measured with the readers of QuPath 0.4 to 0.7: 13 kB of heap a cell of 24 corners while a file is read. Nearly all of
# it are the numbers of the outline, so that we count in proportion to the corners, but never less than that.
CELL_BYTES, CELL_CORNERS = 13_000, 24
# Half of a heap of 4 GB; the other half is for the image, for QuPath itself and for cells that are there already.
FILE_HEAP_BYTES = 2_000_000_000
_BIN_PX = 64  # cells are counted in such squares before they are shared out
_SAMPLE = 20_000  # outlines whose corners are counted


@dataclass(frozen=True)
class Wanted:
    """How to split: at most ``most_cells`` a file, or squares of ``side_mm``; neither: as many as fit QuPath's memory.

    ``simplify_px``: how far (level-0 px) a simpler outline may be from the true one; 0 writes outlines as they are.
    ``min_area_um2``: smaller cells are left out, and counted.
    """

    most_cells: int | None = None
    side_mm: float | None = None
    simplify_px: float = 0.0
    min_area_um2: float = 0.0

    def __post_init__(self) -> None:
        if self.most_cells is not None and self.side_mm is not None:
            raise SettingsError("--tiles and --cells-per-file both say how large a file is: give one of them")
        for name, value in (("--cells-per-file", self.most_cells), ("--tiles", self.side_mm)):
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"{name} is {value}; it must be more than 0")
        for name, value in (("--simplify", self.simplify_px), ("--min-area", self.min_area_um2)):
            if not 0 <= value < float("inf"):
                raise SettingsError(f"{name} is {value}; it must be 0 or more")


@dataclass
class QuPathSplit:
    """What was written: ``files`` as ``index.json`` lists them, the side of a square, and cells that are not in them.

    ``not_simplified``: outlines that would have become invalid and were written as they are.
    """

    folder: Path
    side_px: int
    files: list[dict[str, Any]] = field(default_factory=list)
    too_small: int = 0
    not_writable: int = 0
    not_simplified: int = 0

    @property
    def cells(self) -> int:
        """Cells in all files."""
        return sum(file["cells"] for file in self.files)


def split_cells(output: Path, wanted: Wanted) -> QuPathSplit:
    """Write ``qupath/`` into the folder of a finished slide: files of cells, ``index.json``, two scripts.

    Files of an earlier split that are not of this one are removed; nothing else there is touched. Raises
    ``OutputError`` for a folder that is not complete.
    """
    run = RunRecord.read(output)
    reader = CellReader(output / "cells.parquet")
    counts, bounds, too_small = _count(reader, run.slide.shape, wanted.min_area_um2)
    grid = Grid(run.slide.shape, _side(reader, run, counts, wanted))
    folder = output / FOLDER
    make_folder(folder)
    (folder / INDEX).unlink(missing_ok=True)  # it comes last, so that it lists files that are there
    split = QuPathSplit(folder, grid.step, too_small=too_small)
    for row, col in _places(reader, grid.step, wanted.min_area_um2):
        region = grid.region(row, col)
        _write_area(reader, _name(region, grid), region.box, bounds, run, wanted, split)
    for path in folder.glob("cells-r*c*.geojson.gz"):
        if path.name not in {file["file"] for file in split.files}:
            path.unlink()
    for script in SCRIPTS:
        _copy_script(script, folder)
    write_json(folder / INDEX, _index(run, wanted, split))
    return split


# --- how to split ----------------------------------------------------------------------------------------------------


def _count(reader: CellReader, shape: tuple[int, int], min_area_um2: float) -> tuple[Int64Array, list[Box], int]:
    """Cells in squares of 64 px (rows, columns), where the centres of each row group lie, and how many are too small.

    Every count is of cells that are large enough.
    """
    counts = np.zeros([-(-px // _BIN_PX) for px in shape], np.int64)
    bounds, too_small = [], 0
    for group in range(len(reader)):
        centres, areas = reader.centres_and_areas(group)
        low, high = np.floor(centres.min(0)).astype(int), np.floor(centres.max(0)).astype(int) + 1
        bounds.append(Box(*low.tolist(), *(high - low).tolist()))
        kept = areas >= min_area_um2
        too_small += int((~kept).sum())
        bins = (centres[kept] // _BIN_PX).astype(np.int64)
        np.add.at(counts, tuple(bins.T), 1)
    return counts, bounds, too_small


def _places(reader: CellReader, side: int, min_area_um2: float) -> list[tuple[int, int]]:
    """Rows and columns of the squares of ``side`` px that hold a cell, in raster order."""
    found: set[tuple[int, int]] = set()
    for group in range(len(reader)):
        centres, areas = reader.centres_and_areas(group)
        places = np.unique((centres[areas >= min_area_um2] // side).astype(np.int64), axis=0)
        found.update((row, col) for row, col in places.tolist())
    return sorted(found)


def _side(reader: CellReader, run: RunRecord, counts: Int64Array, wanted: Wanted) -> int:
    """Side of a square in level-0 px."""
    if wanted.side_mm is not None:
        return max(1, round(wanted.side_mm * 1000 / run.slide.mpp))
    most = wanted.most_cells or cells_that_fit(_mean_corners(reader, wanted.simplify_px))
    return _BIN_PX * largest_block_side(counts, most)


def cells_that_fit(corners: float) -> int:
    """Cells with so many corners on average that QuPath can read in one file with a heap of 4 GB, in thousands."""
    return int(FILE_HEAP_BYTES / heap_bytes(1, corners) // 1000 * 1000)


def heap_bytes(cells: int, corners: float) -> float:
    """Heap that QuPath needs to read a file of so many cells with so many corners on average."""
    return cells * CELL_BYTES * max(1.0, corners / CELL_CORNERS)


def _mean_corners(reader: CellReader, simplify_px: float) -> float:
    """Corners of an outline, on average over the fullest row group."""
    if not len(reader):
        return CELL_CORNERS
    _, cells = reader.read(int(np.argmax(reader.counts)))
    some = np.linspace(0, len(cells) - 1, min(len(cells), _SAMPLE)).astype(np.int64)
    return float(_outlines(cells.rings.take(some), reader.scale, simplify_px)[0].corners.mean())


def _outlines(rings: Any, scale: tuple[float, float], simplify_px: float) -> tuple[Outlines, BoolArray]:
    """Outlines as they are written, and which could not be simplified."""
    outlines = Outlines.of(rings, scale)
    return outlines.simplified(simplify_px) if simplify_px else (outlines, np.zeros(len(outlines), np.bool_))


def largest_block_side(counts: Int64Array, most: int) -> int:
    """The largest side, in bins, of squares of which none holds more than ``most`` cells; ``counts``: cells a bin.

    Raises ``SettingsError`` where a single bin holds more.
    """
    longest = max(counts.shape)
    for side in sorted({-(-longest // parts) for parts in range(1, longest + 1)}, reverse=True):
        if int(_sums(counts, side).max(initial=0)) <= most:
            return int(side)
    raise SettingsError(
        f"{counts.max():,} cells are in one square of {_BIN_PX} px; --cells-per-file ({most:,}) must be that at least"
    )


def _sums(counts: Int64Array, side: int) -> Int64Array:
    """Cells in squares of ``side`` bins."""
    rows, cols = (np.arange(0, size, side) for size in counts.shape)
    sums: Int64Array = np.add.reduceat(np.add.reduceat(counts, rows, axis=0), cols, axis=1)
    return sums


# --- files -----------------------------------------------------------------------------------------------------------


def _name(region: Region, grid: Grid) -> str:
    """``cells-r03c05.geojson.gz``, all of one length so that they sort as they lie."""
    digits = max(2, len(str(max(grid.rows, grid.cols) - 1)))
    return f"cells-r{region.row:0{digits}d}c{region.col:0{digits}d}.geojson.gz"


def _write_area(
    reader: CellReader, name: str, area: Box, bounds: list[Box], run: RunRecord, wanted: Wanted, split: QuPathSplit
) -> None:
    """Write the cells with their centre in ``area`` (level-0 px), if there are any, and list the file."""
    facts = (run.slide.fingerprint, list(reader.classes), list(reader.classes.values()))
    near = [group for group, box in enumerate(bounds) if box.intersect(area).area]
    cells_in, corners, reach = 0, 0, (np.inf, np.inf, -np.inf, -np.inf)
    with GeoJsonWriter(split.folder / name) as writer:
        for ids, cells, outlines, stays in _blocks(reader, near, area, wanted):
            text, left_out = outlined_features(cells, ids, outlines, *facts)
            writer.append(Piece.of(text, left_out))
            cells_in, corners = cells_in + len(cells) - left_out, corners + int(outlines.corners.sum())
            split.not_simplified += int(stays.sum())
            if len(outlines.points):
                (x0, y0), (x1, y1) = outlines.points.min(0).tolist(), outlines.points.max(0).tolist()
                reach = (min(reach[0], x0), min(reach[1], y0), max(reach[2], x1), max(reach[3], y1))
    split.not_writable += writer.dropped
    path = split.folder / name
    if not cells_in:
        path.unlink()
        return
    split.files.append(
        {
            "file": name,
            "area": {"x": area.x, "y": area.y, "width": area.w, "height": area.h},
            "outlines": _rectangle(*reach),
            "cells": cells_in,
            "bytes": path.stat().st_size,
            "heap_bytes": round(heap_bytes(cells_in, corners / cells_in)),
        }
    )


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> dict[str, float]:
    return {"x": x0, "y": y0, "width": round(x1 - x0, SNAP_DECIMALS), "height": round(y1 - y0, SNAP_DECIMALS)}


def _blocks(reader: CellReader, groups: list[int], area: Box, wanted: Wanted) -> Iterator[tuple[Any, ...]]:
    """Ids, cells, outlines and which could not be simplified, of what is to be written, a row group at a time."""
    for group in groups:
        ids, cells = reader.read(group, area)
        if wanted.min_area_um2:
            large = np.flatnonzero(cells.measurements["area_um2"] >= wanted.min_area_um2)
            ids, cells = ids[large], cells.take(large)
        if len(cells):
            yield ids, cells, *_outlines(cells.rings, reader.scale, wanted.simplify_px)


def _copy_script(name: str, folder: Path) -> None:
    """The script as it is in the package."""
    text = resources.files("wsiproc.results.qupath").joinpath("scripts", name).read_bytes()
    with atomic_file(folder / name) as temporary:
        temporary.write_bytes(text)


def _index(run: RunRecord, wanted: Wanted, split: QuPathSplit) -> dict[str, Any]:
    """What ``index.json`` says."""
    h, w = run.slide.shape
    return {
        "wsiproc": __version__,
        "slide": {"name": run.slide.name, "width": w, "height": h, "fingerprint": run.slide.fingerprint},
        "run": run.key,
        "frame": "level-0 px of the slide, origin at the top-left corner of its top-left pixel, x right, y down",
        "side_px": split.side_px,
        "simplify_px": wanted.simplify_px,
        "min_area_um2": wanted.min_area_um2,
        "cells": split.cells,
        "scoring": _scoring(run),
        "left_out": {"smaller than min_area_um2": split.too_small, "no valid outline": split.not_writable},
        "not_simplified": split.not_simplified,
        "files": split.files,
    }


def _scoring(run: RunRecord) -> str | None:
    """What the classes of the slide's cells mean, for whoever looks at them in QuPath; None where there is no DAB."""
    if run.immuno is None:
        return None
    numbers = run.slide_numbers()
    told = "none, DAB does not lie in nuclei" if numbers.positive_index is None else f"{numbers.positive_index:.1%}"
    more = "" if numbers.h_score is None else f"; H-score {numbers.h_score:.0f}"
    return f"{run.immuno.in_words()} Positive index of the slide: {told}{more}."
