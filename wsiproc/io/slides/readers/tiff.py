"""TIFF pixels with tifffile: OME-TIFF, plain TIFF, and the fast path for what OpenSlide opens too.

Tiles (or strips) are fetched and decoded one by one, so memory is bounded for any file size. Decoding whole tiles is
also about five times as fast as OpenSlide and never interpolates.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.slides.limits import check_shapes, check_tile
from wsiproc.io.slides.pixels.depth import find_full
from wsiproc.io.slides.pixels.orientation import oriented
from wsiproc.io.slides.pixels.resample import PyramidLevel, level_downsample
from wsiproc.io.slides.pixels.samples import SampleFormat
from wsiproc.io.slides.pyramid import SlideMetadata
from wsiproc.io.slides.readers.tiff_metadata import (
    converts_to_rgb,
    declared_bits,
    find_samples,
    name_of,
    ome_image,
    orientation,
    read_tiff_metadata,
    require_brightfield,
)
from wsiproc.io.slides.readers.tiff_pages import TiffImage, choose_image, page_shape

# Decoded tiles kept: a row of 256² tiles over a 65,000 px wide region, so that neighbours are not decoded twice.
_CACHE_BYTES = 64 << 20
# tifffile checks for directory loops only at the hundredth, and otherwise follows them indefinitely.
_MAX_PAGES = 10_000
# Fewer tiles beyond the end of the file count as damage to those tiles, not as a truncated file.
_CUT_SHARE = 0.1
_PLAIN = SampleFormat()
# What it logs about a damaged file is in our errors; a program that wants the log adds its own handler.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffFile:
    """An open TIFF: raw bytes by offset and a cache of decoded tiles; used by many threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tiff = tifffile.TiffFile(path)
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[int, int], npt.NDArray[Any]] = OrderedDict()
        self._tiles_bytes = 0

    def decode(self, page: tifffile.TiffPage, index: int, blank: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Tile or strip ``index`` of a page: (h, w, samples), the samples of one plane; ``blank`` if it is empty."""
        key = (page.offset, index)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        tile = self._decode(page, index, blank)
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._tiles_bytes += tile.nbytes
            while self._tiles_bytes > _CACHE_BYTES and len(self._tiles) > 1:
                self._tiles_bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, page: tifffile.TiffPage, index: int, blank: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Fetch and decode; an empty tile (sparse file) is white."""
        try:
            data = self._fetch(page.dataoffsets[index], page.databytecounts[index])
            _require_tile_size(data, page)
            decoded, _, shape = page.decode(data or None, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
            tile = np.broadcast_to(blank, shape[1:]) if decoded is None else np.asarray(decoded[0])
            if tile.dtype != page.dtype:  # a codec whose output differs from what the directory says
                raise ValueError(f"samples of type {tile.dtype} where {page.dtype} was declared")
            return tile
        except Exception as error:  # each of the dozens of codecs has its own error class
            offset = page.dataoffsets[index] if index < len(page.dataoffsets) else "none"
            raise SlideReadError(
                f"{self.path}: cannot decode tile {index} of the level of {page.imagewidth} × {page.imagelength} px "
                f"(byte {offset}): {error}; the file is damaged there: copy or export it again"
            ) from error

    def _fetch(self, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset``; raises ``ValueError``, before allocating memory, if the file ends earlier."""
        if size == 0:
            return b""
        missing = offset + size - os.fstat(self._descriptor).st_size
        if missing > 0:
            raise ValueError(f"the file ends {missing} bytes too early")
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def close(self) -> None:
        """Close the file."""
        self.tiff.close()
        os.close(self._descriptor)


def _require_tile_size(data: bytes, page: tifffile.TiffPage) -> None:
    """Raise ``ValueError`` if the JPEG or JPEG 2000 in a tile claims to be larger than the tile. The codecs would trust
    it: 65,535² px from a few bytes, for minutes.
    """
    found = jpeg_size(data)
    rows, cols = _tile_shape(page)
    # Codecs work in blocks, and some writers let the last strip overlap.
    if found is not None and (found[0] > rows + 64 or found[1] > cols + 64):
        raise ValueError(f"it contains an image of {found[1]} × {found[0]} px in a tile of {cols} × {rows}")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(h, w) from the header of a JPEG (ITU T.81 B.2.2) or JPEG 2000 codestream (T.800 A.5.1); else ``None``."""
    if data.startswith(b"\xff\x4f\xff\x51") and len(data) >= 24:
        w, h, x, y = struct.unpack_from(">4I", data, 8)
        return h - y, w - x
    if not data.startswith(b"\xff\xd8"):
        return None
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame; those define tables
            h, w = struct.unpack_from(">2H", data, position + 5)
            return h, w
        # Fill bytes, and markers without a length, are one and two bytes.
        bare = marker in (0x01, 0xD8) or 0xD0 <= marker <= 0xD7
        position += 1 if marker == 0xFF else 2 if bare else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


class TiffLevel:
    """A level stored in one page, its samples together or in planes, or in one page for each channel."""

    def __init__(
        self,
        file: TiffFile,
        pages: Sequence[tifffile.TiffPage],
        downsample: tuple[float, float],
        samples: SampleFormat = _PLAIN,
    ) -> None:
        page = pages[0]
        self._file, self._pages, self.samples = file, pages, samples
        self.shape: tuple[int, int] = (page.imagelength, page.imagewidth)
        self.downsample = downsample
        self._tile = _tile_shape(page)
        self._across = -(-page.imagewidth // self._tile[1])
        self._down = -(-page.imagelength // self._tile[0])
        self._planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1
        self._channels = page.samplesperpixel * len(pages)
        check_tile(file.path, self._tile, self.shape, page.samplesperpixel // self._planes)
        wanted = self._across * self._down * self._planes
        for each in pages:
            found = min(len(each.dataoffsets), len(each.databytecounts))
            if found < wanted:
                raise SlideError(
                    f"{file.path}: the level of {page.imagewidth} × {page.imagelength} px lists {found} of {wanted} "
                    "tiles; the file is damaged: copy or export it again"
                )

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        return self.samples.to_rgb(self.read_samples(box))

    def read_samples(self, box: Box) -> npt.NDArray[Any]:
        """The (h, w, channels) samples of a box as stored in the file."""
        th, tw = self._tile
        values = np.empty((*box.shape, self._channels), self._pages[0].dtype)
        for row in range(box.y // th, -(-box.y1 // th)):
            for col in range(box.x // tw, -(-box.x1 // tw)):
                tile = Box(row * th, col * tw, th, tw)
                part = tile.intersect(box)
                where = part.relative_to(tile).slices
                values[part.relative_to(box).slices] = self._read_tile(row * self._across + col, where)
        return values

    def _read_tile(self, index: int, where: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Part of a tile with its channels together."""
        blank = self.samples.blank(np.dtype(self._pages[0].dtype), self._channels)
        each = self._channels // (len(self._pages) * self._planes)
        planes: list[npt.NDArray[Any]] = []
        for page in self._pages:
            for plane in range(self._planes):
                first = len(planes) * each
                found = self._file.decode(page, index + plane * self._across * self._down, blank[first : first + each])
                planes.append(found[where])
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)


def open_tiff(path: Path, whole: bool = False) -> tuple[TiffFile, list[PyramidLevel], SlideMetadata]:
    """The levels and metadata of the largest image in a TIFF, largest first, whatever their order in the file. Raises
    ``SlideKindError`` for files without a brightfield image and ``SlideError`` for those that cannot be read and, if
    ``whole``, for truncated files.
    """
    try:
        file = TiffFile(path)
    except Exception as error:  # for a broken directory, tifffile may raise any error
        raise SlideError(f"{path}: not a readable TIFF: {error}; copy or export the slide again") from error
    try:
        _require_end(path, file.tiff)
        tiff_image = choose_image(path, file.tiff)
        base = tiff_image.stacks[0][0]
        if base.is_reduced:
            raise SlideError(
                f"{path}: its largest image, {base.imagewidth} × {base.imagelength} px, is marked as a smaller copy "
                "of one that cannot be read; the file is damaged: copy or export it again"
            )
        image = ome_image(file.tiff, tiff_image)
        if image is not None:
            require_brightfield(path, image, len(tiff_image.stacks[0]))
        if whole:
            _require_whole(path, tiff_image.stacks[0])
        bits = declared_bits(file.tiff, base, image)
        levels = _converted(file, tiff_image, bits)
        turn = orientation(base)
        return file, [oriented(level, turn) for level in levels], read_tiff_metadata(file.tiff, tiff_image, image)
    except SlideError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise SlideError(
            f"{path}: the TIFF directories cannot be read: {error}; the file is damaged: copy or export it again"
        ) from error


def _converted(file: TiffFile, tiff_image: TiffImage, bits: int | None) -> list[TiffLevel]:
    """The levels of an image with samples as 8-bit RGB; all levels share one range of samples."""
    path = file.path
    for pages in tiff_image.stacks:
        find_samples(path, pages, 1.0)
    levels = _open_levels(file, tiff_image.stacks)
    coarsest = levels[-1]
    dtype = np.dtype(tiff_image.stacks[-1][0].dtype)
    full, warning = find_full(path, dtype, bits, coarsest.shape, coarsest.read_samples)
    if warning is not None:
        tiff_image.warnings.append(warning)
    for level, pages in zip(levels, tiff_image.stacks, strict=True):
        level.samples = find_samples(path, pages, full)
    return levels


def _require_end(path: Path, tiff: tifffile.TiffFile) -> None:
    """Raise ``SlideError`` if the chain of directories does not end."""
    with suppress(IndexError):
        tiff.pages[_MAX_PAGES]
        raise SlideError(
            f"{path}: more than {_MAX_PAGES} TIFF directories, or a loop of them; the file is damaged: copy or export "
            "it again"
        )


def _require_whole(path: Path, pages: Sequence[Any]) -> None:
    """Raise ``SlideError`` if so many tiles lie beyond the end of the file that it must be truncated."""
    size = path.stat().st_size
    ends = [a + b for page in pages for a, b in zip(page.dataoffsets, page.databytecounts, strict=False) if b]
    missing = sum(end > size for end in ends)
    if missing > _CUT_SHARE * len(ends):
        raise SlideError(
            f"{path}: the file is truncated: {missing} of {len(ends)} tiles lie beyond its end, at {size:,} bytes; "
            "copy it again (or read what there is with --reader tifffile)"
        )


def check_tile_bytes(path: Path) -> None:
    """Raise ``SlideError`` if a tile of a TIFF claims to be larger than the file. OpenSlide would allocate that much
    memory, and a failed allocation ends the process.
    """
    size = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            _require_end(path, tiff)
            largest = max((max(page.aspage().databytecounts, default=0) for page in tiff.pages), default=0)
    except Exception:  # a file that tifffile cannot read is left to OpenSlide
        return
    if largest > size:
        raise SlideError(
            f"{path}: a tile is declared to have {largest:,} bytes, but the whole file has {size:,}; the file is "
            "damaged: copy or export it again"
        )


def is_ome_tiff(path: Path) -> bool:
    """Whether a TIFF contains OME-XML."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.is_ome)
    except Exception:  # OpenSlide will report what is wrong
        return False


def tiff_levels_like(path: Path, shapes: Sequence[tuple[int, int]]) -> tuple[TiffFile, list[PyramidLevel]] | None:
    """The tiled pages of exactly these (h, w) as levels; ``None`` if one is missing, or lacks tiles."""
    try:
        file = TiffFile(path)
    except Exception:  # a file that tifffile cannot read is left to OpenSlide
        return None
    try:
        _require_end(path, file.tiff)
        tiled = [page.aspage() for page in file.tiff.pages if page.aspage().is_tiled]
        stacks = [[page for page in tiled if page_shape(page) == shape and _is_plain(page)][:1] for shape in shapes]
        if all(stacks):
            return file, list(_open_levels(file, stacks))
    except Exception:
        pass
    file.close()
    return None


def _open_levels(file: TiffFile, stacks: Sequence[Sequence[tifffile.TiffPage]]) -> list[TiffLevel]:
    """The levels in these pages, finest first."""
    shapes = [page_shape(pages[0]) for pages in stacks]
    check_shapes(file.path, shapes)
    return [
        TiffLevel(file, pages, level_downsample(shapes[0], shape, shapes[0][1] / shape[1]))
        for pages, shape in zip(stacks, shapes, strict=True)
    ]


def _tile_shape(page: Any) -> tuple[int, int]:
    """(h, w) of the page's tiles or strips; a strip may claim more rows than there are."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _is_plain(page: Any) -> bool:
    """Whether a page is complete tiled RGB uint8 that can be decoded."""
    return (
        page.dtype == np.uint8
        and page.samplesperpixel == 3
        and name_of(page.photometric) in {"RGB", "YCBCR"}
        and converts_to_rgb(page)
        and min(page.databytecounts) > 0  # OpenSlide fills gaps in Aperio files from finer levels
    )
