"""Valid files that are odd: compressions, sample types, orders of pages, scenes, planes, units. All of one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image

from tests.io.slides.slide_writers import MPP, Picture

PER_CM = (1e4 / MPP, 1e4 / MPP)
TILE = (128, 128)


def write(path: Path, pixels: npt.NDArray[Any], **more: Any) -> Path:
    """A tiled TIFF with its pixel size; ``more`` as in ``tifffile.imwrite``."""
    given = {"photometric": "rgb", "resolution": PER_CM, "resolutionunit": "CENTIMETER", "tile": TILE, **more}
    tifffile.imwrite(path, pixels, **given)
    return path


def smaller(pixels: Picture, by: int) -> Picture:
    size = (pixels.shape[1] // by, pixels.shape[0] // by)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def write_pages(path: Path, pages: list[tuple[Picture, dict[str, Any]]]) -> Path:
    """Page after page, each with what ``TiffWriter.write`` is told of it."""
    with tifffile.TiffWriter(path) as tiff:
        for pixels, more in pages:
            given = {"photometric": "rgb", "tile": TILE, "metadata": None, **more}
            tiff.write(pixels, resolution=PER_CM, resolutionunit="CENTIMETER", **given)
    return path


def write_zarr(path: Path, pixels: npt.NDArray[Any], axes: str = "cyx", **more: Any) -> Path:
    """An OME-Zarr 0.4 of one level; ``more``: further keys of its attributes."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    add_multiscale(group, pixels, axes)
    group.attrs.update(more)
    return path


def add_multiscale(group: Any, pixels: npt.NDArray[Any], axes: str, unit: str = "micrometer") -> None:
    chunks = tuple(128 if axis in "yx" else 1 for axis in axes)
    group.create_array("0", shape=pixels.shape, chunks=chunks, dtype=pixels.dtype)[...] = pixels
    kinds = {"c": "channel", "t": "time"}
    spaces = [{"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "zyx" else {})} for a in axes]
    scale = [MPP if axis in "yx" else 1.0 for axis in axes]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": spaces, "datasets": datasets, "name": "scan"}]


def ome_metadata(axes: str, **more: Any) -> dict[str, Any]:
    size = {"PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": MPP, "PhysicalSizeYUnit": "µm"}
    return {"axes": axes, **size, **more}


def cmyk(pixels: Picture) -> Picture:
    """Ink without black: R = 255 − C."""
    return np.concatenate([255 - pixels, np.zeros_like(pixels[..., :1])], axis=-1)


def with_alpha(pixels: Picture, alpha: npt.NDArray[np.uint8]) -> Picture:
    return np.concatenate([pixels, alpha[..., None]], axis=-1)


SAME_PIXELS: dict[str, Callable[[Path, Picture], Path]] = {
    "webp": lambda p, x: write(p / "a.tif", x, compression="webp", compressionargs={"lossless": True}),
    "jpeg2000": lambda p, x: write(p / "a.tif", x, compression="jpeg2000"),
    "jpegxl": lambda p, x: write(p / "a.tif", x, compression="jpegxl", compressionargs={"lossless": True}),
    "lerc": lambda p, x: write(p / "a.tif", x, compression="lerc"),
    "planar": lambda p, x: write(p / "a.tif", np.ascontiguousarray(x.transpose(2, 0, 1)), planarconfig="separate"),
    "planar, 16 bits": lambda p, x: write(
        p / "a.tif", x.transpose(2, 0, 1).astype(np.uint16) * 257, planarconfig="separate"
    ),
    "16 bits": lambda p, x: write(p / "a.tif", x.astype(np.uint16) * 257),
    "16 bits in strips": lambda p, x: write(p / "a.tif", x.astype(np.uint16) * 257, tile=None, rowsperstrip=30),
    "16 bits, OME-TIFF": lambda p, x: write(
        p / "a.ome.tif", x.astype(np.uint16) * 257, ome=True, metadata=ome_metadata("YXS")
    ),
    "16 bits, channels in pages": lambda p, x: write(
        p / "a.ome.tif", x.transpose(2, 0, 1).astype(np.uint16) * 257, ome=True, photometric="minisblack",
        metadata=ome_metadata("CYX"),
    ),
    "16 bits, OME-Zarr": lambda p, x: write_zarr(p / "a.zarr", x.transpose(2, 0, 1).astype(np.uint16) * 257),
    "12 bits in 16": lambda p, x: write(p / "a.tif", x.astype(np.uint16) * 16 + 8),
    "12 bits in 16, OME-Zarr": lambda p, x: write_zarr(p / "a.zarr", x.transpose(2, 0, 1).astype(np.uint16) * 16 + 8),
    "float": lambda p, x: write(p / "a.tif", (x / 255).astype(np.float32)),
    "half float": lambda p, x: write(p / "a.tif", (x / 255).astype(np.float16)),
    "float, OME-TIFF": lambda p, x: write(
        p / "a.ome.tif", (x / 255).astype(np.float32), ome=True, metadata=ome_metadata("YXS")
    ),
    "float, OME-Zarr": lambda p, x: write_zarr(p / "a.zarr", (x / 255).astype(np.float32).transpose(2, 0, 1)),
    "cmyk": lambda p, x: write(p / "a.tif", cmyk(x), photometric="separated"),
    "ycbcr without JPEG": lambda p, x: write(p / "a.tif", np.asarray(
        cv2.cvtColor(x, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]), photometric="ycbcr", subsampling=(1, 1)
    ),
    "alpha of an opaque slide": lambda p, x: write(
        p / "a.tif", with_alpha(x, np.full(x.shape[:2], 255, np.uint8)), extrasamples=("unassalpha",)
    ),
    "a fourth channel of unknown meaning": lambda p, x: write(
        p / "a.tif", with_alpha(x, np.zeros(x.shape[:2], np.uint8)), extrasamples=("unspecified",)
    ),
    "ImageJ": lambda p, x: write(
        p / "a.tif", x, imagej=True, tile=None, resolution=(1 / MPP,) * 2, resolutionunit=None,
        metadata={"unit": "micron", "axes": "YXS"},
    ),
}  # fmt: skip
"""Kind → what writes a slide that shows the picture, to the rounding of its samples."""


def write_palette(folder: Path, pixels: Picture) -> tuple[Path, Picture]:
    """A TIFF of 256 colours, and the picture in these colours."""
    few = Image.fromarray(pixels).quantize(256)
    few.save(folder / "palette.tif", dpi=(25_400 / MPP,) * 2)
    return folder / "palette.tif", np.asarray(few.convert("RGB"))
