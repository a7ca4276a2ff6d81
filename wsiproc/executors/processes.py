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
        """See Backend."""
        return self._workers, 0

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """See Backend; threads share the cause of a failure, so any thread may retry."""
        self.check()
        return [self._threads.submit(submission.task.call, *submission.task.args) for submission in submissions]

    def check(self) -> None:
        """See Backend; threads do not die individually."""
        if self._closed:
            raise WorkerError(CLOSED)

    def cancel(self) -> None:
        """See Backend."""
        self._closed = True

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """See Backend."""
        return {"this process": question()}


class WorkerProcess:
    """A process of this machine that runs one task at a time; it starts with the first. A pipe connects them: the
    process sends a ready signal through it, and exits when the other end is closed.
    """

    def __init__(self) -> None:
        self._ours, its = Pipe()
        self._pool = ProcessPoolExecutor(1, mp_context=worker_context(), initializer=_begin, initargs=(its,))

    def submit(self, task: Task) -> Future[Any]:
        """A future of its result; BrokenProcessPool, in the future or raised at once, if the process has died."""
        return self._pool.submit(_portable, _Packed(task.call, task.args))

    def has_started(self) -> bool:
        """Whether it became ready, even if it has died since."""
        return self._ours.poll()

    def end(self, at_once: bool) -> None:
        """Wait for its last task and shut it down, or with ``at_once`` abandon it and the task in flight."""
        if at_once:
            self._ours.close()
        self._pool.shutdown(wait=not at_once)
        self._ours.close()


class _Packed:
    """A call and its arguments, sent to another process as bytes. They are unpickled where errors are caught: a module
    that a worker cannot import is an error and does not kill it.
    """

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._call = call, args

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes(ForkingPickler.dumps(self._call)),)


def _portable(packed: Any) -> Any:
    """The result of a call that arrived as bytes; an error that cannot be sent back is raised as a RuntimeError.

    Otherwise such an error would look like the death of the worker, since the outcome of its task could not be read.
    """
    try:
        call, args = ForkingPickler.loads(packed)
        return call(*args)
    except Exception as error:
        if _travels(error):
            raise
        substitute = RuntimeError(f"{type(error).__name__}: {error}")
        substitute.add_note("".join(traceback.format_exception(error)))
    raise substitute  # outside the handler: some libraries pickle an error with its cause and context


def _travels(error: Exception) -> bool:
    """Whether an error can be unpickled in the other process."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return False
    return True


def _begin(pipe: Connection[Any, Any]) -> None:
    """Initialise a new process: send the ready signal, ignore Ctrl-C, and exit with the parent, even if that is killed.
    A task in flight is then run again, as after any death.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(None)
    except BrokenPipeError:  # it was abandoned before it started
        os._exit(1)

    def end() -> None:
        wait([pipe])
        os._exit(1)

    threading.Thread(target=end, daemon=True, name="end").start()


_MOST_FAILED_STARTS = 3  # processes in a row that die before they are ready, which cannot be chance


class ProcessPool:
    """Processes of this machine, each with one task in flight. If one dies, its task is known, and only that is lost;
    Python's own pool of several processes loses all tasks at once.
    """

    def __init__(self, workers: int, new_process: Callable[[], WorkerProcess] = WorkerProcess) -> None:
        self._new_process = new_process
        self._processes = {str(number): new_process() for number in range(workers)}
        self._free = list(reversed(self._processes))
        self._waiting: list[tuple[Submission, Future[Any]]] = []
        self._lock = threading.RLock()  # a future that is already done calls back at once
        self._failed_starts = 0
        self._closed = False

    def slots(self) -> tuple[int, int]:
        """See Backend."""
        return len(self._processes), 0

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """See Backend."""
        self.check()
        outcomes: list[Future[Any]] = [Future() for _ in submissions]
        with self._lock:
            self._waiting += zip(submissions, outcomes, strict=True)
            self._waiting.sort(key=lambda waiting: waiting[0].priority)
            self._assign()
        return outcomes

    def check(self) -> None:
        """See Backend; dead processes are replaced at once, unless the pool is closed or processes fail to start."""
        if self._closed:
            raise WorkerError(CLOSED)
        if self._failed_starts >= _MOST_FAILED_STARTS:
            raise WorkerError(
                f"{self._failed_starts} worker processes have failed to start. Each imports the script that "
                "started it: it must be a file, and its calls of wsiproc must be guarded by `if __name__ == "
                '"__main__":`. The command `wsiproc run` and executor="loop" do not need this'
            )

    def cancel(self) -> None:
        """See Backend."""
        with self._lock:
            self._closed = True

    def ask(self, question: Callable[[], Any]) -> dict[str, Any]:
        """See Backend; all processes are on this machine and equivalent."""
        return {"this machine": self.submit([Submission(Task("ask", question, ()), (0, 0))])[0].result()}

    def _assign(self) -> None:
        """Assign waiting tasks to free processes that they do not avoid. A task that completes immediately calls back
        here before the loop continues, so no state is kept between iterations.
        """
        while (match := self._match()) is not None:
            number, name = match
            submission, outcome = self._waiting.pop(number)
            if outcome.set_running_or_notify_cancel():
                self._free.remove(name)
                running = self._start(name, submission.task)
                running.add_done_callback(partial(self._ended, name, outcome))

    def _match(self) -> tuple[int, str] | None:
        """Index of the first waiting task that a free process may take, and the process."""
        for number, (submission, _) in enumerate(self._waiting if self._free else ()):
            avoid = submission.avoid if len(submission.avoid) < len(self._processes) else ()
            name = next((name for name in reversed(self._free) if name not in avoid), None)
            if name is not None:
                return number, name
        return None

    def _start(self, name: str, task: Task) -> Future[Any]:
        try:
            return self._processes[name].submit(task)
        except BrokenProcessPool:  # it died while idle
            self._replace(name)
            return self._processes[name].submit(task)

    def _replace(self, name: str) -> None:
        self._failed_starts = 0 if self._processes[name].has_started() else self._failed_starts + 1
        self._processes[name].end(at_once=True)
        self._processes[name] = self._new_process()

    def _ended(self, name: str, outcome: Future[Any], running: Future[Any]) -> None:
        """Report the outcome of an attempt, and assign the process to the next task."""
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
        unwanted = self._closed or kind is not None  # nobody waits for tasks in flight
        self.cancel()
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            process.end(at_once=unwanted)
