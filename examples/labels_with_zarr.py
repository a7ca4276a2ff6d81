"""Read a box of the label image and look up its cells: the pixel value is the cell's id.

python examples/labels_with_zarr.py OUT/slide Y X HEIGHT WIDTH     (slide px)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import zarr


def cells_in(folder: Path, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, pyarrow.Table]:
    """Labels (h, w) of a box in slide px, at the labels' resolution, and the rows of the cells that touch it."""
    sy, sx = json.loads((folder / "run.json").read_text(encoding="utf-8"))["grid"]["scale"]  # slide px per label px
    labels = zarr.open_array(folder / "slide.ome.zarr/labels/cells/0", mode="r")
    box = np.asarray(labels[round(y / sy) : round((y + height) / sy), round(x / sx) : round((x + width) / sx)])
    ids = np.unique(box[box > 0])
    # The filter skips the parts of the file that hold none of these cells.
    columns = ["id", "class", "score", "centroid_y", "centroid_x", "area_um2"]
    return box, pyarrow.parquet.read_table(folder / "cells.parquet", columns=columns, filters=[("id", "in", ids)])


if __name__ == "__main__":
    pixels, cells = cells_in(Path(sys.argv[1]), *map(int, sys.argv[2:6]))
    print(f"{len(cells)} cells cover {(pixels > 0).mean():.0%} of {pixels.shape[0]} × {pixels.shape[1]} px")
    for cell in cells.slice(0, 10).to_pylist():
        print(cell)
