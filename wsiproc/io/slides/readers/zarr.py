"""Slides in OME-Zarr 0.4 (zarr v2) and 0.5 (zarr v3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideError, SlideKindError, SlideReadError
from wsiproc.io.slides.limits import check_shapes, check_tile
from wsiproc.io.slides.pixels.depth import find_full
from wsiproc.io.slides.pixels.resample import PyramidLevel, level_downsample
from wsiproc.io.slides.pixels.samples import SampleFormat, kind_problem, names_fluorochrome
from wsiproc.io.slides.pyramid import SlideMetadata
from wsiproc.io.slides.readers.zarr_store import FolderStore, require_plain_codecs
from wsiproc.io.slides.resolution import MICROMETRES


@dataclass(frozen=True)
class Base:
    """What levels share: (h, w) of the finest, and the plane read along axes such as z and t."""

    shape: tuple[int, int]
    planes: dict[str, int]


class ZarrLevel:
    """A level in a zarr array with axes y, x, c in any order; of other axes one plane is read."""

    def __init__(self, path: Path, array: zarr.Array[Any], axes: str, base: Base):
        self._path, self._array, self._axes, self._planes = path, array, axes, base.planes
        self.shape = _yx(array, axes)
        self.downsample = level_downsample(base.shape, self.shape, base.shape[0] / self.shape[0])
        self.samples = SampleFormat()

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        return self.samples.to_rgb(self.read_samples(box))

    def read_samples(self, box: Box) -> npt.NDArray[Any]:
        """The (h, w, 3) samples of a box as stored in the file."""
        part = {"y": box.slices[0], "x": box.slices[1], "c": slice(None)}
        index = tuple(part.get(axis, self._planes.get(axis, 0)) for axis in self._axes)
        try:
            pixels = np.asarray(self._array[index], self._array.dtype)
        except Exception as error:  # codecs and storage layers each have their own errors
            raise SlideReadError(
                f"{self._path}: cannot read array {self._array.path!r}, {box.w} × {box.h} px at x {box.x}, y {box.y}: "
                f"{error}; a chunk is damaged: copy or write the slide again"
            ) from error
        kept = [axis for axis in self._axes if axis in part]
        return pixels.transpose([kept.index(axis) for axis in "yxc"])


def open_zarr(path: Path) -> tuple[list[PyramidLevel], SlideMetadata]:
    """The levels, by size, and metadata of the first multiscale image. Raises ``SlideError`` if the metadata is
    invalid, ``SlideKindError`` if the image is not RGB.
    """
    try:
        store = FolderStore(path)
        if isinstance(zarr.open(store, mode="r"), zarr.Array):
            raise SlideError(
                f"{path}: not an OME-Zarr image: a bare zarr array, which says neither its axes nor its pixel size; "
                "pass the folder of the OME-Zarr image that it belongs to, or write one (OME-Zarr 0.4 or 0.5)"
            )
        group = zarr.open_group(store, mode="r")
        warnings: list[str] = []
        ome = _ome_of_image(path, store, group, warnings)
        multiscale: dict[str, Any] = ome["multiscales"][0]
        _require_version(path, ome, multiscale)
        warnings += [_left_out(str(each.get("name") or "without a name")) for each in ome["multiscales"][1:]]
        axes = "".join(axis["name"] for axis in multiscale["axes"])
        if sorted(axes) != sorted(set(axes)) or not set("yxc") <= set(axes):
            raise SlideKindError(f"{path}: its axes are {axes!r}; a slide has y, x and c once each: write it again")
        group = group if "multiscales" in _ome(dict(group.attrs)) else zarr.open_group(store, path="0", mode="r")
        datasets = [(dataset, group[dataset["path"]]) for dataset in multiscale["datasets"]]
        scales = [_yx_scale(multiscale, dataset, axes) for dataset, _ in datasets]
        version = str(ome.get("version") or multiscale.get("version") or "0.4")
        units = [_unit_um(multiscale["axes"], axis) for axis in "yx"]
        _require_brightfield(path, ome)
    except SlideError:
        raise
    except Exception as error:  # zarr and hand-written metadata fail in many ways
        raise SlideError(
            f"{path}: not an OME-Zarr image: {type(error).__name__}: {error}; the folder must contain 'multiscales' "
            "metadata of OME-Zarr 0.4 or 0.5 (check it with: ome-zarr-models validate): copy or write the slide again"
        ) from error
    arrays = [_check_array(path, array, axes) for _, array in datasets]
    for array in arrays:
        store.limit(array)
    order = sorted(range(len(arrays)), key=lambda number: -math.prod(_yx(arrays[number], axes)))
    check_shapes(path, [_yx(arrays[number], axes) for number in order])
    base = Base(_yx(arrays[order[0]], axes), _planes(arrays[0], axes, warnings))
    levels = [ZarrLevel(path, arrays[number], axes, base) for number in order]
    full, warning = find_full(path, np.dtype(arrays[0].dtype), None, levels[-1].shape, levels[-1].read_samples)
    for level in levels:
        level.samples = SampleFormat("rgb", full)
    finest = scales[order[0]]
    mpp = (finest[0] * units[0], finest[1] * units[1]) if units[0] and units[1] else None
    return list(levels), SlideMetadata(
        f"ome-zarr {version}",
        mpp,
        properties={"name": str(multiscale.get("name", ""))},
        warnings=(*warnings, *([warning] if warning else [])),
        remarks={} if order == sorted(order) else {"level_order": f"datasets {', '.join(map(str, order))} of the file"},
    )


def _ome_of_image(path: Path, store: FolderStore, group: zarr.Group, warnings: list[str]) -> dict[str, Any]:
    """The OME metadata of the image in a group: its own, or that of the first series in it."""
    ome = _ome(dict(group.attrs))
    if "plate" in ome or "well" in ome:
        of_plate = "plate" in ome
        parts = ome["plate"]["wells"] if of_plate else ome["well"]["images"]
        names = ", ".join(str(part["path"]) for part in parts[:6]) + (" …" if len(parts) > 6 else "")
        raise SlideKindError(
            f"{path}: {'a plate of' if of_plate else 'a well of'} {len(parts)} {'wells' if of_plate else 'fields'} "
            f"({names}), not one slide: pass the folders of the fields that you want, such as "
            f"{path / str(parts[0]['path']) / '0' if of_plate else path / str(parts[0]['path'])}"
        )
    if "bioformats2raw.layout" not in ome:
        if "multiscales" not in ome:
            names = ", ".join(sorted(name for name, _ in group.members())[:6])
            raise SlideError(
                f"{path}: not an OME-Zarr image: a zarr folder ({names or 'empty'}) without the metadata "
                "'multiscales': pass the folder of an image, or write one (OME-Zarr 0.4 or 0.5)"
            )
        return ome
    first = _ome(dict(zarr.open_group(store, path="0", mode="r").attrs))
    for name, other in sorted(group.groups()):
        multiscales = _ome(dict(other.attrs)).get("multiscales")
        if name not in {"0", "OME"} and multiscales:
            warnings.append(_left_out(f"series {name}, {multiscales[0].get('name') or 'without a name'}"))
    return first


def _require_version(path: Path, ome: dict[str, Any], multiscale: dict[str, Any]) -> None:
    """Raise ``SlideError`` for versions whose axes are written in another way: before 0.4, and after 0.5."""
    axes = multiscale.get("axes")
    if not isinstance(axes, list) or not all(isinstance(axis, dict) for axis in axes):
        version = ome.get("version") or multiscale.get("version") or "of an unknown version"
        raise SlideError(f"{path}: OME-Zarr {version}; wsiproc reads 0.4 and 0.5: convert it, or export it again")


def _left_out(what: str) -> str:
    return f"it contains another image, {what}, which is left out: pass its folder as a slide to process it too"


def _planes(array: zarr.Array[Any], axes: str, warnings: list[str]) -> dict[str, int]:
    """Which plane is read along each axis other than y, x and c."""
    found = {}
    for axis, size in zip(axes, array.shape, strict=True):
        if axis not in "yxc":
            found[axis] = size // 2 if axis == "z" else 0
            if size > 1:
                which = f"the middle one, {size // 2 + 1}," if axis == "z" else "the first one"
                what = {"z": "focal planes", "t": "time points"}.get(axis, f"planes (axis {axis})")
                warnings.append(f"it contains {size} {what}; {which} is used")
    return found


def _require_brightfield(path: Path, ome: dict[str, Any]) -> None:
    """Raise ``SlideKindError`` if three channels have colours other than red, green, blue in this
    order, or the names of dyes."""
    omero = ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or len(channels) != 3 or not all(isinstance(each, dict) for each in channels):
        return
    colours = [str(each.get("color", "")).upper() for each in channels]
    labels = [str(each.get("label") or "?") for each in channels]
    is_other = all(colours) and len(set(colours)) == 3 and colours != ["FF0000", "00FF00", "0000FF"]
    if is_other or names_fluorochrome(labels):
        names = ", ".join(labels)
        raise SlideKindError(
            f"{path}: an image of three channels ({names}) displayed in {', '.join(colours)}: fluorescence, or "
            "channels that are not red, green, blue; wsiproc reads RGB brightfield slides such as H&E"
        )


def _yx(array: zarr.Array[Any], axes: str) -> tuple[int, int]:
    return int(array.shape[axes.index("y")]), int(array.shape[axes.index("x")])


def _ome(attributes: dict[str, Any]) -> dict[str, Any]:
    """The OME metadata: under ``ome`` from 0.5 on, at the top level before."""
    nested = attributes.get("ome")
    return nested if isinstance(nested, dict) else attributes


def _yx_scale(multiscale: dict[str, Any], dataset: dict[str, Any], axes: str) -> tuple[float, float]:
    """Units per px (y, x) of a level: its own scale times that of the whole multiscale."""
    scale = np.ones(len(axes))
    for transform in (*dataset["coordinateTransformations"], *multiscale.get("coordinateTransformations", ())):
        if transform["type"] == "scale":
            scale = scale * np.asarray(transform["scale"], np.float64)
    y, x = float(scale[axes.index("y")]), float(scale[axes.index("x")])
    if not (y > 0 and x > 0):
        raise ValueError(f"a scale of {y:g} × {x:g}")
    return y, x


def _unit_um(axes: list[dict[str, Any]], name: str) -> float | None:
    """µm per unit of an axis; ``None`` if no unit is given: then the scale says nothing about µm."""
    unit = next(axis.get("unit") for axis in axes if axis["name"] == name)
    return MICROMETRES.get(str(unit))


def _check_array(path: Path, array: zarr.Array[Any] | zarr.Group, axes: str) -> zarr.Array[Any]:
    """The array; raises ``SlideError`` unless it is decodable RGB uint8."""
    if not isinstance(array, zarr.Array):
        raise SlideError(f"{path}: {array.path!r} is a group where a level's array should be; write the slide again")
    try:
        require_plain_codecs(array)
    except ValueError as error:
        raise SlideError(f"{path}: {error}") from error
    sizes = dict(zip(axes, array.shape, strict=False))
    what = f"array {array.path!r} has axes {axes}, shape {array.shape} and type {array.dtype}"
    if sizes.get("c") != 3 or array.ndim != len(axes):
        raise SlideKindError(
            f"{path}: {what}; wsiproc reads brightfield images of 3 channels (RGB); more or fewer are grey, "
            "fluorescence or another stack"
        )
    if (problem := kind_problem(np.dtype(array.dtype))) is not None:
        raise SlideKindError(f"{path}: {what}: {problem}")
    chunk = dict(zip(axes, array.chunks, strict=True))
    deep = math.prod(size for axis, size in chunk.items() if axis not in "yx")
    check_tile(path, (chunk["y"], chunk["x"]), (sizes["y"], sizes["x"]), deep)
    return array
