"""The machine that this process runs on: what it counts, its allocator, how worker processes start."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import sys
from collections.abc import Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import BaseContext

import psutil

from wsiproc.executors.limits import available_cores


def worker_name() -> str:
    """This process, told from all others of a cluster."""
    return f"{platform.node()}:{os.getpid()}"


def bytes_moved() -> tuple[int, int]:
    """Bytes that this process has read and written so far, cached or not; zeros where the system keeps no count."""
    process = psutil.Process()
    if not hasattr(process, "io_counters"):
        return 0, 0
    counts = process.io_counters()
    return getattr(counts, "read_chars", counts.read_bytes), getattr(counts, "write_chars", counts.write_bytes)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt in malloc.h
_LARGE = 1 << 30


@cache
def tune_malloc() -> None:
    """Have freed memory used again until ``trim_heap``, however large the pieces; for glibc.

    By itself it gives large pieces back at once, and the system has to clear each page of the next one: that was a
    quarter of a network's time, whose maps come and go a hundred megabytes at a time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)


def trim_heap(above: float = 0.0) -> None:
    """Return freed memory to the system where this process holds more than ``above`` bytes; elsewhere nothing is done.

    glibc keeps it, and others need the room; what is taken again at once costs as much as the work on it, though.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None and psutil.Process().memory_info().rss > above:
        trim(0)


START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How worker processes are started: from a process that has imported what they need and done nothing else."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Environment of worker processes, each of which has one core."""


def worker_context() -> BaseContext:
    """What worker processes are started by."""
    return get_context(START)


def preload(modules: Sequence[str], kind: str, workers: int | None, scheduler: str | None) -> None:
    """Begin to import ``modules`` in the process that the workers of such a pool will be forked from; returns at once.

    Nothing is done where they are no processes of this machine, and where the system forks none: then each imports for
    itself.
    """
    alone = kind in ("loop", "threads") or (kind == "auto" and (workers or available_cores()) < 2)
    if alone or scheduler is not None or START != "forkserver":
        return
    from multiprocessing import forkserver, resource_tracker

    multiprocessing.set_forkserver_preload([*modules, "distributed"] if kind == "dask" else list(modules))
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    # Ctrl-C is for the one that started it; while it still imports, it would answer with a traceback.
    resource_tracker.ensure_running()  # which lets the signal through again when it starts
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
