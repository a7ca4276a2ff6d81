"""The cells of a finished slide, block by block: reads only the part of the table that a view needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from wsiproc.core.cells import DrawnCells, Rings
from wsiproc.core.geometry import Box
from wsiproc.core.types import Float32Array, Float64Array, UInt8Array
from wsiproc.io.cells.parquet import class_codes, numbers, read_outlines, read_row, table_metadata

# For all slides together: outlines of blocks, some 7 MB each in dense tissue; centres, 9 bytes per cell; columns, 4.
_BLOCKS_KEPT, _CENTRES_KEPT, _COLUMNS_KEPT = 16, 2, 6
SCORE = "score"
"""A column of every table; the others are its measurements."""


class CellBlocks:
    """``cells.parquet`` by its row groups, each of which covers a square of the slide. Lazy and thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        file = pyarrow.parquet.ParquetFile(path)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        self._ends = np.cumsum([group.num_rows for group in groups])
        metadata = table_metadata(file)
        self._bounds = _bounds(groups) / np.tile(metadata["scale"], 2)
        self.measurements: list[str] = [SCORE, *metadata["measurements"]]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def blocks(self) -> range:
        """Numbers of all blocks."""
        return range(len(self._ends))

    def touching(self, box: Box) -> list[int]:
        """Numbers of the blocks whose cells may touch ``box`` (grid px)."""
        low, high = self._bounds[:, :2], self._bounds[:, 2:]
        near = (high > (box.y, box.x)) & (low < (box.y1, box.x1))
        return [int(number) for number in np.flatnonzero(near.all(axis=1))]

    def rows(self, block: int) -> slice:
        """The rows of a block in the arrays of ``centres``."""
        return slice(int(self._ends[block - 1]) if block else 0, int(self._ends[block]))

    def cell(self, number: int) -> tuple[dict[str, Any], Rings] | None:
        """The columns (slide frame) and outline (grid frame) of the cell with this id; None if there is none."""
        if not 1 <= number <= len(self):
            return None
        block = int(np.searchsorted(self._ends, number - 1, side="right"))
        row = number - 1 - self.rows(block).start
        return read_row(self._path, block, row)

    def block(self, number: int) -> DrawnCells:
        """Classes and outlines of a block's cells (grid frame), for drawing."""
        return _read_block(self._path, number)

    def centres(self) -> tuple[Float32Array, UInt8Array]:
        """Centres of all cells (N, 2), (y, x) in grid px, and their classes (N,)."""
        return _read_centres(self._path)

    def column(self, name: str) -> Float32Array:
        """One of ``measurements`` of all cells (N,)."""
        return _read_column(self._path, name)

    def columns(self, names: Sequence[str], blocks: Sequence[int]) -> dict[str, Float32Array]:
        """Some of ``measurements`` of the cells of ``blocks`` (at least one), one block after the other."""
        table = pyarrow.parquet.ParquetFile(self._path).read_row_groups(list(blocks), columns=list(names))
        return {name: numbers(table[name]) for name in names}


@lru_cache(maxsize=_BLOCKS_KEPT)
def _read_block(path: Path, number: int) -> DrawnCells:
    return read_outlines(path, number)


@lru_cache(maxsize=_CENTRES_KEPT)
def _read_centres(path: Path) -> tuple[Float32Array, UInt8Array]:
    file = pyarrow.parquet.ParquetFile(path)
    metadata = table_metadata(file)
    table = file.read(columns=["centroid_y", "centroid_x", "class"])
    centres = np.empty((len(table), 2), np.float32)
    for axis, name in enumerate(("centroid_y", "centroid_x")):
        centres[:, axis] = numbers(table[name]) / metadata["scale"][axis]
    if not len(table):
        return centres, np.zeros(0, np.uint8)
    return centres, class_codes(table, metadata["classes"])


@lru_cache(maxsize=_COLUMNS_KEPT)
def _read_column(path: Path, name: str) -> Float32Array:
    table = pyarrow.parquet.ParquetFile(path).read(columns=[name])
    return numbers(table[name]) if len(table) else np.zeros(0, np.float32)


def _bounds(groups: list[Any]) -> Float64Array:
    """Bounds of the outlines of each row group (G, 4), (y, x, y1, x1) in slide px, from the file's statistics."""
    found = np.zeros((len(groups), 4))
    for row, group in zip(found, groups, strict=True):
        columns = [group.column(number) for number in range(group.num_columns)]
        sides = {column.path_in_schema: column.statistics for column in columns}
        row[:] = (
            sides["bbox.ymin"].min,
            sides["bbox.xmin"].min,
            sides["bbox.ymax"].max,
            sides["bbox.xmax"].max,
        )
    return found
