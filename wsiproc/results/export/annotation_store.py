"""Cells as TIAToolbox's ``SQLiteStore``, which TIAViz shows on the slide and which is queried by place and property."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from wsiproc.core.extras import load
from wsiproc.errors import OutputError
from wsiproc.io.atomic import AtomicFileWriter

if TYPE_CHECKING:
    import pyarrow

# TIAViz colours by the property "type"; TIAToolbox's own models write the certainty of a nucleus as "prob".
_NAMES = {"class": "type", "score": "prob"}
# Columns that the geometry says already.
_LEFT_OUT = {"geometry", "bbox", "centroid_x", "centroid_y"}
_AT_ONCE = 10_000  # annotations in memory


def write_annotation_store(cells: Iterable[pyarrow.RecordBatch], path: Path) -> int:
    """Write cells to ``path`` (best named ``*.db``, by which TIAViz knows it); how many there were.

    ``cells``: rows of ``cells.parquet`` (docs/formats.md): ``id`` becomes the key, ``geometry`` (WKB, level-0 px of the
    slide, x to the right) the geometry as it is, the others properties: ``class`` as *type*, ``score`` as *prob*,
    measurements under their names. No more than a batch is held. The file appears under its name when it is whole; one
    that was there is replaced.

    Raises MissingExtraError without TIAToolbox, and OutputError where the file cannot be written.
    """
    storage = load("annotation.storage")
    written = 0
    try:
        with _StoreWriter(path, storage) as writer:
            for batch in cells:
                for first in range(0, batch.num_rows, _AT_ONCE):
                    written += writer.write(batch.slice(first, _AT_ONCE))
    except (OSError, sqlite3.Error) as error:
        raise OutputError(f"{path}: the annotation store cannot be written: {error}") from error
    return written


def _store_class(storage: Any) -> Any:
    """``SQLiteStore`` for any Python.

    To ask SQLite how it was compiled, it turns the loading of extensions on, for which many builds of Python have no
    switch; the question is answered without.
    """

    class Store(storage.SQLiteStore):  # type: ignore[misc]
        @staticmethod
        def compile_options() -> list[str]:
            with contextlib.closing(sqlite3.connect(":memory:")) as connection:
                return [option for (option,) in connection.execute("pragma compile_options")]

        def __del__(self) -> None:
            """Nothing: theirs closes once more, which would make a new file under the temporary name."""

    return Store


class _StoreWriter(AtomicFileWriter):
    """A store that is filled batch by batch."""

    def __init__(self, path: Path, storage: Any) -> None:
        super().__init__(path)
        self._annotation = storage.Annotation
        self._store = _store_class(storage)(self._temporary)

    def write(self, batch: pyarrow.RecordBatch) -> int:
        """Append the rows of a batch in one transaction; how many there were."""
        outlines = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
        pairs = zip(outlines, _properties(batch), strict=True)
        keys = [str(number) for number in batch.column("id").to_pylist()]
        self._store.append_many([self._annotation(outline, values) for outline, values in pairs], keys)
        return len(keys)

    def finish(self) -> None:
        """Index what viewers sort by, and close."""
        self._store.create_index("area", '"area"')
        self._store.close()

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(sqlite3.Error):  # the first error is the one to report
            self._store.close()


def _properties(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any]]:
    """The properties of each row of a batch."""
    names = [name for name in batch.schema.names if name not in _LEFT_OUT]
    columns = [_plain(batch.column(name)) for name in names]
    for values in zip(*columns, strict=True):
        yield dict(zip((_NAMES.get(name, name) for name in names), values, strict=True))


def _plain(column: Any) -> list[Any]:
    """A column as values for JSON: numbers with the digits that they have, nothing in place of NaN and infinity."""
    values: list[Any] = column.to_pylist()
    if not values or not isinstance(values[0], float):
        return values
    shortest = map(str, column.to_numpy(zero_copy_only=False))  # 0.1, not 0.10000000149011612
    return [float(text) if np.isfinite(value) else None for text, value in zip(shortest, values, strict=True)]
