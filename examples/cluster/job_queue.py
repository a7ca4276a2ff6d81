"""Run slides through a job queue: jobs of CPU workers, jobs with one GPU each, and this process as their driver.

    python examples/cluster/job_queue.py slurm OUT SLIDE [SLIDE …] --interface ib0 --cpu-jobs 4 --gpu-jobs 2
    python examples/cluster/job_queue.py lsf OUT SLIDE --show    # prints the job scripts and submits nothing

Needs `pip install "wsiproc[cluster]"`, which brings dask-jobqueue. Slides and results must have the same path on all
nodes. Run it where jobs can be submitted and reached: on the login node, or in a small job of its own. Queues and sizes
below are placeholders: change them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from dask_jobqueue.lsf import LSFJob
from dask_jobqueue.slurm import SLURMJob
from distributed import Client, Scheduler, SpecCluster

from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

JOBS = {"slurm": SLURMJob, "lsf": LSFJob}


def wishes(given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of every job in the terms of the queue, and additional ones of those with a GPU."""
    if given.queue == "slurm":
        return (
            {"walltime": "08:00:00", "account": given.account},
            {"job_cpu": 4, "job_extra_directives": ["--gres=gpu:1"]},
        )
    # LSF takes the script from standard input: bsub < script.
    return (
        {"walltime": "08:00", "project": given.account, "use_stdin": True},
        {"ncpus": 4, "job_extra_directives": ["-gpu num=1"]},
    )


def jobs(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each job requests and starts, by name."""
    each, with_gpu = wishes(given)
    common = each | {
        "interface": given.interface,
        "log_directory": str(given.out / "job-logs"),
        "death_timeout": 300,
        "job_script_prologue": ["export OMP_NUM_THREADS=1"],
        # Without this, a worker's status page would be open to the whole network.
        "worker_extra_args": ["--dashboard-address", "127.0.0.1:0"],
    }
    # One single-threaded worker per core: regions run in parallel.
    cpu = common | {"queue": "cpu", "cores": given.cores, "processes": given.cores, "memory": f"{4 * given.cores}GB"}
    # One worker per GPU. The tag sends inference there; the other cores of the job help with decoding.
    gpu = common | with_gpu | {"queue": "gpu", "cores": 1, "processes": 1, "memory": "24GB"}
    gpu["worker_extra_args"] = [*common["worker_extra_args"], "--resources", "GPU=1"]
    group = [f"-{number}" for number in range(given.cores)] if given.cores > 1 else [""]
    job = JOBS[given.queue]
    names = {f"cpu-{number}": {"cls": job, "options": cpu, "group": group} for number in range(given.cpu_jobs)}
    return names | {f"gpu-{number}": {"cls": job, "options": gpu} for number in range(given.gpu_jobs)}


def show(specs: dict[str, dict[str, Any]]) -> None:
    """Print one script of each type."""
    for name in ("cpu-0", "gpu-0"):
        if name in specs:
            print(specs[name]["cls"]("tcp://HEAD:PORT", name, **specs[name]["options"]).job_script())


def wait_for_workers(client: Client, gpu: bool) -> None:
    """Wait until the queue has started the first worker; until then there is nothing to plan with."""
    while True:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        if any(worker["resources"].get("GPU") or not gpu for worker in workers):
            return
        time.sleep(1)


def main() -> bool:
    """Whether every slide was processed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queue", choices=JOBS)
    parser.add_argument("out", type=Path)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--interface", default="lo", help="network interface between the nodes, such as ib0 or eth0")
    parser.add_argument("--cpu-jobs", type=int, default=4)
    parser.add_argument("--cores", type=int, default=16, help="cores of a CPU job")
    parser.add_argument("--gpu-jobs", type=int, default=0)
    parser.add_argument("--account", help="account, or LSF project, to charge")
    parser.add_argument("--model", default="default")
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    specs = jobs(given)
    if given.show:
        show(specs)
        return True
    head = {"cls": Scheduler, "options": {"interface": given.interface, "dashboard_address": "127.0.0.1:0"}}
    failed = 0
    with SpecCluster(scheduler=head, workers=specs, name="wsiproc") as cluster:
        with Client(cluster) as client:
            wait_for_workers(client, gpu=given.gpu_jobs > 0)
        for outcome in run_slides(
            given.slides, given.out, Settings(model=given.model, scheduler=cluster.scheduler_address)
        ):
            print(f"{outcome.path.name}: {outcome.error or outcome.status}", flush=True)
            failed += outcome.error is not None
    return not failed


if __name__ == "__main__":
    sys.exit(not main())
