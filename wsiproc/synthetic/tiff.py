"""Streaming writer of pyramidal tiled TIFF: memory is one strip of tiles per level, whatever the slide's size."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, TypeVar

import cv2
import imagecodecs
import numpy as np
import tifffile

from wsiproc.core.geometry import Box
from wsiproc.core.types import OnProgress, UInt8Array

TIFF_TILE_PX = 256
CHUNK_TILES = 4
"""Adjacent tiles rendered by one task: enough that the shared margin is cheap, few enough to balance threads."""
SMALLEST_LEVEL_PX = 512
"""Levels are added until both sides are at most this."""

Draw = Callable[[Box], UInt8Array | None]
R = TypeVar("R")


def tiff_level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """(h, w) of all levels, each half of the previous one, rounded down."""
    shapes = [shape]
    while max(shapes[-1]) > SMALLEST_LEVEL_PX:
        h, w = shapes[-1]
        shapes.append((max(1, h // 2), max(1, w // 2)))
    return shapes


def in_order(tasks: Iterator[Callable[[], R]], pool: ThreadPoolExecutor, prefetch: int) -> Iterator[R]:
    """Results of ``tasks`` in order, with at most ``prefetch`` in flight."""
    waiting: deque[Future[R]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        if len(waiting) > prefetch:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass
class Encoder:
    """RGB tiles to JPEG; empty background is encoded once."""

    background: tuple[int, int, int]
    quality: int
    empty: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.empty = self._encode(np.full((TIFF_TILE_PX, TIFF_TILE_PX, 3), self.background, np.uint8))

    def __call__(self, tile: UInt8Array) -> bytes:
        """JPEG of one tile (256, 256, 3)."""
        if tile[0, 0, 0] == self.background[0] and (tile == np.asarray(self.background, np.uint8)).all():
            return self.empty
        return self._encode(np.ascontiguousarray(tile))

    def _encode(self, tile: UInt8Array) -> bytes:
        return bytes(
            imagecodecs.jpeg8_encode(
                tile, level=self.quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
            )
        )


class _Level:
    """One reduced level: collects a strip of tiles, spools it as JPEG, passes it downsampled to the next level."""

    def __init__(self, shape: tuple[int, int], encoder: Encoder, pool: ThreadPoolExecutor, spool: IO[bytes]) -> None:
        self.shape, self.lengths = shape, list[int]()
        self._encoder, self._pool, self._spool = encoder, pool, spool
        self._tiles = -(-shape[1] // TIFF_TILE_PX)
        self._strip = np.empty((TIFF_TILE_PX, self._tiles * TIFF_TILE_PX, 3), np.uint8)
        self._strip[:] = encoder.background
        self._rows = 0
        self._touched = np.zeros(self._tiles, bool)
        self.above: _Level | None = None

    def put(self, row: int, x: int, part: UInt8Array) -> None:
        """Place ``part`` (h, w, 3) at column ``x`` of the rows ``row`` … of the strip being filled."""
        part = part[:, : self._strip.shape[1] - x]
        self._strip[row : row + len(part), x : x + part.shape[1]] = part
        self._touched[x // TIFF_TILE_PX : -(-(x + part.shape[1]) // TIFF_TILE_PX)] = True

    def advance(self, rows: int) -> None:
        """Count ``rows`` as filled; a full strip is encoded and a new one started."""
        self._rows += rows
        if self._rows >= TIFF_TILE_PX:
            self.flush()

    def flush(self) -> None:
        """Encode the current strip and pass it downsampled to the next level."""
        wanted = -(-self.shape[0] // TIFF_TILE_PX) * self._tiles
        if self._rows == 0 or len(self.lengths) >= wanted:
            return
        columns = [slice(i * TIFF_TILE_PX, (i + 1) * TIFF_TILE_PX) for i in range(self._tiles)]
        busy = [c for c, touched in zip(columns, self._touched, strict=True) if touched]
        encoded = self._pool.map(self._encoder, [self._strip[:, c] for c in busy])
        for touched in self._touched:
            data = next(encoded) if touched else self._encoder.empty
            self.lengths.append(self._spool.write(data))
        if self.above is not None:
            for c in busy:
                self.above.put(self.above._rows, c.start // 2, half(self._strip[:, c]))
            self.above.advance(TIFF_TILE_PX // 2)
        self._strip[:] = self._encoder.background
        self._touched[:] = False
        self._rows = 0

    def tiles(self) -> Iterator[bytes]:
        """The spooled tiles in raster order."""
        self._spool.seek(0)  # flushes pending writes
        return (self._spool.read(length) for length in self.lengths)


def half(rgb: UInt8Array) -> UInt8Array:
    """(h / 2, w / 2, 3) mean of each 2 × 2 pixels, rounded."""
    return np.asarray(cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA), np.uint8)


def write_tiff_pyramid(
    path: Path, shape: tuple[int, int], mpp: float, draw: Draw, encoder: Encoder, description: str, workers: int,
    progress: OnProgress | None = None,
) -> None:  # fmt: skip
    """Write the image that ``draw`` renders for boxes (None: background) as BigTIFF with levels 1, 2, 4, … The file is
    written atomically. Raises OSError if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    with ThreadPoolExecutor(workers) as pool, tempfile.TemporaryDirectory(dir=path.parent, prefix=".levels-") as folder:
        levels: list[_Level] = []
        for number, size in enumerate(tiff_level_shapes(shape)[1:], start=1):
            spool = open(Path(folder) / str(number), "w+b")  # noqa: SIM115 - closed below with all others
            levels.append(_Level(size, encoder, pool, spool))
        for low, high in pairwise(levels):
            low.above = high
        try:
            with tifffile.TiffWriter(part, bigtiff=True) as tif:
                tiles = _base_tiles(shape, draw, encoder, levels, pool, workers, progress)
                _write_level(tif, tiles, shape, mpp, description)
                for number, level in enumerate(levels, start=1):
                    level.flush()
                    _write_level(tif, level.tiles(), level.shape, mpp * 2**number, None)
            os.replace(part, path)
        finally:
            for level in levels:
                level._spool.close()
            part.unlink(missing_ok=True)


def _base_tiles(
    shape: tuple[int, int], draw: Draw, encoder: Encoder, levels: list[_Level], pool: ThreadPoolExecutor, workers: int,
    progress: OnProgress | None,
) -> Iterator[bytes]:  # fmt: skip
    """Encoded tiles of level 0 in raster order; fills ``levels`` in passing."""
    rows, cols = -(-shape[0] // TIFF_TILE_PX), -(-shape[1] // TIFF_TILE_PX)
    step = TIFF_TILE_PX * CHUNK_TILES

    def chunk(row: int, x: int) -> tuple[list[bytes], UInt8Array | None]:
        count = min(CHUNK_TILES, cols - x // TIFF_TILE_PX)
        rgb = draw(Box(row * TIFF_TILE_PX, x, TIFF_TILE_PX, count * TIFF_TILE_PX))
        if rgb is None:
            return [encoder.empty] * count, None
        return [encoder(rgb[:, i * TIFF_TILE_PX : (i + 1) * TIFF_TILE_PX]) for i in range(count)], half(rgb)

    places = [(row, x) for row in range(rows) for x in range(0, cols * TIFF_TILE_PX, step)]
    results = in_order((partial(chunk, *place) for place in places), pool, prefetch=2 * workers)
    for (row, x), (tiles, reduced) in zip(places, results, strict=True):
        if levels and reduced is not None:
            levels[0].put(row % 2 * TIFF_TILE_PX // 2, x // 2, reduced)
        if x + step >= cols * TIFF_TILE_PX:
            if levels:
                levels[0].advance(TIFF_TILE_PX // 2)
            if progress:
                progress((row + 1) * cols, rows * cols)
        yield from tiles  # last: the consumer stops at the last tile and never resumes


def _write_level(
    tif: tifffile.TiffWriter, tiles: Iterator[bytes], shape: tuple[int, int], mpp: float, description: str | None
) -> None:
    """Write encoded tiles as one image of the file; reduced levels are those without a description."""
    tif.write(
        tiles,
        shape=(*shape, 3),
        dtype=np.uint8,
        tile=(TIFF_TILE_PX, TIFF_TILE_PX),
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(2, 2),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        subfiletype=0 if description else 1,
        description=description,
        software="wsiproc",
        metadata=None,
    )
