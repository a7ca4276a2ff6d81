"""What ``wsiproc export --to ome-zarr`` costs: seconds, bytes and memory of one process per slide, with empty labels.

python benchmarks/full_image.py ../shared/data/slides/*.svs ../shared/data/slides/*.tif
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wsiproc.array.pyramid import level_count
from wsiproc.core.geometry import grid_shape
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.slides.open import SlideSource, open_slide
from wsiproc.results.export.full_image import write_full_image

MPP = 0.5


def copy(path: Path, folder: Path) -> str:
    """A row of the table."""
    with open_slide(path) as slide:
        (h, w), mpp = slide.shape, slide.mpp
    grid = grid_shape((h, w), mpp, MPP)
    labels = folder / "result.ome.zarr"
    ngff.create_image(labels, grid, (MPP, MPP), level_count(grid), [("Red", (255, 0, 0))])
    ngff.create_labels_group(labels, ["cells"])
    ngff.create_labels(labels, "cells", grid, (MPP, MPP), level_count(grid), "uint32")
    clock = time.perf_counter()
    write_full_image(SlideSource(path), labels / "labels", folder / "full.ome.zarr", workers=1)
    seconds = time.perf_counter() - clock
    size = sum(file.stat().st_size for file in (folder / "full.ome.zarr").rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return f"| {path.name} | {w:,} × {h:,} | {seconds:.0f} | {size / 1e6:.0f} | {size / (w * h):.2f} | {peak:.0f} |"


def main() -> None:
    if len(sys.argv) == 2:
        with tempfile.TemporaryDirectory() as folder:
            print(copy(Path(sys.argv[1]), Path(folder)))
        return
    print("| slide | px | s | MB | bytes a px | peak MB |\n|---|---|---|---|---|---|")
    for path in sys.argv[1:]:  # each in a process of its own, whose peak is its own
        print(
            subprocess.run([sys.executable, __file__, path], check=True, capture_output=True, text=True).stdout, end=""
        )


if __name__ == "__main__":
    main()
