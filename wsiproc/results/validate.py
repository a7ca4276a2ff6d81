"""Proof of an output folder: every file follows its format's rules, and all files hold the same cells.

Nothing is taken from the writers but the file names. Arrays are read a shard at a time; apart from that, memory grows
by some 30 bytes a cell.
"""

from __future__ import annotations

import glob
import itertools
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from wsiproc.core.geometry import Box, Grid
from wsiproc.core.types import Float32Array, Float64Array, Int64Array, UInt8Array
from wsiproc.results.record import RunRecord, problems

_LABELS = ("tissue", "classes", "cells")
_COLUMNS = ("id", "class", "score", "centroid_x", "centroid_y", "bbox", "area_um2", "geometry")
_SHARD = 4096
_STRIP = 512  # rows counted at once, so that bincount's int64 copy stays small
_MOST = 20  # problems reported per check


@dataclass(frozen=True)
class Finding:
    """One result of a check: how bad, what was looked at, and what was found."""

    level: Literal["error", "warning", "ok"]
    what: str
    detail: str


@dataclass
class _Output:
    """What the checks of one folder share: ``run.json``, and per cell id (row 0 is not a cell) what the table says.

    ``classes``: index into ``names``; ``pixels``: area of the outline in grid px; ``bounds``: (xmin, ymin, xmax,
    ymax) of the outline in level-0 px.
    """

    folder: Path
    run: RunRecord
    names: list[str] = field(default_factory=list)
    classes: UInt8Array = field(default_factory=lambda: np.zeros(1, np.uint8))
    pixels: Int64Array = field(default_factory=lambda: np.zeros(1, np.int64))
    bounds: Float32Array = field(default_factory=lambda: np.zeros((1, 4), np.float32))

    @property
    def mpp(self) -> Float64Array:
        """(y, x) µm per level-0 px."""
        return np.full(2, self.run.slide.mpp, np.float64)

    @property
    def scale(self) -> Float64Array:
        """(y, x) level-0 px per grid px."""
        return np.asarray(self.run.grid.scale, np.float64)


Check = Callable[[_Output], Iterator[str]]


def check_output(folder: Path) -> list[Finding]:
    """All findings on one slide's folder: an ``ok`` for each check that passed, an ``error`` for each broken rule.

    A broken or missing file is a finding, never an exception.
    """
    findings = _outcome("run.json", _check_run(folder))
    if findings[0].level == "error":
        return findings
    output = _Output(folder, RunRecord.read(folder))
    for what, check in _checks():
        findings += _outcome(what, check(output))
    return findings + [Finding("warning", "to know", text) for text in _warnings(output)]


def _checks() -> list[tuple[str, Check]]:
    """What is checked, in order; the table comes first, since all others are compared with it."""
    groups = ["slide.ome.zarr", *(f"slide.ome.zarr/labels/{name}" for name in _LABELS), "maps.ome.zarr"]
    return [
        ("cells.parquet", _check_table),
        ("cells.geojson.gz follows QuPath's rules", _check_geojson_rules),
        ("cells.geojson.gz = cells.parquet", _check_geojson_cells),
        ("slide.ome.zarr/labels", lambda output: _check_validators(output.folder / "slide.ome.zarr/labels")),
        *((group, _group_check(group)) for group in groups),
        ("labels = cells.parquet", _check_label_pixels),
        ("numbers = cells in tissue", _check_numbers),
        ("report.html", _check_report),
    ]


def _outcome(what: str, check: Iterator[str]) -> list[Finding]:
    found = []
    try:
        for problem in check:
            found.append(Finding("error", what, problem))
            if len(found) == _MOST:
                found.append(Finding("error", what, "and perhaps more"))
                break
    except Exception as error:  # any file may be broken in any way, and the libraries raise what they like
        found.append(Finding("error", what, f"cannot be checked: {type(error).__name__}: {error}"))
    return found or [Finding("ok", what, "as it should be")]


def _check_run(folder: Path) -> Iterator[str]:
    path = folder / "run.json"
    if not path.exists():
        yield "missing: the run did not finish; run the same `wsiproc run` command to resume"
        return
    try:
        run = RunRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        yield from problems(error)
        return
    # Earlier versions wrote neither; without them nothing says how many cells lie in the tissue.
    for name, value in (("counts.in_tissue", run.counts.in_tissue), ("numbers", run.numbers)):
        if value is None:
            yield f"`{name}` is missing or of the wrong type: None"
    yield from _check_run_numbers(run)


def _check_run_numbers(run: RunRecord) -> Iterator[str]:
    counts, scale = run.counts, np.divide(run.slide.shape, run.grid.shape)
    if sum(counts.classes.values()) != counts.cells:
        yield f"the classes add up to {sum(counts.classes.values())}, not to {counts.cells} cells"
    if list(counts.classes) != list(run.classes):
        yield f"cells are counted for {list(counts.classes)}, the classes are {list(run.classes)}"
    if not np.allclose(scale, run.grid.scale, rtol=1e-9):
        yield f"grid.scale is {list(run.grid.scale)}, slide extent ÷ grid extent is {scale.tolist()}"


def _warnings(output: _Output) -> Iterator[str]:
    """What is not an error but should be seen."""
    failed = output.run.regions.failed
    if failed:
        yield f"{len(failed)} regions could not be processed and hold no cells"
    yield from output.run.warnings
    for path in sorted(output.folder.glob("*.tmp")):
        yield f"{path.name} is left over from an interrupted run"


def _check_report(output: _Output) -> Iterator[str]:
    path = output.folder / "report.html"
    if not path.exists():
        yield "missing"
    elif not path.read_bytes().rstrip().endswith(b"</html>"):
        yield "truncated"


# --- cells.parquet ---------------------------------------------------------------------------------------------------


def _check_table(output: _Output) -> Iterator[str]:
    """Columns, metadata, ids and areas; fills the columns of ``output``."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(output.folder / "cells.parquet") as file:
        missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
        if missing:
            yield f"columns are missing: {', '.join(missing)}"
            return
        yield from _check_table_metadata(file.metadata.metadata or {}, output)
        count, names = file.metadata.num_rows, list(output.run.classes)
        output.names, output.classes = names, np.zeros(count + 1, np.uint8)
        output.pixels, output.bounds = np.zeros(count + 1, np.int64), np.zeros((count + 1, 4), np.float32)
        if count != output.run.counts.cells:
            yield f"{count} rows, run.json counts {output.run.counts.cells} cells"
        first = 1
        for batch in file.iter_batches(50_000, columns=["id", "class", "bbox", "area_um2", "geometry"]):
            yield from _check_rows(batch, first, output)
            first += len(batch)
    found = dict(zip(names, np.bincount(output.classes[1:], minlength=len(names)).tolist(), strict=False))
    if found != output.run.counts.classes:
        yield f"cells a class are {found}, run.json says {output.run.counts.classes}"


def _check_table_metadata(metadata: dict[bytes, bytes], output: _Output) -> Iterator[str]:
    geo, facts = (json.loads(metadata.get(key, b"{}")) for key in (b"geo", b"wsiproc"))
    if geo.get("primary_column") != "geometry" or geo.get("columns", {}).get("geometry", {}).get("encoding") != "WKB":
        yield "no GeoParquet metadata for the column `geometry`"
    elif geo["columns"]["geometry"].get("crs", "absent") is not None:
        yield "the coordinate reference system must be null: a missing one means longitude and latitude"
    run, classes = output.run, dict(zip(facts.get("classes", []), facts.get("colours", []), strict=False))
    colours = [(name, list(colour)) for name, colour in run.classes.items()]
    if facts.get("scale") != list(run.grid.scale) or list(classes.items()) != colours:
        yield "metadata `wsiproc` has another scale, other classes or other colours than run.json"


def _check_rows(batch: Any, first: int, output: _Output) -> Iterator[str]:
    """One batch of rows, the ids from ``first`` on expected; fills their place in ``output``."""
    import shapely

    rows = slice(first, first + len(batch))
    if not np.array_equal(batch["id"].to_numpy(), np.arange(first, first + len(batch))):
        yield f"ids of rows {first} to {first + len(batch) - 1} are not consecutive from {first}"
    output.classes[rows] = [output.names.index(name) for name in batch["class"].to_pylist()]
    polygons = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
    invalid = np.flatnonzero(~shapely.is_valid(polygons))
    if len(invalid):
        yield f"{len(invalid)} invalid outlines, the first of cell {first + invalid[0]}"
    px = shapely.area(polygons) / output.scale.prod()
    output.pixels[rows], output.bounds[rows] = np.rint(px), shapely.bounds(polygons)
    box = np.stack([batch["bbox"].field(side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")], axis=1)
    if not np.allclose(box, output.bounds[rows], atol=0.05):
        yield f"`bbox` is not the bounds of the outline in rows {first} to {first + len(batch) - 1}"
    um2 = px * output.scale.prod() * output.mpp.prod()
    wrong = np.flatnonzero(~np.isclose(batch["area_um2"].to_numpy(), um2, rtol=0.02))
    if len(wrong):
        area = batch["area_um2"][int(wrong[0])]
        yield f"`area_um2` of cell {first + wrong[0]} is {area}, its outline has {um2[wrong[0]]:.2f} µm²"


# --- cells.geojson.gz ------------------------------------------------------------------------------------------------


def _check_geojson_rules(output: _Output) -> Iterator[str]:
    from wsiproc.io.geojson.write import find_geojson_problems

    yield from find_geojson_problems(output.folder / "cells.geojson.gz", _MOST)


def _check_geojson_cells(output: _Output) -> Iterator[str]:
    """Same ids, classes and places as in the table."""
    from wsiproc.io.geojson.write import CELL_ID, iter_features

    seen = np.zeros(len(output.pixels), bool)
    for feature in iter_features(output.folder / "cells.geojson.gz"):
        identity = feature["properties"]["measurements"].get(CELL_ID)
        if not isinstance(identity, int) or not 0 < identity < len(seen):
            yield f"cell {identity!r} is not in cells.parquet"
            continue
        if seen[identity]:
            yield f"cell {identity} is there twice"
        seen[identity] = True
        name, expected = feature["properties"]["classification"]["name"], output.names[output.classes[identity]]
        if name != expected:
            yield f"cell {identity} is {name}, in cells.parquet {expected}"
        ring = np.asarray(feature["geometry"]["coordinates"][0], np.float64)
        if not np.allclose([*ring.min(0), *ring.max(0)], output.bounds[identity], atol=0.05):
            yield f"cell {identity} lies elsewhere than in cells.parquet: the frame must be level-0 pixels"
    missing = np.flatnonzero(~seen[1:]) + 1
    allowed = output.run.counts.not_in_geojson
    if len(missing) != allowed:
        yield f"{len(missing)} cells are missing (run.json says {allowed}), the first is {missing[:1].tolist()}"


# --- OME-Zarr --------------------------------------------------------------------------------------------------------


def _group_check(name: str) -> Check:
    """The check of one multiscale group of the folder."""

    def check(output: _Output) -> Iterator[str]:
        path = output.folder / name
        if not path.is_dir():
            yield "missing"
            return
        yield from _check_validators(path)
        yield from _check_multiscale(path, name, output)

    return check


def _plainly_named(path: Path, validate: Callable[[Path], object]) -> object:
    """``validate(path)``, through a link where the path has [, * or ?, which yaozarrs takes for a pattern."""
    odd = [folder for folder in (path, *path.parents) if glob.has_magic(folder.name)]
    if not odd:
        return validate(path)
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "link"
        link.symlink_to(odd[0].absolute(), target_is_directory=True)
        return validate(link / path.relative_to(odd[0]))


def _check_validators(path: Path) -> Iterator[str]:
    """What ome-zarr-models and yaozarrs object to; each finds things that the other misses."""
    import ome_zarr_models
    import yaozarrs

    validators: dict[str, Callable[[], object]] = {
        "ome-zarr-models": lambda: ome_zarr_models.open_ome_zarr(str(path), version="0.5"),
        "yaozarrs": lambda: _plainly_named(path, yaozarrs.validate_zarr_store),
    }
    for name, validate in validators.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                validate()
            except Exception as error:  # both raise errors of several unrelated kinds
                yield f"{name}: {' '.join(str(error).split())[:500]}"
        for warning in caught:
            if "alidation" in warning.category.__name__:
                yield f"{name}: {' '.join(str(warning.message).split())[:500]}"


def _check_multiscale(path: Path, name: str, output: _Output) -> Iterator[str]:
    """What the validators do not look at: units, frames, level formulas, data types, pixels."""
    import zarr

    group = zarr.open_group(path, mode="r")
    ome: Any = group.attrs["ome"]
    axes, datasets = ome["multiscales"][0]["axes"], ome["multiscales"][0]["datasets"]
    arrays: list[Any] = [group[entry["path"]] for entry in datasets]
    if ome.get("version") != "0.5":
        yield f"ome.version is {ome.get('version')!r}, not '0.5'"
    yield from _check_axes(axes, arrays)
    for level, (entry, array) in enumerate(zip(datasets, arrays, strict=True)):
        yield from _check_level(level, entry, array, arrays[0], output)
    full = tuple(arrays[0].shape[-2:])
    if name.endswith(("labels/cells", "labels/classes", "maps.ome.zarr")) and full != output.run.grid.shape:
        yield f"level 0 is {full} px, the grid is {output.run.grid.shape}"
    if "/labels/" in name:
        yield from _check_label(path, ome, arrays)
    else:
        yield from _check_omero(ome, arrays[0].shape[0])
    yield from _check_halving(arrays)


def _check_axes(axes: list[dict[str, Any]], arrays: list[Any]) -> Iterator[str]:
    names = [axis["name"] for axis in axes]
    if names not in (["y", "x"], ["c", "y", "x"]):
        yield f"axes are {names}"
    for axis in axes:
        if axis["name"] in "yx" and axis.get("unit") != "micrometer":
            yield f"unit of {axis['name']} is {axis.get('unit')!r}, not 'micrometer'"
    for level, array in enumerate(arrays):
        if list(array.metadata.dimension_names or []) != names:
            yield f"level {level}: dimension_names are {array.metadata.dimension_names}, the axes {names}"


def _check_level(level: int, entry: dict[str, Any], array: Any, first: Any, output: _Output) -> Iterator[str]:
    """Shape, scale and translation of one level: mpp·2^k and mpp·2^k/2, mpp being slide ÷ array extent."""
    full = np.array(first.shape[-2:])
    mpp = np.asarray(output.run.slide.shape) * output.mpp / full
    flat = [1.0] * (array.ndim - 2)
    expected: list[tuple[str, list[float]]] = [
        ("scale", [*flat, *(mpp * 2**level)]),
        ("translation", [0.0] * len(flat) + (mpp * 2**level / 2).tolist()),
    ]
    found = [(change["type"], change[change["type"]]) for change in entry["coordinateTransformations"]]
    if [kind for kind, _ in found] != [kind for kind, _ in expected]:
        yield f"level {level}: transformations {[kind for kind, _ in found]}, not {[kind for kind, _ in expected]}"
        return
    for (kind, values), (_, wanted) in zip(found, expected, strict=True):
        # A thousandth of a pixel over the whole extent.
        if len(values) != len(wanted) or not np.allclose(values, wanted, rtol=1e-3 / full.max(), atol=1e-12):
            yield f"level {level}: {kind} is {values}, not {np.round(wanted, 9).tolist()}"
    shape = tuple((-(-full // 2**level)).tolist())
    if array.shape[-2:] != shape:
        yield f"level {level}: {array.shape[-2:]} px, not {shape}"
    if array.dtype != first.dtype:
        yield f"level {level}: {array.dtype}, level 0 has {first.dtype}"


def _check_label(path: Path, ome: dict[str, Any], arrays: list[Any]) -> Iterator[str]:
    import zarr

    parent: Any = zarr.open_group(path.parent.parent, mode="r").attrs["ome"]
    levels = len(parent["multiscales"][0]["datasets"])
    if len(arrays) != levels:
        yield f"{len(arrays)} levels, the image has {levels}"
    wanted = np.dtype("uint32" if path.name == "cells" else "uint8")
    if arrays[0].dtype != wanted:
        yield f"data type {arrays[0].dtype}, not {wanted}"
    label = ome.get("image-label", {})
    colours, names = ([row["label-value"] for row in label.get(key, [])] for key in ("colors", "properties"))
    if path.name == "cells":
        if colours or names:
            yield "colours or properties a cell: they break viewers above some 100,000 entries"
    elif colours != names or 0 not in colours:
        yield f"image-label.colors lists {colours}, properties {names}; both need the same values, 0 among them"


def _check_omero(ome: dict[str, Any], channels: int) -> Iterator[str]:
    listed = ome.get("omero", {}).get("channels", [])
    if len(listed) != channels:
        yield f"omero lists {len(listed)} channels, the array has {channels}"
    for channel in listed:
        if "color" not in channel or not {"min", "max", "start", "end"} <= channel.get("window", {}).keys():
            yield f"omero channel {channel.get('label')!r} needs `color` and `window` with min, max, start and end"


def _check_halving(arrays: list[Any]) -> Iterator[str]:
    """Each level is the 2×2 mean or mode of the one below, in windows along the diagonal."""
    from wsiproc.array.pyramid import downsample_mean, downsample_mode

    halve = downsample_mean if arrays[0].ndim == 3 else downsample_mode
    for level, (below, above) in enumerate(itertools.pairwise(arrays), start=1):
        h, w = above.shape[-2:]
        for part in (0.25, 0.5, 0.75):
            box = Box(int(h * part) - 64, int(w * part) - 64, 128, 128).clip((h, w))
            source = Box(2 * box.y, 2 * box.x, 2 * box.h, 2 * box.w).clip(below.shape[-2:])
            if not np.array_equal(halve(np.asarray(below[(..., *source.slices)])), above[(..., *box.slices)]):
                yield f"level {level} is not level {level - 1} halved (around y {box.y}, x {box.x})"
                break


def _check_label_pixels(output: _Output) -> Iterator[str]:
    """Every cell has as many pixels as its outline holds, all with its class, and no pixel is of another cell."""
    import zarr

    labels = output.folder / "slide.ome.zarr/labels"
    cells, kinds = (zarr.open_array(labels / name / "0", mode="r") for name in ("cells", "classes"))
    known: Any = zarr.open_group(labels / "classes", mode="r").attrs["ome"]
    values = {row["name"]: row["label-value"] for row in known["image-label"]["properties"]}
    value_of = np.array([values[name] for name in output.names], np.uint8)[output.classes]
    value_of[0] = 0
    pixels = np.zeros(len(output.pixels), np.int64)
    for shard in Grid((cells.shape[0], cells.shape[1]), _SHARD):
        ids, classes = np.asarray(cells[shard.box.slices]), np.asarray(kinds[shard.box.slices])
        if ids.max(initial=0) >= len(pixels):
            yield f"labels/cells holds the id {ids.max()}, cells.parquet ends at {len(pixels) - 1}"
            return
        wrong = int((value_of[ids] != classes).sum())
        if wrong:
            yield f"{wrong} pixels of labels/classes in {shard.box} have another class than their cell"
        for row in range(0, len(ids), _STRIP):
            pixels += np.bincount(ids[row : row + _STRIP].ravel(), minlength=len(pixels))
    differ = np.flatnonzero(pixels[1:] != output.pixels[1:]) + 1
    if len(differ):
        first = differ[0]
        yield (
            f"{len(differ)} cells have another size than their outline: cell {first} has {pixels[first]} px in "
            f"labels/cells, {output.pixels[first]} px in cells.parquet"
        )


def _check_numbers(output: _Output) -> Iterator[str]:
    """As many cells with their centre in the tissue, and as much of it, as ``run.json`` says; and what follows."""
    import pyarrow.parquet
    import zarr

    told = None if output.run.numbers is None else output.run.numbers.as_dict()
    follows = asdict(output.run.slide_numbers())
    if told != follows:
        yield f"`numbers` are {told}, the counts and the tissue come to {follows}"
    tissue = np.asarray(zarr.open_array(output.folder / "slide.ome.zarr/labels/tissue/0", mode="r")[...]) > 0
    px = np.divide(output.run.slide.shape, tissue.shape)
    names = ["centroid_y", "centroid_x"]
    table = pyarrow.parquet.read_table(output.folder / "cells.parquet", columns=names)
    # Rounded, so that a centre on the border of two px is in the same one as in the frame of the grid.
    places = [np.round(table[name].to_numpy() / side, 6).astype(np.int64) for name, side in zip(names, px, strict=True)]
    y, x = (np.clip(place, 0, side - 1) for place, side in zip(places, tissue.shape, strict=True))
    inside = np.bincount(output.classes[1:][tissue[y, x]], minlength=len(output.names)).tolist()
    counted = output.run.counts.in_tissue
    if dict(zip(output.names, inside, strict=True)) != counted:
        yield f"cells of each class with their centre in labels/tissue are {inside}, run.json says {counted}"
    mm2 = float(tissue.sum() * px.prod() * output.mpp.prod() / 1e6)
    area = output.run.tissue_mm2
    # In a region of interest the label goes one px over its border, which is not counted.
    if area > mm2 * (1 + 1e-9) or (output.run.roi is None and not np.isclose(area, mm2)):
        yield f"labels/tissue has {mm2:.6f} mm², run.json says {area:.6f}"
