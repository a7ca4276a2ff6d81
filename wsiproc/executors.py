"""One list of tasks, run in a plain loop, by threads, by processes or by Dask; the only file that imports dask.

A task is a module-level function with small picklable arguments and a small result: names, boxes and counts travel,
pixels never do. The list is in a valid order, so the loop is a full executor; the others run whatever is ready.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from wsiproc.errors import PlanError

KINDS = ("auto", "dask", "processes", "threads", "loop")

# Tasks handed over per worker: enough that none waits for the driver, few enough that order still matters.
_AHEAD = 3


@dataclass(frozen=True)
class Task:
    """``call(*args)``, to be started when the tasks named in ``after`` are done."""

    key: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crew:
    """Workers that are there: a pool, and how many tasks it runs at a time. ``pool`` None is the plain loop."""

    kind: str
    workers: int
    pool: Executor | None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they end. The first error stops the handing out and is raised."""
        if self.pool is None:
            for task in tasks:
                yield task, task.call(*task.args)
        else:
            yield from _run_pool(self.pool, self.workers * _AHEAD, tasks)


def _run_pool(pool: Executor, in_flight: int, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
    """Hand out tasks whose predecessors are done, the earliest of the list first."""
    waiting = {task.key: set(task.after) for task in tasks}
    followers: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        for key in task.after:
            followers.setdefault(key, []).append(place)
    ready = [place for place, task in enumerate(tasks) if not task.after]
    heapq.heapify(ready)
    running: dict[Future[Any], Task] = {}
    try:
        while ready or running:
            while ready and len(running) < in_flight:
                task = tasks[heapq.heappop(ready)]
                running[pool.submit(task.call, *task.args)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                yield task, future.result()
                for place in followers.get(task.key, ()):
                    waiting[tasks[place].key].discard(task.key)
                    if not waiting[tasks[place].key]:
                        heapq.heappush(ready, place)
    finally:
        for future in running:
            future.cancel()


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def crew(
    kind: str = "auto", workers: int | None = None, scheduler: str | None = None, tasks: int = 2
) -> Iterator[Crew]:
    """Workers for the time of the block.

    ``kind``: one of ``KINDS``; *auto* is Dask, or the plain loop where a single task leaves nothing to share.
    ``scheduler``: address of an existing Dask cluster, whose workers are then used. Raises PlanError where that
    cluster does not answer or has no workers.
    """
    workers = workers or available_cores()
    if scheduler is not None:
        kind = "dask"
    elif kind == "auto":
        kind = "loop" if min(workers, tasks) < 2 else "dask"
    if kind == "loop":
        yield Crew(kind, 1, None)
    elif kind == "threads":
        with ThreadPoolExecutor(workers) as pool:
            yield Crew(kind, workers, pool)
    elif kind == "processes":
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield Crew(kind, workers, pool)
    elif kind == "dask":
        with _dask_client(workers, scheduler) as client:
            threads = sum(client.nthreads().values())
            yield Crew(kind, threads, client.get_executor(pure=False))
    else:
        raise PlanError(f"unknown executor {kind!r}: choose one of {', '.join(KINDS)}")


@contextmanager
def _dask_client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of an existing cluster, or of a local one of single-threaded worker processes on loopback."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="20s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise PlanError(f"no Dask scheduler answers at {scheduler}: {error}. Is it running?") from error
        with client:
            if not client.nthreads():
                raise PlanError(f"the Dask cluster at {scheduler} has no workers; start some with `dask worker`")
            yield client
        return
    # Memory is planned by the region, so Dask's own spilling and pausing would only get in the way. Dask also has its
    # workers give back freed memory at once; within a task, arrays of tens of MB come and go, and faulting their pages
    # in again costs as much as the work on them. Tasks give memory back themselves, once each, when they start.
    options = {
        "distributed.worker.memory.terminate": False,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.nanny.pre-spawn-environ": {
            "MALLOC_TRIM_THRESHOLD_": 2**26,
            "MALLOC_MMAP_THRESHOLD_": 2**25,
            "MALLOC_ARENA_MAX": 2,
            "OMP_NUM_THREADS": 1,
            "MKL_NUM_THREADS": 1,
            "OPENBLAS_NUM_THREADS": 1,
        },
    }
    with (
        dask.config.set(options),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=40,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def give_back_memory() -> None:
    """Return freed memory to the system; glibc keeps it, and other workers need the room. Elsewhere nothing is done."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
