"""Plain images (PNG, JPEG, BMP …): one level, decoded whole and once, without a pixel size of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideError, SlideKindError, SlideReadError
from wsiproc.io.slides.limits import check_whole_bytes
from wsiproc.io.slides.pixels.depth import find_full
from wsiproc.io.slides.pixels.orientation import UPRIGHT, oriented
from wsiproc.io.slides.pixels.resample import PyramidLevel
from wsiproc.io.slides.pixels.samples import SampleFormat
from wsiproc.io.slides.pyramid import SlideMetadata

# Others have no pixels (HDF5, WMF), or are drawn by other programs (EPS).
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "WEBP")
_PNG_RGBA = 6
_guard_lock = threading.Lock()


class ImageLevel:
    """A whole image in memory, decoded when first read."""

    downsample = (1.0, 1.0)

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._path = path
        self._lock = threading.Lock()
        self._pixels: UInt8Array | None = None

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._pixels[box.slices]

    def _decode(self) -> UInt8Array:
        return _decode(self._path)


class DeepPngLevel(ImageLevel):
    """A PNG with 16 bits per channel, of which Pillow would keep the upper eight, whatever their range."""

    samples = SampleFormat()

    def _decode(self) -> UInt8Array:
        return self.samples.to_rgb(self.read_samples(Box(0, 0, *self.shape)))

    def read_samples(self, box: Box) -> npt.NDArray[Any]:
        """The (h, w, channels) samples of a box as stored in the file; decodes the whole image."""
        try:
            values: npt.NDArray[Any] = imagecodecs.png_decode(self._path.read_bytes())
        except Exception as error:
            raise _damaged(self._path, error) from error
        if values.shape[:2] != self.shape:
            raise _damaged(self._path, f"{values.shape[:2]} px where {self.shape} were declared")
        return values.reshape(*self.shape, -1)[box.slices]


def _formats() -> list[str]:
    """Those of ``_FORMATS`` that the installed Pillow has; it refuses to try others."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def open_image(path: Path) -> tuple[list[PyramidLevel], SlideMetadata] | None:
    """The single level of an image, oriented by its tag; ``None`` if Pillow does not know the format. Its dots per inch
    are a printing default and are not used as a pixel size.
    """
    try:
        with _no_size_guard(), Image.open(path, formats=_formats()) as image:
            w, h = image.size
            mode, kind = image.mode, (image.format or "image").lower()
            frames = int(getattr(image, "n_frames", 1))
            # For a PNG without the chunk, Pillow would decode everything to look for one at its end.
            exif = image.getexif() if kind != "png" or "exif" in image.info else Image.Exif()
            turn = int(exif.get(ExifTags.Base.Orientation, UPRIGHT))
            has_profile = bool(image.info.get("icc_profile"))
    except UnidentifiedImageError:
        return None
    except Exception as error:  # each of Pillow's readers has its own errors
        raise SlideError(f"{path}: the image cannot be opened: {error}; copy or export it again") from error
    if mode.startswith(("I", "F")):
        raise SlideKindError(
            f"{path}: the image is grey and has more than 8 bits (mode {mode}); stains are distinguished by colour, "
            "so wsiproc reads RGB: export the slide in colour"
        )
    check_whole_bytes(path, h * w * 3)
    level, warnings = _level(path, (h, w), kind)
    if frames > 1:
        warnings.append(f"it contains {frames} images; the first one is used")
    remarks = {"icc_profile": "in the file; not applied"} if has_profile else {}
    if turn != UPRIGHT:
        remarks["orientation"] = f"tag {turn}, honoured"
    return [oriented(level, turn)], SlideMetadata(kind, warnings=tuple(warnings), remarks=remarks)


def _level(path: Path, shape: tuple[int, int], kind: str) -> tuple[ImageLevel, list[str]]:
    """The level, and warnings about the range of its samples."""
    with path.open("rb") as file:
        head = file.read(26).ljust(26, b"\0")
    depth, colour_type = head[24], head[25]  # of the header chunk, which is the first one (PNG, 11.2.1)
    if kind != "png" or depth != 16:
        return ImageLevel(path, shape), []
    check_whole_bytes(path, shape[0] * shape[1] * 8)
    level = DeepPngLevel(path, shape)
    full, warning = find_full(path, np.dtype(np.uint16), None, shape, level.read_samples)
    level.samples = SampleFormat("rgb", full, "straight" if colour_type == _PNG_RGBA else "none")
    return level, [] if warning is None else [warning]


def _decode(path: Path) -> UInt8Array:
    """The (h, w, 3) uint8 image; transparent px are white, like background."""
    try:
        with _no_size_guard(), Image.open(path, formats=_formats()) as image:
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: object) -> SlideReadError:
    return SlideReadError(f"{path}: cannot decode the image: {error}; the file is damaged: copy or export it again")


@contextmanager
def _no_size_guard() -> Iterator[None]:
    """Lift Pillow's limit of 179 Mpx: slides are larger, and ``check_whole_bytes`` guards the memory instead."""
    with _guard_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
