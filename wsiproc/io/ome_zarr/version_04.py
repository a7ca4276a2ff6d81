"""OME-Zarr 0.4 (zarr v2) from what the run wrote as 0.5: for QuPath, TIAToolbox and other readers that stay with it.

The same pixels and metadata; without shards, so that there is a file a chunk. Chunks of zeros leave no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.errors import OutputError

VERSION_04 = "0.4"
_PIECE = 4096  # side of what is copied at once: a shard of the source


def write_as_04(source: Path, target: Path) -> None:
    """Copy a multiscale group, with its labels, to ``target``, which must not exist. Memory is that of a shard.

    Raises ``OutputError`` for a source that cannot be read.
    """
    import zarr

    try:
        group = zarr.open_group(source, mode="r")
        ome: Any = group.attrs["ome"]
        copy = zarr.create_group(target, zarr_format=2, attributes=_attributes(ome))
        for entry in ome["multiscales"][0]["datasets"]:
            _copy_array(group[entry["path"]], copy, entry["path"])
        names = _label_names(source)
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise OutputError(
            f"{source}: no OME-Zarr picture that can be read ({type(error).__name__}: {error}); "
            "wsiproc run --overwrite writes it again"
        ) from error
    if names:
        zarr.create_group(target / "labels", zarr_format=2, attributes={"labels": names})
    for name in names:
        write_as_04(source / "labels" / name, target / "labels" / name)


def _label_names(source: Path) -> list[str]:
    import zarr

    if not (source / "labels").is_dir():
        return []
    ome: Any = zarr.open_group(source / "labels", mode="r").attrs["ome"]
    return list(ome["labels"])


def _attributes(ome: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of 0.5 where 0.4 has it: without the key ``ome``, each part with the version."""
    parts = {name: value for name, value in ome.items() if name != "version"}
    parts["multiscales"] = [{**multiscale, "version": VERSION_04} for multiscale in ome["multiscales"]]
    for name in {"omero", "image-label"} & parts.keys():
        parts[name] = {**parts[name], "version": VERSION_04}
    return parts


def _copy_array(source: Any, group: Any, name: str) -> None:
    from numcodecs import Zstd

    target = group.create_array(
        name,
        shape=source.shape,
        dtype=source.dtype,
        chunks=source.chunks,
        compressors=[Zstd(level=1)],
        chunk_key_encoding={"name": "v2", "separator": "/"},
        fill_value=0,
    )
    height, width = source.shape[-2:]
    for y in range(0, height, _PIECE):
        for x in range(0, width, _PIECE):
            piece = (..., slice(y, y + _PIECE), slice(x, x + _PIECE))
            pixels = np.asarray(source[piece])
            if pixels.any():
                target[piece] = pixels
