"""GeoJSON as QuPath reads it: detections with class, measurements and outline, in level-0 pixels (x, y).

One bad feature makes QuPath reject the *whole* import, so outlines are rounded, then validated, then written, and
``find_geojson_problems`` knows every rule and the QuPath versions that enforce it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import math
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from isal import isal_zlib

from wsiproc.core.cells import CellTable
from wsiproc.core.palette import RGB
from wsiproc.core.types import Float64Array, FloatArray, Int64Array, IntArray, UInt8Array
from wsiproc.errors import OutputError
from wsiproc.io.atomic import AtomicFileWriter, atomic_file
from wsiproc.io.geojson.outlines import SNAP_DECIMALS, Outlines

# One feature per line, so that a file of any size can be checked line by line.
_HEAD = b'{"type":"FeatureCollection","features":[\n'
_SEPARATOR = b",\n"
_TAIL = b"\n]}\n"

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_DIGITS = 7  # significant digits of a measurement

_PIECE_HEADER = struct.Struct("<IQQ")
_RAW = -15  # window bits that ask for deflate without a container
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952: deflate, no name, no time, unknown system

CELL_ID = "Cell ID"
PROBABILITY = "Probability"
_LABELS = {
    "dab_od_mean": "DAB OD mean",
    "dab_od_std": "DAB OD std dev",
    "ring_dab_od_mean": "Ring: DAB OD mean",
    "ring_dab_completeness": "Ring: DAB completeness",
}
_UNITS = {"_um2": " µm^2", "_um": " µm", "_od_mean": " OD mean", "_od_std": " OD std dev"}


def measurement_label(name: str) -> str:
    """Name of a measurement column in the style of QuPath's own detectors.

    ``area_um2`` → ``Area µm^2``, ``major_axis_um`` → ``Major axis µm``, ``hematoxylin_od_std`` →
    ``Hematoxylin OD std dev``, ``solidity`` → ``Solidity``.
    """
    if name in _LABELS:
        return _LABELS[name]
    suffix = next((ending for ending in _UNITS if name.endswith(ending)), "")
    stem = name.removesuffix(suffix).replace("_", " ")
    return stem[:1].upper() + stem[1:] + _UNITS.get(suffix, "")


def features_bytes(
    cells: CellTable,
    first_id: int,
    fingerprint: str,
    classes: Sequence[str],
    colours: Sequence[RGB],
    scale: tuple[float, float],
) -> tuple[bytes, int]:
    """A block of cells as GeoJSON features separated by commas, and the number left out.

    Outlines that QuPath rejects are left out: those without area, or invalid, once rounded to 0.01 px. ``first_id`` is
    the id of the block's first cell, ``scale`` (sy, sx) level-0 px per grid px. A pure function: blocks may be
    formatted anywhere and concatenated in order.
    """
    ids = np.arange(first_id, first_id + len(cells))
    return outlined_features(cells, ids, Outlines.of(cells.rings, scale), fingerprint, classes, colours)


def outlined_features(
    cells: CellTable,
    ids: IntArray,
    outlines: Outlines,
    fingerprint: str,
    classes: Sequence[str],
    colours: Sequence[RGB],
) -> tuple[bytes, int]:
    """Like ``features_bytes``, for cells with any ids (N,) and with ``outlines`` (N) that replace their own."""
    kept = np.flatnonzero(outlines.writable())
    some = outlines if len(kept) == len(outlines) else outlines.take(kept)
    kinds = [{"name": name, "color": colour} for name, colour in zip(classes, colours, strict=True)]
    features = zip(
        map(bytes, cell_uuids(fingerprint, ids[kept])),
        _rings(some),
        cells.classes[kept].tolist(),
        _measurements(cells, kept, ids[kept]),
        strict=True,
    )
    text = io.BytesIO()  # a list of lines would take as much memory again
    for raw, ring, kind, measurements in features:
        text.write(_SEPARATOR if text.tell() else b"")
        text.write(_feature(uuid.UUID(bytes=raw), ring, kinds[kind], measurements))
    return text.getvalue(), len(cells) - len(kept)


def _feature(identity: uuid.UUID, ring: orjson.Fragment, kind: dict[str, Any], measurements: dict[str, float]) -> bytes:
    """A cell as GeoJSON."""
    return orjson.dumps(
        {
            "type": "Feature",
            "id": identity,
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "detection", "classification": kind, "measurements": measurements},
        }
    )


def _rings(outlines: Outlines) -> Iterator[orjson.Fragment]:
    """Each outline as JSON, ``[[x,y],…]``; integers have no decimal point."""
    for start, end in itertools.pairwise(outlines.offsets.tolist()):
        text = orjson.dumps(outlines.points[start:end], option=orjson.OPT_SERIALIZE_NUMPY)
        yield orjson.Fragment(text.replace(b".0,", b",").replace(b".0]", b"]"))


def cell_uuids(fingerprint: str, ids: IntArray) -> UInt8Array:
    """``uuid5(uuid5(NAMESPACE_OID, fingerprint), str(id)).bytes`` for each id: (N, 16).

    RFC 9562 § 5.5, several times faster than ``uuid.uuid5``: the namespace is hashed once, and version and variant bits
    are set for all rows at once.
    """
    namespace = hashlib.sha1(uuid.uuid5(uuid.NAMESPACE_OID, fingerprint).bytes, usedforsecurity=False)

    def digest(number: int) -> bytes:
        state = namespace.copy()
        state.update(b"%d" % number)
        return state.digest()[:16]

    raw = np.frombuffer(b"".join(map(digest, ids.tolist())), np.uint8).reshape(-1, 16).copy()
    raw[:, 6] = (raw[:, 6] & 0x0F) | 0x50
    raw[:, 8] = (raw[:, 8] & 0x3F) | 0x80
    return raw


def _measurements(cells: CellTable, kept: Int64Array, ids: IntArray) -> Iterator[dict[str, float]]:
    """Flat name → number for each kept cell; those that are not finite are left out, since QuPath 0.4 rejects them."""
    columns = {PROBABILITY: cells.scores, **{measurement_label(k): v for k, v in cells.measurements.items()}}
    table = np.stack([_seven_digits(column[kept]) for column in columns.values()], axis=1)
    for number, row in zip(ids.tolist(), table.tolist(), strict=True):
        finite = {name: value for name, value in zip(columns, row, strict=True) if math.isfinite(value)}
        yield {CELL_ID: number, **finite}


def _seven_digits(values: FloatArray) -> Float64Array:
    """Numbers in the range of float32 rounded to seven significant digits, about as many as QuPath keeps; never -0."""
    exact = values.astype(np.float64)
    size = np.abs(exact)
    power = np.floor(np.log10(size, out=np.zeros_like(size), where=(size > 0) & (size < np.inf)))
    scale = 10.0 ** (_DIGITS - 1 - power)
    rounded: Float64Array = np.rint(exact * scale) / scale + 0.0
    return rounded


@dataclass(frozen=True)
class Piece:
    """Part of the file's text as raw deflate that ends on a byte boundary: pieces of any process can be concatenated.

    ``crc`` and ``length`` are of the uncompressed text; ``dropped`` counts outlines left out.
    """

    deflated: bytes
    crc: int
    length: int
    dropped: int = 0

    @classmethod
    def of(cls, text: bytes, dropped: int = 0, last: bool = False) -> Piece:
        """Compress the text; ``last`` ends the stream."""
        deflate = isal_zlib.compressobj(isal_zlib.ISAL_DEFAULT_COMPRESSION, isal_zlib.DEFLATED, _RAW)
        end = isal_zlib.Z_FINISH if last else isal_zlib.Z_FULL_FLUSH
        return cls(deflate.compress(text) + deflate.flush(end), isal_zlib.crc32(text), len(text), dropped)

    def save(self, path: Path) -> None:
        """Write the piece to a file atomically."""
        with atomic_file(path) as temporary:
            temporary.write_bytes(_PIECE_HEADER.pack(self.crc, self.length, self.dropped) + self.deflated)

    @classmethod
    def load(cls, path: Path) -> Piece:
        """Read a piece that ``save`` wrote."""
        data = path.read_bytes()
        return cls(data[_PIECE_HEADER.size :], *_PIECE_HEADER.unpack_from(data))


class GeoJsonWriter(AtomicFileWriter):
    """``cells.geojson.gz`` from pieces of features, in order; written atomically.

    It is a single gzip member, which every reader accepts, although many processes may have compressed its pieces.
    ``dropped`` counts the outlines that QuPath would reject.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.dropped = 0
        self._empty, self._crc, self._length = True, 0, 0
        self._file = self._temporary.open("wb")
        self._file.write(_GZIP_HEADER)
        self._put(Piece.of(_HEAD))

    def append(self, features: Piece) -> None:
        """Append a block formatted by ``features_bytes``."""
        self.dropped += features.dropped
        if features.length:
            if not self._empty:
                self._put(Piece.of(_SEPARATOR))
            self._put(features)
            self._empty = False

    def _put(self, piece: Piece) -> None:
        self._file.write(piece.deflated)
        self._crc = isal_zlib.crc32_combine(self._crc, piece.crc, piece.length)
        self._length += piece.length

    def finish(self) -> None:
        """End the collection and the gzip member."""
        self._put(Piece.of(_TAIL.lstrip() if self._empty else _TAIL, last=True))
        self._file.write(struct.pack("<II", self._crc, self._length % 2**32))
        self._file.close()

    def abandon(self) -> None:
        """Close the incomplete file."""
        self._file.close()


def iter_features(path: Path) -> Iterator[Any]:
    """The features of a GeoJSON file (plain, or gzip if its name ends in .gz), one after the other.

    Files written by this module are read line by line; others are parsed whole. Raises ``OutputError`` where QuPath's
    parser would fail: not JSON, truncated, not a ``FeatureCollection``, a comma after the last feature.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            head = file.readline()
            yield from _lines(file, path) if head == _HEAD else _whole(head + file.read(), path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise OutputError(f"{path}: truncated or damaged gzip file ({error}); fatal in every QuPath") from error


def _lines(lines: Any, path: Path) -> Iterator[Any]:
    """Features of a file with one feature per line, after its first line; checks commas and the end."""
    comma, ended = False, False
    for number, line in enumerate(lines, start=2):
        if ended or (line == _TAIL.lstrip() and comma):
            raise OutputError(f"{path}, line {number}: a trailing comma or text after the end; fatal in every QuPath")
        if line == _TAIL.lstrip():
            ended = True
            continue
        if number > 2 and not comma:
            raise OutputError(f"{path}, line {number}: no comma between features; fatal in every QuPath")
        comma = line.endswith(_SEPARATOR)
        yield _parsed(line.removesuffix(_SEPARATOR), path)
    if not ended:
        raise OutputError(f"{path}: truncated, the collection is not closed; fatal in every QuPath")


def _whole(text: bytes, path: Path) -> Iterator[Any]:
    collection = _parsed(text, path)
    if not isinstance(collection, dict) or collection.get("type") != "FeatureCollection":
        raise OutputError(f"{path}: not a FeatureCollection; fatal in every QuPath")
    features = collection.get("features")
    if not isinstance(features, list):
        raise OutputError(f"{path}: `features` is not a list; fatal in every QuPath")
    yield from features


def _parsed(text: bytes, path: Path) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise OutputError(f"{path}: not JSON ({error}); fatal in every QuPath") from error


@dataclass(frozen=True)
class _Shell:
    """A feature's number and polygon, to be validated together with others."""

    number: int
    polygon: Any


def find_geojson_problems(path: Path, limit: int = 20) -> list[str]:
    """Problems of a GeoJSON file that make QuPath 0.4 to 0.7 reject or misread it; at most ``limit`` lines.

    Memory is bounded for files with one feature per line. The rules were measured on QuPath's own reader; each line
    names the versions.
    """
    problems: list[str] = []
    shells: list[_Shell] = []
    try:
        for number, feature in enumerate(iter_features(path)):
            found = list(_feature_problems(feature))
            problems += [f"feature {number}: {problem}" for problem in found]
            if not found:
                shells.append(_Shell(number, _snapped(feature["geometry"]["coordinates"])))
            if len(shells) >= 10_000:
                problems += _invalid(shells)
                shells = []
            if len(problems) >= limit:
                break
    except OutputError as error:
        problems.append(str(error))
    return (problems + _invalid(shells))[:limit]


def _snapped(rings: list[Any]) -> Any:
    """A polygon, its first ring the shell, on QuPath's grid of 0.01 px."""
    shell, *holes = (shapely.linearrings(np.round(np.asarray(ring, float)[:, :2], SNAP_DECIMALS)) for ring in rings)
    return shapely.polygons(shell, holes or None)


def _invalid(shells: list[_Shell]) -> list[str]:
    polygons = np.array([shell.polygon for shell in shells], object)
    bad, flat = ~shapely.is_valid(polygons), shapely.area(polygons) == 0
    return [
        f"feature {shells[index].number}: "
        + (
            "zero area; QuPath makes it an empty rectangle"
            if flat[index]
            else f"invalid polygon ({shapely.is_valid_reason(polygons[index])}); fatal in QuPath 0.6 and later"
        )
        for index in np.flatnonzero(bad | flat)
    ]


def _feature_problems(feature: Any) -> Iterator[str]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        yield "not a Feature object; fatal in every QuPath"
        return
    if "id" in feature and not _is_uuid(feature["id"]):
        yield "id is not a UUID; null is fatal in every QuPath, other text is replaced"
    yield from _geometry_problems(feature.get("geometry"))
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        yield "no properties; QuPath makes it an annotation"
        return
    yield from _property_problems(properties)


def _is_uuid(text: Any) -> bool:
    try:
        return str(uuid.UUID(text)) == str(text).lower()
    except (ValueError, TypeError, AttributeError):
        return False


def _geometry_problems(geometry: Any) -> Iterator[str]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind is None:
        yield "geometry is missing or null; fatal in every QuPath"
    elif kind == "GeometryCollection":
        yield "GeometryCollection; fatal in QuPath 0.6 and later"
    elif kind != "Polygon":
        yield f"{kind} instead of Polygon; a MultiPolygon of one part is fatal in QuPath 0.4 and 0.5"
    elif not isinstance(geometry.get("coordinates"), list) or not geometry["coordinates"]:
        yield "a Polygon without rings; fatal in every QuPath"
    else:
        for ring in geometry["coordinates"]:
            yield from _ring_problems(ring)


def _ring_problems(ring: Any) -> Iterator[str]:
    try:
        points = np.asarray(ring, np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        yield "coordinates are not pairs of finite numbers; fatal in every QuPath"
    elif not np.array_equal(points[0], points[-1]):
        yield "ring is not closed; fatal in every QuPath"
    elif len(ring) < 4 or len({tuple(point) for point in ring}) < 3:
        yield "ring with fewer than 3 distinct points; fatal in every QuPath"


def _property_problems(properties: dict[str, Any]) -> Iterator[str]:
    if properties.get("objectType") not in ("annotation", "detection", "cell", "tile"):
        yield f"objectType {properties.get('objectType')!r}; QuPath makes it an annotation"
    if "name" in properties and not isinstance(properties["name"], str):
        yield "properties.name is not text; null is fatal in every QuPath"
    unwanted = sorted({"isLocked", "metadata", "plane"} & properties.keys())
    if unwanted:
        yield f"properties {', '.join(unwanted)}; metadata logs an error for each object in QuPath 0.5, leave them out"
    if "classification" in properties:
        yield from _classification_problems(properties["classification"])
    measurements = properties.get("measurements", {})
    if not isinstance(measurements, dict):
        yield "measurements is not an object; fatal in QuPath 0.4 and later"
        return
    wrong = [name for name, value in measurements.items() if not _is_finite(value)]
    if wrong:
        yield f"measurement {wrong[0]!r} is not a finite number; fatal in QuPath 0.4"


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _FLOAT32_MAX


def _classification_problems(classification: Any) -> Iterator[str]:
    if not isinstance(classification, dict) or not isinstance(classification.get("name"), str):
        yield "classification is not an object with a name; fatal in QuPath 0.4 and later"
        return
    colour = classification.get("color")
    if not isinstance(colour, list) or [type(part) for part in colour] != [int] * 3 or not _is_byte_triple(colour):
        yield f"classification color {colour!r} is not [r, g, b]; fatal in at least one of QuPath 0.4 to 0.7"


def _is_byte_triple(colour: list[int]) -> bool:
    return all(0 <= part <= 255 for part in colour)
