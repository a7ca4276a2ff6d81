"""OME-Zarr 0.5: multiscale images and labels, written shard by shard, each shard completely and once.

A writer never writes part of a shard: two processes that write disjoint parts of one shard lose pixels. Shards of zeros
are not stored, so background takes no disk space.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc.array.pyramid import downsample_mean, downsample_mode, level_shape
from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB
from wsiproc.core.types import UInt8Array
from wsiproc.io.ome_zarr.metadata import image_metadata, label_metadata, labels_metadata

CHUNK = 512
SHARD = 4096


def create_image(
    folder: Path,
    shape: tuple[int, int],
    mpp: tuple[float, float],
    levels: int,
    channels: Sequence[tuple[str, RGB]],
    shard: int = SHARD,
    name: str | None = None,
) -> None:
    """Create an empty uint8 image (c, h, w) pyramid with ``omero`` channel names and colours.

    ``mpp`` (y, x) in µm per px and ``shard``, the side of a shard in px, are those of level 0; ``name``: display name;
    defaults to the folder's name.
    """
    attributes = image_metadata(name or folder.name.removesuffix(".ome.zarr"), mpp, levels, channels)
    _create(folder, attributes, ("c", "y", "x"), (len(channels), *shape), levels, "uint8", shard)


def create_labels(
    image: Path,
    name: str,
    shape: tuple[int, int],
    mpp: tuple[float, float],
    levels: int,
    dtype: str,
    values: Mapping[int, tuple[str, RGB, int]] | None = None,
) -> None:
    """Create an empty label pyramid (h, w) under ``image``/labels.

    ``values``: value → (name, colour, opacity 0–255) for maps of few values, including 0. Labels of single cells have
    none: more than some 100,000 colours break viewers.
    """
    attributes = label_metadata(name, mpp, levels, values)
    _create(image / "labels" / name, attributes, ("y", "x"), shape, levels, dtype, SHARD)


def create_labels_group(image: Path, names: Sequence[str]) -> None:
    """Create the group that lists the labels of ``image``."""
    import zarr

    zarr.create_group(image / "labels", attributes=labels_metadata(names), overwrite=True)


def direct_levels(shard: int) -> int:
    """Number of levels that ``write_pyramid`` fills for shards of this side at level 0.

    At these levels a shard is half as wide as at the previous level, so it covers the same square of the slide and one
    task can write it completely at all of them; the remaining lower levels, which are small, are left to
    ``downsample_shard``.
    """
    chunks = shard // CHUNK
    return (chunks & -chunks).bit_length()  # levels that consist of whole chunks, including level 0


def shard_at(level: int, shard: int) -> int:
    """Side of the shards of a level, if those of level 0 have ``shard`` px."""
    return shard >> level if level < direct_levels(shard) else SHARD


def part_to_write(box: Box, inside: Box, shard: int) -> Box:
    """The smallest part of a shard (``inside``, side ``shard`` px) that contains ``box`` and can be written alone."""
    step = 1 << (direct_levels(shard) - 1)
    y, x = box.y // step * step, box.x // step * step
    return Box(y, x, -(-box.y1 // step) * step - y, -(-box.x1 // step) * step - x).intersect(inside)


def write_pyramid(folder: Path, box: Box, pixels: npt.NDArray[Any], shard: int) -> None:
    """Write ``pixels`` (…, h, w) at ``box``, all of a shard of level 0 that is not zero, and the levels made from them.

    The box is a whole shard or, since much of a shard may be background, its ``part_to_write``.
    """
    for level in range(direct_levels(shard)):
        if level:
            if not (
                folder / str(level)
            ).exists():  # a small image has few levels; asking zarr-python takes milliseconds
                break
            pixels = _halve(pixels)
        _write(folder, level, Box(box.y >> level, box.x >> level, *pixels.shape[-2:]), pixels)


def _halve(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean of 2×2 px for images (c, h, w), the most common value for labels (h, w)."""
    return downsample_mean(pixels) if pixels.ndim == 3 else downsample_mode(pixels)


def read_box(folder: Path, level: int, box: Box) -> npt.NDArray[Any]:
    """Pixels (…, h, w) of a level; ``box`` must lie inside."""
    return _read(_array(folder, level), box)


def read_all(folder: Path) -> npt.NDArray[Any]:
    """All pixels (…, h, w) of level 0 of a small image."""
    array = _array(folder, 0)
    return _read(array, Box(0, 0, *array.shape[-2:]))


def read_small(image: Path, longest_px: int) -> UInt8Array:
    """A small version (h, w, c): the lowest level whose longer side has at least ``longest_px``, or else level 0."""
    shapes = level_shapes(image)
    level = max(k for k, shape in enumerate(shapes) if k == 0 or max(shape) >= longest_px)
    h, w = shapes[level][-2:]
    return np.ascontiguousarray(read_box(image, level, Box(0, 0, h, w)).transpose(1, 2, 0))


def downsample_shard(folder: Path, level: int, box: Box) -> None:
    """Fill ``box`` of ``level`` from the previous level: the mean for images, the most common value for labels.

    Works piecewise, so that memory is that of one shard rather than of the four it is made from.
    """
    source = _array(folder, level - 1)
    height, width = source.shape[-2:]
    pixels = np.zeros((*source.shape[:-2], *box.shape), source.dtype.numpy_dtype)
    step = 2 * CHUNK
    for y in range(0, box.h, step):
        for x in range(0, box.w, step):
            part = Box(y, x, min(step, box.h - y), min(step, box.w - x))
            below = Box(2 * (box.y + y), 2 * (box.x + x), 2 * part.h, 2 * part.w).clip((height, width))
            pixels[(..., *part.slices)] = _halve(_read(source, below))
    _write(folder, level, box, pixels)


def level_shapes(folder: Path) -> list[tuple[int, ...]]:
    """Shapes of all levels of a multiscale group."""
    import zarr

    group = zarr.open_group(folder, mode="r")
    datasets: Any = group.attrs["ome"]
    shapes = [group[entry["path"]] for entry in datasets["multiscales"][0]["datasets"]]
    return [tuple(array.shape) for array in shapes if isinstance(array, zarr.Array)]


def channels(folder: Path) -> list[tuple[str, RGB]]:
    """Names and colours of an image's channels."""
    import zarr

    omero: Any = zarr.open_group(folder, mode="r").attrs["ome"]
    listed = omero["omero"]["channels"]
    colours = [bytes.fromhex(channel["color"]) for channel in listed]
    return [(channel["label"], (c[0], c[1], c[2])) for channel, c in zip(listed, colours, strict=True)]


def _array(folder: Path, level: int) -> Any:
    """A level opened by tensorstore, which reads and writes shards several times faster than zarr-python."""
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / str(level))}}
    with _storage_errors():
        return tensorstore.open(spec, context=_context(), open=True).result()


@cache
def _context() -> Any:
    """A single thread, as in all of a worker; tensorstore writes shards atomically."""
    import tensorstore

    one = {"limit": 1}
    settings = {"data_copy_concurrency": one, "file_io_concurrency": one, "file_io_sync": False}
    return tensorstore.Context(settings)


def _read(array: Any, box: Box) -> npt.NDArray[Any]:
    with _storage_errors():
        pixels: npt.NDArray[Any] = array[(..., *box.slices)].read().result()
    return pixels


def _write(folder: Path, level: int, box: Box, pixels: npt.NDArray[Any]) -> None:
    """Write a box of a level, made of whole shards, one file each."""
    array = _array(folder, level)
    with _storage_errors():
        array[(..., *box.slices)].write(pixels).result()


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Re-raise system errors as OSError: tensorstore has the error number in its message only."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is not None:
            raise OSError(int(code[1]), str(error)) from error
        if str(error).startswith("NOT_FOUND"):
            raise FileNotFoundError(errno.ENOENT, str(error)) from error
        raise


def _create(
    folder: Path,
    attributes: Mapping[str, object],
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    levels: int,
    dtype: str,
    shard: int,
) -> None:
    """Create the group, its metadata and its empty arrays."""
    import zarr
    from zarr.codecs import ZstdCodec

    flat = len(axes) - 2
    group = zarr.create_group(folder, attributes=dict(attributes), overwrite=True)
    for level in range(levels):
        group.create_array(
            str(level),
            shape=(*shape[:-2], *level_shape((shape[-2], shape[-1]), level)),
            chunks=(*[1] * flat, CHUNK, CHUNK),
            shards=(*shape[:-2], *[shard_at(level, shard)] * 2),
            dtype=dtype,
            dimension_names=axes,
            # Shuffling or lz4 makes label maps two to six times larger.
            compressors=[ZstdCodec(level=1)],
            fill_value=0,
        )
