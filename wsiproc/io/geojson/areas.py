"""Areas of a slide as QuPath reads them: annotations each with a name, a class, a colour and measurements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from scipy import ndimage

from wsiproc.core.palette import RGB
from wsiproc.core.types import BoolArray, Int32Array
from wsiproc.io.atomic import atomic_file
from wsiproc.io.geojson.outlines import SNAP_DECIMALS


@dataclass(frozen=True)
class Area:
    """An annotation; ``shape``: a polygon or multipolygon in level-0 px (x, y)."""

    shape: Any
    name: str
    kind: str
    colour: RGB
    measurements: Mapping[str, float] = field(default_factory=dict)


def mask_shape(mask: BoolArray, scale: tuple[float, float], corner: tuple[int, int] = (0, 0)) -> Any:
    """The polygons along the pixel edges of a mask (h, w), with their holes, in level-0 px (x, y).

    ``scale`` (sy, sx): level-0 px per px; ``corner`` (y, x): px of the mask's top-left px, if it is a crop.
    """
    sides = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, start), (_, end) = np.nonzero(sides == 1), np.nonzero(sides == -1)
    (sy, sx), (y0, x0) = scale, corner
    runs = shapely.box((start + x0) * sx, (row + y0) * sy, (end + x0) * sx, (row + y0 + 1) * sy)
    # Simplifying with tolerance 0 drops the vertices on straight sides.
    return shapely.union_all(runs).simplify(0)


def mask_mm2(mask: BoolArray, slide: tuple[int, int], mpp: float, region: Any | None = None) -> float:
    """Area of a mask (h, w) over a slide of ``slide`` (h, w) level-0 px of ``mpp`` µm, within ``region`` if given."""
    scale = (slide[0] / mask.shape[0], slide[1] / mask.shape[1])
    px = mask.sum() * scale[0] * scale[1] if region is None else region.intersection(mask_shape(mask, scale)).area
    return float(px * mpp**2 / 1e6)


def label_pieces(mask: BoolArray) -> Int32Array:
    """The 8-connected pieces of a mask (h, w) as labels from 1."""
    return np.asarray(ndimage.label(mask, np.ones((3, 3)))[0], np.int32)


def piece_shapes(
    pieces: Int32Array, slide: tuple[int, int], region: Any | None = None, most: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Label and outline (level-0 px) of at most ``most`` pieces, clipped to ``region`` if given, largest first.

    ``slide``: shape (h, w) that the labels cover.
    """
    scale = (slide[0] / pieces.shape[0], slide[1] / pieces.shape[1])
    windows = ndimage.find_objects(pieces)
    largest = np.argsort(-np.bincount(pieces.ravel())[1:], kind="stable")[:most].tolist()
    shapes = []
    for index in largest:
        rows, cols = windows[index]
        shape = mask_shape(pieces[rows, cols] == index + 1, scale, (rows.start, cols.start))
        shapes.append((index + 1, shape if region is None else _polygons(region.intersection(shape))))
    found = [(label, shape) for label, shape in shapes if shape.area > 0]
    yield from sorted(found, key=lambda each: -each[1].area)


def _polygons(shape: Any) -> Any:
    """The polygons of a geometry, without lines and points where areas merely touch."""
    return shapely.union_all([part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"])


def as_shape(geometry: Mapping[str, Any] | None) -> Any | None:
    """The shapely geometry of what ``as_geojson`` made of it; None of None."""
    return None if geometry is None else shapely.from_geojson(orjson.dumps(geometry))


def as_geojson(shape: Any) -> Any:
    """A shapely geometry as plain values."""
    return orjson.loads(shapely.to_geojson(shape))


def write_areas(path: Path, areas: Iterable[Area]) -> None:
    """Write a GeoJSON file of annotations, one area per line."""
    lines = [orjson.dumps(area_feature(area)) for area in areas]
    with atomic_file(path) as temporary:
        temporary.write_bytes(b'{"type":"FeatureCollection","features":[\n' + b",\n".join(lines) + b"\n]}\n")


def area_feature(area: Area) -> dict[str, Any]:
    """The GeoJSON of an annotation."""
    # QuPath 0.6 and later snap to this grid and reject what is invalid there; the result is valid on it.
    shape = shapely.set_precision(area.shape, 10.0**-SNAP_DECIMALS)
    return {
        "type": "Feature",
        "geometry": as_geojson(shape),
        "properties": {
            "objectType": "annotation",
            "name": area.name,
            "classification": {"name": area.kind, "color": area.colour},
            "measurements": dict(area.measurements),
        },
    }
