"""Handing out tasks: what is ready goes first, what failed for a while or was lost goes out again, with limits."""

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

# A task that kills its workers does so each time; one that was only near when a worker died is hit by chance. Where one
# of 4 workers is killed every 20 s, chance hits a task of 20 s about 3 times in 10: 12 times on end once in a million.
MOST_DEATHS = 12
# A scheduler that is lost so often while one task is on its way is not going to hold.
MOST_LOSSES = 12

# Tasks handed over per slot, and for how long (s) they should last where they are short.
_PREFETCH, _MOST_PREFETCH, _LASTING_S = 3, 100, 2.0
_PACE_S = 0.5  # how often that is measured

# How often the pool is asked whether there is still somebody to wait for (s).
_CHECK_S = 2.0


def run_in_loop(tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
    """Each task with its result, one after the other in this thread."""
    for task in tasks:
        yield task, _tried(task)


def _tried(task: Task) -> Any:
    """Its result, after as many tries as it may have."""
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
    """Which tasks are ready: those whose predecessors are done, the earliest of the list first.

    Tasks for GPUs queue apart from the others, so that none waits behind those that it does not compete with.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._needs = {place: set(task.depends_on) for place, task in enumerate(tasks) if task.depends_on}
        self._followers: dict[str, list[int]] = {}
        for place, task in enumerate(tasks):
            for key in task.depends_on:
                self._followers.setdefault(key, []).append(place)
        self._ready: dict[bool, list[int]] = {False: [], True: []}
        for place, task in enumerate(tasks):
            if not task.depends_on:
                self._ready[task.gpu].append(place)  # ascending, which is a heap already

    def next(self, gpu: bool | None) -> int | None:
        """Take the earliest ready task: of those for GPUs, of the others, or (None) of both."""
        heaps = [heap for kind, heap in self._ready.items() if heap and gpu in (None, kind)]
        return heapq.heappop(min(heaps, key=lambda heap: heap[0])) if heaps else None

    def done(self, key: str) -> None:
        """Whatever waited only for this task is ready now."""
        for place in self._followers.pop(key, ()):
            self._needs[place].discard(key)
            if not self._needs[place]:
                del self._needs[place]
                heapq.heappush(self._ready[self._tasks[place].gpu], place)


@dataclass
class _History:
    """What happened to a task that did not end at the first try."""

    failures: int = 0
    deaths: int = 0
    losses: int = 0
    avoid: frozenset[str] = frozenset()


_NOTHING = _History()


class _Pace:
    """How many tasks to have handed out per slot: ``prefetch``.

    Three are enough that no worker waits for the driver, and few enough that order still matters. Where tasks are so
    short that handing them out is most of the work, more of them travel together.
    """

    def __init__(self) -> None:
        self.prefetch = _PREFETCH
        self._since, self._ended = time.monotonic(), 0

    def count(self, ended: int, slots: int) -> None:
        """Note that so many tasks have ended, of a pool with so many slots."""
        self._ended += ended
        passed = time.monotonic() - self._since
        if passed > _PACE_S:
            self.prefetch = min(_MOST_PREFETCH, max(_PREFETCH, round(self._ended / passed * _LASTING_S / slots)))
            self._since, self._ended = time.monotonic(), 0


def run_tasks(backend: Backend, tasks: Sequence[Task], priority: int = 0) -> Iterator[tuple[Task, Any]]:
    """Each task with its result, as they end; ``priority`` and errors as ``WorkerPool.run`` says."""
    ready = _ReadyTasks(tasks)
    ended: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    running: dict[int, Future[Any]] = {}
    histories: dict[int, _History] = {}

    def submit(places: Sequence[int]) -> None:
        submissions = [
            Submission(tasks[place], (priority, place), histories.get(place, _NOTHING).avoid) for place in places
        ]
        for place, future in zip(places, backend.submit(submissions) if submissions else (), strict=True):
            running[place] = future
            future.add_done_callback(partial(_note_end, ended, place))

    pace = _Pace()
    due = time.monotonic() + _CHECK_S
    try:
        while True:
            submit(list(_wanted(ready, tasks, running, backend.slots(), pace.prefetch)))
            if not running:
                return
            batch = _next_ended(ended, due)
            pace.count(len(batch), sum(backend.slots()))
            for place, future in batch:
                del running[place]
                error = future.exception()
                history = histories.setdefault(place, _History())
                if error is not None and _again(tasks[place], history, error):
                    submit([place])
                    continue
                result = tasks[place].fall_back(_told(error)) if error is not None else future.result()
                del histories[place]
                ready.done(tasks[place].key)
                yield tasks[place], result
            if time.monotonic() >= due:
                backend.check()
                due = time.monotonic() + _CHECK_S
    finally:
        for future in running.values():
            future.cancel()


def _note_end(ended: SimpleQueue[tuple[int, Future[Any]]], place: int, future: Future[Any]) -> None:
    if not future.cancelled():  # only we cancel, when nobody listens any more
        ended.put((place, future))


def _wanted(
    ready: _ReadyTasks, tasks: Sequence[Task], running: dict[int, Future[Any]], slots: tuple[int, int], prefetch: int
) -> Iterator[int]:
    """Ready tasks for which there is room, taken from the order: ``prefetch`` for each of the pool's slots."""
    anywhere, on_gpus = (prefetch * number for number in slots)
    if not on_gpus:
        kinds: list[tuple[bool | None, int]] = [(None, anywhere - len(running))]
    else:
        gpu_tasks = sum(tasks[place].gpu for place in running)
        kinds = [(True, on_gpus - gpu_tasks), (False, anywhere - (len(running) - gpu_tasks))]
    for gpu, room in kinds:
        for _ in range(room if room >= prefetch // _PREFETCH else 0):
            place = ready.next(gpu)
            if place is None:
                break
            yield place


def _next_ended(ended: SimpleQueue[tuple[int, Future[Any]]], due: float) -> list[tuple[int, Future[Any]]]:
    """What has ended, after a wait for the first until ``due``.

    In the order of the list, so that of several tasks that went down together the one that ran is named, and not one
    that waited behind it.
    """
    batch = []
    try:
        batch.append(ended.get(timeout=max(0.0, due - time.monotonic())))
        while True:
            batch.append(ended.get_nowait())
    except Empty:
        return sorted(batch, key=lambda end: end[0])


def _told(error: BaseException) -> Exception:
    """The error that a task raised at its last try."""
    assert isinstance(error, TaskFailed | RetryableError)
    return error.error if isinstance(error, TaskFailed) else error


def _again(task: Task, history: _History, error: BaseException) -> bool:
    """Write down what happened to a task; whether it may be tried again. Raises what ends everything."""
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
                    f"{history.deaths} workers died while they had {task.key!r} in hand, so it may well be what kills "
                    "them: look for lack of memory (system log, job log), use a smaller --region or give workers more "
                    "memory. Results so far are kept; the same command goes on from there"
                )
        case SchedulerLost():
            history.losses += 1
            if history.losses >= MOST_LOSSES:
                raise WorkerError(
                    f"the scheduler was lost {history.losses} times while {task.key!r} was on its way. Results so far "
                    "are kept; the same command goes on from there"
                )
        case _:
            raise error
    return True
