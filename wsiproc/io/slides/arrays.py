"""A slide's own pixels as lazy dask arrays: read from its file when computed, never copied before."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from wsiproc.array.pyramid import level_count
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import UInt8Array
from wsiproc.io.ome_zarr.pyramids import Pyramid
from wsiproc.io.slides.open import Slide, SlideSource

# Side of a dask chunk in px: 3 MB, a few tiles of any file.
_CHUNK = 1024
# Slides that stay open in a process.
_OPEN = 4


def slide_pyramid(source: SlideSource) -> Pyramid:
    """The slide as (3, h, w) uint8 arrays, level 0 of the file first and each level half as wide as the one before.

    The process that computes them reads the file, on any machine that has it. Raises like ``source.open``.
    """
    slide = opened(source)
    levels = [
        (grid_shape(slide.shape, slide.mpp, slide.mpp * 2**level), slide.mpp * 2**level)
        for level in range(level_count(slide.shape))
    ]
    true = [(slide.shape[0] * slide.mpp / shape[0], slide.shape[1] * slide.mpp / shape[1]) for shape, _ in levels]
    return Pyramid(
        tuple(_level(source, shape, mpp, slide.fingerprint()) for shape, mpp in levels),
        tuple(true),
        ("Red", "Green", "Blue"),
    )


@lru_cache(maxsize=_OPEN)
def opened(source: SlideSource) -> Slide:
    """The slide, opened once per process. Raises like ``open_slide``."""
    return source.open()


def _level(source: SlideSource, shape: tuple[int, int], mpp: float, fingerprint: str) -> Any:
    import dask.array

    chunks = dask.array.core.normalize_chunks((3, _CHUNK, _CHUNK), (3, *shape))
    return dask.array.map_blocks(
        _read,
        source,
        mpp,
        chunks=chunks,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
        name=f"slide-{fingerprint}-{mpp:.9g}",
    )


def _read(source: SlideSource, mpp: float, block_info: Any = None) -> UInt8Array:
    """The (3, h, w) pixels of a chunk."""
    _, (y, y1), (x, x1) = block_info[None]["array-location"]
    pixels = opened(source).read(Box(y, x, y1 - y, x1 - x), mpp)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
