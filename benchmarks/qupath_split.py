"""``wsiproc qupath`` and ``wsiproc import`` on a million cells: seconds and peak memory of each command.

    python benchmarks/qupath_split.py             # a million cells
    python benchmarks/qupath_split.py 100000

The cells are those of ``million_cells.py``. ``cells.geojson.gz`` is imported as it is, unchanged.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from million_cells import make_parts, merged, record_of
from peak_memory import GIB, Watch

from wsiproc.executors import worker_pool
from wsiproc.io.cells.parquet import CellWriter, read_part
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, features_bytes
from wsiproc.pipeline.stages.merge import block_path

WSIPROC = [sys.executable, "-m", "wsiproc.cli.main"]


def finished_slide(folder: Path, count: int) -> int:
    """The files of a finished slide that the commands read; how many cells it has."""
    job, regions = make_parts(folder, count)
    names, colours = list(job.classes), list(job.classes.values())
    counts = np.zeros(len(names), np.int64)
    with worker_pool("loop") as alone:
        blocks = merged(job, regions, alone)
    columns = list(read_part(block_path(job, blocks[0].region)).measurements)
    with (
        CellWriter(job.cells, job.classes, columns, job.frame.scale) as table,
        GeoJsonWriter(folder / "cells.geojson.gz") as features,
    ):
        for block in blocks:
            cells = read_part(block_path(job, block.region))
            table.write(cells)
            counts += np.bincount(cells.classes, minlength=len(names))
            features.append(
                Piece.of(*features_bytes(cells, block.first_id, job.fingerprint, names, colours, job.frame.scale))
            )
    record_of(job, Path("none"), counts.tolist()).write(folder)
    shutil.rmtree(job.work)
    return sum(block.count for block in blocks)


def measured(*arguments: object) -> str:
    """What a command prints first, its seconds and its peak memory."""
    clock = time.perf_counter()
    running = subprocess.Popen([*WSIPROC, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    with Watch(psutil.Process(running.pid)) as watch:
        said = running.communicate()[0]
    seconds = time.perf_counter() - clock
    if running.returncode:
        sys.exit(f"the command failed: {said}")
    first = said.splitlines()[0].replace(f"{Path(str(arguments[-1])).parent}/", "")
    return f"  {first}\n  {seconds:.1f} s, peak RSS {watch.rss / GIB:.2f} GiB"


def main(count: int) -> None:
    """Time the commands and print them."""
    folder = Path(tempfile.mkdtemp()) / "slide"
    try:
        print(f"{finished_slide(folder, count):,} cells")
        for options in ((), ("--simplify", 2), ("--cells-per-file", 20_000)):
            print(" ".join(map(str, ("wsiproc qupath", *options))))
            print(measured("qupath", *options, folder))
            files = sorted((folder / "qupath").glob("cells-*"))
            print(f"  {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")
        print("wsiproc import cells.geojson.gz")
        print(measured("import", folder / "cells.geojson.gz", folder))
    finally:
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
