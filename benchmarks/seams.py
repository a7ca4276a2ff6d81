"""Divide one slide into regions of several sizes, for one and two workers, and compare the bytes of the results.

    python benchmarks/seams.py slide.tif [slide.tif ...]

For synthetic slides (with a ``.truth.parquet`` next to them) it also counts, among the true nuclei that region borders
cross, those that are doubled, cut or lost with the smallest regions, compared with a run with the fewest borders.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
from scipy.spatial import cKDTree

from wsiproc.io.cells.parquet import read_cells
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

REGIONS = (1024, 2048, 4096)
FILES = ("cells.parquet", "cells.geojson.gz")


def digest(folder: Path) -> str:
    """Hash of both cell files."""
    both = hashlib.sha256()
    for name in FILES:
        both.update((folder / name).read_bytes())
    return both.hexdigest()[:12]


def matched(folder: Path, truth: Path, step: int) -> dict[int, int]:
    """Cells whose centre lies in the box of each true nucleus that a border of ``step`` crosses: id → number."""
    table = pyarrow.parquet.read_table(truth)
    y, x, box_y, box_x, box_h, box_w = (
        table[name].to_numpy() for name in ("centroid_y", "centroid_x", "box_y", "box_x", "box_h", "box_w")
    )
    centres = np.stack([y, x], axis=1)
    _, cells = read_cells(folder / "cells.parquet")
    scale = 2.0  # slide px at 0.25 µm/px to the grid's 0.5
    low, high = np.stack([box_y, box_x], 1) / scale, np.stack([box_y + box_h, box_x + box_w], 1) / scale
    crossed = np.flatnonzero((low // step != (high - 1e-6) // step).any(axis=1))
    tree = cKDTree(cells.centroids)
    near = tree.query_ball_point(centres[crossed] / scale, r=4.0)
    return {int(i): len(found) for i, found in zip(crossed, near, strict=True)}


def main(slides: list[Path]) -> None:
    """Run every combination on every slide and print the table."""
    scratch = Path(tempfile.mkdtemp())
    try:
        for slide in slides:
            one_slide(slide, scratch)
    finally:
        shutil.rmtree(scratch)


def one_slide(slide: Path, scratch: Path) -> None:
    """The table of one slide."""
    found = set()
    print(slide.name)
    for region in REGIONS:
        for workers in (1, 2):
            out = scratch / f"{region}-{workers}"
            clock = time.perf_counter()
            kind = "processes" if workers > 1 else "loop"
            (outcome,) = run_slides(
                [slide], out, Settings(model="classical", region=region, workers=workers, executor=kind)
            )
            if outcome.error is not None or outcome.folder is None or outcome.run is None:
                raise SystemExit(f"{slide}: {outcome.error}")
            found.add(digest(outcome.folder))
            cells, seconds = outcome.run["counts"]["cells"], time.perf_counter() - clock
            print(f"  region {region}, {workers} workers: {digest(outcome.folder)}, {cells:,} cells, {seconds:.0f} s")
    print(f"  {'identical' if len(found) == 1 else 'DIFFERENT'}: {len(found)} distinct result(s) of {2 * len(REGIONS)}")
    truth = slide.with_name(f"{slide.stem}.truth.parquet")
    if truth.exists():
        folders = [next((scratch / f"{region}-1").iterdir()) for region in (min(REGIONS), max(REGIONS))]
        cut, whole = (matched(folder, truth, min(REGIONS)) for folder in folders)
        doubled = sum(cut[i] > whole[i] for i in cut)
        lost = sum(cut[i] < whole[i] for i in cut)
        print(f"  {len(cut):,} true nuclei on borders: {doubled} doubled, {lost} cut or lost")
    shutil.rmtree(scratch)
    scratch.mkdir()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
