"""Scheduling: submit ready tasks in order, and retry lost or failed ones up to a limit."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from wsiproc.errors import RetryableError, WorkerError
from wsiproc.executors.task import Backend, SchedulerLost, Submission, Task, TaskFailed, WorkersDied

# A task that kills its workers does so each time; others lose a worker by chance. If one of 4 workers is killed every
# 20 s, chance hits a task of 20 s about 3 times in 10: 12 times in a row once in a million.
MOST_DEATHS = 12
# A scheduler that is lost this often while one task is in flight will not stay up.
MOST_LOSSES = 12

# Tasks submitted per slot, and how long (s) the submitted tasks of a slot should last if they are short.
_PREFETCH, _MOST_PREFETCH, _BATCH_S = 3, 100, 2.0
_PACE_S = 0.5  # how often that is measured

# How often (s) to check whether the pool still has workers.
_CHECK_S = 2.0


def run_in_loop(tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
    """Each task with its result, one after the other in this thread."""
    for task in tasks:
        yield task, _attempt(task)


def _attempt(task: Task) -> Any:
    """Its result, within its maximum number of attempts."""
    for _ in range(task.max_attempts - 1):
        try:
            return task.call(*task.args)
        except RetryableError:
            continue
    try:
        return task.call(*task.args)
    except RetryableError as error:
        return task.fall_back(error)


class _ReadyTasks:
    """The ready tasks: those whose dependencies are done, in the order of the list. GPU tasks have a separate queue, so
    that no task waits behind those with which it does not compete.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._needs = {index: set(task.depends_on) for index, task in enumerate(tasks) if task.depends_on}
        self._followers: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            for key in task.depends_on:
                self._followers.setdefault(key, []).append(index)
        self._ready: dict[bool, list[int]] = {False: [], True: []}
        for index, task in enumerate(tasks):
            if not task.depends_on:
                self._ready[task.gpu].append(index)  # ascending, so already a heap

    def next(self, gpu: bool | None) -> int | None:
        """Take the earliest ready task: of those for GPUs, of the others, or (None) of both."""
        heaps = [heap for kind, heap in self._ready.items() if heap and gpu in (None, kind)]
        return heapq.heappop(min(heaps, key=lambda heap: heap[0])) if heaps else None

    def done(self, key: str) -> None:
        """Mark tasks that waited only for this one as ready."""
        for index in self._followers.pop(key, ()):
            self._needs[index].discard(key)
            if not self._needs[index]:
                del self._needs[index]
                heapq.heappush(self._ready[self._tasks[index].gpu], index)


@dataclass
class _History:
    """Failed attempts of a task."""

    failures: int = 0
    deaths: int = 0
    losses: int = 0
    avoid: frozenset[str] = frozenset()


_NOTHING = _History()


class _Pace:
    """Number of tasks to keep submitted per slot: ``prefetch``. Three are enough that no worker waits for the driver,
    and few enough that order still matters. If tasks are so short that submission dominates, more of them are sent
    together.
    """

    def __init__(self) -> None:
        self.prefetch = _PREFETCH
        self._since, self._ended = time.monotonic(), 0

    def count(self, ended: int, slots: int) -> None:
        """Count tasks that have ended, in a pool with ``slots`` slots."""
        self._ended += ended
        passed = time.monotonic() - self._since
        if passed > _PACE_S:
            self.prefetch = min(_MOST_PREFETCH, max(_PREFETCH, round(self._ended / passed * _BATCH_S / slots)))
            self._since, self._ended = time.monotonic(), 0


def run_tasks(backend: Backend, tasks: Sequence[Task], priority: int = 0) -> Iterator[tuple[Task, Any]]:
    """Each task with its result, as they complete; for ``priority`` and errors see ``WorkerPool.run``."""
    ready = _ReadyTasks(tasks)
    ended: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    running: dict[int, Future[Any]] = {}
    histories: dict[int, _History] = {}

    def submit(indices: Sequence[int]) -> None:
        submissions = [
            Submission(tasks[index], (priority, index), histories.get(index, _NOTHING).avoid) for index in indices
        ]
        for index, future in zip(indices, backend.submit(submissions) if submissions else (), strict=True):
            running[index] = future
            future.add_done_callback(partial(_note_end, ended, index))

    pace = _Pace()
    due = time.monotonic() + _CHECK_S
    try:
        while True:
            submit(list(_wanted(ready, tasks, running, backend.slots(), pace.prefetch)))
            if not running:
                return
            batch = _next_ended(ended, due)
            pace.count(len(batch), sum(backend.slots()))
            for index, future in batch:
                del running[index]
                error = future.exception()
                history = histories.setdefault(index, _History())
                if error is not None and _may_retry(tasks[index], history, error):
                    submit([index])
                    continue
                result = tasks[index].fall_back(_task_error(error)) if error is not None else future.result()
                del histories[index]
                ready.done(tasks[index].key)
                yield tasks[index], result
            if time.monotonic() >= due:
                backend.check()
                due = time.monotonic() + _CHECK_S
    finally:
        for future in running.values():
            future.cancel()


def _note_end(ended: SimpleQueue[tuple[int, Future[Any]]], index: int, future: Future[Any]) -> None:
    if not future.cancelled():  # only we cancel, when nobody waits for it
        ended.put((index, future))


def _wanted(
    ready: _ReadyTasks, tasks: Sequence[Task], running: dict[int, Future[Any]], slots: tuple[int, int], prefetch: int
) -> Iterator[int]:
    """Take ready tasks for which there is room: ``prefetch`` for each of the pool's slots."""
    anywhere, on_gpus = (prefetch * number for number in slots)
    if not on_gpus:
        kinds: list[tuple[bool | None, int]] = [(None, anywhere - len(running))]
    else:
        gpu_tasks = sum(tasks[index].gpu for index in running)
        kinds = [(True, on_gpus - gpu_tasks), (False, anywhere - (len(running) - gpu_tasks))]
    for gpu, room in kinds:
        for _ in range(room if room >= prefetch // _PREFETCH else 0):
            index = ready.next(gpu)
            if index is None:
                break
            yield index


def _next_ended(ended: SimpleQueue[tuple[int, Future[Any]]], due: float) -> list[tuple[int, Future[Any]]]:
    """Tasks that have ended, after waiting for the first until ``due``. In the order of the list, so that of several
    tasks lost together the one that ran is named, rather than one queued behind it.
    """
    batch = []
    try:
        batch.append(ended.get(timeout=max(0.0, due - time.monotonic())))
        while True:
            batch.append(ended.get_nowait())
    except Empty:
        return sorted(batch, key=lambda end: end[0])


def _task_error(error: BaseException) -> Exception:
    """The error that a task raised at its last attempt."""
    assert isinstance(error, TaskFailed | RetryableError)
    return error.error if isinstance(error, TaskFailed) else error


def _may_retry(task: Task, history: _History, error: BaseException) -> bool:
    """Record a failed attempt of a task; returns whether it may be retried. Raises errors that end the run."""
    match error:
        case TaskFailed():
            history.failures += 1
            history.avoid |= {error.worker}
            return history.failures < task.max_attempts
        case RetryableError():
            history.failures += 1
            return history.failures < task.max_attempts
        case WorkersDied():
            history.deaths += error.deaths
            if history.deaths >= MOST_DEATHS:
                raise WorkerError(
                    f"{history.deaths} workers died while running {task.key!r}, so this task may be what kills them: "
                    "check for lack of memory (system log, job log, `ulimit -v`), use a smaller --region or give "
                    "workers more memory. Results so far are kept; run the same command to resume"
                )
        case SchedulerLost():
            history.losses += 1
            if history.losses >= MOST_LOSSES:
                raise WorkerError(
                    f"the scheduler was lost {history.losses} times while {task.key!r} was in flight. Results so far "
                    "are kept; run the same command to resume"
                )
        case _:
            raise error
    return True
