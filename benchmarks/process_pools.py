"""The package's own pool of processes next to Pebble's, which survives the death of a worker too.

    pip install pebble
    python benchmarks/process_pools.py [--tasks 300] [--every 1] [--repeats 5]

Both are given the same tasks by the same scheduler, which retries what a dead worker had in hand. First come tasks of
some 20 ms, with arguments and answers as large as those of a region, then the same while a worker is killed
(``kill -9``) every second, then tasks that do nothing, to see what each costs; at last single faults, each in a process
of its own, which is given up after a while.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import numpy as np
import psutil

from wsiproc.errors import WorkerError
from wsiproc.executors import Task, WorkerPool, worker_pool
from wsiproc.executors.machine import worker_context
from wsiproc.executors.task import Submission, WorkersDied

WORKERS = 2
NUMBERS = 2_500_000  # which one core makes and sorts in about 20 ms
JOB = bytes(3_600)  # as many as the job of a region has when it is pickled
GIVEN_UP_S = 30.0


def work(number: int, job: bytes) -> dict[str, Any]:
    values = np.random.default_rng(number).random(NUMBERS)
    values.sort()
    times = {"read_s": 0.123456, "predict_s": 1.23456, "seconds": 1.3579}
    return {"key": number, "median": float(values[NUMBERS // 2]), "worker": f"node:{os.getpid()}"} | times


def nothing(number: int, job: bytes) -> dict[str, Any]:
    return {"key": number}


def short(number: int, job: bytes) -> dict[str, Any]:
    time.sleep(0.002)
    return {"key": number}


class OddError(Exception):
    """One that cannot be made anew from its arguments, as those of some libraries."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)


def odd_error(number: int, job: bytes) -> None:
    raise OddError("on", "purpose")


class Unreadable:
    """An argument that no worker can unpickle."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return __import__, ("no_such_module",)


class PebblePool:
    """What the scheduler needs of a pool, by Pebble."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def slots(self) -> tuple[int, int]:
        """As in Backend."""
        return WORKERS, 0

    def submit(self, submissions: Sequence[Submission]) -> list[Future[Any]]:
        """As in Backend; nothing is made of the places of submissions, nor of where a task failed."""
        outcomes = []
        for submission in submissions:
            outcomes.append(outcome := Future[Any]())
            self.check()
            self._pool.schedule(submission.task.call, submission.task.args).add_done_callback(partial(pass_on, outcome))
        return outcomes

    def check(self) -> None:
        """As in Backend."""
        if not self._pool.active:
            raise WorkerError("the pool is broken")


def pass_on(outcome: Future[Any], ended: Future[Any]) -> None:
    from pebble import ProcessExpired

    if ended.cancelled() or not outcome.set_running_or_notify_cancel():
        return
    error = ended.exception()
    if error is None:
        outcome.set_result(ended.result())
    else:
        outcome.set_exception(WorkersDied(1) if isinstance(error, ProcessExpired) else error)


@contextmanager
def pool_of(name: str) -> Iterator[WorkerPool]:
    """Workers of this package, or of Pebble."""
    if name == "own":
        with worker_pool("processes", workers=WORKERS) as workers:
            yield workers
        return
    from pebble import ProcessPool

    with ProcessPool(WORKERS, context=worker_context()) as pool:
        try:
            yield WorkerPool("processes", WORKERS, PebblePool(pool))  # type: ignore[arg-type]
        except BaseException:
            pool.stop()
            raise


def worker_pids() -> list[int]:
    """Processes that the fork server of this one has started."""
    mine = psutil.Process()
    direct = {child.pid for child in mine.children()}
    return sorted(child.pid for child in mine.children(recursive=True) if child.pid not in direct)


class Killer:
    """Kills one worker after the other while the block lasts; ``every_s`` 0 kills none."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self.kills = every_s, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def _go(self) -> None:
        while self._every_s and not self._end.wait(self._every_s):
            pids = worker_pids()
            with suppress(ProcessLookupError, IndexError):
                os.kill(pids[self.kills % len(pids)], signal.SIGKILL)
                self.kills += 1

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


@dataclass(frozen=True)
class Run:
    """``ms``: clock time per task, None where the pool broke; ``cpu_ms``: of this process, which schedules them."""

    ms: float | None
    cpu_ms: float
    kills: int
    workers_mib: float


def measure(name: str, call: Callable[..., Any], count: int, every_s: float = 0.0) -> Run:
    """``count`` tasks behind a first pair, which starts the workers."""
    process = psutil.Process()
    tasks = [Task(f"task {number}", call, (number, JOB)) for number in range(count)]
    with pool_of(name) as workers:
        list(workers.run([Task(f"first {number}", call, (number, JOB)) for number in range(WORKERS)]))
        with Killer(every_s) as killer:
            cpu, started = sum(process.cpu_times()[:2]), time.perf_counter()
            try:
                done = {result["key"] for _, result in workers.run(tasks)}
            except (BrokenProcessPool, WorkerError):
                return Run(None, 0.0, killer.kills, 0.0)
            seconds, cpu = time.perf_counter() - started, sum(process.cpu_times()[:2]) - cpu
        held = sum(psutil.Process(pid).memory_info().rss for pid in worker_pids())
    assert len(done) == count
    return Run(seconds / count * 1e3, cpu / count * 1e3, killer.kills, held / 2**20)


# --- single faults, each in a process of its own ---------------------------------------------------------------------


def idle(name: str) -> str:
    with pool_of(name) as workers:
        tasks = [Task(f"task {number}", short, (number, JOB)) for number in range(20)]
        list(workers.run(tasks))
        for pid in worker_pids():
            os.kill(pid, signal.SIGKILL)
        time.sleep(1.0)
        return f"{len(list(workers.run(tasks)))} of 20 later tasks done"


def unpickled(name: str) -> str:
    with pool_of(name) as workers:
        return str(list(workers.run([Task("task", short, (0, Unreadable()))])))


def odd(name: str) -> str:
    with pool_of(name) as workers:
        list(workers.run([Task("task", odd_error, (0, JOB))]))
    return "no error"


def orphans(name: str) -> str:
    """Workers that are left 3 s after the process that started them was killed, with a task of a minute in hand."""
    asked = [sys.executable, __file__, "--fault", "sleepers", "--pool", name]
    driver = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    driver.kill()
    driver.wait()
    time.sleep(3.0)
    left = [pid for pid in pids if psutil.pid_exists(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return f"{len(left)} of {len(pids)} workers left"


def sleepers(name: str) -> str:
    with pool_of(name) as workers:
        tasks = [Task(f"task {number}", time.sleep, (60,)) for number in range(WORKERS)]
        threading.Thread(target=lambda: list(workers.run(tasks)), daemon=True).start()
        time.sleep(4.0)
        print(*worker_pids(), flush=True)
        time.sleep(60.0)
    return ""


def stress(name: str) -> str:
    found = measure(name, short, 4_000, every_s=0.1)
    return f"{'broken' if found.ms is None else '4,000 of 4,000 tasks done'}, {found.kills} workers killed"


FAULTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "idle": ("all workers are killed while they have nothing to do", idle),
    "unpickled": ("an argument that a worker cannot unpickle", unpickled),
    "odd": ("an error that cannot be unpickled", odd),
    "orphans": ("the driver is killed", orphans),
    "stress": ("a worker is killed every 0.1 s", stress),
    "sleepers": ("", sleepers),
}


def outcome_of(fault: str, name: str) -> str:
    asked = [sys.executable, __file__, "--fault", fault, "--pool", name]
    started = time.perf_counter()
    child = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, _ = child.communicate(timeout=GIVEN_UP_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return f"no end in {GIVEN_UP_S:.0f} s"
    return f"{out.strip() or 'ended'} ({time.perf_counter() - started:.1f} s)"


def try_fault(fault: str, name: str) -> None:
    try:
        print(FAULTS[fault][1](name), flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:90]}", flush=True)


def compare(title: str, call: Callable[..., Any], count: int, repeats: int, every_s: float = 0.0) -> None:
    """A row for each pool, which take turns, and what Pebble takes of the own one's time in the same turn."""
    found: dict[str, list[Run]] = {"own": [], "Pebble": []}
    for turn in range(repeats):
        for name in sorted(found, reverse=bool(turn % 2)):
            found[name].append(measure(name, call, count, every_s))
    for name, runs in found.items():
        whole = [run for run in runs if run.ms is not None]
        row = [statistics.median(values) for values in zip(*(astuple(run) for run in whole), strict=True)] or [0.0] * 4
        ms, cpu_ms, kills, mib = row
        print(f"| {title} | {name} | {len(whole)} of {repeats} | {ms:.2f} | {cpu_ms:.2f} | {kills:.0f} | {mib:.0f} |")
    pairs = zip(found["own"], found["Pebble"], strict=True)
    ratios = sorted(theirs.ms / own.ms for own, theirs in pairs if own.ms and theirs.ms)
    if ratios:
        print(f"{title}: Pebble takes {ratios[0]:.2f} to {ratios[-1]:.2f} times as long", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--every", type=float, default=1.0, help="seconds from kill to kill")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fault", choices=FAULTS, help=argparse.SUPPRESS)
    parser.add_argument("--pool", choices=("own", "Pebble"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    multiprocessing.set_forkserver_preload(["numpy", "psutil", "wsiproc.executors"])
    if given.fault:
        try_fault(given.fault, given.pool)
        return 0
    try:
        import pebble  # noqa: F401
    except ImportError:
        sys.exit("this compares with Pebble, which is not installed: pip install pebble")
    print(
        "| tasks | pool | runs that ended | ms a task | scheduler's CPU, ms a task | kills | MiB of workers |\n"
        "|---|---|---|---|---|---|---|"
    )
    compare("20 ms", work, given.tasks, given.repeats)
    compare("20 ms, killed", work, given.tasks, given.repeats, given.every)
    compare("nothing", nothing, 10 * given.tasks, given.repeats)
    print("\n| fault | own | pebble |\n|---|---|---|")
    for fault, (title, _) in FAULTS.items():
        if title:
            print(f"| {title} | {outcome_of(fault, 'own')} | {outcome_of(fault, 'Pebble')} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
