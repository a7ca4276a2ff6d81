"""Areas of a slide as QuPath reads them: annotations with a name, a class, a colour and measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import shapely

from wsiproc.core.palette import RGB
from wsiproc.io.outlines import SNAP_DECIMALS
from wsiproc.io.whole import whole_file


@dataclass(frozen=True)
class Area:
    """An annotation: ``shape`` is a polygon, or several, in level-0 px (x, y)."""

    shape: Any
    name: str
    kind: str
    colour: RGB
    measurements: Mapping[str, float] = field(default_factory=dict)


def mask_shape(mask: npt.NDArray[np.bool_], scale: tuple[float, float], corner: tuple[int, int] = (0, 0)) -> Any:
    """The polygons along the pixel edges of a mask (h, w), with their holes, in level-0 px (x, y).

    ``scale`` (sy, sx): level-0 px per px; ``corner`` (y, x): px of the mask's first one, where it was cut out.
    """
    sides = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (row, start), (_, end) = np.nonzero(sides == 1), np.nonzero(sides == -1)
    (sy, sx), (y0, x0) = scale, corner
    runs = shapely.box((start + x0) * sx, (row + y0) * sy, (end + x0) * sx, (row + y0 + 1) * sy)
    # Simplifying by nothing leaves out the corners on straight sides.
    return shapely.union_all(runs).simplify(0)


def write_areas(path: Path, areas: Iterable[Area]) -> None:
    """A GeoJSON file of annotations, an area a line."""
    lines = [orjson.dumps(_feature(area)) for area in areas]
    with whole_file(path) as temporary:
        temporary.write_bytes(b'{"type":"FeatureCollection","features":[\n' + b",\n".join(lines) + b"\n]}\n")


def _feature(area: Area) -> dict[str, Any]:
    # QuPath 0.6 and later snap to this grid and refuse what is invalid there; this is valid on it.
    shape = shapely.set_precision(area.shape, 10.0**-SNAP_DECIMALS)
    return {
        "type": "Feature",
        "geometry": orjson.loads(shapely.to_geojson(shape)),
        "properties": {
            "objectType": "annotation",
            "name": area.name,
            "classification": {"name": area.kind, "color": area.colour},
            "measurements": dict(area.measurements),
        },
    }
