"""Multiscale images of a result as lazy dask arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiproc.errors import OutputError

# Side of a dask chunk in px: four chunks of the file, so that a task is worth its overhead and fits in memory.
_CHUNK = 1024


@dataclass(frozen=True)
class Pyramid:
    """An image at several resolutions.

    ``levels``: dask arrays, (c, h, w) for images and (h, w) for labels, finest first, each half as wide as the one
    before; ``mpp``: µm per px (y, x) of each level; ``channels``: names, empty for labels; ``values``: (name, value) of
    labels that have names.
    """

    levels: tuple[Any, ...]
    mpp: tuple[tuple[float, float], ...]
    channels: tuple[str, ...] = ()
    values: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        first = self.levels[0]
        names = f", channels {', '.join(self.channels)}" if self.channels else ""
        return f"Pyramid({len(self.levels)} levels, the finest {first.shape} {first.dtype}{names})"


def read_pyramid(folder: Path) -> Pyramid:
    """The multiscale group at ``folder``; raises ``OutputError`` if there is none."""
    import dask.array
    import zarr

    try:
        group = zarr.open_group(folder, mode="r")
        ome: Any = group.attrs["ome"]
        multiscale = ome["multiscales"][0]
        arrays: list[Any] = [group[entry["path"]] for entry in multiscale["datasets"]]
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise OutputError(
            f"{folder}: not a readable OME-Zarr image ({type(error).__name__}: {error}); "
            "write it again with wsiproc run --overwrite"
        ) from error
    scales = [entry["coordinateTransformations"][0]["scale"] for entry in multiscale["datasets"]]
    return Pyramid(
        tuple(dask.array.from_zarr(array, chunks=(*array.shape[:-2], _CHUNK, _CHUNK)) for array in arrays),
        tuple((float(scale[-2]), float(scale[-1])) for scale in scales),
        tuple(channel["label"] for channel in ome.get("omero", {}).get("channels", ())),
        tuple((row["name"], row["label-value"]) for row in ome.get("image-label", {}).get("properties", ())),
    )
