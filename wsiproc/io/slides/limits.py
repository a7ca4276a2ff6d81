"""Plausibility limits, so that a damaged number in a file does not cost hours or all memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsiproc.errors import SlideError

# 10 cm of glass at 0.05 µm/px, the finest pixel size that is accepted.
MAX_SIDE_PX = 2_000_000
# Most pixels read for an overview: an 11 × 11 cm scan at 0.42 µm/px without any smaller level, some ten minutes.
MAX_OVERVIEW_PX = 1 << 36
# A strip, or an image stored in one piece, must be decoded whole.
MAX_WHOLE_BYTES = 20 << 30
# TIFF requires at least 16 × 16; smaller tiles cost more in overhead than in decoding.
MIN_TILE_PX = 256
# Levels are rounded, and some writers crop a level to whole tiles.
_LEVEL_SLACK, _LEVEL_SLACK_PX = 0.1, 4

_REMEDY = "the file is damaged or not a slide: copy or export it again"


def check_shapes(path: Path, shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ``SlideError`` unless these (h, w), finest first, can be the levels of one slide."""
    if not shapes:
        raise SlideError(f"{path}: it has no levels and hence no image; {_REMEDY}")
    (h0, w0), *_ = shapes
    for number, (h, w) in enumerate(shapes):
        if min(h, w) < 1:
            raise SlideError(f"{path}: level {number} has {w} × {h} px, so it is empty; {_REMEDY}")
        if max(h, w) > MAX_SIDE_PX:
            raise SlideError(
                f"{path}: level {number} has {w} × {h} px; no slide is larger than {MAX_SIDE_PX:,} px on a side; "
                f"{_REMEDY}"
            )
        # Does the aspect ratio agree with that of level 0?
        expected = w0 * h / h0
        if abs(expected - w) > max(_LEVEL_SLACK * max(expected, w), _LEVEL_SLACK_PX * max(1.0, w0 / h0)):
            raise SlideError(
                f"{path}: level {number} has {w} × {h} px, level 0 {w0} × {h0}: not the same image; {_REMEDY}"
            )


def check_overview(path: Path, shape: tuple[int, int]) -> None:
    """Raise ``SlideError`` if making an overview from the level of ``shape`` (h, w) would take too long."""
    if shape[0] * shape[1] > MAX_OVERVIEW_PX:
        raise SlideError(
            f"{path}: an overview would have to read a level of {shape[1]} × {shape[0]} px, {shape[0] * shape[1]:.2g} "
            f"in total; the limit is {MAX_OVERVIEW_PX:.2g}. The file is damaged, or it lacks smaller levels: convert "
            "it to a tiled pyramidal TIFF (vips tiffsave --tile --pyramid --bigtiff)"
        )


def check_tile(path: Path, tile: tuple[int, int], shape: tuple[int, int], channels: int) -> None:
    """Raise ``SlideError`` if tiles (chunks, strips) of this size are unusable for a level of ``shape`` (h, w)."""
    h, w = (min(side, limit) for side, limit in zip(tile, shape, strict=True))
    if min(tile) < 1 or h * w < min(MIN_TILE_PX, shape[0] * shape[1]):
        raise SlideError(
            f"{path}: it is stored in tiles of {tile[1]} × {tile[0]} px, too small to be read in reasonable time; "
            "write it with tiles of 256 to 1024 px"
        )
    check_whole_bytes(path, tile[0] * tile[1] * channels)


def check_whole_bytes(path: Path, size: int) -> None:
    """Raise ``SlideError`` if ``size`` bytes are too many to be decoded in one piece."""
    if size > MAX_WHOLE_BYTES:
        raise SlideError(
            f"{path}: the image is stored in pieces of {size / 2**30:.1f} GiB, which must be decoded whole; the "
            f"limit is {MAX_WHOLE_BYTES / 2**30:.0f} GiB: convert it to a tiled pyramidal TIFF (vips tiffsave --tile "
            "--pyramid --bigtiff)"
        )
