"""The two files that the page may write next to the results: areas, and corrections of cells."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import orjson
import shapely

from wsiproc.core.palette import class_colour
from wsiproc.errors import OutputError, SettingsError
from wsiproc.io.atomic import atomic_file
from wsiproc.io.geojson.areas import Area, as_geojson, write_areas
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.read import read_objects
from wsiproc.io.geojson.write import CELL_ID, cell_uuids, iter_features, measurement_label
from wsiproc.results.qupath.diff import RIGHT, WRONG
from wsiproc.results.viewer.analysis import MeasuredArea, measure_area, parse_area
from wsiproc.results.viewer.shown import ShownSlide

AREAS, CORRECTIONS = "areas.geojson", "corrections.geojson"
CLASS = "class"
_MOST_AREAS, _MOST_NAME = 500, 80
_AREA_COLOUR = (0, 114, 178)
_IGNORED = {"name": "Ignore*", "color": [180, 180, 180]}  # QuPath's own class for what is left out


class ConflictError(OutputError):
    """A file that is not what the page read before."""


class Marks:
    """The files of one slide. Any thread may ask; only what is written whole is there."""

    def __init__(self, shown: ShownSlide) -> None:
        self._shown, self._writing = shown, Lock()
        self._areas, self._corrections = shown.folder / AREAS, shown.folder / CORRECTIONS

    # --- areas ---

    def areas(self) -> dict[str, Any]:
        """The areas in the file, whoever drew them, and what distinguishes this state of the file from another."""
        if not self._areas.exists():
            return {"areas": [], "state": ""}
        found = []
        for batch in read_objects(self._areas):
            for name, kind, shape in zip(batch.names, batch.kinds, batch.polygons, strict=True):
                if kind != "annotation" or not isinstance(shape, shapely.Polygon | shapely.MultiPolygon):
                    raise OutputError(
                        f"{self._areas}: contains an object of type {kind} that is not an area, which would be lost if "
                        "the areas were written again; give the file another name"
                    )
                found.append({"name": name, "geometry": as_geojson(shape)})
        return {"areas": found, "state": _digest(self._areas)}

    def save_areas(self, areas: Sequence[Mapping[str, Any]], state: str) -> dict[str, Any]:
        """Write all areas with what is in them; refuses where the file is not in the ``state`` that the page read."""
        if len(areas) > _MOST_AREAS:
            raise SettingsError(f"{len(areas)} areas are more than the {_MOST_AREAS} that are kept")
        shapes = [
            (str(area.get("name", ""))[:_MOST_NAME], parse_area(area.get("geometry"), self._shown)) for area in areas
        ]
        written = [
            Area(shape, name, "Area", _AREA_COLOUR, _as_measurements(measure_area(self._shown, shape)))
            for name, shape in shapes
        ]
        with self._writing:
            if state != self.areas()["state"]:
                raise ConflictError(f"{self._areas} was changed by something else meanwhile: load the page again")
            if written:
                write_areas(self._areas, written)
            else:
                self._areas.unlink(missing_ok=True)
            return self.areas()

    # --- corrections ---

    def corrections(self) -> dict[str, Any]:
        """What was said of cells: id → verdict, class and place; and the command that brings it into the results."""
        file, folder = _quoted(self._corrections), _quoted(self._shown.folder)
        return {
            "cells": {str(number): _told(feature) for number, feature in self._features().items()},
            "command": f"wsiproc import {file} {folder} --missing keep",
        }

    def correct(self, number: int, verdict: str | None, kind: str | None) -> dict[str, Any]:
        """Say of a cell that it is right, wrong (no cell), or of another class; None takes back what was said."""
        with self._writing:
            features = self._features()
            features.pop(number, None)
            if verdict is not None:
                features[number] = self._feature(number, verdict, kind)
            if features:
                self._write([features[key] for key in sorted(features)])
            else:
                self._corrections.unlink(missing_ok=True)
        return self.corrections()

    def _features(self) -> dict[int, dict[str, Any]]:
        """The features of the file by the ids of their cells."""
        if not self._corrections.exists():
            return {}
        document = orjson.loads(self._corrections.read_bytes())
        made_for = document.get("wsiproc", {}).get("run") if isinstance(document, dict) else None
        if made_for != self._shown.run.key:
            raise OutputError(
                f"{self._corrections}: not of the cells that are here now (they were found again since, or another "
                "program wrote it); give it another name or delete it, and corrections begin anew"
            )
        return {_number(feature): feature for feature in iter_features(self._corrections)}

    def _write(self, features: Sequence[Mapping[str, Any]]) -> None:
        head = orjson.dumps({"run": self._shown.run.key})
        lines = b",\n".join(orjson.dumps(feature) for feature in features)
        with atomic_file(self._corrections) as temporary:
            temporary.write_bytes(
                b'{"type":"FeatureCollection","wsiproc":' + head + b',"features":[\n' + lines + b"\n]}\n"
            )

    def _feature(self, number: int, verdict: str, kind: str | None) -> dict[str, Any]:
        """A cell as QuPath would export it after it was corrected; of what is not a cell, the area to leave out."""
        found = self._shown.cells.cell(number)
        if found is None:
            raise SettingsError(f"there is no cell {number}")
        row, rings = found
        outlines = Outlines.of(rings, self._shown.scale)
        if not outlines.writable()[0]:
            raise SettingsError(f"the outline of cell {number} cannot be held by GeoJSON: correct it in QuPath")
        outline = outlines.polygons()[0]
        if verdict == WRONG:
            return self._left_out(number, outline, row["centroid_x"], row["centroid_y"])
        if verdict not in (RIGHT, CLASS) or (verdict == CLASS and not (kind or "").strip()):
            raise SettingsError("a cell is right, wrong, or of another class, which must be named")
        name = row["class"] if verdict == RIGHT else str(kind).strip()[:_MOST_NAME]
        colour = self._shown.run.classes.get(name) or class_colour(name, len(self._shown.names))
        values = {measurement_label(key): row[key] for key in self._shown.cells.measurements if key != "score"}
        raw = cell_uuids(self._shown.run.slide.fingerprint, np.array([number]))[0]
        return {
            "type": "Feature",
            "id": str(uuid.UUID(bytes=raw.tobytes())),
            "geometry": orjson.loads(shapely.to_geojson(outline)),
            "properties": {
                "objectType": "detection",
                "name": verdict,
                "classification": {"name": name, "color": list(colour)},
                "measurements": {CELL_ID: number, "Probability": row["score"], **values},
            },
        }

    def _left_out(self, number: int, outline: Any, x: float, y: float) -> dict[str, Any]:
        """An annotation over a cell, which holds its centre: cells with their centre in it are left out."""
        if not outline.contains(shapely.Point(x, y)):
            outline = shapely.box(x - 1, y - 1, x + 1, y + 1)
        return {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._shown.run.slide.fingerprint} {number} {WRONG}")),
            "geometry": orjson.loads(shapely.to_geojson(outline)),
            "properties": {
                "objectType": "annotation",
                "name": WRONG,
                "classification": _IGNORED,
                "measurements": {CELL_ID: number},
            },
        }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _number(feature: Mapping[str, Any]) -> int:
    """Id of the cell that a feature is about."""
    return int(feature["properties"]["measurements"][CELL_ID])


def _told(feature: Mapping[str, Any]) -> dict[str, Any]:
    properties = feature["properties"]
    verdict = properties["name"]
    ring = feature["geometry"]["coordinates"][0]
    x, y = (sum(point[axis] for point in ring[:-1]) / (len(ring) - 1) for axis in (0, 1))
    return {
        "verdict": verdict,
        "class": properties["classification"]["name"] if verdict == CLASS else None,
        "at": [x, y],
    }


def _as_measurements(found: MeasuredArea) -> dict[str, float]:
    """Of an area, as QuPath's table shows them: finite numbers only."""
    medians = {f"Median {measurement_label(name)}": value for name, value in found.medians.items() if value is not None}
    return found.numbers.measurements() | medians


def _quoted(path: Path) -> str:
    """The whole path as a shell takes it."""
    import shlex

    return shlex.quote(str(path.resolve()))
