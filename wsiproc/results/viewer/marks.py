"""The two files that the page may write next to the results: areas, and corrections of cells."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import orjson
import shapely

from wsiproc.core.palette import class_colour
from wsiproc.errors import OutputError, SettingsError
from wsiproc.io.atomic import atomic_file
from wsiproc.io.geojson.areas import Area, area_feature, as_geojson, as_shape, write_areas
from wsiproc.io.geojson.outlines import Outlines
from wsiproc.io.geojson.read import read_objects
from wsiproc.io.geojson.write import CELL_ID, cell_uuids, iter_features, measurement_label
from wsiproc.results.qupath.diff import EXCLUDED, REVIEWED, RIGHT, WRONG, area_use
from wsiproc.results.viewer.analysis import MeasuredArea, measure_area, parse_area, parse_outline
from wsiproc.results.viewer.shown import ShownSlide

AREAS, CORRECTIONS = "areas.geojson", "corrections.geojson"
CLASS, REDRAWN, NEW = "class", "outline", "new"
"""Verdicts on cells besides right and wrong: of another class, with another outline, not found."""
_MOST_AREAS, _MOST_NAME = 500, 80
_SAME_NUCLEUS = 0.25  # share of the smaller of two outlines of one nucleus that lies in the other
_LEFT_OUT = "Ignore*", (180, 180, 180)  # QuPath's own class for it
_AREA_CLASSES = {None: ("Area", (0, 114, 178)), REVIEWED: (REVIEWED, (0, 158, 115)), EXCLUDED: _LEFT_OUT}


class ConflictError(OutputError):
    """A file that is not what the page read before."""


class Marks:
    """The files of one slide. Any thread may ask; only what is written whole is there."""

    def __init__(self, shown: ShownSlide) -> None:
        self._shown, self._writing = shown, Lock()
        self._areas, self._corrections = shown.folder / AREAS, shown.folder / CORRECTIONS

    # --- areas ---

    def areas(self) -> dict[str, Any]:
        """The areas in both files, whoever drew them, and what distinguishes this state of them from another.

        ``use`` of each: REVIEWED or EXCLUDED, as the corrections of the run that is shown have it, else None.
        """
        marked = self._marked()
        found = [{"name": name, "geometry": as_geojson(shape), "use": None} for name, shape in self._unmarked()]
        found += [{"name": _name(each), "geometry": each["geometry"], "use": _use(each)} for each in marked]
        return {"areas": found, "state": self._state(marked) if found else ""}

    def save_areas(self, areas: Sequence[Mapping[str, Any]], state: str) -> dict[str, Any]:
        """Write all areas with what is in them, those with a ``use`` among the corrections, the others apart.

        Refuses where the areas are not in the ``state`` that the page read.
        """
        if len(areas) > _MOST_AREAS:
            raise SettingsError(f"{len(areas)} areas are more than the {_MOST_AREAS} that are kept")
        if not all(isinstance(area, Mapping) for area in areas):
            raise SettingsError("an area has a name, a geometry and a use")
        kept = [(area.get("use"), self._area(area)) for area in areas]
        unmarked = [area for use, area in kept if use is None]
        marked = [area_feature(area) for use, area in kept if use is not None]
        with self._writing:
            if state != self.areas()["state"]:
                raise ConflictError(f"{self._areas} was changed by something else meanwhile: load the page again")
            # An area that goes from one file to the other is first written where it goes, so that none is ever lost.
            before = self._marked()
            gained = len(marked) > len(before)
            if gained:
                self._write_marked(marked)
            if unmarked:
                write_areas(self._areas, unmarked)
            else:
                self._areas.unlink(missing_ok=True)
            if before and not gained:
                self._write_marked(marked)
            return self.areas()

    def _unmarked(self) -> Iterator[tuple[str, Any]]:
        """Name and shape of the areas of which nothing is said."""
        for batch in read_objects(self._areas) if self._areas.exists() else ():
            for name, kind, shape in zip(batch.names, batch.kinds, batch.polygons, strict=True):
                if kind != "annotation" or not isinstance(shape, shapely.Polygon | shapely.MultiPolygon):
                    raise OutputError(
                        f"{self._areas}: contains an object of type {kind} that is not an area, which would be lost if "
                        "the areas were written again; give the file another name"
                    )
                yield name, shape

    def _marked(self) -> list[dict[str, Any]]:
        """The features of areas among the corrections; what was said of cells of another run says nothing here."""
        return [each for each in self._features() if _key(each) is None] if self._are_of_this_run() else []

    def _write_marked(self, marked: Sequence[Mapping[str, Any]]) -> None:
        self._write([*marked, *(each for each in self._features() if _key(each) is not None)])

    def _area(self, sent: Mapping[str, Any]) -> Area:
        """An area as the page sends it, with what is in it."""
        use = sent.get("use")
        if use not in (None, REVIEWED, EXCLUDED):
            raise SettingsError(f"an area is {REVIEWED}, {EXCLUDED} or neither, not {use}")
        name, shape = str(sent.get("name", ""))[:_MOST_NAME], parse_area(sent.get("geometry"), self._shown)
        kind, colour = _AREA_CLASSES[use]
        if use is not None and area_use(name, kind) != use:
            raise SettingsError(f"the name {name} would say something else of an area that is {use}: give it another")
        return Area(shape, name, kind, colour, _as_measurements(measure_area(self._shown, shape)))

    def _state(self, marked: Sequence[Mapping[str, Any]]) -> str:
        unmarked = self._areas.read_bytes() if self._areas.exists() else b""
        return hashlib.sha256(unmarked + orjson.dumps(marked)).hexdigest()

    # --- corrections ---

    def corrections(self) -> dict[str, Any]:
        """What was said of cells: id → verdict, class, place and drawn outline; how many areas are marked; and the
        command that brings all of it into the results. The id of a cell that was not found is the UUID of its drawing.
        """
        file, folder = _quoted(self._corrections), _quoted(self._shown.folder)
        keyed = [(_key(feature), feature) for feature in self._features()]
        cells = {str(key): _told(feature) for key, feature in keyed if key is not None}
        return {
            "cells": cells,
            "areas": len(keyed) - len(cells),
            "command": f"wsiproc import {file} {folder} --missing keep",
        }

    def correct(self, key: Any, verdict: str | None, kind: str | None) -> dict[str, Any]:
        """Say of a cell that it is right, wrong (no cell), or of another class; None takes back what was said.

        A drawn cell keeps its outline with another class.
        """
        with self._writing:
            features = self._features()
            said = _find(features, key)
            if verdict is None:
                self._replace(features, said, None)
            elif verdict == CLASS and said is not None and _is_drawn(said):
                self._replace(features, said, _classified(said, self._classification(kind)))
            else:
                self._replace(features, said, self._feature(key, verdict, kind))
        return self.corrections()

    def draw(self, key: Any, geometry: Any) -> dict[str, Any]:
        """Give a cell another outline. Where ``key`` is None, or its cell lies elsewhere, the outline is of a cell that
        was not found. As ``corrections``, with the id of the cell that has the outline now as ``drawn``.
        """
        outline = parse_outline(geometry, self._shown)
        with self._writing:
            features = self._features()
            said = _find(features, key)
            if key is None or not _overlap(outline, self._outline(key, said)):
                key, said = str(uuid.uuid4()), None
            self._replace(features, said, self._drawn(key, outline, said))
        return self.corrections() | {"drawn": key}

    def _replace(
        self, features: Sequence[dict[str, Any]], said: dict[str, Any] | None, feature: dict[str, Any] | None
    ) -> None:
        """Write one feature in the place of another, each of which may be none."""
        kept = [each for each in features if each is not said]
        self._write(sorted([*kept, feature] if feature else kept, key=lambda each: _number(each) or 0))

    def _are_of_this_run(self) -> bool:
        """Whether there are corrections, and of the cells that are shown."""
        if not self._corrections.exists():
            return False
        try:
            document = orjson.loads(self._corrections.read_bytes())
        except orjson.JSONDecodeError:
            return False
        made_for = document.get("wsiproc", {}).get("run") if isinstance(document, dict) else None
        return bool(made_for == self._shown.run.key)

    def _features(self) -> list[dict[str, Any]]:
        """The features of the file, of areas and of cells."""
        if not self._corrections.exists():
            return []
        if not self._are_of_this_run():
            raise ConflictError(
                f"{self._corrections}: not of the cells that are here now (they were found again since, or another "
                "program wrote it); give it another name or delete it, and corrections begin anew"
            )
        return list(iter_features(self._corrections))

    def _write(self, features: Sequence[Mapping[str, Any]]) -> None:
        """Write the file anew, or remove it if there is nothing to say."""
        if not features:
            self._corrections.unlink(missing_ok=True)
            return
        head = orjson.dumps({"run": self._shown.run.key})
        lines = b",\n".join(orjson.dumps(feature) for feature in features)
        with atomic_file(self._corrections) as temporary:
            temporary.write_bytes(
                b'{"type":"FeatureCollection","wsiproc":' + head + b',"features":[\n' + lines + b"\n]}\n"
            )

    def _feature(self, key: Any, verdict: str, kind: str | None) -> dict[str, Any]:
        """A cell as QuPath would export it after it was corrected; of what is not a cell, the area to leave out."""
        row, outline = self._found(key)
        if verdict == WRONG:
            return self._left_out(key, outline, row["centroid_x"], row["centroid_y"])
        if verdict not in (RIGHT, CLASS):
            raise SettingsError("a cell is right, wrong, or of another class, which must be named")
        classification = self._classification(row["class"] if verdict == RIGHT else kind)
        values = {measurement_label(name): row[name] for name in self._shown.cells.measurements if name != "score"}
        measurements = {CELL_ID: key, "Probability": row["score"], **values}
        return _detection(self._uuid(key), verdict, outline, classification, measurements)

    def _found(self, key: Any) -> tuple[dict[str, Any], shapely.Polygon]:
        """The columns and the outline of a cell of the run."""
        found = self._shown.cells.cell(key) if type(key) is int else None
        if found is None:
            raise SettingsError(f"there is no cell {key}")
        row, rings = found
        outlines = Outlines.of(rings, self._shown.scale)
        if not outlines.writable()[0]:
            raise SettingsError(f"the outline of cell {key} cannot be held by GeoJSON: correct it in QuPath")
        return row, outlines.polygons()[0]

    def _outline(self, key: Any, said: Mapping[str, Any] | None) -> Any:
        """The outline that a cell has now."""
        if said is not None and _is_drawn(said):
            return as_shape(said["geometry"])
        return self._found(key)[1]

    def _drawn(self, key: Any, outline: shapely.Polygon, said: Mapping[str, Any] | None) -> dict[str, Any]:
        """A cell with a drawn outline."""
        classification = self._classification(self._class(key, said))
        if isinstance(key, str):
            return _detection(key, NEW, outline, classification, {})
        return _detection(self._uuid(key), REDRAWN, outline, classification, {CELL_ID: key})

    def _class(self, key: Any, said: Mapping[str, Any] | None) -> str:
        """The class that was said of a cell, or its own; of a new one the most frequent."""
        if said is not None and said["properties"]["name"] != WRONG:
            return str(said["properties"]["classification"]["name"])
        if isinstance(key, str):
            counts = self._shown.run.counts.classes
            return max(self._shown.names, key=lambda name: counts.get(name, 0))
        return str(self._found(key)[0]["class"])

    def _classification(self, kind: str | None) -> dict[str, Any]:
        """A class with its colour, as QuPath writes it."""
        name = str(kind or "").strip()[:_MOST_NAME]
        if not name:
            raise SettingsError("a cell is right, wrong, or of another class, which must be named")
        colour = self._shown.run.classes.get(name) or class_colour(name, len(self._shown.names))
        return {"name": name, "color": list(colour)}

    def _uuid(self, number: int) -> str:
        """The id that a cell of the run has in all files for QuPath."""
        raw = cell_uuids(self._shown.run.slide.fingerprint, np.array([number]))[0]
        return str(uuid.UUID(bytes=raw.tobytes()))

    def _left_out(self, number: int, outline: Any, x: float, y: float) -> dict[str, Any]:
        """An annotation over a cell, which holds its centre: cells with their centre in it are left out."""
        if not outline.contains(shapely.Point(x, y)):
            outline = shapely.box(x - 1, y - 1, x + 1, y + 1)
        name, colour = _LEFT_OUT
        return {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._shown.run.slide.fingerprint} {number} {WRONG}")),
            "geometry": as_geojson(outline),
            "properties": {
                "objectType": "annotation",
                "name": WRONG,
                "classification": {"name": name, "color": list(colour)},
                "measurements": {CELL_ID: number},
            },
        }


def _overlap(drawn: Any, outline: Any) -> bool:
    """Whether two outlines are of one nucleus; neighbours may touch."""
    return bool(drawn.intersection(outline).area >= _SAME_NUCLEUS * min(drawn.area, outline.area))


def _detection(
    identity: str, verdict: str, outline: Any, classification: Mapping[str, Any], measurements: Mapping[str, float]
) -> dict[str, Any]:
    """The feature of a cell."""
    return {
        "type": "Feature",
        "id": identity,
        "geometry": as_geojson(outline),
        "properties": {
            "objectType": "detection",
            "name": verdict,
            "classification": classification,
            "measurements": measurements,
        },
    }


def _classified(feature: Mapping[str, Any], classification: Mapping[str, Any]) -> dict[str, Any]:
    return {**feature, "properties": {**feature["properties"], "classification": classification}}


def _find(features: Sequence[dict[str, Any]], key: Any) -> dict[str, Any] | None:
    """What was said of a cell."""
    return None if key is None else next((each for each in features if _key(each) == key), None)


def _key(feature: Mapping[str, Any]) -> int | str | None:
    """Id of the cell that a feature is about, the UUID of one that was not found; None if it is an area."""
    number = _number(feature)
    return str(feature["id"]) if number is None and _is_drawn(feature) else number


def _is_drawn(feature: Mapping[str, Any]) -> bool:
    """Whether the outline of a cell is one that someone drew."""
    properties = feature["properties"]
    return properties["objectType"] == "detection" and properties["name"] in (REDRAWN, NEW)


def _number(feature: Mapping[str, Any]) -> int | None:
    """Id of the cell of the run that a feature is about; None if it is about none."""
    number = feature["properties"].get("measurements", {}).get(CELL_ID)
    return None if number is None else int(number)


def _name(feature: Mapping[str, Any]) -> str:
    return str(feature["properties"]["name"])


def _use(feature: Mapping[str, Any]) -> str | None:
    return area_use(_name(feature), feature["properties"]["classification"]["name"])


def _told(feature: Mapping[str, Any]) -> dict[str, Any]:
    properties = feature["properties"]
    verdict, drawn = properties["name"], _is_drawn(feature)
    ring = feature["geometry"]["coordinates"][0]
    x, y = (sum(point[axis] for point in ring[:-1]) / (len(ring) - 1) for axis in (0, 1))
    return {
        "verdict": verdict,
        "class": properties["classification"]["name"] if drawn or verdict == CLASS else None,
        "at": [x, y],
        "outline": ring if drawn else None,
    }


def _as_measurements(found: MeasuredArea) -> dict[str, float]:
    """Of an area, as QuPath's table shows them: finite numbers only."""
    medians = {f"Median {measurement_label(name)}": value for name, value in found.medians.items() if value is not None}
    return found.numbers.measurements() | medians


def _quoted(path: Path) -> str:
    """The whole path as a shell takes it."""
    import shlex

    return shlex.quote(str(path.resolve()))
