"""Write a slide of hundreds of gigapixels' extent in a minute: one synthetic block of tissue, repeated over background.

    python benchmarks/large_slide.py large.tif [--blocks 25] [--tissue 0.08] [--mpp 0.5]

The slide has ``blocks`` × ``blocks`` squares of 8192 px; a share of them, spread evenly, consist entirely of tissue.
What a run on it needs is then measured with

    python benchmarks/peak_memory.py wsiproc run large.tif --model classical --workers 2 -o out
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from wsiproc.core.geometry import Box
from wsiproc.synthetic import Scene
from wsiproc.synthetic.tiff import TIFF_TILE_PX, Encoder, half

BLOCK, JPEG_QUALITY = 8192, 80
LEVELS = 6  # until a block is one tile
Tiles = list[list[bytes]]


def main(path: Path, blocks: int, tissue: float, mpp: float) -> None:
    """Write the slide."""
    scene = Scene((BLOCK, BLOCK), mpp=mpp, seed=1, tissue_fraction=1.0, crowding=0.5)
    block, encoder = draw(scene), Encoder(scene.background, JPEG_QUALITY)
    wanted = round(blocks**2 * tissue)
    # Every so many blocks in raster order; an odd stride against the row length spreads them.
    places = {int(i) for i in np.linspace(0, blocks**2 - 1, wanted)}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level in range(LEVELS):
            tiles = [[encoder(rgb) for rgb in row] for row in cut(block, TIFF_TILE_PX)]
            write_level(
                tif, repeated(tiles, encoder.empty, blocks, places), blocks * len(tiles) * TIFF_TILE_PX, mpp, level
            )
            block = half(block)
    side = blocks * BLOCK
    print(
        f"{path}: {side} × {side} px at {mpp} µm/px, {wanted} of {blocks**2} blocks are tissue, "
        f"{wanted * (BLOCK * mpp / 1000) ** 2:.0f} mm², {path.stat().st_size / 1e6:.0f} MB"
    )


def draw(scene: Scene) -> npt.NDArray[np.uint8]:
    """The scene (8192, 8192, 3), drawn in pieces."""
    block = np.zeros((BLOCK, BLOCK, 3), np.uint8)
    for y in range(0, BLOCK, 1024):
        for x in range(0, BLOCK, 1024):
            box = Box(y, x, 1024, 1024)
            block[box.slices] = scene.render(box)
    return block


def cut(block: npt.NDArray[np.uint8], side: int) -> Iterator[Iterator[npt.NDArray[np.uint8]]]:
    """Squares of a picture, row by row."""
    for y in range(0, len(block), side):
        yield (block[y : y + side, x : x + side] for x in range(0, len(block), side))


def repeated(tiles: Tiles, glass: bytes, blocks: int, places: set[int]) -> Iterator[bytes]:
    """Encoded tiles of the whole slide in raster order."""
    for row in range(blocks):
        for line in tiles:
            for col in range(blocks):
                yield from line if row * blocks + col in places else [glass] * len(line)


def write_level(tif: tifffile.TiffWriter, tiles: Iterator[bytes], side: int, mpp: float, level: int) -> None:
    """One image of the pyramid."""
    tif.write(
        tiles, shape=(side, side, 3), dtype=np.uint8, tile=(TIFF_TILE_PX, TIFF_TILE_PX), photometric="ycbcr",
        compression="jpeg", subsampling=(2, 2), resolution=(1e4 / (mpp * 2**level), 1e4 / (mpp * 2**level)),
        resolutionunit="CENTIMETER", subfiletype=int(level > 0), description=None, metadata=None,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--blocks", type=int, default=25)
    parser.add_argument("--tissue", type=float, default=0.08)
    parser.add_argument("--mpp", type=float, default=0.5)
    given = parser.parse_args()
    main(given.path, given.blocks, given.tissue, given.mpp)
