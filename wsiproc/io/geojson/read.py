"""Read objects that QuPath exported as GeoJSON, to compare them with the cells found.

Files of one object per line, as ``export-corrections.groovy`` writes them, are streamed; others are parsed whole.
"""

from __future__ import annotations

import gzip
import itertools
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import orjson
import shapely

from wsiproc.core.palette import RGB
from wsiproc.core.types import Float64Array, ObjectArray, UInt8Array
from wsiproc.errors import OutputError
from wsiproc.io.geojson.lenient_json import parse_json

UNCLASSIFIED = "Unclassified"
"""What QuPath calls an object without a class."""
_HELP = "export it from QuPath with export-corrections.groovy, or with File > Export objects as GeoJSON"
_HEAD = b'{"type":"FeatureCollection","features":['
_MOST_BYTES = 2 << 30  # of a file that must be parsed whole; the parsed tree takes several times that
_LINE_BYTES = 64 << 20
_BATCH = 10_000


@dataclass(frozen=True)
class Objects:
    """Some objects of a file, in order; columns of N.

    ``first``: position of the first in the file, from 1; ``ids``: (N, 16) uint8, UUIDs, zeros where there is none;
    ``kinds``: object types in lower case; ``names``: given by the user, or ""; ``classes``: names of their
    classes; ``colours``: of the classes, or None; ``polygons``: shapely geometries in level-0 px, (x, y), None where
    the file has none that can be read.
    """

    first: int
    ids: UInt8Array
    kinds: list[str]
    names: list[str]
    classes: list[str]
    colours: list[RGB | None]
    polygons: ObjectArray

    def __len__(self) -> int:
        return len(self.kinds)


def read_objects(path: Path) -> Iterator[Objects]:
    """The objects of a GeoJSON file in batches: a FeatureCollection, a Feature or a list of them, plain or gzipped.

    Raises ``OutputError`` for any other file, and for one whose coordinates are declared to be on a map.
    """
    features = _features(path)
    first = 1
    while some := list(itertools.islice(features, _BATCH)):
        try:
            yield _objects(first, some)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"{path}: objects {first} to {first + len(some) - 1} are not in the form that QuPath writes: "
                f"{type(error).__name__}: {error}; {_HELP}"
            ) from error
        first += len(some)


def _features(path: Path) -> Iterator[dict[str, Any]]:
    """Feature after feature."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        # Both gzip.open and open yield lines of bytes.
        with cast("IO[bytes]", gzip.open(path, "rb") if zipped else path.open("rb")) as file:
            head = file.readline(_LINE_BYTES).removeprefix(b"\xef\xbb\xbf")
            yield from _lines(file, path) if head.rstrip() == _HEAD else _whole(file, head, path)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be read: {reason}; {_HELP}") from error


def _lines(file: IO[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """Features of a file with one per line, after its first line."""
    for number in itertools.count(2):
        line = file.readline(_LINE_BYTES).strip()
        if line == b"]}":
            return
        if not line:
            raise OutputError(f"{path}: cut off in line {number}: copy or export it again")
        feature = _parsed(line.removesuffix(b","), path)
        if not isinstance(feature, dict):
            raise OutputError(f"{path}, line {number}: not a feature; {_HELP}")
        yield feature


def _whole(file: IO[bytes], head: bytes, path: Path) -> Iterator[dict[str, Any]]:
    """Features of any GeoJSON."""
    content = head + file.read(_MOST_BYTES + 1 - len(head))
    if len(content) > _MOST_BYTES:
        raise OutputError(
            f"{path}: more than {_MOST_BYTES >> 30} GiB on one line; export-corrections.groovy writes one object per "
            "line, which can be read at any size"
        )
    document = _parsed(content, path)
    if isinstance(document, dict) and document.get("crs") is not None:
        raise OutputError(
            f"{path}: its coordinates are in the system {str(document['crs'])[:80]}, a location on a map; cells are "
            f"in level-0 pixels of the slide; {_HELP}"
        )
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    elif isinstance(document, dict) and document.get("type") == "Feature":
        document = [document]
    if not isinstance(document, list) or not all(isinstance(feature, dict) for feature in document):
        raise OutputError(f"{path}: not a FeatureCollection of objects; {_HELP}")
    yield from document


def _parsed(text: bytes, path: Path) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: not valid JSON: {error}; {_HELP}") from error


def _objects(first: int, features: list[dict[str, Any]]) -> Objects:
    """A batch of features as columns."""
    properties = [feature.get("properties") or {} for feature in features]
    classes = [each.get("classification") for each in properties]
    # A cell in QuPath has two outlines; ours are outlines of nuclei.
    outlines = [feature.get("nucleusGeometry") or feature.get("geometry") for feature in features]
    return Objects(
        first,
        np.frombuffer(b"".join(_id(feature.get("id")) for feature in features), np.uint8).reshape(-1, 16),
        [str(each.get("objectType", "annotation")).lower() for each in properties],
        [str(each.get("name") or "") for each in properties],
        [_class_name(each) for each in classes],
        [_colour(each) for each in classes],
        _geometries(outlines),
    )


def _geometries(outlines: list[Any]) -> ObjectArray:
    """GeoJSON geometries as shapely geometries, None for invalid ones.

    Polygons of one ring, nearly all, are built in one call: some ten times faster than from text.
    """
    rings = [_ring(each) for each in outlines]
    found: ObjectArray = np.full(len(outlines), None, object)
    simple = np.array([index for index, ring in enumerate(rings) if ring], np.int64)
    points = _points([ring for ring in rings if ring])
    if points is None:
        simple = simple[:0]
    elif len(simple):
        lengths = [len(rings[index]) for index in simple.tolist()]
        owner = np.repeat(np.arange(len(simple)), lengths)
        found[simple] = shapely.polygons(shapely.linearrings(points, indices=owner))
    others = np.setdiff1d(np.arange(len(outlines)), simple)
    texts = [None if outlines[index] is None else orjson.dumps(outlines[index]).decode() for index in others.tolist()]
    found[others] = shapely.from_geojson(texts, "ignore")
    return found


def _ring(outline: Any) -> list[Any]:
    """The closed ring of a polygon without holes; empty for anything else."""
    if not isinstance(outline, dict) or outline.get("type") != "Polygon":
        return []
    rings = outline.get("coordinates")
    if not isinstance(rings, list) or len(rings) != 1 or not isinstance(rings[0], list):
        return []
    ring: list[Any] = rings[0]
    return ring if len(ring) >= 4 and ring[0] == ring[-1] else []


def _points(rings: list[list[Any]]) -> Float64Array | None:
    """All points of some rings, (P, 2); None if one of them is not a pair of finite numbers."""
    try:
        points = np.array(list(itertools.chain.from_iterable(rings)), np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        return None
    whole = len(points) == sum(map(len, rings)) and bool(np.isfinite(points).all())
    return points if whole else None


def _id(text: Any) -> bytes:
    """A UUID as 16 bytes, zeros for anything else."""
    try:
        return uuid.UUID(text).bytes
    except (ValueError, TypeError, AttributeError):
        return bytes(16)


def _class_name(classification: Any) -> str:
    """``Tumor``, or ``Tumor: Positive`` for a derived class, whose parts later versions of QuPath list as ``names``."""
    if not isinstance(classification, dict):
        return UNCLASSIFIED
    names = classification.get("names")
    text = ": ".join(map(str, names)) if isinstance(names, list) else str(classification.get("name") or "")
    return text.strip() or UNCLASSIFIED


def _colour(classification: Any) -> RGB | None:
    colour = classification.get("color") if isinstance(classification, dict) else None
    if isinstance(colour, list) and len(colour) == 3 and all(type(part) is int and 0 <= part < 256 for part in colour):
        return colour[0], colour[1], colour[2]
    return None
