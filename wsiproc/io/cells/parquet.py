"""Cells on disk: part files of single regions, and the final GeoParquet table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

from wsiproc.array.nuclei.outline import as_polygons
from wsiproc.core.cells import CellTable, DrawnCells, Rings, touching
from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB
from wsiproc.core.types import (
    AnyArray,
    Float32Array,
    Float64Array,
    FloatArray,
    Int32Array,
    IntArray,
    IntpArray,
    ObjectArray,
    UInt8Array,
    UInt32Array,
)
from wsiproc.errors import OutputError
from wsiproc.io.atomic import AtomicFileWriter, atomic_file

_WRITTEN: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["class"]}


def write_part(path: Path, cells: CellTable) -> None:
    """Write one region's cells (grid frame) atomically."""
    columns: dict[str, Any] = {
        "class": _column(cells.classes),
        "score": _column(cells.scores),
        "centroid": _rows(cells.centroids),
        "box": _rows(cells.boxes),
        **{f"m:{name}": _column(values) for name, values in cells.measurements.items()},
        "ring": pa.ListArray.from_arrays(
            _column((2 * cells.rings.offsets).astype(np.int32)), _column(cells.rings.vertices.ravel())
        ),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))
    # Like Arrow's ``write_feather``, which would import pandas first.
    with atomic_file(path) as temporary, pa.ipc.new_file(temporary, batch.schema, options=options) as writer:
        writer.write_batch(batch)


def read_part(path: Path) -> CellTable:
    """Cells of one region, as ``write_part`` wrote them."""
    table = pyarrow.feather.read_table(path, memory_map=False)
    return CellTable(
        numbers(table["class"]),
        numbers(table["score"]),
        numbers(table["centroid"], 2),
        _boxes(table),
        {name[2:]: numbers(table[name]) for name in table.column_names if name.startswith("m:")},
        _rings(table),
    )


def read_part_outlines(path: Path, near: Box) -> tuple[IntpArray, DrawnCells]:
    """Cells of a part that may touch a box (grid px): their rows (N,), classes and outlines.

    Little is read of a part next to the box, which mostly has none.
    """
    rows = touching(_boxes(pyarrow.feather.read_table(path, ["box"], memory_map=False)), near)
    if not len(rows):
        return rows, DrawnCells(np.zeros(0, np.uint8), np.zeros((0, 4), np.int32), Rings.concat([]))
    table = pyarrow.feather.read_table(path, ["class", "box", "ring"], memory_map=False)
    return rows, DrawnCells(numbers(table["class"]), _boxes(table), _rings(table)).take(rows)


def _boxes(table: Any) -> Int32Array:
    return numbers(table["box"], 4)


def _rings(table: Any) -> Rings:
    ring = table["ring"].combine_chunks()
    offsets = np.concatenate([[0], np.cumsum(np.from_dlpack(ring.value_lengths()) // 2)]).astype(np.int64)
    vertices: Any = np.from_dlpack(ring.flatten())
    return Rings(offsets, vertices.reshape(-1, 2))


def _rows(values: AnyArray) -> Any:
    """An (N, k) array as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(_column(values.ravel()), values.shape[1])


def _column(values: AnyArray) -> Any:
    """Numbers (N,) as an Arrow array; Arrow's own ``array`` would import pandas first."""
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, data])


def _texts(texts: Sequence[str]) -> Any:
    """Strings as an Arrow array, like ``_column``."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))])


class CellWriter(AtomicFileWriter):
    """``cells.parquet`` in row groups, one per block of cells; GeoPandas reads it directly (GeoParquet 1.1).

    ``classes``: colours by name, in the order of their indexes. Coordinates become level-0 px, ids count from 1. The
    file is written atomically.
    """

    def __init__(
        self, path: Path, classes: Mapping[str, RGB], measurements: Sequence[str], scale: tuple[float, float]
    ) -> None:
        super().__init__(path)
        self._classes, self._scale, self._next_id = list(classes), scale, 1
        self._bounds: list[float] | None = None
        self._schema = self._columns_of(classes, measurements, scale)
        self._writer = pyarrow.parquet.ParquetWriter(self._temporary, self._schema, **_WRITTEN)

    def _columns_of(self, classes: Mapping[str, RGB], measurements: Sequence[str], scale: tuple[float, float]) -> Any:
        """The schema of the file."""
        return _schema(classes, measurements, scale)

    def write(self, cells: CellTable) -> int:
        """Append a block as one row group; returns the id of its first cell."""
        first = self._next_id
        self._append(self._columns(cells, np.arange(first, first + len(cells))))
        self._next_id += len(cells)
        return first

    def _append(self, columns: list[Any]) -> None:
        """Append columns as one row group."""
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(table)))

    def _columns(self, cells: CellTable, ids: IntArray) -> list[Any]:
        sy, sx = self._scale
        centres, boxes = cells.centroids * self._scale, cells.boxes
        bbox = [boxes[:, 1] * sx, boxes[:, 0] * sy, (boxes[:, 1] + boxes[:, 3]) * sx, (boxes[:, 0] + boxes[:, 2]) * sy]
        self._grow(bbox)
        kind = pa.DictionaryArray.from_arrays(_column(cells.classes.astype(np.int8)), _texts(self._classes))
        return [
            _column(ids.astype(np.uint32)),
            kind,
            _column(cells.scores),
            _column(centres[:, 1]),
            _column(centres[:, 0]),
            pa.StructArray.from_arrays([_column(side) for side in bbox], fields=list(self._schema.field("bbox").type)),
            *(_column(values) for values in cells.measurements.values()),
            _wkb(cells.rings, self._scale),
        ]

    def _grow(self, bbox: list[FloatArray]) -> None:
        """Extend the bounds of all cells so far."""
        if len(bbox[0]) == 0:
            return
        here = [float(bbox[0].min()), float(bbox[1].min()), float(bbox[2].max()), float(bbox[3].max())]
        old = self._bounds or here
        self._bounds = [*map(min, old[:2], here[:2]), *map(max, old[2:], here[2:])]

    def finish(self) -> None:
        """Write the GeoParquet metadata and close the file."""
        self._writer.add_key_value_metadata({"geo": json.dumps(_geo_metadata(self._bounds))})
        self._writer.close()

    def abandon(self) -> None:
        """Close the incomplete file."""
        self._writer.close()


def write_classes(
    path: Path,
    target: Path,
    classes: Mapping[str, RGB],
    classify: Callable[[Mapping[str, Float32Array]], UInt8Array],
) -> None:
    """Copy ``path`` to ``target`` with new ``classes``, exactly as ``CellWriter`` would have written it.

    ``classify`` returns the class of each cell from the measurements of a row group.
    """
    file = pyarrow.parquet.ParquetFile(path)
    metadata = table_metadata(file)
    schema = _schema(classes, metadata["measurements"], (metadata["scale"][0], metadata["scale"][1]))
    position = schema.get_field_index("class")
    with (
        atomic_file(target) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema, **_WRITTEN) as writer,
    ):
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group)
            codes = classify({name: numbers(table[name]) for name in metadata["measurements"]})
            kind = pa.DictionaryArray.from_arrays(_column(codes.astype(np.int8)), _texts(list(classes)))
            columns = [kind if i == position else column.combine_chunks() for i, column in enumerate(table.columns)]
            table = pa.Table.from_arrays(columns, schema=schema)
            writer.write_table(table, row_group_size=max(1, len(table)))
        writer.add_key_value_metadata({"geo": file.metadata.metadata[b"geo"].decode()})


CORRECTED = ("unchanged", "class", "outline", "new", "right")


class CorrectedWriter(CellWriter):
    """``cells.corrected.parquet``: as ``CellWriter`` writes it, with given ids and the column ``corrected``."""

    def _columns_of(self, classes: Mapping[str, RGB], measurements: Sequence[str], scale: tuple[float, float]) -> Any:
        schema = super()._columns_of(classes, measurements, scale)
        return schema.append(pa.field("corrected", pa.dictionary(pa.int8(), pa.string()), nullable=False))

    def write_corrected(self, cells: CellTable, ids: IntArray, corrected: IntArray) -> None:
        """Append cells with their ids (N,) as one row group; ``corrected`` (N,): index into ``CORRECTED``."""
        what = pa.DictionaryArray.from_arrays(_column(corrected.astype(np.int8)), _texts(CORRECTED))
        self._append([*self._columns(cells, ids), what])


def slide_polygons(rings: Rings, scale: tuple[float, float]) -> ObjectArray:
    """Outlines as shapely polygons in level-0 px, (x, y): (N,)."""
    return as_polygons(rings.vertices[:, ::-1] * np.array(scale[::-1]), rings.offsets)


def table_metadata(file: Any) -> dict[str, Any]:
    """What ``cells.parquet`` says about itself besides GeoParquet: scale, classes, colours, measurements."""
    metadata: dict[str, Any] = json.loads(file.schema_arrow.metadata[b"wsiproc"])
    return metadata


def read_cells(path: Path, row_group: int | None = None) -> tuple[UInt32Array, CellTable]:
    """Ids (N,) and cells (grid frame) of ``cells.parquet``: all, or one row group."""
    file = pyarrow.parquet.ParquetFile(path)
    return _cells(file.read() if row_group is None else file.read_row_group(row_group), table_metadata(file))


class CellReader:
    """``cells.parquet``, one row group at a time; only one is held in memory.

    ``classes``: colours by name; ``scale`` (sy, sx): level-0 px per grid px; ``measurements``: names of the columns;
    ``counts``: cells of each row group. Raises ``OutputError`` if the file is not a table of cells.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
            self._metadata = table_metadata(self._file)
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise OutputError(f"{path}: not a table of cells written by wsiproc: {error}") from error
        self.classes: dict[str, RGB] = {
            name: (colour[0], colour[1], colour[2])
            for name, colour in zip(self._metadata["classes"], self._metadata["colours"], strict=True)
        }
        self.scale: tuple[float, float] = (self._metadata["scale"][0], self._metadata["scale"][1])
        self.measurements: list[str] = self._metadata["measurements"]
        metadata = self._file.metadata
        self.counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._held: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self.counts)

    def centres_and_areas(self, group: int) -> tuple[Float64Array, Float32Array]:
        """Centres (N, 2), (y, x) in level-0 px, and areas (N,) in µm², of a row group; nothing else is read."""
        table = self._file.read_row_group(group, columns=["centroid_y", "centroid_x", "area_um2"])
        return _centres(table), numbers(table["area_um2"])

    def read(self, group: int, box: Box | None = None) -> tuple[UInt32Array, CellTable]:
        """Ids (N,) and cells (grid frame) of a row group: all, or those centred in ``box`` (level-0 px)."""
        if self._held[0] != group:
            self._held = (-1, None)  # release the previous one first
            self._held = (group, self._file.read_row_group(group))
        table = self._held[1]
        if box is not None:
            y, x = _centres(table).T
            table = table.filter(pa.array((y >= box.y) & (y < box.y1) & (x >= box.x) & (x < box.x1)))
        return _cells(table, self._metadata)


def _centres(table: Any) -> Float64Array:
    """(N, 2), (y, x) in level-0 px."""
    return np.stack([numbers(table["centroid_y"]), numbers(table["centroid_x"])], axis=1)


def _cells(table: Any, metadata: Any) -> tuple[UInt32Array, CellTable]:
    """Ids and cells (grid frame) of rows of the table."""
    scale = np.array(metadata["scale"])
    boxes, rings = _rings_from_wkb(table["geometry"], scale)
    cells = CellTable(
        class_codes(table, metadata["classes"]),
        numbers(table["score"]),
        _centres(table) / scale,
        boxes,
        {name: numbers(table[name]) for name in metadata["measurements"]},
        rings,
    )
    return numbers(table["id"]), cells


def read_outlines(path: Path, row_group: int) -> DrawnCells:
    """Classes and outlines of the cells of one row group (grid frame)."""
    file = pyarrow.parquet.ParquetFile(path)
    metadata = table_metadata(file)
    table = file.read_row_group(row_group, columns=["class", "geometry"])
    boxes, rings = _rings_from_wkb(table["geometry"], np.array(metadata["scale"]))
    return DrawnCells(class_codes(table, metadata["classes"]), boxes, rings)


def read_row(path: Path, row_group: int, row: int) -> tuple[dict[str, Any], Rings]:
    """One row of a row group: its columns as plain values (level-0 px), and its outline (grid frame)."""
    file = pyarrow.parquet.ParquetFile(path)
    columns = [name for name in file.schema_arrow.names if name != "bbox"]
    table = file.read_row_group(row_group, columns=columns).slice(row, 1)
    _, rings = _rings_from_wkb(table["geometry"], np.array(table_metadata(file)["scale"]))
    values: dict[str, Any] = table.drop_columns(["geometry"]).to_pylist()[0]
    return values, rings


def class_codes(table: Any, names: Sequence[str]) -> UInt8Array:
    """Classes of a table's rows as indexes of ``names``, whatever order its dictionary has."""
    kinds = table["class"].combine_chunks().cast(pa.dictionary(pa.int8(), pa.string()))
    codes = np.array([list(names).index(name) for name in kinds.dictionary.to_pylist()], np.uint8)
    chosen: UInt8Array = codes[np.from_dlpack(kinds.indices)]
    return chosen


def numbers(column: Any, each: int | None = None) -> npt.NDArray[Any]:
    """The values of a column without nulls: (N,), or (N, ``each``) for a column of lists of that length.

    Arrow's own ``to_numpy`` would import pandas first.
    """
    whole = column.combine_chunks()
    return np.from_dlpack(whole) if each is None else np.from_dlpack(whole.flatten()).reshape(-1, each)


_WKB_HEAD = 13  # bytes: order, type, number of rings, number of points; then x and y of each point


def _wkb(rings: Rings, scale: tuple[float, float]) -> Any:
    """Outlines as an Arrow array of WKB polygons in level-0 px, (x, y); vectorised, without an object per cell."""
    corners = np.diff(rings.offsets)
    starts = np.concatenate([[0], np.cumsum(_WKB_HEAD + 16 * (corners + 1))])
    data = np.zeros(starts[-1] + 7, np.uint8)
    head = np.zeros((len(corners), _WKB_HEAD), np.uint8)
    head[:, [0, 1, 5]] = 1, 3, 1  # little-endian, a polygon, of one ring
    head[:, 9:] = (corners + 1).astype("<u4")[:, None].view(np.uint8)
    data[starts[:-1, None] + np.arange(_WKB_HEAD)] = head
    # Numbers may begin at any byte, so this views the bytes as overlapping numbers, one starting at each byte.
    numbers = np.ndarray(len(data) - 7, "<f8", data, strides=(1,))
    heads = np.repeat(starts[:-1] + _WKB_HEAD - 16 * rings.offsets[:-1], corners) + 16 * np.arange(len(rings.vertices))
    for axis, first in ((1, 0), (0, 8)):
        along = rings.vertices[:, axis] * scale[axis]
        numbers[heads + first] = along
        numbers[starts[1:] - 16 + first] = along[rings.offsets[:-1]]
    ends = pa.py_buffer(starts.astype(np.int32))
    return pa.Array.from_buffers(pa.binary(), len(corners), [None, ends, pa.py_buffer(data)])


def _rings_from_wkb(column: Any, scale: Float64Array) -> tuple[Int32Array, Rings]:
    """Boxes (N, 4) and rings in grid px; pixel corners are integers there, so rounding recovers them exactly.

    Vectorised, without an object per cell: ``CellWriter`` writes polygons of one ring in little-endian order.
    """
    array = column.combine_chunks()
    if not len(array):
        return np.zeros((0, 4), np.int32), Rings(np.zeros(1, np.int64), np.zeros((0, 2), np.int32))
    starts = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    corners = (np.diff(starts) - _WKB_HEAD) // 16 - 1  # the first one is repeated at the end
    offsets = np.concatenate([[0], np.cumsum(corners)])
    # Numbers may begin at any byte, so this views the bytes as overlapping numbers, one starting at each byte.
    data = array.buffers()[2]
    numbers = np.ndarray(len(data) - 7, "<f8", data, strides=(1,))
    heads = np.repeat(starts[:-1] + _WKB_HEAD - 16 * offsets[:-1], corners) + 16 * np.arange(offsets[-1])
    points = np.empty((offsets[-1], 2), np.int32)
    boxes = np.empty((len(array), 4), np.int32)
    for axis, (at, size) in enumerate(zip((heads + 8, heads), scale, strict=True)):
        along = np.rint(numbers[at] / size).astype(np.int32)
        points[:, axis] = along
        boxes[:, axis] = np.minimum.reduceat(along, offsets[:-1])
        boxes[:, axis + 2] = np.maximum.reduceat(along, offsets[:-1]) - boxes[:, axis]
    return boxes, Rings(offsets, points)


def _schema(classes: Mapping[str, RGB], measurements: Sequence[str], scale: tuple[float, float]) -> Any:
    sides = pa.struct([pa.field(side, pa.float64(), nullable=False) for side in ("xmin", "ymin", "xmax", "ymax")])
    fields = [
        pa.field("id", pa.uint32(), nullable=False),
        pa.field("class", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("centroid_x", pa.float64(), nullable=False),
        pa.field("centroid_y", pa.float64(), nullable=False),
        pa.field("bbox", sides, nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in measurements),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
    metadata = {
        "scale": list(scale),
        "classes": list(classes),
        "colours": [list(colour) for colour in classes.values()],
        "measurements": list(measurements),
        "frame": "level-0 px of the slide, origin at the top-left corner of its top-left pixel, y down",
    }
    return pa.schema(fields, metadata={"wsiproc": json.dumps(metadata)})


def _geo_metadata(bounds: list[float] | None) -> dict[str, object]:
    """The ``geo`` key of GeoParquet 1.1; pixels have no coordinate reference system."""
    corner = {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,
        "edges": "planar",
        "covering": {"bbox": corner},
    }
    if bounds:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
