"""Run a list of tasks in a plain loop, threads, processes or Dask; the only package that imports distributed.

A task is a module-level function with small picklable arguments and a small result: names, boxes and counts are sent,
never pixels. The list is in a valid order, so the loop is a complete executor; the others run whatever is ready.

Workers may die and come back, and so may the scheduler of a cluster: tasks in flight are then run again. Running a task
twice, even concurrently, must therefore leave the same files; tasks ensure that by atomic writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from wsiproc.core.choices import Executor
from wsiproc.errors import PlanError
from wsiproc.executors.limits import (
    LITTLE,
    address_space_limit,
    available_cores,
    core_limits,
    file_size_limit,
    memory_limits,
    require_address_space,
)
from wsiproc.executors.machine import preload, trim_heap, tune_malloc, worker_name
from wsiproc.executors.processes import ProcessPool, ThreadPool
from wsiproc.executors.scheduler import run_in_loop, run_tasks
from wsiproc.executors.task import Backend, Measured, Task, TaskMetrics, Timeouts, measured

__all__ = [
    "EXECUTORS",
    "LITTLE",
    "Measured",
    "Task",
    "TaskMetrics",
    "Timeouts",
    "WorkerPool",
    "address_space_limit",
    "available_cores",
    "core_limits",
    "file_size_limit",
    "measured",
    "memory_limits",
    "preload",
    "require_address_space",
    "trim_heap",
    "tune_malloc",
    "worker_name",
    "worker_pool",
]

EXECUTORS: tuple[str, ...] = get_args(Executor)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class WorkerPool:
    """A pool of workers, and the number of tasks they run at a time. ``backend``: None for the plain loop.

    Several threads may each run a list of tasks through one pool.
    """

    kind: str
    workers: int
    backend: Backend | None

    def run(self, tasks: Sequence[Task], priority: int = 0) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they complete. Of several lists, the one with the lowest ``priority`` is first.

        A task that raises RetryableError is retried up to its ``max_attempts``. Any other error, or the last attempt's,
        stops the submission of tasks and is raised; WorkerError if workers repeatedly die running one task, or are all
        gone for too long.
        """
        return run_in_loop(tasks) if self.backend is None else run_tasks(self.backend, tasks, priority)

    def cancel(self) -> None:
        """End every ``run`` of this pool soon, with a WorkerError, since nobody waits for the results."""
        if self.backend is not None:
            self.backend.cancel()

    def ask(self, question: Callable[[], Answer]) -> dict[str, Answer]:
        """The result of ``question()`` on each worker to which ``gpu`` tasks may go, by the worker's name."""
        return {"this process": question()} if self.backend is None else self.backend.ask(question)


@contextmanager
def worker_pool(
    kind: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    tasks: int = 2,
    timeouts: Timeouts | None = None,
) -> Iterator[WorkerPool]:
    """A worker pool for the duration of the block.

    ``kind``: one of ``EXECUTORS``; *auto* is processes, or the plain loop for a single task. ``scheduler``: address of
    an existing Dask cluster, whose workers are then used; ``timeouts``: how long to wait for those that are gone.
    Raises PlanError if that cluster does not answer or has no workers.

    On one machine, plain processes do the same as a local Dask cluster, and leave more of the cores to the tasks.
    """
    workers = workers or available_cores()
    if scheduler is not None:
        kind = "dask"
    elif kind == "auto":
        kind = "loop" if min(workers, tasks) < 2 else "processes"
    if kind == "loop":
        yield WorkerPool(kind, 1, None)
    elif kind == "threads":
        with ThreadPoolExecutor(workers) as threads:
            yield WorkerPool(kind, workers, ThreadPool(threads, workers))
    elif kind == "processes":
        with ProcessPool(workers) as processes:
            yield WorkerPool(kind, workers, processes)
    elif kind == "dask":
        from wsiproc.executors.dask import existing_cluster, local_cluster

        timeouts = timeouts or Timeouts()
        with existing_cluster(scheduler, timeouts) if scheduler else local_cluster(workers, timeouts) as pool:
            yield WorkerPool(kind, pool.threads, pool)
    else:
        raise PlanError(f"unknown executor {kind!r}: choose one of {', '.join(EXECUTORS)}")
