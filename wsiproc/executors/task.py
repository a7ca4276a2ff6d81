"""What tasks are, how an attempt at one may end, and what takes them."""

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
    """What a task took: seconds, bytes that its process read and wrote meanwhile, and the worker that did it.

    Where threads do tasks at the same time, the bytes are those of all.
    """

    seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    worker: str = ""


@dataclass(frozen=True)
class Measured(Generic[_Value]):
    """What a task returned, and what it took."""

    value: _Value
    metrics: TaskMetrics


def measured(call: Callable[_Arguments, _Value]) -> Callable[_Arguments, Measured[_Value]]:
    """Decorate a task's function, so that its metrics come back with what it returns."""

    @functools.wraps(call)
    def timed(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Measured[_Value]:
        clock, (read, written) = time.perf_counter(), bytes_moved()
        value = call(*args, **kwargs)
        seconds, (read_by_now, written_by_now) = time.perf_counter() - clock, bytes_moved()
        return Measured(value, TaskMetrics(seconds, read_by_now - read, written_by_now - written, worker_name()))

    return timed


@dataclass(frozen=True)
class Task:
    """``call(*args)``, to be started when the tasks named in ``depends_on`` are done.

    ``stage``: what kind of work it is, for those who count or time it. ``max_attempts``: how often it may be called
    where it raises RetryableError; each later try goes to another worker where there is one. After the last,
    ``fallback(error)`` stands for its result, or the error is raised. ``gpu``: goes to a worker with the resource
    ``GPU`` where the cluster has such workers.
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
        """What stands for the result of a task that was tried often enough."""
        if self.fallback is None:
            raise error
        return self.fallback(error)


CLOSED = "the workers have been dismissed"


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for workers where all are gone, and for a scheduler that does not answer any more."""

    workers_s: float = 300.0
    scheduler_s: float = 300.0


class TaskFailed(Exception):  # noqa: N818 - how an attempt ended, for the one who hands out; never reaches a user
    """A try that raised a RetryableError, and on which worker."""

    def __init__(self, error: RetryableError, worker: str) -> None:
        super().__init__(error, worker)
        self.error, self.worker = error, worker


class WorkersDied(Exception):  # noqa: N818
    """That many workers died, one after the other, which had the task in hand."""

    def __init__(self, deaths: int) -> None:
        super().__init__(deaths)
        self.deaths = deaths


class SchedulerLost(Exception):  # noqa: N818
    """The scheduler went away, and whatever it knew with it."""


@dataclass(frozen=True)
class Submission:
    """A task to be done: its ``place``, list and place in that, says who goes first; ``avoid``: where it failed."""

    task: Task
    place: tuple[int, int]
    avoid: frozenset[str] = frozenset()


class Backend(Protocol):
    """Workers that take tasks."""

    def slots(self) -> tuple[int, int]:
        """How many tasks run at a time, anywhere and on GPUs; no GPUs: all tasks go anywhere."""

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """For each its result in the future, or what it raised, or Failed, WorkersDied or Lost.

        Raises WorkerError where there is nobody to take them.
        """

    def check(self) -> None:
        """Raise WorkerError where nobody is left who could end a task."""

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """Answers of the workers that ``gpu`` tasks go to, by name."""

    def cancel(self) -> None:
        """From now on ``submit`` and ``check`` raise WorkerError, so that all who hand out tasks stop."""
