"""A million cells as a table, a GeoDataFrame, AnnData and SpatialData: seconds and peak memory, each on its own.

    python benchmarks/cells_in_python.py [--cells 1000000]

Each is opened in a process of its own; memory is that of the process, libraries included, and time is measured from the
start of Python. The slide is synthetic, as in ``view.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from view import make_results

KINDS = ("table", "cells", "anndata", "spatialdata")
_OPEN = """
import resource, sys, time
started = time.perf_counter()
import wsiproc
found = getattr(wsiproc.open(sys.argv[1]), sys.argv[2])()
seconds, most = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{type(found).__name__:13} {seconds:6.1f} s {most:6.2f} GiB")
"""


def main(cells: int) -> None:
    """Make the slide, then open it in each form."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_results(Path(scratch) / "slide", cells)
        for kind in KINDS:
            subprocess.run([sys.executable, "-W", "ignore", "-c", _OPEN, str(folder), kind], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    main(parser.parse_args().cells)
