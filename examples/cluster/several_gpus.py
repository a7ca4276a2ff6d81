"""Run slides on all GPUs of this machine: one worker per GPU for inference, and CPU workers for the rest.

    python examples/cluster/several_gpus.py OUT SLIDE [SLIDE …]

Needs `pip install dask-cuda`, best in an environment of its own, since it requires a specific version of Dask. It
assigns each worker its GPU and the nearest cores. Everything listens on loopback only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from distributed import Client

from wsiproc.errors import MissingExtraError
from wsiproc.executors import available_cores
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

try:
    from dask_cuda import LocalCUDACluster
except ImportError as error:
    sys.exit(str(MissingExtraError(f"several GPUs need dask-cuda ({error}): pip install dask-cuda")))


def main(out: Path, slides: list[Path]) -> bool:
    """Whether every slide was processed; prints a line for each when it ends."""
    options = {"threads_per_worker": 1, "memory_limit": 0, "resources": {"GPU": 1}}
    outcomes = []
    with LocalCUDACluster(host="127.0.0.1", dashboard_address="127.0.0.1:0", **options) as cluster:
        gpus = len(cluster.cuda_visible_devices)
        others = max(1, available_cores() - gpus)
        address = cluster.scheduler_address
        command = [sys.executable, "-m", "dask", "worker", address, "--nworkers", str(others), "--nthreads", "1"]
        command += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--memory-limit", "0"]
        cpu_workers = subprocess.Popen(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
        try:
            with Client(cluster) as client:
                client.wait_for_workers(gpus + others, timeout=120)
            for outcome in run_slides(slides, out, Settings(scheduler=address)):
                print(f"{outcome.path.name}: {outcome.error or outcome.status}", flush=True)
                outcomes.append(outcome)
        finally:
            cpu_workers.terminate()
            cpu_workers.wait()
    return all(outcome.error is None for outcome in outcomes)


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
