"""Slides that OpenSlide opens: SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide

from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.slides.limits import check_tile
from wsiproc.io.slides.pixels.resample import PyramidLevel, level_downsample, pieces
from wsiproc.io.slides.pyramid import WHITE, SlideMetadata

# OpenSlide interpolates at positions that are not whole px of the level; see ``AlignedLevel``.
_ALIGNED_PX = 512
_GLASS = 128  # the darkest background colour
_REGION = re.compile(r"openslide\.region\[\d+\]\.width")


class OpenSlideFile:
    """An open OpenSlide handle that survives broken tiles. After one error OpenSlide refuses all further reads, so a
    single corrupt tile would cost the whole slide; the handle is reopened instead.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self.handle = openslide.OpenSlide(path)

    def read(self, location: tuple[int, int], number: int, shape: tuple[int, int]) -> UInt8Array:
        """The (h, w, 4) straight RGBA px of a level; ``location`` (y, x) in level-0 px of the canvas."""
        handle = self.handle
        try:
            return np.asarray(handle.read_region(location[::-1], number, shape[::-1]))
        except openslide.OpenSlideError as error:
            with self._lock:
                if self.handle is handle:
                    self._open_anew()
            raise SlideReadError(
                f"{self.path}: cannot decode level {number}, {shape[1]} × {shape[0]} px at level-0 x {location[1]}, "
                f"y {location[0]}: {error}; the file is damaged there: copy or export it again"
            ) from error

    def _open_anew(self) -> None:
        """Reopen the handle; if the file is gone, the old handle stays and keeps refusing."""
        with suppress(openslide.OpenSlideError):
            # The old one is not closed: other threads may be reading from it.
            self.handle = openslide.OpenSlide(self.path)

    def close(self) -> None:
        """Close the file."""
        self.handle.close()


class OpenSlideLevel:
    """A level whose OpenSlide downsample is an integer: every px can be addressed exactly."""

    def __init__(self, file: OpenSlideFile, number: int, downsample: tuple[float, float], background: RGB) -> None:
        self._file, self._number = file, number
        w, h = file.handle.level_dimensions[number]
        self.shape: tuple[int, int] = (h, w)
        self.downsample = downsample
        self._factor = float(file.handle.level_downsamples[number])
        self._background = background

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        location = (round(box.y * self._factor), round(box.x * self._factor))
        return flatten(self._file.read(location, self._number, box.shape), self._background)


class AlignedLevel:
    """A level read in blocks at fixed positions. If a library's downsample is 1.99996, most px of the level have no
    integer level-0 position, and the library blends neighbours by an amount that depends on where the read starts.
    Blocks at multiples of 512 px always start at the same positions.
    """

    def __init__(self, level: PyramidLevel) -> None:
        self._level = level
        self.shape = level.shape
        self.downsample = level.downsample

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        pixels = np.empty((*box.shape, 3), np.uint8)
        first = Box(box.y // _ALIGNED_PX, box.x // _ALIGNED_PX, 0, 0)
        around = Box(
            first.y * _ALIGNED_PX, first.x * _ALIGNED_PX, box.y1 - first.y * _ALIGNED_PX, box.x1 - first.x * _ALIGNED_PX
        )
        for corner in pieces(around, _ALIGNED_PX):
            block = Box(corner.y, corner.x, _ALIGNED_PX, _ALIGNED_PX).clip(self.shape)
            part = block.intersect(box)
            pixels[part.relative_to(box).slices] = self._level.read(block)[part.relative_to(block).slices]
        return pixels


def flatten(rgba: UInt8Array, background: RGB) -> UInt8Array:
    """Composite (h, w, 4) straight RGBA on the background colour: (h, w, 3)."""
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    opacity = alpha.astype(np.uint16)
    blend = rgba[..., :3] * opacity + np.asarray(background, np.uint16) * (255 - opacity)
    return ((blend + 127) // 255).astype(np.uint8)


def detect_format(path: Path) -> str | None:
    """The vendor format that OpenSlide detects; None if it detects none."""
    found: str | None = openslide.OpenSlide.detect_format(path)
    return found


def open_openslide(path: Path) -> tuple[OpenSlideFile, list[PyramidLevel], SlideMetadata] | None:
    """The levels and metadata of a slide; ``None`` if OpenSlide does not know the format. Raises ``SlideError`` for a
    file of a known format that OpenSlide cannot open.
    """
    try:
        file = OpenSlideFile(path)
    except openslide.OpenSlideUnsupportedFormatError:
        return None
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"{path}: OpenSlide recognises the format and cannot read the file: {error}; it is damaged, incomplete "
            "(an accompanying file is missing) or of an unsupported kind: copy it again or export it as OME-TIFF"
        ) from error
    metadata = read_openslide_metadata(file.handle.properties)
    if beside := ", ".join(file.handle.associated_images):
        metadata = replace(metadata, remarks=metadata.remarks | {"left_out": beside})
    _check_tiles(file)
    levels = [_open_level(file, number, metadata.background) for number in range(file.handle.level_count)]
    return file, levels, metadata


def _check_tiles(file: OpenSlideFile) -> None:
    """Raise ``SlideError`` if level 0 has tiles of an implausible size; not every format states it."""
    sides = [_number(file.handle.properties, f"openslide.level[0].tile-{side}") for side in ("height", "width")]
    w, h = file.handle.level_dimensions[0]
    if sides[0] is not None and sides[1] is not None:
        check_tile(file.path, (int(sides[0]), int(sides[1])), (h, w), 4)


def _open_level(file: OpenSlideFile, number: int, background: RGB) -> PyramidLevel:
    """One level, aligned if OpenSlide would interpolate."""
    (w0, h0), (w, h) = file.handle.level_dimensions[0], file.handle.level_dimensions[number]
    factor = float(file.handle.level_downsamples[number])
    level = OpenSlideLevel(file, number, level_downsample((h0, w0), (h, w), factor), background)
    return level if factor.is_integer() else AlignedLevel(level)


def read_openslide_metadata(properties: Mapping[str, str]) -> SlideMetadata:
    """Metadata from OpenSlide's properties; a value that is not a number counts as missing."""
    mpp = [_number(properties, f"openslide.mpp-{axis}") for axis in "yx"]
    background = properties.get("openslide.background-color")
    return SlideMetadata(
        format=properties.get("openslide.vendor", "openslide"),
        mpp=(mpp[0], mpp[1]) if mpp[0] is not None and mpp[1] is not None else None,
        objective=_number(properties, "openslide.objective-power"),
        properties=dict(properties),
        background=_parse_colour(background) if background else WHITE,
        bounds=_read_bounds(properties),
        warnings=_warnings(properties),
        remarks={"icc_profile": "in the file; not applied"} if "openslide.icc-size" in properties else {},
    )


def _warnings(properties: Mapping[str, str]) -> tuple[str, ...]:
    """Warnings about contradictions in the properties, and about several scanned areas."""
    found = []
    regions = [key for key in properties if _REGION.fullmatch(key)]
    if len(regions) > 1:
        found.append(f"it contains {len(regions)} scanned areas, which are processed as one slide")
    return tuple(found)


def _read_bounds(properties: Mapping[str, str]) -> Box | None:
    """The scanned part of the canvas, if the format (MRXS, SCN) states it."""
    values = [properties.get(f"openslide.bounds-{key}") for key in ("y", "x", "height", "width")]
    if any(value is None for value in values):
        return None
    y, x, h, w = (int(value) for value in values if value is not None)
    return Box(y, x, h, w)


def _parse_colour(rrggbb: str) -> RGB:
    """``'FFFFFF'`` → (255, 255, 255); white instead of a dark colour, so that unscanned parts look empty."""
    r, g, b = bytes.fromhex(rrggbb)
    return (r, g, b) if min(r, g, b) >= _GLASS else WHITE


def _number(properties: Mapping[str, str], key: str) -> float | None:
    """A property as a positive number."""
    try:
        value = float(properties[key])
    except (KeyError, ValueError):
        return None
    return value if value > 0 else None
