"""Small slides of every kind, all of the same picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
import tifffile
import zarr
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

Picture = npt.NDArray[np.uint8]

MPP = 0.5
# Odd on purpose: no level of it has an exact size.
SHAPE = (701, 903)
DISC_RADIUS_PX = 24
DISCS = [(80.0, 90.0), (350.25, 450.75), (640.0, 820.0), (100.5, 800.25), (610.75, 60.0)]


def draw_picture() -> Picture:
    """Noise in one channel, a gradient in another, dark discs of known centres (px edges) in the third."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float64)
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, SHAPE)
    gradient = (x + y) / (SHAPE[0] + SHAPE[1]) * 255
    discs = np.full(SHAPE, 255.0)
    for cy, cx in DISCS:
        distance = np.hypot(y + 0.5 - cy, x + 0.5 - cx)
        discs = np.minimum(discs, np.clip((distance - DISC_RADIUS_PX + 0.5) * 255, 0, 255))
    return np.stack([noise, gradient, discs], axis=-1).round().astype(np.uint8)


def halve(picture: Picture) -> Picture:
    """2×2 mean, odd edges repeated."""
    h, w = picture.shape[:2]
    even = np.pad(picture, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge").astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4).astype(np.uint8)


def pyramid(picture: Picture) -> list[Picture]:
    levels = [picture]
    for _ in range(3):
        levels.append(halve(levels[-1]))
    return levels


def write_tiff(path: Path, levels: list[Picture]) -> None:
    """A tiled TIFF, the coarser levels as reduced pages: OpenSlide's generic-tiff."""
    per_cm = (1e4 / MPP, 1e4 / MPP)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                level,
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                resolution=per_cm,
                resolutionunit="CENTIMETER",
                subfiletype=int(number > 0),
                metadata=None,
            )


def write_dicom_header(path: Path, series: str) -> None:
    """The smallest file that says of what series it is."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SeriesInstanceUID = series
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def write_ome_tiff(path: Path, levels: list[Picture], planar: bool = False, unit: str = "µm") -> None:
    """An OME-TIFF with its pyramid in SubIFDs; ``planar`` as a page for each channel."""
    scale = {"µm": 1.0, "nm": 1000.0}[unit]
    metadata = {
        "axes": "CYX" if planar else "YXS",
        "PhysicalSizeX": MPP * scale,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": MPP * scale,
        "PhysicalSizeYUnit": unit,
    }
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                level.transpose(2, 0, 1) if planar else level,
                tile=(128, 128),
                photometric="minisblack" if planar else "rgb",
                compression="deflate",
                metadata=metadata if number == 0 else None,
                subifds=len(levels) - 1 if number == 0 else None,
                subfiletype=int(number > 0),
            )


def write_ome_zarr(
    path: Path, levels: list[Picture], version: str, axes: str = "cyx", unit: str = "micrometer"
) -> None:
    """An OME-Zarr 0.4 or 0.5 with the axes in this order."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, level in enumerate(levels):
        array = level.transpose(["yxc".index(axis) for axis in axes])
        chunks = tuple(3 if axis == "c" else 128 for axis in axes)
        group.create_array(str(number), data=np.ascontiguousarray(array), chunks=chunks)
        scale = [1.0 if axis == "c" else MPP * 2**number for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    spaces = [{"name": a, "type": "channel"} if a == "c" else {"name": a, "type": "space", "unit": unit} for a in axes]
    multiscale: dict[str, Any] = {"axes": spaces, "datasets": datasets, "name": "synthetic"}
    if version == "0.4":
        group.attrs["multiscales"] = [{**multiscale, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}


def _write_odd_tiff(path: Path, picture: Picture) -> None:
    """A second level 1.7 times smaller: its factor is no whole number."""
    size = (round(SHAPE[1] / 1.7), round(SHAPE[0] / 1.7))
    write_tiff(path, [picture, np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)])


WRITERS: dict[str, tuple[str, Callable[[Path, Picture], object]]] = {
    "tiff": ("a.tif", lambda path, picture: write_tiff(path, pyramid(picture))),
    "one-level-tiff": ("one.tif", lambda path, picture: write_tiff(path, [picture])),
    "odd-factor-tiff": ("odd.tif", _write_odd_tiff),
    "striped-tiff": (
        "strips.tif",
        lambda path, picture: tifffile.imwrite(
            path, picture, photometric="rgb", rowsperstrip=40, resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
        ),
    ),
    "planar-tiff": (
        "planar.tif",
        lambda path, picture: tifffile.imwrite(
            path, picture.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", tile=(64, 64),
            resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
        ),
    ),
    "ome-tiff": ("b.ome.tif", lambda path, picture: write_ome_tiff(path, pyramid(picture))),
    "channel-pages-ome-tiff": (
        "c.ome.tiff", lambda path, picture: write_ome_tiff(path, pyramid(picture), planar=True, unit="nm"),
    ),
    "ome-zarr-0.4": ("d.ome.zarr", lambda path, picture: write_ome_zarr(path, pyramid(picture), "0.4")),
    "ome-zarr-0.5": ("e.zarr", lambda path, picture: write_ome_zarr(path, pyramid(picture), "0.5", axes="yxc")),
    "png": ("f.png", lambda path, picture: Image.fromarray(picture).save(path)),
}  # fmt: skip
