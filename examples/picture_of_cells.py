"""An image of a result: the slide with its tissue, and a close-up with the outlines of the cells.

python examples/picture_of_cells.py OUT/slide picture.png [centre_y centre_x side]     (slide px)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import geopandas
import numpy as np
import shapely
import zarr
from PIL import Image, ImageDraw

from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import open_slide

SIDE_PX = 900  # of each half of the image
TISSUE = (0, 158, 115)


def overview(folder: Path, frame: Box, shape: tuple[int, int]) -> Image.Image:
    """The whole slide, its background paled, with a frame around the close-up."""
    rgb = zarr.open_array(folder / "slide.ome.zarr/0", mode="r")[:].transpose(1, 2, 0)
    tissue = zarr.open_array(folder / "slide.ome.zarr/labels/tissue/0", mode="r")[:] > 0
    rgb = np.where(tissue[..., None], rgb, rgb // 3 + 165).astype(np.uint8)
    edge = tissue ^ (
        tissue & np.roll(tissue, 3, 0) & np.roll(tissue, -3, 0) & np.roll(tissue, 3, 1) & np.roll(tissue, -3, 1)
    )
    rgb[edge] = TISSUE
    picture = Image.fromarray(rgb)
    scale = picture.width / shape[1]
    corners = [frame.x * scale, frame.y * scale, frame.x1 * scale, frame.y1 * scale]
    ImageDraw.Draw(picture).rectangle(corners, outline=(0, 0, 0), width=max(4, picture.width // 250))
    picture.thumbnail((10_000, SIDE_PX))
    return picture


def close_look(slide_path: Path, mpp: float, folder: Path, frame: Box) -> Image.Image:
    """A square of the slide, enlarged, with outlines in the colours of their classes."""
    with open_slide(slide_path, mpp) as slide:
        picture = Image.fromarray(slide.read(frame, slide.mpp)).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    bounds = (frame.x, frame.y, frame.x1, frame.y1)
    cells = geopandas.read_parquet(folder / "cells.parquet", bbox=bounds)
    colours = json.loads((folder / "run.json").read_text())["classes"]
    draw = ImageDraw.Draw(picture)
    for name, outline in zip(cells["class"], cells.geometry, strict=True):
        points = (shapely.get_coordinates(outline) - [frame.x, frame.y]) * (SIDE_PX / frame.w)
        draw.line([tuple(p) for p in points], fill=tuple(colours[name]), width=3, joint="curve")
    return picture


def main(folder: Path, target: Path, place: list[int]) -> None:
    """Write the image; without a place, at the median position of the cells."""
    slide = json.loads((folder / "run.json").read_text())["slide"]
    if not place:
        cells = geopandas.read_parquet(folder / "cells.parquet", columns=["centroid_y", "centroid_x", "geometry"])
        place = [int(cells["centroid_y"].median()), int(cells["centroid_x"].median()), 500]
    y, x, side = place
    frame = Box(y - side // 2, x - side // 2, side, side)
    left = overview(folder, frame, tuple(slide["shape"]))
    right = close_look(Path(slide["path"]), slide["mpp"], folder, frame)
    both = Image.new("RGB", (left.width + 20 + right.width, SIDE_PX), "white")
    both.paste(left, (0, (SIDE_PX - left.height) // 2))
    both.paste(right, (left.width + 20, 0))
    both.save(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(value) for value in sys.argv[3:6]])
