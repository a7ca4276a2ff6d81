"""What napari shows of a folder, by the reader that its users install."""

from __future__ import annotations

from typing import Any

from napari_ome_zarr import napari_get_reader


def layers(folder: str) -> dict[str, tuple[list[Any], dict[str, Any], str]]:
    """Name → data, metadata and kind of the layers that napari shows."""
    reader = napari_get_reader(folder)
    assert reader is not None
    return {str(meta["name"]): (data, meta, kind) for data, meta, kind in reader(folder)}
