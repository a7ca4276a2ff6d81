"""TIFF pixels with tifffile: OME-TIFF, plain TIFF, and the fast path for what OpenSlide opens too.

Tiles (or strips) are fetched and decoded one by one, so memory is bounded for any size of file. Decoding exact tiles
is also about five times as fast as OpenSlide and never interpolates.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsiproc.core.geometry import Box
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.pyramid_slide import SlideFacts
from wsiproc.io.resample import Level, UInt8Array, level_downsample
from wsiproc.io.resolution import MICROMETRES

# Decoded tiles kept: a row of 256² tiles over a 65,000 px wide region, so that neighbours are not decoded twice.
_CACHE_BYTES = 64 << 20
# A strip or picture in one piece must be decoded whole.
MAX_WHOLE_BYTES = 20 << 30
_RGB_PHOTOMETRICS = {"RGB", "YCBCR", "MINISBLACK"}


class TiffFile:
    """An open TIFF: raw bytes by offset and a cache of decoded tiles; used by many threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tiff = tifffile.TiffFile(path)
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._tiles: OrderedDict[tuple[int, int], UInt8Array] = OrderedDict()
        self._tiles_bytes = 0

    def decode(self, page: tifffile.TiffPage, index: int) -> UInt8Array:
        """Tile or strip ``index`` of a page: (h, w, samples) uint8, the samples of one plane."""
        key = (page.offset, index)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        tile = self._decode(page, index)
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._tiles_bytes += tile.nbytes
            while self._tiles_bytes > _CACHE_BYTES and len(self._tiles) > 1:
                self._tiles_bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, page: tifffile.TiffPage, index: int) -> UInt8Array:
        """Fetch and decode; an empty tile (sparse file) is white."""
        size, offset = page.databytecounts[index], page.dataoffsets[index]
        data = self._fetch(offset, size)
        try:
            if len(data) < size:
                raise ValueError(f"the file ends {size - len(data)} bytes too early")
            decoded, _, shape = page.decode(data or None, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        except Exception as error:  # each of the dozens of codecs has an error class of its own
            raise SlideReadError(
                f"{self.path}: cannot decode tile {index} of the level of {page.imagelength} × {page.imagewidth} px "
                f"(byte {offset}): {error}; the file is damaged there: copy or export it again"
            ) from error
        if decoded is None:
            return np.full(shape[1:], 255, np.uint8)
        return np.asarray(decoded[0], np.uint8)

    def _fetch(self, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset``, fewer at the end of the file."""
        if size == 0:
            return b""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, size, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, size)

    def close(self) -> None:
        """Give the file back."""
        self.tiff.close()
        os.close(self._descriptor)


class TiffLevel:
    """A level stored in one page (RGB contiguous, RGB planar or grey), or in one page for each channel."""

    def __init__(self, file: TiffFile, pages: Sequence[tifffile.TiffPage], downsample: tuple[float, float]) -> None:
        page = pages[0]
        self._file, self._pages = file, pages
        self.shape: tuple[int, int] = (page.imagelength, page.imagewidth)
        self.downsample = downsample
        self._tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._across = -(-page.imagewidth // self._tile[1])
        self._down = -(-page.imagelength // self._tile[0])
        self._planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1

    def read(self, box: Box) -> UInt8Array:
        """See ``Level.read``."""
        th, tw = self._tile
        pixels = np.empty((*box.shape, 3), np.uint8)
        for row in range(box.y // th, -(-box.y1 // th)):
            for col in range(box.x // tw, -(-box.x1 // tw)):
                tile = Box(row * th, col * tw, th, tw)
                part = tile.intersect(box)
                where = part.relative_to(tile).slices
                pixels[part.relative_to(box).slices] = self._read_tile(row * self._across + col, where)
        return pixels

    def _read_tile(self, index: int, where: tuple[slice, slice]) -> UInt8Array:
        """Part of a tile with its channels together; grey (one channel) is repeated by the assignment."""
        planes = [
            self._file.decode(page, index + plane * self._across * self._down)[where]
            for page in self._pages
            for plane in range(self._planes)
        ]
        return planes[0][..., :3] if len(planes) == 1 else np.concatenate(planes[:3], axis=-1)


def open_tiff(path: Path) -> tuple[TiffFile, list[Level], SlideFacts]:
    """The levels and facts of the largest picture in a TIFF, its pyramid in SubIFDs or as reduced pages.

    Raises ``SlideError`` for files that are no RGB uint8 pictures.
    """
    try:
        file = TiffFile(path)
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise SlideError(f"{path}: no TIFF that can be read: {error}; copy or export the slide again") from error
    try:
        series = max(file.tiff.series, key=lambda each: each.size)
        stacks = [_level_pages(path, level) for level in series.levels]
        return file, _open_levels(file, stacks), _read_facts(file.tiff, series)
    except SlideError:
        file.close()
        raise
    except Exception as error:  # tifffile meets a broken directory with errors of any class
        file.close()
        raise SlideError(
            f"{path}: the TIFF directories cannot be read: {error}; the file is damaged: copy or export it again"
        ) from error


def tiff_levels_like(path: Path, shapes: Sequence[tuple[int, int]]) -> tuple[TiffFile, list[Level]] | None:
    """The tiled pages of exactly these (h, w) as levels; ``None`` if one is missing, or has tiles left out."""
    try:
        file = TiffFile(path)
    except (tifffile.TiffFileError, ValueError, OSError):
        return None
    tiled = [page.aspage() for page in file.tiff.pages if page.aspage().is_tiled]
    stacks = [[page for page in tiled if _page_shape(page) == shape and _is_plain(page)][:1] for shape in shapes]
    if not all(stacks):
        file.close()
        return None
    return file, _open_levels(file, stacks)


def _open_levels(file: TiffFile, stacks: Sequence[Sequence[tifffile.TiffPage]]) -> list[Level]:
    """The levels in these pages, finest first."""
    shapes = [_page_shape(pages[0]) for pages in stacks]
    return [
        TiffLevel(file, pages, level_downsample(shapes[0], shape, shapes[0][1] / shape[1]))
        for pages, shape in zip(stacks, shapes, strict=True)
    ]


def _page_shape(page: Any) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _is_plain(page: Any) -> bool:
    """Whether a page is complete tiled RGB uint8 that can be decoded."""
    return (
        page.dtype == np.uint8
        and page.samplesperpixel == 3
        and page.photometric.name in {"RGB", "YCBCR"}
        and _converts_to_rgb(page)
        and min(page.databytecounts) > 0  # OpenSlide fills the holes of Aperio files from finer levels
    )


def _converts_to_rgb(page: Any) -> bool:
    """Whether decoding gives RGB: YCbCr is converted by the JPEG codecs only."""
    return page.photometric.name != "YCBCR" or "JPEG" in page.compression.name or "JP2000" in page.compression.name


def _level_pages(path: Path, level: Any) -> list[Any]:
    """The one page of a level, or the three of an RGB picture with a page for each channel."""
    pages = [page.aspage() for page in level.pages if page is not None]
    page = pages[0]
    channels = page.samplesperpixel if len(pages) == 1 else len(pages)
    what = f"{channels} channels of {page.dtype}, {page.photometric.name}, axes {level.axes}"
    if page.dtype != np.uint8:
        raise SlideError(
            f"{path}: the picture has {what}; wsiproc reads 8 bits a channel, and how a deeper camera's range maps to "
            "them is not in the file: convert it, with the display range that you see, to 8-bit RGB"
        )
    if not (channels == 3 or (len(pages) == 1 and channels in {1, 4})):
        raise SlideError(f"{path}: the picture has {what}; wsiproc reads RGB brightfield slides: export one RGB plane")
    if page.photometric.name not in _RGB_PHOTOMETRICS or not _converts_to_rgb(page):
        raise SlideError(f"{path}: the picture has {what}; convert it to RGB")
    _check_whole_bytes(path, page)
    return pages


def _check_whole_bytes(path: Path, page: Any) -> None:
    """Refuse a picture in one strip that is too large to be decoded whole."""
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    cols = page.tilewidth if page.is_tiled else page.imagewidth
    check_whole_bytes(path, rows * cols * page.samplesperpixel)


def check_whole_bytes(path: Path, size: int) -> None:
    """Raise ``SlideError`` if ``size`` bytes are too many to be decoded in one piece."""
    if size > MAX_WHOLE_BYTES:
        raise SlideError(
            f"{path}: the picture is stored in one piece of {size / 2**30:.1f} GiB, which must be decoded whole; the "
            f"limit is {MAX_WHOLE_BYTES / 2**30:.0f} GiB: convert it to a tiled pyramidal TIFF (vips tiffsave --tile "
            "--pyramid --bigtiff)"
        )


def _read_facts(tiff: tifffile.TiffFile, series: Any) -> SlideFacts:
    """Pixel size and objective from the OME-XML, else the pixel size from the resolution tags."""
    page = series.levels[0].pages[0].aspage()
    mpp, objective = None, None
    if tiff.is_ome and tiff.ome_metadata:
        mpp, objective = _parse_ome_xml(tiff.ome_metadata, _page_shape(page))
    properties = {
        name: str(page.tags[name].value)
        for name in ("Make", "Model", "Software", "DateTime", "ImageDescription")
        if name in page.tags and len(str(page.tags[name].value)) < 1000
    }
    kind = "ome-tiff" if tiff.is_ome else "generic-tiff"
    return SlideFacts(kind, mpp or _mpp_from_tags(page), objective, properties)


def _mpp_from_tags(page: Any) -> tuple[float, float] | None:
    """(y, x) µm/px from XResolution and YResolution, if they have a unit."""
    unit_um = {2: MICROMETRES["inch"], 3: MICROMETRES["cm"]}.get(int(page.resolutionunit))
    x, y = page.resolution
    return (unit_um / y, unit_um / x) if unit_um and x > 0 and y > 0 else None


def _parse_ome_xml(xml: str, shape: tuple[int, int]) -> tuple[tuple[float, float] | None, float | None]:
    """Pixel size (y, x) and objective of the OME image of ``shape`` (h, w)."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None, None
    powers = {each.get("ID"): each.get("NominalMagnification") for each in root.iter() if _tag(each) == "Objective"}
    for image in (each for each in root.iter() if _tag(each) == "Image"):
        pixels = next((each for each in image if _tag(each) == "Pixels"), None)
        if pixels is None or (pixels.get("SizeY"), pixels.get("SizeX")) != (str(shape[0]), str(shape[1])):
            continue
        used = next((each.get("ID") for each in image if _tag(each) == "ObjectiveSettings"), None)
        power = powers.get(used) if used else next(iter(powers.values()), None)
        y, x = _physical_size(pixels, "Y"), _physical_size(pixels, "X")
        return (y, x) if y and x else None, float(power) if power else None
    return None, None


def _physical_size(pixels: ElementTree.Element, axis: str) -> float | None:
    """PhysicalSize of an axis in µm; the unit is µm unless said otherwise (OME schema)."""
    size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
    return float(size) * MICROMETRES[unit] if size and unit in MICROMETRES else None


def _tag(element: ElementTree.Element) -> str:
    """The element's name without its schema version's namespace."""
    return element.tag.rpartition("}")[2]
