"""The machine that this process runs on: I/O counters, allocator, start of worker processes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import BaseContext

import psutil

from wsiproc.errors import SettingsError
from wsiproc.executors.limits import available_cores


def worker_name() -> str:
    """A name of this process, unique in a cluster."""
    return f"{platform.node()}:{os.getpid()}"


def bytes_moved() -> tuple[int, int]:
    """Bytes that this process has read and written so far, cached or not; zeros if the system does not count them."""
    process = psutil.Process()
    if not hasattr(process, "io_counters"):
        return 0, 0
    counts = process.io_counters()
    return getattr(counts, "read_chars", counts.read_bytes), getattr(counts, "write_chars", counts.write_bytes)


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of mallopt in malloc.h
_LARGE = 1 << 30


@cache
def tune_malloc() -> None:
    """Make glibc reuse freed memory, however large the blocks, until ``trim_heap``. By default it returns large blocks
    at once, and the system has to clear each page of the next one: that was a quarter of the time of a network, which
    allocates maps of a hundred megabytes repeatedly.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _LARGE)


def trim_heap(above: float = 0.0) -> None:
    """Return freed memory to the system if this process holds more than ``above`` bytes. glibc keeps it, and other
    processes need it; but allocating it again right away costs as much as the work on it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None and psutil.Process().memory_info().rss > above:
        trim(0)


START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""Start method of worker processes: forked from a process that has only imported what they need."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Environment of worker processes, each of which has one core."""


# Sockets have names of at most 104 bytes (108 on Linux); multiprocessing's are this much longer than the folder.
_LONGEST_SOCKET, _SOCKET_NAME = 104, len("/pymp-12345678/listener-12345678") + 1


def worker_context() -> BaseContext:
    """The multiprocessing context of worker processes. Raises SettingsError if their sockets cannot be named."""
    _require_short_temporary_folder()
    return get_context(START)


def _require_short_temporary_folder() -> None:
    folder = tempfile.gettempdir()
    if os.name != "nt" and len(os.fsencode(folder)) + _SOCKET_NAME > _LONGEST_SOCKET:
        raise SettingsError(
            f"the folder for temporary files, {folder}, has too long a name for the sockets of worker processes: set "
            f"TMPDIR to one of {_LONGEST_SOCKET - _SOCKET_NAME} characters at most, such as /tmp, or use one worker "
            "(--workers 1)"
        )


def preload(modules: Sequence[str], kind: str, workers: int | None, scheduler: str | None) -> None:
    """Start importing ``modules`` in the process from which the workers of such a pool will be forked; returns at once.
    Does nothing if the workers are not processes of this machine, or if the system does not fork: then each imports for
    itself.
    """
    alone = kind in ("loop", "threads") or (kind == "auto" and (workers or available_cores()) < 2)
    if alone or scheduler is not None or START != "forkserver":
        return
    _require_short_temporary_folder()
    from multiprocessing import forkserver, resource_tracker

    multiprocessing.set_forkserver_preload([*modules, "distributed"] if kind == "dask" else list(modules))
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    # Ctrl-C is handled by the parent; during imports this process would print a traceback.
    resource_tracker.ensure_running()  # which unblocks the signal when it starts
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
