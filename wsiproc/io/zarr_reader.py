"""Slides in OME-Zarr 0.4 (zarr v2) and 0.5 (zarr v3)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsiproc.core.geometry import Box
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.limits import check_shapes, check_tile
from wsiproc.io.pyramid_slide import SlideFacts
from wsiproc.io.resample import Level, UInt8Array, level_downsample
from wsiproc.io.resolution import MICROMETRES
from wsiproc.io.zarr_store import FolderStore, require_plain_codecs


class ZarrLevel:
    """A level in a zarr array with axes y, x, c in any order; other axes have one entry."""

    def __init__(self, path: Path, array: zarr.Array[Any], axes: str, slide_shape: tuple[int, int], factor: float):
        self._path, self._array, self._axes = path, array, axes
        self.shape: tuple[int, int] = (array.shape[axes.index("y")], array.shape[axes.index("x")])
        self.downsample = level_downsample(slide_shape, self.shape, factor)

    def read(self, box: Box) -> UInt8Array:
        """See ``Level.read``."""
        part = {"y": box.slices[0], "x": box.slices[1], "c": slice(None)}
        index = tuple(part.get(axis, 0) for axis in self._axes)
        try:
            pixels = np.asarray(self._array[index], np.uint8)
        except Exception as error:  # codecs and storage layers each have their own errors
            raise SlideReadError(
                f"{self._path}: cannot read array {self._array.path!r}, {box.h} × {box.w} px at y {box.y}, x {box.x}: "
                f"{error}; a chunk is damaged: copy or write the slide again"
            ) from error
        kept = [axis for axis in self._axes if axis in part]
        return pixels.transpose([kept.index(axis) for axis in "yxc"])


def is_zarr(path: Path) -> bool:
    """Whether a folder is the root of a zarr hierarchy."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))


def open_zarr(path: Path) -> tuple[list[Level], SlideFacts]:
    """The levels and facts of the first multiscale picture.

    Raises ``SlideError`` where the metadata breaks the rules or the picture is not RGB uint8.
    """
    try:
        store = FolderStore(path)
        group = zarr.open_group(store, mode="r")
        attributes = dict(group.attrs)
        if "bioformats2raw.layout" in _ome(attributes):
            group = zarr.open_group(store, path="0", mode="r")
            attributes = dict(group.attrs)
        ome = _ome(attributes)
        multiscale: dict[str, Any] = ome["multiscales"][0]
        axes = "".join(axis["name"] for axis in multiscale["axes"])
        if sorted(axes) != sorted(set(axes)) or not set("yxc") <= set(axes):
            raise SlideError(f"{path}: its axes are {axes!r}; a slide has y, x and c, each once: write it again")
        datasets = multiscale["datasets"]
        found = [group[dataset["path"]] for dataset in datasets]
        scales = [_yx_scale(multiscale, dataset, axes) for dataset in datasets]
        version = str(ome.get("version") or multiscale.get("version") or "0.4")
        units = [_unit_um(multiscale["axes"], axis) for axis in "yx"]
    except SlideError:
        raise
    except Exception as error:  # zarr and hand-written metadata fail in many ways
        raise SlideError(
            f"{path}: no OME-Zarr picture: {type(error).__name__}: {error}; the folder must hold 'multiscales' "
            "metadata of OME-Zarr 0.4 or 0.5 (check it with: ome-zarr-models validate): copy or write the slide again"
        ) from error
    arrays = [_check_array(path, array, axes) for array in found]
    for array in arrays:
        store.limit(array)
    check_shapes(path, [(array.shape[axes.index("y")], array.shape[axes.index("x")]) for array in arrays])
    base = (arrays[0].shape[axes.index("y")], arrays[0].shape[axes.index("x")])
    levels: list[Level] = [
        ZarrLevel(path, array, axes, base, (scale[0] / scales[0][0] + scale[1] / scales[0][1]) / 2)
        for array, scale in zip(arrays, scales, strict=True)
    ]
    mpp = (scales[0][0] * units[0], scales[0][1] * units[1]) if units[0] and units[1] else None
    return levels, SlideFacts(f"ome-zarr {version}", mpp, properties={"name": str(multiscale.get("name", ""))})


def _ome(attributes: dict[str, Any]) -> dict[str, Any]:
    """The OME metadata: under ``ome`` from 0.5 on, at the top before."""
    nested = attributes.get("ome")
    return nested if isinstance(nested, dict) else attributes


def _yx_scale(multiscale: dict[str, Any], dataset: dict[str, Any], axes: str) -> tuple[float, float]:
    """Units per px (y, x) of a level: its own scale times that of the whole multiscale."""
    scale = np.ones(len(axes))
    for transform in (*dataset["coordinateTransformations"], *multiscale.get("coordinateTransformations", ())):
        if transform["type"] == "scale":
            scale = scale * np.asarray(transform["scale"], np.float64)
    return float(scale[axes.index("y")]), float(scale[axes.index("x")])


def _unit_um(axes: list[dict[str, Any]], name: str) -> float | None:
    """µm per unit of an axis; ``None`` where no unit is given: then the scale says nothing about µm."""
    unit = next(axis.get("unit") for axis in axes if axis["name"] == name)
    return MICROMETRES.get(str(unit))


def _check_array(path: Path, array: zarr.Array[Any] | zarr.Group, axes: str) -> zarr.Array[Any]:
    """The array; raises ``SlideError`` unless it is RGB uint8 that can be decoded."""
    if not isinstance(array, zarr.Array):
        raise SlideError(f"{path}: {array.path!r} is a group where a level's array should be; write the slide again")
    try:
        require_plain_codecs(array)
    except ValueError as error:
        raise SlideError(f"{path}: {error}") from error
    sizes = dict(zip(axes, array.shape, strict=False))
    is_flat = all(size == 1 for axis, size in sizes.items() if axis not in "yxc")
    if sizes.get("c") != 3 or array.dtype != np.uint8 or not is_flat or array.ndim != len(axes):
        raise SlideError(
            f"{path}: array {array.path!r} has axes {axes}, shape {array.shape} and type {array.dtype}; wsiproc reads "
            "brightfield pictures of 3 channels (RGB), uint8: convert it to 8-bit RGB"
        )
    chunk = dict(zip(axes, array.chunks, strict=True))
    deep = math.prod(size for axis, size in chunk.items() if axis not in "yx")
    check_tile(path, (chunk["y"], chunk["x"]), (sizes["y"], sizes["x"]), deep)
    return array
