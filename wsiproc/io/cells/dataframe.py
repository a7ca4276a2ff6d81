"""``cells.parquet`` as pandas and GeoPandas tables and as CSV, in batches so that a million cells fit in memory."""

from __future__ import annotations

import json
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import shapely

from wsiproc.errors import OutputError, SettingsError

if TYPE_CHECKING:
    import geopandas
    import pandas

GEOMETRY, BBOX, CLASS = "geometry", "bbox", "class"

_BATCH_ROWS = 1 << 14

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class Selection:
    """Which cells and columns to read; None takes all.

    ``bbox``: (xmin, ymin, xmax, ymax) in level-0 px, selects the cells whose bounding box shares a point with it, as
    GeoPandas does; ``classes``: names; ``ids``: as in the column ``id``.
    """

    columns: Sequence[str] | None = None
    bbox: Bounds | None = None
    classes: Collection[str] | None = None
    ids: Sequence[int] | None = None

    def rows(self) -> Any:
        """The rows as an Arrow expression, None for all."""
        parts = []
        if self.bbox is not None:
            xmin, ymin, xmax, ymax = self.bbox
            low = (pc.field(BBOX, "xmin") <= xmax) & (pc.field(BBOX, "ymin") <= ymax)
            parts.append(low & (pc.field(BBOX, "xmax") >= xmin) & (pc.field(BBOX, "ymax") >= ymin))
        if self.classes is not None:
            parts.append(pc.field(CLASS).cast(pa.string()).isin(pa.array(list(self.classes), pa.string())))
        if self.ids is not None:
            parts.append(pc.field("id").isin(pa.array(self.ids, pa.uint32())))
        return reduce(operator.and_, parts) if parts else None


class CellFile:
    """``cells.parquet``: its columns, classes and measurements by name, and its rows.

    Raises ``OutputError`` if the file is missing or was not written by ``wsiproc run``.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._dataset = pyarrow.dataset.dataset(path, format="parquet")
            metadata = json.loads(self._dataset.schema.metadata[b"wsiproc"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"{path}: not a readable table of cells ({type(error).__name__}: {error}); "
                "write it again with wsiproc run --overwrite"
            ) from error
        self._path = path
        self.columns: list[str] = self._dataset.schema.names
        self.classes: list[str] = metadata["classes"]
        self.measurements: list[str] = metadata["measurements"]

    def __len__(self) -> int:
        return int(self._dataset.count_rows())

    def frame(self, chosen: Selection) -> pandas.DataFrame:
        """One row per cell, with all columns except ``bbox`` and ``geometry`` unless others are chosen."""
        columns = [name for name in self._columns(chosen) if name != GEOMETRY]
        return self._pandas(list(self._batches(chosen, columns)), columns)

    def geoframe(self, chosen: Selection) -> geopandas.GeoDataFrame:
        """The same with outlines (level-0 px, x to the right, y down; no coordinate reference system)."""
        import geopandas

        columns = [name for name in self._columns(chosen) if name != GEOMETRY]
        polygons: list[Any] = [np.zeros(0, object)]
        batches = []
        for batch in self._batches(chosen, [*columns, GEOMETRY]):
            # Decoded batch by batch: holding all outlines as WKB and as polygons would need twice the memory.
            polygons.append(shapely.from_wkb(batch.column(GEOMETRY).to_numpy(zero_copy_only=False)))
            batches.append(batch.select(columns))
        return geopandas.GeoDataFrame(self._pandas(batches, columns), geometry=np.concatenate(polygons))

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """All rows as Arrow record batches, some ten thousand at a time."""
        yield from self._batches(Selection(), list(columns))

    def _columns(self, chosen: Selection) -> list[str]:
        """Names of the columns; raises ``SettingsError`` for unknown columns or classes."""
        for what, asked, known in (
            ("column", chosen.columns, self.columns),
            ("class", chosen.classes, self.classes),
        ):
            if isinstance(asked, str):
                raise SettingsError(f"{asked!r} is a string where a list of {what} names is expected: [{asked!r}]")
            unknown = [name for name in asked or () if name not in known]
            if unknown:
                raise SettingsError(f"{self._path} has no {what} {unknown[0]!r}; it has {', '.join(known)}")
        return list(chosen.columns) if chosen.columns is not None else [n for n in self.columns if n != BBOX]

    def _batches(self, chosen: Selection, columns: list[str]) -> Iterator[Any]:
        # By default Arrow holds the whole file and prefetches sixteen batches.
        options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        yield from self._dataset.to_batches(
            columns=columns,
            filter=chosen.rows(),
            batch_size=_BATCH_ROWS,
            batch_readahead=1,
            fragment_readahead=1,
            fragment_scan_options=options,
        )

    def _pandas(self, batches: list[Any], columns: list[str]) -> pandas.DataFrame:

        schema = pa.schema([self._dataset.schema.field(name) for name in columns])
        frame: pandas.DataFrame = pa.Table.from_batches(batches, schema).unify_dictionaries().to_pandas()
        if CLASS in frame:
            frame[CLASS] = frame[CLASS].cat.set_categories(self.classes)
        return frame


def write_cells_csv(source: Path, target: Path, mpp: float) -> None:
    """All cells as gzipped CSV, one row per cell: id, class, score, centroid in level-0 px and in µm, measurements.

    ``mpp``: µm per level-0 px. Holds a few thousand cells in memory.
    """
    from pyarrow import csv

    cells = CellFile(source)
    centroid = ["centroid_x", "centroid_y"]
    columns = ["id", CLASS, "score", *centroid, *cells.measurements]
    names = [*columns[:5], *(f"{name}_um" for name in centroid), *cells.measurements]
    options = csv.WriteOptions(quoting_style="needed")
    writer = None
    with pa.output_stream(target, compression="gzip") as stream:
        for batch in cells.batches(columns):
            rows = [batch.column(name) for name in columns]
            rows[1] = rows[1].cast(pa.string())
            rows[5:5] = [pc.multiply(batch.column(name), mpp) for name in centroid]
            table = pa.table(rows, names=names)
            writer = writer or csv.CSVWriter(stream, table.schema, write_options=options)
            writer.write(table)
        if writer is None:
            stream.write((",".join(names) + "\n").encode())
        else:
            writer.close()
