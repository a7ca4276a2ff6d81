"""What all processes of a run hold in memory, watched while it goes on."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import Self

import psutil

from wsiproc.errors import MemoryLimitError
from wsiproc.projection import GB

_EVERY_S = 0.5


def bytes_held(process: psutil.Process) -> int:
    """Memory of a process and all its descendants; pages that they share count once.

    Where the system does not tell shared pages apart, resident memory, which counts them for each.
    """
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            facts = one.memory_full_info()
        except psutil.AccessDenied:
            facts = one.memory_info()
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue
        total += getattr(facts, "pss", facts.rss)
    return total


class MemoryWatch:
    """Measures in the background from ``with`` to its end. ``limit``: bytes, or None to measure only."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self.peak = limit, 0
        self._stop, self._over = Event(), Event()
        self._thread = Thread(target=self._watch, daemon=True, name="memory watch")

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            held = bytes_held(me)
            self.peak = max(self.peak, held)
            if self.limit is not None and held > self.limit:
                self._over.set()
            if self._stop.wait(_EVERY_S):
                return

    def forget(self) -> None:
        """Begin to look for too much anew."""
        self._over.clear()

    def check(self) -> None:
        """Raise MemoryLimitError once more was held than is allowed."""
        if self._over.is_set():
            raise MemoryLimitError(f"{self.peak / GB:.2f} GB held, {(self.limit or 0) / GB:.2f} GB allowed")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
