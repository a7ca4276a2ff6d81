"""One list of tasks, run in a plain loop, by threads, by processes or by Dask; the only file that imports dask.

A task is a module-level function with small picklable arguments and a small result: names, boxes and counts travel,
pixels never do. The list is in a valid order, so the loop is a full executor; the others run whatever is ready.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from typing import Any, Protocol
from uuid import uuid4

from wsiproc.errors import PlanError, RetryableError, WorkerError

KINDS = ("auto", "dask", "processes", "threads", "loop")

# Tasks handed over per worker: enough that none waits for the driver, few enough that order still matters.
_AHEAD = 3
# How often a task may have been in the hands of workers that died before it is held to be the reason.
_MOST_DEATHS = 5
# A cluster whose scheduler is started again, or whose workers come back, has so long to answer.
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Task:
    """``call(*args)``, to be started when the tasks named in ``after`` are done. Doing it twice must do no harm.

    ``tries``: how often it is tried where it raises RetryableError, each time on another worker if there is one; then
    ``otherwise(error)`` stands for its result, or the error is raised. ``gpu``: belongs on a worker with a GPU, where a
    cluster has such.
    """

    key: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    after: tuple[str, ...] = ()
    tries: int = 1
    otherwise: Callable[[Exception], Any] | None = None
    gpu: bool = False


class _WorkersLostError(Exception):
    """The workers that had a task are gone; it has to be handed out again."""


class _Pool(Protocol):
    """Somewhere to run calls."""

    def submit(self, task: Task, avoid: frozenset[str]) -> Future[Any]:
        """Start a task, on none of the workers ``avoid`` if there are others. Fails with _WorkersLostError."""

    def recover(self) -> None:
        """Make ready again after workers were lost. Raises WorkerError where that is in vain."""


@dataclass
class _Running:
    """A task in the hands of workers, and its history."""

    task: Task
    tried: int = 0
    deaths: int = 0
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Crew:
    """Workers that are there: a pool, and how many tasks it runs at a time. ``pool`` None is the plain loop."""

    kind: str
    workers: int
    pool: _Pool | None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        """Each task with its result, as they end. The first error stops the handing out and is raised."""
        if self.pool is None:
            for task in tasks:
                yield task, _try_here(task)
        else:
            yield from _run_pool(self.pool, self.workers * _AHEAD, tasks)


def _try_here(task: Task) -> Any:
    """The result of a task in this process."""
    for left in reversed(range(task.tries)):
        try:
            return task.call(*task.args)
        except RetryableError as error:
            if left == 0:
                return _given_up(task, error)
    raise AssertionError("a task is tried at least once")


def _given_up(task: Task, error: Exception) -> Any:
    """What stands for the result of a task that was tried often enough."""
    if task.otherwise is None:
        raise error
    return task.otherwise(error)


def _run_pool(pool: _Pool, in_flight: int, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
    """Hand out tasks whose predecessors are done, the earliest of the list first."""
    waiting = {task.key: set(task.after) for task in tasks}
    followers: dict[str, list[int]] = {}
    for place, task in enumerate(tasks):
        for key in task.after:
            followers.setdefault(key, []).append(place)
    ready = [place for place, task in enumerate(tasks) if not task.after]
    heapq.heapify(ready)
    running: dict[Future[Any], _Running] = {}
    try:
        while ready or running:
            while ready and len(running) < in_flight:
                task = tasks[heapq.heappop(ready)]
                running[pool.submit(task, frozenset())] = _Running(task)
            for task, result in _ended(pool, running):
                yield task, result
                for place in followers.get(task.key, ()):
                    waiting[tasks[place].key].discard(task.key)
                    if not waiting[tasks[place].key]:
                        heapq.heappush(ready, place)
    finally:
        for future in running:
            future.cancel()


def _ended(pool: _Pool, running: dict[Future[Any], _Running]) -> Iterator[tuple[Task, Any]]:
    """Wait, and yield what has ended; what is worth another try is handed out again."""
    lost: list[_Running] = []
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        one = running.pop(future)
        try:
            found = future.result()
        except _WorkersLostError:
            lost.append(one)
            continue
        if not isinstance(found, _Retry):
            yield one.task, found
        elif one.tried + 1 >= one.task.tries:
            yield one.task, _given_up(one.task, found.error)
        else:
            again = replace(one, tried=one.tried + 1, avoid=one.avoid | {found.worker})
            running[pool.submit(again.task, again.avoid)] = again
    if lost:
        pool.recover()
    for one in lost:
        if one.deaths + 1 >= _MOST_DEATHS:
            raise WorkerError(
                f"{one.task.key}: {_MOST_DEATHS} times a worker died that had this task. Is there too little memory "
                "(--memory-gb, fewer --workers), or does the slide crash a codec there? What is done is kept; the same "
                "command goes on from there"
            )
        again = replace(one, deaths=one.deaths + 1)
        running[pool.submit(again.task, again.avoid)] = again


@dataclass(frozen=True)
class _Retry:
    """What a worker gives back in place of a result: the error, and who it is."""

    error: RetryableError
    worker: str


def _try_on_worker(call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a call on a worker; an error that is worth another try comes back as a value, with the worker's name."""
    try:
        return call(*args)
    except RetryableError as error:
        return _Retry(error, _worker_name())


def _worker_name() -> str:
    """Address of the Dask worker that runs this; elsewhere no name, since no worker can be chosen there."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:
        return ""


class _LocalPool:
    """Threads or processes of this machine; processes are started again where one has died."""

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._executor = start()

    def submit(self, task: Task, avoid: frozenset[str]) -> Future[Any]:
        """Start a task; nobody can say where."""
        answer: Future[Any] = Future()
        try:
            inner = self._executor.submit(_try_on_worker, task.call, task.args)
        except BrokenExecutor:
            answer.set_exception(_WorkersLostError())
            return answer
        inner.add_done_callback(lambda done: _pass_on(done, answer))
        return answer

    def recover(self) -> None:
        """Start all workers anew."""
        self.close()
        self._executor = self._start()

    def close(self) -> None:
        """End the workers."""
        self._executor.shutdown(cancel_futures=True)


def _pass_on(done: Future[Any], answer: Future[Any]) -> None:
    """Give an ended call's result or error to whoever waits."""
    if done.cancelled() or not answer.set_running_or_notify_cancel():
        return
    error = done.exception()
    if isinstance(error, BrokenExecutor):
        answer.set_exception(_WorkersLostError())
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


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
    elif kind in ("threads", "processes"):
        pool = _LocalPool(partial(_executor, kind, workers))
        try:
            yield Crew(kind, workers, pool)
        finally:
            pool.close()
    elif kind == "dask":
        with _dask_client(workers, scheduler) as client:
            dask_pool = _DaskPool(client, scheduler)
            try:
                yield Crew(kind, sum(client.nthreads().values()), dask_pool)
            finally:
                dask_pool.close()
    else:
        raise PlanError(f"unknown executor {kind!r}: choose one of {', '.join(KINDS)}")


def _executor(kind: str, workers: int) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


class _DaskPool:
    """The workers of a Dask cluster. Those that die are done without; a scheduler that comes back is found again."""

    def __init__(self, client: Any, scheduler: str | None) -> None:
        self._client, self._scheduler = client, scheduler
        self._with_gpu = gpu_workers(client)

    def submit(self, task: Task, avoid: frozenset[str]) -> Future[Any]:
        """Start a task where it belongs, elsewhere than before if there is an elsewhere."""
        known = set(self._client.scheduler_info(n_workers=-1)["workers"]) if avoid else set()
        others = sorted(known - avoid)
        gpu = task.gpu and bool(self._with_gpu)
        answer: Future[Any] = Future()
        future = self._client.submit(
            _try_on_worker, task.call, task.args,
            key=f"{task.key} {uuid4().hex}", pure=False, resources={"GPU": 1} if gpu else None,
            workers=others if others and not gpu else None, allow_other_workers=bool(others) and not gpu,
        )  # fmt: skip
        # Kept by the answer, since Dask forgets a task that nobody refers to.
        answer.dask = future  # type: ignore[attr-defined]
        future.add_done_callback(partial(_pass_on_dask, answer=answer))
        return answer

    def recover(self) -> None:
        """Wait until the scheduler answers and has workers."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                if self._client.status == "running" and self._client.nthreads():
                    self._with_gpu = gpu_workers(self._client)
                    return
                if self._client.status == "closed" and self._scheduler is not None:
                    self._client = _connect(self._scheduler, "5s")
            except (OSError, ValueError, RuntimeError):
                pass  # not yet
            time.sleep(1.0)
        where = self._scheduler or "the local cluster"
        raise WorkerError(
            f"{where}: no workers for {_PATIENCE_S:g} s. Are the scheduler and its workers running? What is done is "
            "kept; the same command goes on from there"
        )

    def close(self) -> None:
        """Leave a cluster that is not ours."""
        if self._scheduler is not None:
            self._client.close()


def _pass_on_dask(done: Any, answer: Future[Any]) -> None:
    """Give an ended Dask task's result or error to whoever waits."""
    from distributed.scheduler import KilledWorker

    if not answer.set_running_or_notify_cancel():
        return
    if done.status == "finished":
        try:
            answer.set_result(done.result(timeout=30))
        except Exception:  # its worker went with the result, or the scheduler did
            answer.set_exception(_WorkersLostError())
    elif done.status == "error" and not isinstance(done.exception(), KilledWorker):
        answer.set_exception(done.exception())
    else:
        answer.set_exception(_WorkersLostError())


def gpu_workers(client: Any) -> list[str]:
    """Addresses of a cluster's workers that were started with ``--resources GPU=…``."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return sorted(address for address, facts in workers.items() if facts.get("resources", {}).get("GPU", 0) > 0)


@lru_cache(maxsize=1)
def cluster_device(scheduler: str, finds_cuda: Callable[[], bool]) -> str:
    """``cuda`` where the cluster has workers tagged ``GPU`` and ``finds_cuda()`` is true on each of them, else ``cpu``.

    Raises PlanError where no cluster answers.
    """
    with _dask_client(1, scheduler) as client:
        tagged = gpu_workers(client)
        found = client.run(finds_cuda, workers=tagged) if tagged else {}
    return "cuda" if found and all(found.values()) else "cpu"


def _connect(scheduler: str, timeout: str) -> Any:
    from distributed import Client

    return Client(scheduler, timeout=timeout, set_as_default=False)


@contextmanager
def _dask_client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of an existing cluster, or of a local one of single-threaded worker processes on loopback."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = _connect(scheduler, "20s")
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
        "distributed.scheduler.allowed-failures": _MOST_DEATHS,
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
