"""Regions of interest that a user drew in QuPath (annotations exported as GeoJSON)."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import shapely

from wsiproc.errors import SettingsError
from wsiproc.io.geojson.lenient_json import parse_json

_log = logging.getLogger(__name__)

_HELP = "export annotations from QuPath (File > Export objects as GeoJSON)"
# Object types that programs create in QuPath; a user draws annotations.
_NO_ANNOTATIONS = {"detection", "cell", "tile", "tma_core"}
_IGNORED = "Ignore*"
# Far beyond any slide, and far below the point where squared coordinates overflow.
_FARTHEST_PX = 1e8
_OUTSIDE_SHARE = 0.05
_SMALLEST_PX2 = 1.0
_MOST_BYTES = 512 << 20


def read_roi(path: Path, slide_shape: tuple[int, int], most_bytes: int = _MOST_BYTES) -> shapely.MultiPolygon:
    """The union of the areas in a GeoJSON file, clipped to the slide of ``slide_shape`` (h, w) level-0 px.

    Coordinates are (x, y), as in the file and in shapely: level-0 px, origin at the top-left corner of the top-left px.
    Accepts a FeatureCollection, a Feature, a bare geometry or a list of them, plain or gzipped. Areas of the class
    ``Ignore*`` are excluded, also from others that contain them, as in QuPath. Detections, cells, points and lines are
    ignored; invalid polygons are repaired and their number is logged, as is a region that extends far beyond the
    slide's edge. Raises ``SettingsError`` for a file that cannot be read, whose coordinates are not pixels, or that
    marks nothing on the slide, or has more than ``most_bytes`` once unpacked.
    """
    document = _load(path, most_bytes)
    _refuse_crs(path, document)
    try:
        drawn = [(shape, ignored) for geometry, ignored in _geometries(document) for shape in _polygons(geometry)]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, shapely.errors.ShapelyError) as error:
        raise SettingsError(f"{path}: not GeoJSON of a region: {_reason(error)}; {_HELP}") from error
    shapes, ignored = ([shape for shape, left_out in drawn if left_out is kind] for kind in (False, True))
    if drawn and not shapes:
        raise SettingsError(
            f"{path}: all its areas are of the class {_IGNORED} and therefore excluded; draw an area to process, and "
            f"{_HELP}"
        )
    if not shapes:
        raise SettingsError(
            f"{path}: no polygon to use as region of interest (points, lines and detections are ignored); {_HELP}"
        )
    farthest = max(abs(value) for shape, _ in drawn for value in shape.bounds)
    if not farthest < _FARTHEST_PX:
        raise SettingsError(
            f"{path}: its coordinates reach {farthest:.3g}, far beyond any slide; they must be level-0 pixels, x "
            f"before y; {_HELP}"
        )
    repaired = sum(not shape.is_valid for shape, _ in drawn)
    if repaired:
        _log.warning("%s: repaired %d of %d polygons that cross themselves", path, repaired, len(drawn))
    area = shapely.union_all([shapely.make_valid(shape) for shape in shapes])
    if ignored:
        area = area.difference(shapely.union_all([shapely.make_valid(shape) for shape in ignored]))
    if area.area == 0:
        raise SettingsError(f"{path}: the region has no area: its corners lie on a line, or all is {_IGNORED}; {_HELP}")
    return _clipped(path, area, slide_shape)


def _clipped(path: Path, area: shapely.Geometry, slide_shape: tuple[int, int]) -> shapely.MultiPolygon:
    """The part of the region on the slide; SettingsError if there is none."""
    h, w = slide_shape
    inside = shapely.MultiPolygon(list(_polygons(area.intersection(shapely.box(0, 0, w, h)))))
    if inside.area == 0:
        x0, y0, x1, y1 = (round(each) for each in area.bounds)
        raise SettingsError(
            f"{path}: the region (x {x0} … {x1}, y {y0} … {y1}) lies outside the slide of {w} × {h} px (x, y); it "
            "must be in level-0 pixels of this slide: was it drawn on another slide, or is it in µm?"
        )
    if inside.area < _SMALLEST_PX2:
        raise SettingsError(
            f"{path}: the region has {inside.area:.2g} px² on the slide: is it in mm, or in degrees of a map? It must "
            f"be in level-0 pixels of this slide; {_HELP}"
        )
    outside = 1 - inside.area / area.area
    if outside > _OUTSIDE_SHARE:
        _log.warning(
            "%s: %.2f %% of the region lies outside the slide of %d × %d px (x, y) and is ignored; was it drawn on "
            "this slide?",
            *(path, 100 * outside, w, h),
        )
    return inside


def _refuse_crs(path: Path, document: Any) -> None:
    """Raise ``SettingsError`` if the file declares coordinates on a map, in degrees or metres."""
    crs = document.get("crs") if isinstance(document, dict) else None
    if crs is not None:
        name = crs.get("properties", {}).get("name", crs) if isinstance(crs, dict) else crs
        raise SettingsError(
            f"{path}: its coordinates are in the system {str(name)[:80]!r}, a location on a map; a region of interest "
            'must be in level-0 pixels of the slide. If it is, remove the member "crs" from the file; otherwise '
            f"{_HELP}"
        )


def _load(path: Path, most_bytes: int) -> Any:
    """The parsed JSON, gzipped or not."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(content)) as stream:
                content = stream.read(most_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path}: the region of interest cannot be read: {reason}; {_HELP}") from error
    if len(content) > most_bytes:
        raise SettingsError(
            f"{path}: more than {most_bytes >> 20} MiB of GeoJSON, too large for a region of interest; {_HELP}"
        )
    try:
        return parse_json(content.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid JSON: {error}; {_HELP}") from error


def _geometries(document: Any, ignored: bool = False) -> Iterator[tuple[shapely.Geometry, bool]]:
    """The geometries that a user drew in a GeoJSON document, and whether each is to be excluded."""
    if isinstance(document, list):
        for part in document:
            yield from _geometries(part)
    elif document["type"] == "FeatureCollection":
        yield from _geometries(document["features"])
    elif document["type"] == "Feature":
        properties = document.get("properties") or {}
        kind = properties.get("objectType", "annotation")
        if document["geometry"] is not None and str(kind).lower() not in _NO_ANNOTATIONS:
            yield from _geometries(document["geometry"], _is_ignored(properties.get("classification")))
    else:
        yield shapely.from_geojson(orjson.dumps({**document, **_closed(document)})), ignored


def _closed(geometry: dict[str, Any]) -> dict[str, Any]:
    """The coordinates of a polygon or multipolygon with rings that end where they begin, as the standard demands."""
    if geometry["type"] == "MultiPolygon":
        return {"coordinates": [[_ring(ring) for ring in polygon] for polygon in geometry["coordinates"]]}
    return {"coordinates": [_ring(ring) for ring in geometry["coordinates"]]} if geometry["type"] == "Polygon" else {}


def _ring(points: list[Any]) -> list[Any]:
    return [*points, points[0]] if len(points) > 2 and points[0] != points[-1] else points


def _reason(error: Exception) -> str:
    """What a library found wrong with a geometry; of any other error nothing that helps."""
    known = isinstance(error, shapely.errors.ShapelyError)
    return str(error).partition("Exception: ")[2] if known else "a member is missing, or of the wrong type"


def _is_ignored(classification: Any) -> bool:
    """Whether a QuPath classification, with one name or several, is ``Ignore*`` or derived from it."""
    if not isinstance(classification, dict):
        return False
    names = classification.get("names") or [classification.get("name")]
    return str(names[0]).split(":")[0].strip().lower() == _IGNORED.lower()


def _polygons(geometry: shapely.Geometry) -> Iterator[shapely.Polygon]:
    """The polygons in a geometry of any kind."""
    for part in shapely.get_parts(geometry):
        if isinstance(part, shapely.Polygon) and not part.is_empty:
            yield part
        elif hasattr(part, "geoms"):
            yield from _polygons(part)
