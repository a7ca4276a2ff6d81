"""Tasks, the outcomes of attempts, and the protocol of backends."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from wsiproc.errors import RetryableError
from wsiproc.executors.machine import bytes_moved, worker_name

_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class TaskMetrics:
    """Cost of a task: seconds, bytes that its process read and wrote meanwhile, and its worker. If threads run tasks at
    the same time, the bytes are those of all.
    """

    seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    worker: str = ""


@dataclass(frozen=True)
class Measured(Generic[_Value]):
    """The result of a task, with its metrics."""

    value: _Value
    metrics: TaskMetrics


def measured(call: Callable[_Arguments, _Value]) -> Callable[_Arguments, Measured[_Value]]:
    """Decorate a task's function so that it returns its metrics along with its result."""

    @functools.wraps(call)
    def timed(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Measured[_Value]:
        clock, (read, written) = time.perf_counter(), bytes_moved()
        value = call(*args, **kwargs)
        seconds, (read_by_now, written_by_now) = time.perf_counter() - clock, bytes_moved()
        return Measured(value, TaskMetrics(seconds, read_by_now - read, written_by_now - written, worker_name()))

    return timed


@dataclass(frozen=True)
class Task:
    """``call(*args)``, started when the tasks named in ``depends_on`` are done.

    ``stage``: the kind of work, for counts and timings. ``max_attempts``: how often it may be called if it raises
    RetryableError; retries go to another worker if there is one. After the last, ``fallback(error)`` replaces its
    result, or the error is raised. ``gpu``: runs on a worker with the resource ``GPU`` if the cluster has such workers.
    """

    key: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    depends_on: tuple[str, ...] = ()
    stage: str = ""
    max_attempts: int = 1
    gpu: bool = False
    fallback: Callable[[Exception], Any] | None = None

    def fall_back(self, error: Exception) -> Any:
        """The substitute for the result after the last attempt; raises ``error`` without a ``fallback``."""
        if self.fallback is None:
            raise error
        return self.fallback(error)


CLOSED = "the worker pool has been closed"


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for workers if all are gone, and for a scheduler that no longer answers."""

    workers_s: float = 300.0
    scheduler_s: float = 300.0


class TaskFailed(Exception):  # noqa: N818 - outcome of an attempt, for the scheduler; never reaches a user
    """An attempt that raised a RetryableError, with its worker."""

    def __init__(self, error: RetryableError, worker: str) -> None:
        super().__init__(error, worker)
        self.error, self.worker = error, worker


class WorkersDied(Exception):  # noqa: N818
    """Number of workers that died, one after the other, while running the task."""

    def __init__(self, deaths: int) -> None:
        super().__init__(deaths)
        self.deaths = deaths


class SchedulerLost(Exception):  # noqa: N818
    """The scheduler is gone, with all its state."""


@dataclass(frozen=True)
class Submission:
    """A task to run. ``priority``: of its list, and index in it, lowest first; ``avoid``: workers where it failed."""

    task: Task
    priority: tuple[int, int]
    avoid: frozenset[str] = frozenset()


class Backend(Protocol):
    """Protocol of workers that run tasks."""

    def slots(self) -> tuple[int, int]:
        """How many tasks run at a time, anywhere and on GPUs; if 0 on GPUs, all tasks go anywhere."""

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """A future for each: its result, its exception, or TaskFailed, WorkersDied or SchedulerLost. Raises WorkerError
        if there are no workers to run them.
        """

    def check(self) -> None:
        """Raise WorkerError if no workers are left that could complete a task."""

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """The result of ``question()`` on the workers to which ``gpu`` tasks go, by name."""

    def cancel(self) -> None:
        """Make ``submit`` and ``check`` raise WorkerError from now on, so that all schedulers stop."""
