"""The results of a run in Python: ``wsiproc.open("OUT/slide")``. Nothing is read before it is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.numbers import CellCounts, SlideNumbers, mm2_text
from wsiproc.core.palette import RGB
from wsiproc.core.paths import absolute
from wsiproc.core.types import Float64Array, UInt8Array
from wsiproc.errors import OutputError, SettingsError, SlideError
from wsiproc.results.folder import find_outputs
from wsiproc.results.record import RunRecord

if TYPE_CHECKING:
    import geopandas
    import pandas
    from anndata import AnnData

    from wsiproc.io.cells.dataframe import Bounds, CellFile
    from wsiproc.io.ome_zarr.pyramids import Pyramid
    from wsiproc.io.slides.open import Slide, SlideSource

LABELS = ("cells", "classes", "tissue")
_LINE_PX = 2  # width of an outline in a crop


class Result:
    """What a run found in one slide; made by ``wsiproc.open``.

    Coordinates of cells are level-0 px of the slide, x to the right and y down, origin at the top-left corner of the
    top-left pixel.
    """

    def __init__(self, folder: Path, record: RunRecord, corrected: bool = False) -> None:
        self.folder = folder
        self._corrected = corrected
        self.record = record
        """What ``run.json`` says, typed."""
        self.table_path = folder / ("cells.corrected.parquet" if corrected else "cells.parquet")
        if corrected and not self.table_path.exists():
            raise OutputError(
                f"{self.table_path}: there are no corrected cells; `wsiproc import CORRECTED.geojson {folder}` brings "
                "them back from QuPath"
            )

    def __repr__(self) -> str:
        return f"Result({self.name!r}, {len(self):,} cells, {mm2_text(self.record.tissue_mm2)} mm² of tissue)"

    def __len__(self) -> int:
        """Number of cells."""
        return len(self._table)

    @cached_property
    def run(self) -> dict[str, Any]:
        """What ``run.json`` says, as JSON has it."""
        return self.record.as_dict()

    @property
    def name(self) -> str:
        """Name of the slide."""
        return self.record.slide.name

    @property
    def mpp(self) -> float:
        """µm per level-0 px of the slide."""
        return float(self.record.slide.mpp)

    @property
    def classes(self) -> dict[str, RGB]:
        """Colour (red, green, blue) of each class by name."""
        return dict(self.record.classes)

    @property
    def measurements(self) -> list[str]:
        """Names of the measurement columns; units are in the names."""
        return self._table.measurements

    @property
    def numbers(self) -> SlideNumbers:
        """Cells, tissue, density, positive index and H-score, as the report has them; of corrected cells, theirs."""
        if not self._corrected:
            return self.record.slide_numbers()
        table = self.table(["centroid_y", "centroid_x", "class"])
        kinds, codes = list(table["class"].cat.categories), table["class"].cat.codes.to_numpy()
        tissue = np.asarray(self.labels["tissue"].levels[0]) > 0
        counts = CellCounts.empty(tissue, self.record.slide.shape, len(kinds))
        counts.add(table[["centroid_y", "centroid_x"]].to_numpy(), codes)
        return self.record.slide_numbers(counts.of_classes(kinds))

    def cells(
        self,
        columns: Sequence[str] | None = None,
        bbox: Bounds | None = None,
        classes: Collection[str] | None = None,
    ) -> geopandas.GeoDataFrame:
        """A row a cell with its outline, of all cells or of those that are asked for.

        ``columns``: names in addition to ``geometry``; ``bbox``: (xmin, ymin, xmax, ymax) in level-0 px; ``classes``:
        names. Raises ``SettingsError`` for columns or classes that are not there.
        """
        from wsiproc.io.cells.dataframe import Selection

        return self._table.geoframe(Selection(columns, bbox, classes))

    def table(
        self,
        columns: Sequence[str] | None = None,
        bbox: Bounds | None = None,
        classes: Collection[str] | None = None,
    ) -> pandas.DataFrame:
        """The same without outlines, several times faster."""
        from wsiproc.io.cells.dataframe import Selection

        return self._table.frame(Selection(columns, bbox, classes))

    def anndata(self, *, overview_px: int = 2000) -> AnnData:
        """Cells × measurements (float32); ``obs``: class, score, id.

        ``obsm["spatial"]``: centroids (x, y) in level-0 px; ``uns["class_colors"]``: colours of the
        classes; ``uns["wsiproc"]``: slide, mpp, model and counts; ``uns["spatial"]``: under the slide's name the
        overview, its longer side at most ``overview_px`` (0: none), with the scale factors by which
        ``squidpy.pl.spatial_scatter`` draws the cells on it.
        """
        from wsiproc.results.scverse import cells_anndata, image_metadata_of

        cells = self.table()
        found = cells_anndata(cells, self.measurements, self.classes, self._facts())
        if overview_px:
            shape = self.record.slide.shape
            image = self.thumbnail(overview_px)
            found.uns["spatial"] = {self.name: image_metadata_of(image, shape, self.mpp, cells["area_um2"])}
        return found

    def spatialdata(self, *, full_resolution: bool = False, slide: Path | str | None = None) -> Any:
        """A ``SpatialData`` with the overview, the labels, the outlines and the table of ``anndata``.

        ``full_resolution``: also the image ``slide``, which is linked: dask arrays that read the slide's file when they
        are computed. Writing the SpatialData copies it. ``slide``: where the file is now, if it was moved.

        Coordinate systems: ``global`` (level-0 px) and ``micrometers``. Raises ``MissingExtraError`` without the extra
        ``wsiproc[spatialdata]``, ``SlideError`` where the slide is gone or another one.
        """
        from wsiproc.results.scverse import cells_spatialdata

        names = {"cells": "cell_labels", "classes": "class_labels", "tissue": "tissue_labels"}
        labels = {names[name]: pyramid for name, pyramid in self.labels.items()}
        images = {"image": self.image} | ({"slide": self.pixels(slide)} if full_resolution else {})
        return cells_spatialdata(self.cells(["id"]), self.anndata(overview_px=0), images, labels, self.mpp)

    @cached_property
    def image(self) -> Pyramid:
        """The overview: (3, h, w) uint8 dask arrays, ``.levels[0]`` the finest; ``.mpp`` of each level."""
        return self._pyramid("slide.ome.zarr")

    def pixels(self, slide: Path | str | None = None) -> Pyramid:
        """The slide at full resolution: (3, h, w) uint8 dask arrays that read its file when they are computed.

        ``slide``: where the file is now, if it was moved. Raises ``SlideError`` where it is gone or another one.
        """
        from wsiproc.io.slides.arrays import slide_pyramid

        return slide_pyramid(self.source(slide))

    def source(self, slide: Path | str | None = None) -> SlideSource:
        """How the slide is opened, as plain values for other processes.

        ``slide``: where the file is now, if it was moved. Raises ``SlideError`` where it is gone or another one.
        """
        self._open_slide(slide).close()
        return self._source(slide)

    @cached_property
    def maps(self) -> Pyramid:
        """The model's stitched maps: (c, h, w) uint8 dask arrays; ``.channels`` names them."""
        return self._pyramid("maps.ome.zarr")

    @cached_property
    def labels(self) -> Mapping[str, Pyramid]:
        """``cells`` (ids), ``classes`` (``.values`` by name) and ``tissue``: (h, w) dask arrays, 0 where nothing is."""
        return {name: self._pyramid(f"slide.ome.zarr/labels/{name}") for name in LABELS}

    def thumbnail(self, max_px: int = 1024) -> UInt8Array:
        """The overview as (h, w, 3) uint8, its longer side at most ``max_px``; needs no slide."""
        from PIL import Image

        if max_px < 1:
            raise SettingsError(f"max_px is {max_px}; at least 1 is needed")
        fine_enough = [level for level in self.image.levels if max(level.shape) >= max_px] or self.image.levels[:1]
        image = Image.fromarray(np.ascontiguousarray(fine_enough[-1].compute().transpose(1, 2, 0)))
        image.thumbnail((max_px, max_px))
        return np.asarray(image)

    def crop(
        self,
        cell_id: int,
        size_um: float = 48.0,
        *,
        mpp: float | None = None,
        outline: bool = False,
        slide: Path | str | None = None,
    ) -> UInt8Array:
        """The slide's pixels around a cell: (h, w, 3) uint8, ``size_um`` wide and high, white beyond the slide's edge.

        ``mpp``: µm per px of the image, the model's if it is not given; ``outline``: draw the cell's in its class's
        colour; ``slide``: where the file is now, if it was moved. Raises ``SettingsError`` for an id or a size that
        cannot be, and ``SlideError`` where the slide is gone, is another one, or cannot be read.
        """
        from wsiproc.io.cells.dataframe import Selection

        grid_mpp = float(self.record.model.mpp) if mpp is None else mpp
        if not (grid_mpp > 0 and size_um >= grid_mpp):
            raise SettingsError(
                f"size_um is {size_um} and mpp {grid_mpp}; both must be more than 0, size_um the larger"
            )
        found = self._table.geoframe(Selection(ids=[cell_id]))
        if not len(found):
            raise SettingsError(f"there is no cell {cell_id} in {self.table_path}; the column id has their numbers")
        cell = found.iloc[0]
        with self._open_slide(slide) as opened:
            scale = np.divide(opened.shape, grid_shape(opened.shape, opened.mpp, grid_mpp))
            side = round(size_um / grid_mpp)
            y, x = (int(v) for v in np.rint([cell.centroid_y, cell.centroid_x] / scale - side / 2))
            pixels = opened.read(Box(y, x, side, side), grid_mpp)
        if outline:
            corners = np.asarray(cell.geometry.exterior.coords) / scale[::-1] - (x, y)
            _draw_outline(pixels, corners, self.classes[cell["class"]])
        return pixels

    def _source(self, path: Path | str | None) -> SlideSource:
        """How the slide is opened."""
        from wsiproc.io.slides.open import SlideSource

        settings = self.record.settings
        return SlideSource(absolute(path or self.record.slide.path), settings.mpp, settings.reader)

    def _open_slide(self, path: Path | str | None) -> Slide:
        """The slide of this result; ``SlideError`` where it is gone or another one."""
        source = self._source(path)
        place = source.path
        if not place.exists():
            raise SlideError(
                f"{place}: the slide of {self.folder} is not there (any more); slide=PATH says where it is now"
            )
        slide = source.open()
        if slide.fingerprint() != self.record.slide.fingerprint:
            slide.close()
            raise SlideError(f"{place}: another slide than the one that {self.folder} was made from; pass slide=PATH")
        return slide

    @cached_property
    def _table(self) -> CellFile:
        from wsiproc.io.cells.dataframe import CellFile

        return CellFile(self.table_path)

    def _pyramid(self, name: str) -> Pyramid:
        from wsiproc.io.ome_zarr.pyramids import read_pyramid

        return read_pyramid(self.folder / name)

    def _facts(self) -> dict[str, Any]:
        """What goes along with the cells into other formats: plain numbers and text."""
        run = self.record
        return {
            "slide": self.name,
            "slide_path": os.fsencode(run.slide.path).decode("utf-8", "backslashreplace"),
            "slide_fingerprint": run.slide.fingerprint,
            "slide_shape": np.asarray(run.slide.shape),
            "mpp": self.mpp,
            "tissue_mm2": run.tissue_mm2,
            "model": run.model.name,
            "key": run.key,
            "version": run.wsiproc,
        }


def open_result(folder: str | PathLike[str], corrected: bool = False) -> Result:
    """The result in ``folder``, or the only one right inside it; ``OutputError`` where there is none, or no one."""
    found = find_outputs(absolute(folder))
    if len(found) > 1:
        raise OutputError(
            f"{folder}: a folder of {len(found)} results, not a result; open one, as {found[0]}, or all of them: "
            "wsiproc.open_all"
        )
    return Result(found[0], RunRecord.read(found[0]), corrected)


class Results(dict[str, Result]):
    """The results of several slides by the names of their folders."""

    def anndata(self, *, overview_px: int = 2000) -> AnnData:
        """All cells in one table, as ``Result.anndata`` has those of a slide.

        ``obs["slide"]``: name of the slide, with which the cell's name begins too; ``uns["spatial"]`` and
        ``uns["wsiproc"]``: of each slide by its name. What a slide does not measure is NaN for its cells.
        """
        from wsiproc.results.scverse import join_slides

        return join_slides({name: result.anndata(overview_px=overview_px) for name, result in self.items()})


def open_results(folder: str | PathLike[str]) -> Results:
    """The finished results in ``folder`` by the names of their folders; unfinished ones are left out with a warning.

    Raises ``OutputError`` where there is nothing finished.
    """
    outputs = find_outputs(absolute(folder))
    done = [output for output in outputs if (output / "run.json").exists()]
    left_out = [output.name for output in outputs if output not in done]
    if left_out and done:
        warnings.warn(f"{folder}: left out, since unfinished: {', '.join(left_out)}", stacklevel=3)
    return Results({output.resolve().name: Result(output, RunRecord.read(output)) for output in done or outputs[:1]})


def _draw_outline(pixels: UInt8Array, corners: Float64Array, colour: RGB) -> None:
    """Draw a closed line through ``corners`` (V, 2), (x, y) in px from the image's corner, into (h, w, 3) pixels."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    # A pixel's centre has whole coordinates there.
    points = [(x - 0.5, y - 0.5) for x, y in corners.tolist()]
    ImageDraw.Draw(image).line(points, fill=colour, width=_LINE_PX, joint="curve")
    pixels[...] = np.asarray(image)
