"""What the page asks of a slide's cells: the spread of a measurement, positivity, an order, what lies in an area."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import shapely

from wsiproc.core.geometry import Box
from wsiproc.core.immuno import WHERE
from wsiproc.core.numbers import AreaNumbers, area_numbers
from wsiproc.core.types import BoolArray, Float32Array, Int32Array
from wsiproc.errors import SettingsError
from wsiproc.io.geojson.areas import as_geojson, as_shape, label_pieces, piece_shapes
from wsiproc.io.geojson.outlines import SNAP_DECIMALS
from wsiproc.results.viewer.colouring import GREY, HIDDEN, NEGATIVE, POSITIVE, STRENGTHS, Look, kept, positivity
from wsiproc.results.viewer.shown import ShownSlide

HISTOGRAM_BINS = 64
_TAILS = 0.2  # percent at each end that the histogram puts into its outermost bins
_MOST_CORNERS = 50_000
_FAR_PX = 1e8
_ORDERS_KEPT = 3  # of all slides together; 4 bytes a cell
_MOST_PIECES = 40
_NUCLEUS_UM2 = 2, 2000
_SIMPLIFY_UM = 0.1
_LEAST_OF_WHOLE = 0.75  # share of the largest part of an outline that crosses itself


# --- measurements ---


def spread(shown: ShownSlide, look: Look) -> dict[str, Any]:
    """The histogram of the look's measurement over the classes that are shown, and how many cells are kept.

    ``edges`` (``HISTOGRAM_BINS`` + 1): from the 0.2nd to the 99.8th percentile; what lies beyond is in the outermost
    bins. Cells without a value, such as nuclei with no room for a ring, are counted apart.
    """
    values = shown.values(look)
    if values is None:
        raise SettingsError("name a measurement: measure=…")
    low, high = _ends(shown, str(look.measure))
    visible = values[_visible(shown, look)]
    here = visible[np.isfinite(visible)]
    place = np.clip((here - np.float32(low)) * np.float32(HISTOGRAM_BINS / (high - low)), 0, HISTOGRAM_BINS - 1)
    counts = np.bincount(place.astype(np.uint8), minlength=HISTOGRAM_BINS)
    return {
        "low": low,
        "high": high,
        "counts": counts.tolist(),
        "cells": len(here),
        "unmeasured": len(visible) - len(here),
        "kept": int(kept(look.keep, here).sum()),
    }


def _visible(shown: ShownSlide, look: Look) -> BoolArray:
    """Which cells (N,) are of a class that is shown."""
    _, classes = shown.cells.centres()
    gone = np.zeros(256, np.bool_)
    gone[list(look.hidden)] = True
    return ~gone[classes]


@lru_cache(maxsize=64)
def _ends(shown: ShownSlide, name: str) -> tuple[float, float]:
    """Where the histogram of a measurement begins and ends; never one point."""
    values = shown.measured(name)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(finite, [_TAILS, 100 - _TAILS]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def stain_share(shown: ShownSlide, look: Look) -> Mapping[str, Any]:
    """Positivity at the look's cuts, or at those of the run: ``cuts``; ``spread``: of the density they are of."""
    rule = shown.scoring
    if rule is None:
        raise SettingsError(f"the cells of {shown.name} are not positive and negative by a threshold of DAB")
    cuts = look.cuts or rule.cuts
    told = positivity(len(cuts), shown.graded(cuts), shown.run.has_index)
    where = WHERE[rule.compartment]
    return {**told, "cuts": rule.cuts, "where": where, "spread": spread(shown, Look(measure=shown.density_of(rule)))}


# --- one cell after the other ---


@lru_cache(maxsize=_ORDERS_KEPT)
def order(shown: ShownSlide, look: Look, by: str, falling: bool) -> Int32Array:
    """Ids of the cells that the look shows in colour, by a measurement; equal ones by id."""
    codes = shown.codes(look)
    rows = np.flatnonzero((codes != HIDDEN) & (codes != GREY))
    values = shown.measured(by)[rows]
    places = np.argsort(-values if falling else values, kind="stable")
    return (rows[places] + 1).astype(np.int32)


def walk(shown: ShownSlide, ids: Int32Array, by: str, rank: int, count: int, near: int | None) -> dict[str, Any]:
    """``count`` cells of an order from a rank on; ``near``: from the rank of this id, moved by ``rank``.

    Each with its centre as (x, y) in level-0 px, and its value of the measurement ``by``.

    A cell that is not in the order stands before its beginning, so that the next one is the first.
    """
    if near is not None:
        found = np.flatnonzero(ids == near)
        rank = int(found[0]) + rank if len(found) else max(0, rank - 1)
    rank = max(0, min(rank, len(ids) - 1))
    rows = ids[rank : rank + count] - 1
    centres, classes = shown.cells.centres()
    places = (centres[rows] * shown.scale)[:, ::-1].round(1).tolist()
    values = shown.measured(by)[rows].tolist()
    cells = [
        {"id": row + 1, "class": shown.names[kind], "centre": place, "value": value}
        for row, kind, place, value in zip(rows.tolist(), classes[rows].tolist(), places, values, strict=True)
    ]
    return {"rank": rank, "of": len(ids), "cells": cells}


# --- areas ---


def parse_area(geometry: Any, shown: ShownSlide, what: str = "area") -> Any:
    """A GeoJSON geometry (level-0 px, x before y) as valid polygons on the slide; ``SettingsError`` for any other,
    which calls it ``what``.
    """
    try:
        shape = shapely.from_geojson(orjson.dumps(geometry))
        corners = shapely.get_coordinates(shape)
    except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise SettingsError(f"not the GeoJSON of an {what}: {error}") from error
    if not isinstance(shape, shapely.Polygon | shapely.MultiPolygon):
        raise SettingsError(f"an {what} is a polygon, or several")
    if len(corners) > _MOST_CORNERS:
        raise SettingsError(f"the {what} has {len(corners):,} corners, more than the {_MOST_CORNERS:,} that are kept")
    if not (np.abs(corners) < _FAR_PX).all():
        raise SettingsError(f"an {what} has coordinates in px of the slide")
    h, w = shown.run.slide.shape
    inside = shapely.intersection(shapely.make_valid(shape), shapely.box(0, 0, w, h))
    parts = [part for part in shapely.get_parts(inside) if part.geom_type == "Polygon" and part.area > 0]
    if not parts:
        raise SettingsError(f"the {what} lies outside the slide, or is a line")
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def parse_outline(geometry: Any, shown: ShownSlide) -> shapely.Polygon:
    """What someone drew around a nucleus (GeoJSON, level-0 px) as one valid polygon without holes, slightly simplified.

    ``SettingsError`` where it lies outside the slide, crosses itself so that it is not one nucleus, or is smaller or
    larger than a nucleus can be.
    """
    mpp, (low, high) = shown.run.slide.mpp, _NUCLEUS_UM2
    pieces = shapely.get_parts(parse_area(geometry, shown, "outline"))
    # Where a line runs over its own beginning, the overlap counts as a hole.
    whole = shapely.union_all(shapely.polygons(shapely.get_exterior_ring(pieces)))
    largest = max(shapely.get_parts(whole), key=shapely.area)
    rounded = shapely.set_precision(shapely.simplify(largest, _SIMPLIFY_UM / mpp), 10.0**-SNAP_DECIMALS)
    outline = max(shapely.get_parts(rounded), key=shapely.area, default=shapely.Polygon())
    if not low <= outline.area * mpp**2 <= high:
        held = f"{outline.area * mpp**2:,.1f}"
        raise SettingsError(f"the outline holds {held} µm², and a nucleus {low} to {high}: draw it again")
    if largest.area < _LEAST_OF_WHOLE * whole.area:
        raise SettingsError("the outline crosses itself: draw around one nucleus")
    return shapely.Polygon(outline.exterior)


@dataclass(frozen=True)
class MeasuredArea:
    """What lies in an area: its numbers, and the median of each measurement of its cells."""

    numbers: AreaNumbers
    medians: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        return {**asdict(self.numbers), "medians": self.medians}


def measure_area(shown: ShownSlide, shape: Any, cuts: tuple[float, ...] = ()) -> MeasuredArea:
    """What lies in an area, of the cells that have their centre in it.

    ``cuts``: thresholds of DAB by which positive and negative are classified again, as in ``Look``.
    """
    blocks, inside = _inside(shown, shape)
    area_mm2 = shape.area * shown.run.slide.mpp**2 / 1e6
    columns = shown.cells.columns(shown.cells.measurements, blocks) if blocks else {}
    columns = {name: values[inside] for name, values in columns.items()}
    _, classes = shown.cells.centres()
    kinds = np.concatenate([classes[shown.cells.rows(block)] for block in blocks])[inside] if blocks else classes[:0]
    names = list(shown.names)
    if cuts and shown.has_dab and len(kinds):
        kinds = shown.graded(cuts, columns)
        names = [NEGATIVE, POSITIVE] if len(cuts) == 1 else [NEGATIVE, *STRENGTHS]
    counts = dict(zip(names, np.bincount(kinds, minlength=len(names)).tolist(), strict=True))
    medians = {name: _median(values) for name, values in columns.items()} if len(kinds) else {}
    return MeasuredArea(area_numbers(counts, area_mm2, shown.run.has_index), medians)


def _median(values: Float32Array) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else None


def _inside(shown: ShownSlide, shape: Any) -> tuple[list[int], BoolArray]:
    """Blocks that an area touches, and which of their cells have their centre in it."""
    (x0, y0, x1, y1), (sy, sx) = shape.bounds, shown.scale
    y, x = math.floor(y0 / sy), math.floor(x0 / sx)
    blocks = shown.cells.touching(Box(y, x, math.ceil(y1 / sy) - y + 1, math.ceil(x1 / sx) - x + 1))
    if not blocks:
        return [], np.zeros(0, np.bool_)
    centres, _ = shown.cells.centres()
    some = np.concatenate([centres[shown.cells.rows(block)] for block in blocks])
    cy, cx = some[:, 0] * np.float64(sy), some[:, 1] * np.float64(sx)
    inside = (cy >= y0) & (cy <= y1) & (cx >= x0) & (cx <= x1)
    shapely.prepare(shape)
    inside[inside] = shapely.contains_xy(shape, cx[inside], cy[inside])
    return blocks, inside


def suggested_areas(shown: ShownSlide) -> list[dict[str, Any]]:
    """Areas that need no drawing: the region of interest of the run, and pieces of tissue, the largest first."""
    region, slide = as_shape(shown.run.roi), shown.run.slide.shape
    found = [] if region is None else [("Region of interest", region)]
    pieces = piece_shapes(label_pieces(shown.tissue_mask() > 0), slide, region, _MOST_PIECES)
    found += [(f"Tissue {place}", shape) for place, (_, shape) in enumerate(pieces, 1)]
    return [{"name": name, "geometry": as_geojson(shape)} for name, shape in found]
