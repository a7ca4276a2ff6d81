"""Regions of interest that a user drew in QuPath (annotations exported as GeoJSON)."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import shapely

from wsiproc.errors import SettingsError

_log = logging.getLogger(__name__)

_HELP = "export annotations from QuPath (File > Export objects as GeoJSON)"
# What QuPath calls the objects that programs make; a user's own are annotations.
_NO_ANNOTATIONS = {"detection", "cell", "tile", "tma_core"}


def read_roi(path: Path, slide_shape: tuple[int, int]) -> shapely.MultiPolygon:
    """The union of the areas in a GeoJSON file, cut to the slide of ``slide_shape`` (h, w) level-0 px.

    The coordinates are (x, y) as in the file and as shapely has them: level-0 px, origin at the top-left corner of
    the top-left px. Takes a FeatureCollection, a Feature, a bare geometry or a list of them, plain or gzipped.
    Detections, cells, points and lines in the file are ignored; invalid polygons are repaired, and how many is
    logged. Raises ``SettingsError`` for a file that cannot be read or marks nothing on the slide.
    """
    document = _load(path)
    try:
        shapes = [shape for geometry in _geometries(document) for shape in _polygons(geometry)]
    except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
        raise SettingsError(f"{path}: not the GeoJSON of a region: {type(error).__name__}: {error}; {_HELP}") from error
    if not shapes:
        raise SettingsError(
            f"{path}: no polygon to take as region of interest (points, lines and detections do not count); {_HELP}"
        )
    repaired = sum(not shape.is_valid for shape in shapes)
    if repaired:
        _log.warning("%s: repaired %d of %d polygons that cross themselves", path, repaired, len(shapes))
    area = shapely.union_all([shapely.make_valid(shape) for shape in shapes])
    h, w = slide_shape
    inside = shapely.MultiPolygon(list(_polygons(area.intersection(shapely.box(0, 0, w, h)))))
    if inside.area == 0:
        x0, y0, x1, y1 = (round(each) for each in area.bounds) if not area.is_empty else (0, 0, 0, 0)
        raise SettingsError(
            f"{path}: the region (x {x0} … {x1}, y {y0} … {y1}) lies outside the slide of {w} × {h} px (x, y); it "
            "must be in level-0 pixels of this slide: is it of another slide, or in µm?"
        )
    return inside


def _load(path: Path) -> Any:
    """The parsed JSON, gzipped or not."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path}: the region of interest cannot be read: {reason}; {_HELP}") from error
    try:
        return orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"{path}: no valid JSON: {error}; {_HELP}") from error


def _geometries(document: Any) -> Iterator[shapely.Geometry]:
    """The geometries of a GeoJSON document that a user drew."""
    if isinstance(document, list):
        for part in document:
            yield from _geometries(part)
    elif document["type"] == "FeatureCollection":
        yield from _geometries(document["features"])
    elif document["type"] == "Feature":
        kind = (document.get("properties") or {}).get("objectType", "annotation")
        if document["geometry"] is not None and str(kind).lower() not in _NO_ANNOTATIONS:
            yield from _geometries(document["geometry"])
    else:
        yield shapely.from_geojson(orjson.dumps(document))


def _polygons(geometry: shapely.Geometry) -> Iterator[shapely.Polygon]:
    """The polygons in a geometry of any kind."""
    for part in shapely.get_parts(geometry):
        if isinstance(part, shapely.Polygon) and not part.is_empty:
            yield part
        elif hasattr(part, "geoms"):
            yield from _polygons(part)
