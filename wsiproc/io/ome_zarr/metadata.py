"""Metadata of OME-Zarr 0.5 images and labels, built and validated by ome-zarr-models. The origin is the corner of the
slide, so that images of different resolution, such as overview and labels, align: a level's translation is the position
of the centre of its first pixel. With the origin at the centre of each level's first pixel they would be off by half an
overview pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wsiproc._version import __version__
from wsiproc.core.palette import RGB

if TYPE_CHECKING:
    from ome_zarr_models.v05.multiscales import Multiscale
    from pydantic import BaseModel

VERSION = "0.5"
_importing = threading.Lock()


def image_metadata(
    name: str, mpp: tuple[float, float], levels: int, channels: Sequence[tuple[str, RGB]]
) -> dict[str, Any]:
    """Metadata of an image (c, y, x) with named and coloured channels, ``mpp`` (y, x) µm/px at level 0."""
    _load()
    from ome_zarr_models.common.omero import Channel, Omero, Window
    from ome_zarr_models.v05.image import ImageAttrs

    window = Window(min=0, max=255, start=0, end=255)
    listed = [
        Channel.model_validate(
            {"label": label, "color": "{:02X}{:02X}{:02X}".format(*rgb), "active": True, "window": window}
        )
        for label, rgb in channels
    ]
    omero = Omero.model_validate({"channels": listed, "rdefs": {"model": "color"}})
    multiscale = _multiscale(name, ("c", "y", "x"), mpp, levels, "2x2 mean")
    return _plain(ImageAttrs.model_validate({"version": VERSION, "multiscales": [multiscale], "omero": omero}))


def label_metadata(
    name: str, mpp: tuple[float, float], levels: int, values: Mapping[int, tuple[str, RGB, int]] | None
) -> dict[str, Any]:
    """Metadata of a label map (y, x); ``values``: value → (name, colour, opacity 0–255), None for neither."""
    _load()
    from ome_zarr_models.v05.image_label import ImageLabelAttrs

    label: dict[str, Any] = {"version": VERSION, "source": {"image": "../../"}}
    if values is not None:
        label["colors"] = [{"label-value": value, "rgba": (*rgb, alpha)} for value, (_, rgb, alpha) in values.items()]
        label["properties"] = [{"label-value": value, "name": name} for value, (name, _, _) in values.items()]
    multiscale = _multiscale(name, ("y", "x"), mpp, levels, "2x2 mode")
    content = {"version": VERSION, "multiscales": [multiscale], "image-label": label}
    return _plain(ImageLabelAttrs.model_validate(content))


def labels_metadata(names: Sequence[str]) -> dict[str, Any]:
    """Metadata of the group that lists the labels of an image."""
    _load()
    from ome_zarr_models.v05.labels import LabelsAttrs

    return _plain(LabelsAttrs.model_validate({"version": VERSION, "labels": list(names)}))


def _load() -> None:
    """Import ome-zarr-models, one thread at a time: its modules import each other, and of two threads that begin with
    different ones, one fails on a module that is half imported.
    """
    with _importing:
        import ome_zarr_models.v05  # noqa: F401 - the functions below import its parts by name


def _multiscale(name: str, axes: Sequence[str], mpp: tuple[float, float], levels: int, method: str) -> Multiscale:
    from ome_zarr_models.v05.axes import Axis
    from ome_zarr_models.v05.multiscales import Dataset, Multiscale

    flat = len(axes) - 2
    return Multiscale(
        name=name,
        axes=[
            Axis(name=axis, type="channel") if axis == "c" else Axis(name=axis, type="space", unit="micrometer")
            for axis in axes
        ],
        datasets=tuple(
            Dataset.build(
                path=str(level),
                scale=[*[1.0] * flat, *(m * 2**level for m in mpp)],
                translation=[*[0.0] * flat, *(m * 2**level / 2 for m in mpp)],
            )
            for level in range(levels)
        ),
        type=method,
        metadata={"method": "wsiproc.array.pyramid", "version": __version__},
    )


def _plain(model: BaseModel) -> dict[str, Any]:
    """The model as in ``zarr.json``, under ``ome``."""
    return {"ome": model.model_dump(mode="json", by_alias=True, exclude_none=True)}
