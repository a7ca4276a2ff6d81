"""Label images from every supported source of cells: images, arrays, GeoJSON, output folders of wsiproc."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import shapely
import tifffile
from PIL import Image

from wsiproc.array.nuclei.rasterise import rasterise
from wsiproc.core.types import Int64Array
from wsiproc.errors import OutputError, SettingsError
from wsiproc.results.folder import RUN
from wsiproc.results.record import RunRecord

_ENDINGS = re.compile(r"(\.labels)?(\.ome)?\.(png|tiff?|npy|geojson|json)(\.gz)?$", re.IGNORECASE)
_CELLS = "cells.parquet"


def is_labelled(path: Path) -> bool:
    """Whether :func:`load_labels` knows this kind of file or folder."""
    return (path / _CELLS).is_file() if path.is_dir() else _ENDINGS.search(path.name) is not None


def stem(path: Path) -> str:
    """The name that prediction and truth are paired by: ``a.labels.tif``, ``a.geojson.gz`` and ``a/`` give ``a``."""
    return path.name if path.is_dir() else _ENDINGS.sub("", path.name)


def load_labels(path: Path, shape: tuple[int, int] | None = None) -> Int64Array:
    """(h, w) int64 labels, 0 background, of a PNG, TIFF, npy, GeoJSON (.gz) or an output folder of wsiproc.

    ``shape`` (h, w) px: required for GeoJSON, which does not contain it; else checked. SettingsError for other file
    types, wrong shapes and images that are not labels, OutputError for an unfinished output folder.
    """
    name = path.name.lower()
    if path.is_dir():
        labels = _from_output(path)
    elif name.endswith((".geojson", ".json", ".geojson.gz", ".json.gz")):
        if shape is None:
            raise SettingsError(
                f"{path}: GeoJSON does not say how large the image is; evaluate it against a label image"
            )
        labels = rasterise(_geojson_polygons(path), shape)
    elif is_labelled(path):
        labels = _from_image(path)
    else:
        raise SettingsError(
            f"{path}: labels are read from PNG, TIFF, npy, GeoJSON or a finished output folder of wsiproc"
        )
    if shape is not None and labels.shape != tuple(shape):
        raise SettingsError(
            f"{path}: {labels.shape} px (h, w), but its counterpart has {tuple(shape)} px; both must be of one image"
        )
    return labels


def _from_image(path: Path) -> Int64Array:
    """Labels stored as pixels."""
    name = path.name.lower()
    if name.endswith(".npy"):
        image = np.load(path)
    elif name.endswith((".tif", ".tiff")):
        image = tifffile.imread(path)
    else:
        with Image.open(path) as opened:
            image = np.asarray(opened)
    if image.ndim != 2 or image.dtype.kind not in "iu":
        raise SettingsError(
            f"{path}: an array of shape {image.shape} and type {image.dtype} is no label image; "
            "it must have two axes and whole numbers, one a cell, 0 for background"
        )
    return np.asarray(image, np.int64)


def _geojson_polygons(path: Path) -> list[shapely.Geometry]:
    """Polygons of a feature collection, in the order of the file, (x, y)."""
    data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    content: Any = json.loads(data)
    features = content["features"] if isinstance(content, dict) else content
    shapes = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in features]
    return [shape for shape in shapes if shape.geom_type in {"Polygon", "MultiPolygon"}]


def _from_output(folder: Path) -> Int64Array:
    """Cells of an output folder of wsiproc in slide pixels; the value is the cell's id."""
    if not (folder / RUN).is_file() or not (folder / _CELLS).is_file():
        raise OutputError(f"{folder}: no run.json with {_CELLS} in it; finish the run (wsiproc run) and evaluate again")
    table = pyarrow.parquet.read_table(folder / _CELLS, columns=["id", "geometry"])
    polygons = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    return rasterise(polygons.tolist(), RunRecord.read(folder).slide.shape, table["id"].to_numpy())
