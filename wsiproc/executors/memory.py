"""Memory that all processes of a run may hold and do hold, monitored during the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import Self

import psutil

from wsiproc.errors import MemoryLimitError
from wsiproc.executors import memory_limits
from wsiproc.executors.limits import GB

_EVERY_S = 0.5
_BEFORE_THE_END = 0.95  # of a limit beyond which processes are killed
_RISE = 1.05  # of resident memory from which an exact measurement is made


def free_bytes() -> float:
    """Bytes that this process and its descendants may hold: what they hold plus what is free here and in its limits."""
    held = bytes_held(psutil.Process())
    return min([float(psutil.virtual_memory().available + held), *_rooms(held)])


def enforced_bytes(given: float | None) -> float | None:
    """Memory limit enforced during a run: the ``given`` memory, and no more than its limits leave. None if there is
    neither. Free memory of the machine itself is not a limit: it may change, and exceeding it does not kill processes.
    """
    kept = [_BEFORE_THE_END * room for room in _rooms(bytes_held(psutil.Process()))]
    return min(kept if given is None else [*kept, given], default=None)


def _rooms(held: int) -> list[float]:
    """Bytes that each limit of control groups and Slurm leaves to processes that hold ``held`` bytes now."""
    return [float(max(0, room.limit - max(0, room.taken - held))) for room in memory_limits()]


def bytes_held(process: psutil.Process) -> int:
    """Memory of a process and all its descendants; shared pages count once. If the system does not distinguish shared
    pages, resident memory, which counts them for each.
    """
    return _sum(process, _own_bytes)


def bytes_resident(process: psutil.Process) -> int:
    """The same, with shared pages counted for each process: never less, and measured a hundred times faster."""
    return _sum(process, lambda one: int(one.memory_info().rss))


def _sum(process: psutil.Process, size: Callable[[psutil.Process], int]) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it has ended
            total += size(one)
    return total


def _own_bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except psutil.AccessDenied:
        info = process.memory_info()
    return int(getattr(info, "pss", info.rss))


class MemoryWatch:
    """Monitors memory in the background during a ``with`` block. ``limit``: bytes, or None to measure only."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self.peak = limit, 0
        self._stop, self._over = Event(), Event()
        self._thread = Thread(target=self._watch, daemon=True, name="memory watch")

    def _watch(self) -> None:
        me = psutil.Process()
        seen = 0.0  # resident memory at the last exact measurement, which stops the processes briefly
        while True:
            resident = bytes_resident(me)
            too_much = self.limit is not None and resident > self.limit
            if too_much or resident > _RISE * seen:
                held = bytes_held(me)
                seen = max(seen, resident)
                self.peak = max(self.peak, held)
                if self.limit is not None and held > self.limit:
                    self._over.set()
            if self._stop.wait(_EVERY_S):
                return

    def forget(self) -> None:
        """Forget an earlier excess."""
        self._over.clear()

    def check(self) -> None:
        """Raise MemoryLimitError once the limit has been exceeded."""
        if self._over.is_set():
            raise MemoryLimitError(f"{self.peak / GB:.2f} GB in use, {(self.limit or 0) / GB:.2f} GB allowed")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
