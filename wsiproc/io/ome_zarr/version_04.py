"""OME-Zarr 0.4 (zarr v2) copied from the 0.5 that the run wrote: for QuPath, TIAToolbox and other readers that need it.

The same pixels and metadata, without shards, so one file per chunk. Chunks of zeros are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.errors import OutputError
from wsiproc.io.atomic import ONLY_OF_WRITING

VERSION_04 = "0.4"
_PIECE = 4096  # side of the squares copied at a time: a shard of the source


def write_as_04(source: Path, target: Path) -> None:
    """Copy a multiscale group, with its labels, to ``target``, which must not exist. Holds one shard in memory.

    Raises ``OutputError`` if the source cannot be read, OSError if the copy cannot be written.
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
        if isinstance(error, OSError) and error.errno in ONLY_OF_WRITING:
            raise
        raise OutputError(
            f"{source}: not a readable OME-Zarr image ({type(error).__name__}: {error}); "
            "write it again with wsiproc run --overwrite"
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
    """Metadata of 0.5 converted to 0.4: without the key ``ome``, each part with the version."""
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
