"""What a run found, in the formats of other tools: one file or folder per format, each written atomically."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from wsiproc.core.numbers import area_numbers, count_inside
from wsiproc.core.paths import make_folder
from wsiproc.core.types import OnProgress
from wsiproc.errors import SettingsError
from wsiproc.io.atomic import atomic_file, atomic_folder
from wsiproc.io.cells.dataframe import CellFile, write_cells_csv
from wsiproc.io.cells.parquet import CellReader
from wsiproc.io.geojson.areas import Area, as_shape, label_pieces, piece_shapes, write_areas
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, outlined_features
from wsiproc.io.ome_zarr.version_04 import write_as_04
from wsiproc.io.slides.list import require_outside_slides
from wsiproc.results.export.full_image import write_full_image
from wsiproc.results.result import Result

FOLDER = "export"
_TISSUE, _FAILED = (86, 180, 233), (213, 94, 0)


def _ignore(done: int, total: int) -> None:
    """A listener that wants nothing."""


@dataclass(frozen=True)
class Format:
    """A format: what it holds and for whom, and what writes it into a folder and names each path once it is there."""

    what: str
    write: Callable[[Result, Path, OnProgress], Iterator[Path]]


def export(result: Result, formats: Sequence[str], folder: Path, on_progress: OnProgress = _ignore) -> Iterator[Path]:
    """Write a result to ``folder`` in these formats, by their names in ``FORMATS``; each path once it is there.

    What is there already is replaced when the new one is whole. Raises ``SettingsError`` for a format that is unknown,
    ``MissingExtraError`` where a format's library is not installed, and ``SlideError`` where a format needs the slide
    and it is gone or another one, ``OutputError`` where the folder cannot be made or lies in a slide.
    """
    for name in formats:
        if name not in FORMATS:
            raise SettingsError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    require_outside_slides(folder, [Path(result.record.slide.path)])
    make_folder(folder)
    for name in dict.fromkeys(formats):
        yield from FORMATS[name].write(result, folder, on_progress)


def _csv(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    path = folder / "cells.csv.gz"
    with atomic_file(path) as temporary:
        write_cells_csv(result.table_path, temporary, result.mpp)
    yield path


def _h5ad(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    import h5py
    from anndata.io import write_elem

    path = folder / "cells.h5ad"
    cells = result.anndata()
    cells.strings_to_categoricals()  # as its own write_h5ad does
    # In memory, which holds the table anyway: HDF5 ends the process where it cannot write all of a file.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write_elem(file, "/", cells, dataset_kwargs={"compression": "gzip", "compression_opts": 1})
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    yield path


def _spatialdata(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    path = folder / "spatialdata.zarr"
    with atomic_folder(path) as temporary, warnings.catch_warnings():
        for notice in ("zarr v3 autosharding", "pkg_resources is deprecated"):  # which no user can do anything about
            warnings.filterwarnings("ignore", notice)
        result.spatialdata().write(temporary)
    yield path


def _ome_zarr(result: Result, folder: Path, on_progress: OnProgress) -> Iterator[Path]:
    path = folder / "slide.full.ome.zarr"
    write_full_image(result.source(), result.folder / "slide.ome.zarr/labels", path, on_progress=on_progress)
    yield path


def _ome_zarr_04(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    for name in ("slide", "maps"):
        path = folder / f"{name}.v04.ome.zarr"
        with atomic_folder(path) as temporary:
            write_as_04(result.folder / f"{name}.ome.zarr", temporary)
        yield path


def _annotation_store(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    from wsiproc.results.export.annotation_store import write_annotation_store

    path = folder / "cells.db"
    cells = CellFile(result.table_path)
    write_annotation_store(cells.batches(cells.columns), path)
    yield path


def _regions(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    path = folder / "regions.geojson"
    write_areas(path, [*_tissue(result), *_failed(result)])
    yield path


def _classes(result: Result, folder: Path, _: OnProgress) -> Iterator[Path]:
    """A file a class."""
    facts = (result.record.slide.fingerprint, list(result.classes), list(result.classes.values()))
    reader = CellReader(result.table_path)
    for code, name in enumerate(reader.classes):
        path = folder / f"cells-{_file_name(name)}.geojson.gz"
        with GeoJsonWriter(path) as writer:
            for group in range(len(reader)):
                ids, cells = reader.read(group)
                mine = np.flatnonzero(cells.classes == code)
                some = cells.take(mine)
                text, left_out = outlined_features(some, ids[mine], Outlines.of(some.rings, reader.scale), *facts)
                writer.append(Piece.of(text, left_out))
        yield path


def _file_name(name: str) -> str:
    """A class's name as a part of a file name on every system."""
    return re.sub(r"[^\w.-]+", "_", name) or "_"


# --- areas -----------------------------------------------------------------------------------------------------------


def _tissue(result: Result) -> Iterator[Area]:
    """Each piece of tissue with the cells in it, the largest first."""
    pieces = label_pieces(np.asarray(result.labels["tissue"].levels[0]) > 0)
    shape = result.record.slide.shape
    table = result.table(["centroid_y", "centroid_x", "class"])
    kinds, codes = list(table["class"].cat.categories), table["class"].cat.codes.to_numpy()
    cells = count_inside(pieces, shape, table[["centroid_y", "centroid_x"]].to_numpy(), codes, len(kinds))
    for place, (piece, outline) in enumerate(piece_shapes(pieces, shape, as_shape(result.record.roi)), 1):
        counts = dict(zip(kinds, cells[piece].tolist(), strict=True))
        found = area_numbers(counts, outline.area * result.mpp**2 / 1e6, result.record.has_index)
        yield Area(outline, f"Tissue {place}", "Tissue", _TISSUE, found.measurements())


def _failed(result: Result) -> Iterator[Area]:
    """Regions that could not be read."""
    sy, sx = result.record.grid.scale
    for region in result.record.regions.failed:
        y, x, h, w = region.box
        outline = shapely.box(x * sx, y * sy, (x + w) * sx, (y + h) * sy)
        yield Area(outline, f"Failed {region.key}", "Failed", _FAILED)


FORMATS = {
    "csv": Format("cells for any spreadsheet or R: places in px and µm, measurements", _csv),
    "h5ad": Format("cells as AnnData, for scanpy and squidpy", _h5ad),
    "spatialdata": Format("overview, labels, outlines and cells as SpatialData", _spatialdata),
    "ome-zarr": Format("the slide at full resolution with its labels, in one OME-Zarr", _ome_zarr),
    "ome-zarr-0.4": Format("images for readers without zarr v3: QuPath, TIAToolbox", _ome_zarr_04),
    "regions": Format("tissue with its cells counted, and failed regions, as QuPath annotations", _regions),
    "annotation-store": Format("cells as TIAToolbox's SQLiteStore, for TIAViz", _annotation_store),
    "classes": Format("a QuPath file of cells for each class", _classes),
}
"""Formats by name."""
