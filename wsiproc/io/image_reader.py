"""Plain pictures (PNG, JPEG, BMP …): one level, decoded whole once, no pixel size of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsiproc.core.geometry import Box
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.limits import check_whole_bytes
from wsiproc.io.pyramid_slide import SlideFacts
from wsiproc.io.resample import UInt8Array

_guard_lock = threading.Lock()


class ImageLevel:
    """A whole picture in memory, decoded when first read."""

    downsample = (1.0, 1.0)

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._path = path
        self._lock = threading.Lock()
        self._pixels: UInt8Array | None = None

    def read(self, box: Box) -> UInt8Array:
        """See ``Level.read``."""
        with self._lock:
            if self._pixels is None:
                self._pixels = _decode(self._path)
        return self._pixels[box.slices]


def open_image(path: Path) -> tuple[list[ImageLevel], SlideFacts] | None:
    """The single level of a picture; ``None`` if Pillow does not know the format.

    Its dots per inch are a printing default, so they are not taken for a pixel size.
    """
    try:
        with _no_size_guard(), Image.open(path) as image:
            w, h = image.size
            mode, kind = image.mode, (image.format or "image").lower()
    except UnidentifiedImageError:
        return None
    except Exception as error:  # each of Pillow's readers has errors of its own
        raise SlideError(f"{path}: the picture cannot be opened: {error}; copy or export it again") from error
    if mode.startswith(("I", "F")):
        raise SlideError(
            f"{path}: the picture has more than 8 bits a channel (mode {mode}); wsiproc reads 8-bit RGB: convert it, "
            "with the display range that you see"
        )
    check_whole_bytes(path, h * w * 3)
    return [ImageLevel(path, (h, w))], SlideFacts(kind)


def _decode(path: Path) -> UInt8Array:
    """The (h, w, 3) uint8 picture; transparent px are white, as glass is."""
    try:
        with _no_size_guard(), Image.open(path) as image:
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise SlideReadError(
            f"{path}: cannot decode the picture: {error}; the file is damaged: copy or export it again"
        ) from error


@contextmanager
def _no_size_guard() -> Iterator[None]:
    """Lift Pillow's limit of 179 Mpx: slides are larger, and ``check_whole_bytes`` guards the memory instead."""
    with _guard_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
