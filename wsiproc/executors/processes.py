"""Pools of threads and of processes on this machine."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Self

from wsiproc.errors import RetryableError, WorkerError
from wsiproc.executors.machine import worker_context
from wsiproc.executors.task import CLOSED, Submission, Task, TaskFailed, WorkersDied


class ThreadPool:
    """Threads of this process."""

    def __init__(self, threads: ThreadPoolExecutor, workers: int) -> None:
        self._threads, self._workers, self._closed = threads, workers, False

    def slots(self) -> tuple[int, int]:
        """As in Backend."""
        return self._workers, 0

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """As in Backend; threads share whatever made a try fail, so any takes the next."""
        self.check()
        return [self._threads.submit(submission.task.call, *submission.task.args) for submission in submissions]

    def check(self) -> None:
        """Threads do not die alone."""
        if self._closed:
            raise WorkerError(CLOSED)

    def cancel(self) -> None:
        """As in Backend."""
        self._closed = True

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """As in Backend."""
        return {"this process": question()}


class _Process:
    """A process of this machine that does one task at a time; it starts with the first.

    They hold a pipe between them: the process says hello through it, and ends when nobody holds the other end.
    """

    def __init__(self) -> None:
        self._ours, its = Pipe()
        self._pool = ProcessPoolExecutor(1, mp_context=worker_context(), initializer=_begin, initargs=(its,))

    def submit(self, task: Task) -> Future[Any]:
        """Its result in the future; BrokenProcessPool, in the future or at once, where the process has died."""
        return self._pool.submit(_portable, _Packed(task.call, task.args))

    def has_started(self) -> bool:
        """Whether it came as far as to take a task, be it that it died since."""
        return self._ours.poll()

    def end(self, at_once: bool) -> None:
        """Wait for its last task and its end, or ``at_once`` leave it to die, whatever it has in hand."""
        if at_once:
            self._ours.close()
        self._pool.shutdown(wait=not at_once)
        self._ours.close()


class _Packed:
    """A call and its arguments, which arrive in another process as bytes.

    They are unpickled where errors are caught: a module that a worker cannot import is an error, not its death.
    """

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._call = call, args

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(ForkingPickler.dumps(self._call)),)


def _portable(packed: Any) -> Any:
    """The result of a call that arrived as bytes; an error that cannot be sent back is raised as a RuntimeError.

    Such an error would look like the death of the worker, since nobody could read how its task ended.
    """
    try:
        call, args = ForkingPickler.loads(packed)
        return call(*args)
    except Exception as error:
        if _travels(error):
            raise
        substitute = RuntimeError(f"{type(error).__name__}: {error}")
        substitute.add_note("".join(traceback.format_exception(error)))
    raise substitute  # outside of the handler: some libraries make pickles of an error carry its cause and context


def _travels(error: Exception) -> bool:
    """Whether it can be made anew on the other side, with all that is pickled with it."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return False
    return True


def _begin(pipe: Connection[Any, Any]) -> None:
    """In a new process: say hello, leave Ctrl-C to the one that started it, and end with that, even if it is killed.

    Whatever is in hand then is done again, as after any death.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(None)
    except BrokenPipeError:  # it was let go before it began
        os._exit(1)

    def end() -> None:
        wait([pipe])
        os._exit(1)

    threading.Thread(target=end, daemon=True, name="end").start()


_MOST_FAILED_STARTS = 3  # processes on end that die before they begin, which cannot be chance


class ProcessPool:
    """Processes of this machine, each with one task in hand.

    Where one dies, it is known which task it had, and only that is lost; Python's own pool of many loses all at once.
    """

    def __init__(self, workers: int) -> None:
        self._processes = {str(number): _Process() for number in range(workers)}
        self._free = list(reversed(self._processes))
        self._waiting: list[tuple[Submission, Future[Any]]] = []
        self._lock = threading.RLock()  # a future that is done already calls back at once
        self._failed_starts = 0
        self._closed = False

    def slots(self) -> tuple[int, int]:
        """As in Backend."""
        return len(self._processes), 0

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """As in Backend."""
        self.check()
        outcomes: list[Future[Any]] = [Future() for _ in submissions]
        with self._lock:
            self._waiting += zip(submissions, outcomes, strict=True)
            self._waiting.sort(key=lambda waiting: waiting[0].place)
            self._assign()
        return outcomes

    def check(self) -> None:
        """Dead processes are replaced at once, until they are dismissed, or where none ever begins."""
        if self._closed:
            raise WorkerError(CLOSED)
        if self._failed_starts >= _MOST_FAILED_STARTS:
            raise WorkerError(
                f"{self._failed_starts} worker processes have failed to start. Each imports the script that "
                "started it: it must be a file, and what calls wsiproc there must stand under `if __name__ == "
                '"__main__":`. The command `wsiproc run` and executor="loop" need nothing of it'
            )

    def cancel(self) -> None:
        """As in Backend."""
        with self._lock:
            self._closed = True

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """As in Backend; all processes are on this machine, and alike."""
        return {"this machine": self.submit([Submission(Task("ask", question, ()), (0, 0))])[0].result()}

    def _assign(self) -> None:
        """Give waiting tasks to free processes, each one that it does not avoid.

        One that is done at once calls back here before the loop goes on, so nothing is kept from turn to turn.
        """
        while (match := self._match()) is not None:
            number, name = match
            submission, outcome = self._waiting.pop(number)
            if outcome.set_running_or_notify_cancel():
                self._free.remove(name)
                running = self._start(name, submission.task)
                running.add_done_callback(partial(self._ended, name, outcome))

    def _match(self) -> tuple[int, str] | None:
        """Place of the first waiting task that a free process may take, and the process."""
        for number, (submission, _) in enumerate(self._waiting if self._free else ()):
            avoid = submission.avoid if len(submission.avoid) < len(self._processes) else ()
            name = next((name for name in reversed(self._free) if name not in avoid), None)
            if name is not None:
                return number, name
        return None

    def _start(self, name: str, task: Task) -> Future[Any]:
        try:
            return self._processes[name].submit(task)
        except BrokenProcessPool:  # it died while it had nothing to do
            self._replace(name)
            return self._processes[name].submit(task)

    def _replace(self, name: str) -> None:
        self._failed_starts = 0 if self._processes[name].has_started() else self._failed_starts + 1
        self._processes[name].end(at_once=True)
        self._processes[name] = _Process()

    def _ended(self, name: str, outcome: Future[Any], running: Future[Any]) -> None:
        """Pass on how a try ended, and the process to the next task."""
        with self._lock:
            error = running.exception()
            if isinstance(error, BrokenProcessPool) and not self._closed:
                self._replace(name)
                error = WorkersDied(1)
            elif isinstance(error, RetryableError):
                error = TaskFailed(error, name)
            self._free.append(name)
            if not self._closed:
                self._assign()
        if error is None:
            outcome.set_result(running.result())
        else:
            outcome.set_exception(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unwanted = self._closed or kind is not None  # nobody waits for what they have in hand
        self.cancel()
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            process.end(at_once=unwanted)
