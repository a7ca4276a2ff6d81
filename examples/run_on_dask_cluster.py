"""Run slides on the workers of a Dask cluster, from Python.

python examples/run_on_dask_cluster.py tcp://head:8786 OUT slide.svs [slide.svs …]

Each worker opens the slides itself and writes its part of the results: both must have the same path everywhere. To try
it on one machine, start a cluster in a second, interactive Python session and pass the address that it shows:

    from distributed import LocalCluster
    cluster = LocalCluster(n_workers=4, threads_per_worker=1, host="127.0.0.1")
    cluster.scheduler_address
"""

from __future__ import annotations

import sys
from pathlib import Path

from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings


def main(scheduler: str, out: Path, slides: list[Path]) -> bool:
    """Whether every slide was processed; prints a line for each when it ends."""
    outcomes = []
    for outcome in run_slides(slides, out, Settings(scheduler=scheduler)):
        cells = (
            f", {outcome.run['counts']['cells']:,} cells in {outcome.folder}" if outcome.run else f": {outcome.error}"
        )
        print(f"{outcome.path.name}: {outcome.status}{cells}", flush=True)
        outcomes.append(outcome)
    return all(outcome.error is None for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
