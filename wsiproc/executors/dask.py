"""Workers of a Dask cluster: an existing one, or a local one on this machine.

The scheduler holds only submitted tasks, a few per worker, never a whole slide; tasks that are lost with a worker or
with the scheduler are submitted again from here.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, get_worker

from wsiproc.errors import PlanError, RetryableError, WorkerError
from wsiproc.executors.machine import ONE_THREAD, START
from wsiproc.executors.task import SchedulerLost, Submission, TaskFailed, Timeouts, WorkersDied

GPU = "GPU"  # the resource that marks a worker as one with a GPU: dask worker --resources GPU=1
_CONNECT_S = 20.0
_TICK_S = 0.05
_REFRESH_S = 5.0  # maximum age of the list of workers
_RESUME = "Results so far are kept; run the same command to resume"


@dataclass(frozen=True)
class _Work:
    """A call, opaque to Dask, which would otherwise search all arguments for keys of other tasks."""

    call: Callable[..., Any]
    args: tuple[Any, ...]


def _do(work: _Work) -> Any:
    """Run the work on a worker. A retryable failure is returned with the name of the worker."""
    try:
        return work.call(*work.args)
    except RetryableError as error:
        return TaskFailed(error, get_worker().address)


async def _fetch(future: Any) -> Any:
    """The result of a Dask future, in the client's loop; always returns an outcome."""
    try:
        await future.exception()  # None, or what `await future` raises: either way it is done
        # Results are fetched at ticks, since Dask makes one request for all that are awaited at the same moment.
        await asyncio.sleep(_TICK_S - asyncio.get_running_loop().time() % _TICK_S)
        result = await future
    except KilledWorker as error:
        raise WorkersDied(error.allowed_failures + 1) from None
    except (CancelledError, asyncio.CancelledError) as error:
        waiting = asyncio.current_task()
        if waiting is not None and waiting.cancelling():
            raise  # nobody waits for it
        raise SchedulerLost from error
    except OSError as error:
        # Errors of the task itself are raised unchanged; the future then has the same error.
        raise (error if future.status == "error" else SchedulerLost()) from error
    if isinstance(result, TaskFailed):
        raise result
    return result


class ClusterPool:
    """The workers of a cluster, which may come and go, through a client that is replaced when the scheduler is lost."""

    def __init__(self, connect: Callable[[], Any], timeouts: Timeouts, where: str) -> None:
        self._connect, self._timeouts, self._where = connect, timeouts, where
        self._lock = threading.RLock()
        self._client: Any = connect()
        self._workers: dict[str, Any] = {}
        self._seen = self._asked = 0.0  # time of the list of workers; when it was last not empty
        self._with_gpus = self._closed = False
        self._refresh(self._client)

    @property
    def threads(self) -> int:
        """Number of tasks that run at the same time."""
        return sum(worker["nthreads"] for worker in self._workers.values())

    @property
    def gpus(self) -> int:
        """Number of tasks that run on GPUs at the same time."""
        return int(sum(worker["resources"].get(GPU, 0) for worker in self._workers.values()))

    def slots(self) -> tuple[int, int]:
        """See Backend; at least one, so that ready tasks wait where new workers will find them."""
        return max(1, self.threads), max(1, self.gpus) if self._with_gpus else 0

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """See Backend; raises WorkerError if the scheduler stays away. Similar tasks are sent together."""
        client = self._running_client()
        alike: dict[tuple[bool, frozenset[str]], list[int]] = {}
        for number, submission in enumerate(submissions):
            alike.setdefault((submission.task.gpu and self._with_gpus, submission.avoid), []).append(number)
        outcomes: dict[int, Future[Any]] = {}
        for (gpu, avoid), numbers in alike.items():
            tasks = [submissions[number].task for number in numbers]
            others = [address for address in self._workers if address not in avoid] if avoid else []
            futures = client.map(
                _do,
                [_Work(task.call, task.args) for task in tasks],
                # Dask keeps some state for each kind of task that it ever saw, by the name up to the dash.
                key=[f"{task.call.__name__}-{uuid.uuid4()}" for task in tasks],
                priority=-_rank(*submissions[numbers[0]].priority),
                resources={GPU: 1} if gpu else None,
                workers=others or None,
                allow_other_workers=bool(others),
            )
            for number, future in zip(numbers, futures, strict=True):
                outcomes[number] = asyncio.run_coroutine_threadsafe(_fetch(future), client.loop.asyncio_loop)
        return [outcomes[number] for number in range(len(submissions))]

    def check(self) -> None:
        """Raise WorkerError if there have been no workers, or no longer any with a GPU, for too long."""
        client = self._running_client()
        with self._lock:
            if time.monotonic() - self._asked > _REFRESH_S or not self._able():
                self._refresh(client)
            away = time.monotonic() - self._seen
        if away > self._timeouts.workers_s:
            what = "with a GPU " if self._with_gpus and self._workers else ""
            raise WorkerError(
                f"{self._where} has had no workers {what}for {away:.0f} s; start some, and check the logs of those "
                f"that died. {_RESUME}"
            )

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """See Backend."""
        client = self._running_client()
        with self._lock:
            self._refresh(client)
            with_gpus = [name for name, worker in self._workers.items() if worker["resources"].get(GPU, 0) >= 1]
            asked = with_gpus or list(self._workers)
        answers: dict[str, Any] = client.run(question, workers=asked)
        return answers

    def cancel(self) -> None:
        """See Backend."""
        self._closed = True

    def close(self) -> None:
        """Disconnect from the cluster."""
        self.cancel()
        with suppress(Exception):  # at the end it does not matter whether the other side is still there
            self._client.close(timeout=5)

    def _able(self) -> bool:
        """Whether there are workers for every kind of task."""
        return bool(self.gpus if self._with_gpus else self._workers)

    def _refresh(self, client: Any) -> None:
        """Refresh the list of workers; without an answer, keep the old one."""
        with suppress(OSError, TimeoutError):
            self._workers = dict(client.scheduler_info(n_workers=-1)["workers"])
            self._asked = time.monotonic()
            self._with_gpus |= self.gpus > 0
            if self._able():
                self._seen = self._asked

    def _running_client(self) -> Any:
        """A connected client, a new one if the old has lost its scheduler; waits for that, with a timeout.

        Everything submitted through the old one is lost and reported as such.
        """
        if self._closed:
            raise WorkerError(f"{self._where} has been disconnected")
        if self._client.status == "running":
            return self._client
        with self._lock:
            gave_up = time.monotonic() + self._timeouts.scheduler_s
            while self._client.status != "running":
                with suppress(Exception):  # the old client only has to be closed
                    self._client.close(timeout=2)
                try:
                    self._client = self._connect()
                    self._workers, self._asked, self._seen = {}, 0.0, time.monotonic()
                except (OSError, ValueError) as error:
                    if time.monotonic() > gave_up:
                        raise WorkerError(
                            f"{self._where} was lost and has not answered for {self._timeouts.scheduler_s:.0f} s "
                            f"({error}). {_RESUME}"
                        ) from error
                    time.sleep(0.5)
            return self._client


def _rank(priority: int, index: int) -> int:
    """Priority of a list and index in it as the single number that Dask accepts."""
    return (priority << 32) + index


@contextmanager
def existing_cluster(address: str, timeouts: Timeouts) -> Iterator[ClusterPool]:
    """The workers of the scheduler at ``address``; raises PlanError if it does not answer or has none."""

    def connect() -> Any:
        return Client(address, timeout=_CONNECT_S, set_as_default=False)

    try:
        pool = ClusterPool(connect, timeouts, f"the Dask cluster at {address}")
    except (OSError, ValueError) as error:
        raise PlanError(f"no Dask scheduler answers at {address}: {error}. Is it running?") from error
    try:
        if not pool.threads:
            raise PlanError(f"the Dask cluster at {address} has no workers; start some with `dask worker`")
        yield pool
    finally:
        pool.close()


@contextmanager
def local_cluster(workers: int, timeouts: Timeouts) -> Iterator[ClusterPool]:
    """Single-threaded worker processes of this machine, on loopback; those that die are restarted."""
    # Memory is planned per region, so Dask's own spilling and pausing would only interfere; tasks themselves decide
    # when freed memory is kept and when the heap is trimmed.
    options = {
        "distributed.worker.memory.terminate": False,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.worker.multiprocessing-method": START,
        "distributed.nanny.pre-spawn-environ": ONE_THREAD,
        # Its self-monitoring, fifty to a hundred times a second in each process, takes a twentieth of a core.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "10s",
    }
    with (
        dask.config.set(options),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # No dashboard, which costs time; without an address Dask would still try its default port.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=40,
        ) as cluster,
    ):
        pool = ClusterPool(lambda: Client(cluster, set_as_default=False), timeouts, "the Dask cluster of this machine")
        try:
            yield pool
        finally:
            pool.close()
