"""Run a command and print its wall time and the peak memory of all its processes together.

    python benchmarks/peak_memory.py wsiproc run slide.tif -o out

Twenty times a second the resident memory of the command and all its descendants is summed. *RSS* counts shared pages
(libraries) once per process; *PSS* divides them among the processes, which is what the machine really uses.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

import psutil

GIB = 2**30


class Watch:
    """Peaks of a process and its descendants while the block lasts: ``rss`` and ``pss`` in bytes."""

    def __init__(self, root: psutil.Process) -> None:
        self._root, self._stop = root, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.rss = self.pss = 0

    def _sample(self) -> None:
        count = 0
        while not self._stop.wait(0.05):
            self.rss = max(self.rss, self._total("rss"))
            if count % 10 == 0:  # reading PSS walks every mapping and slows the command down
                self.pss = max(self.pss, self._total("pss"))
            count += 1

    def _total(self, what: str) -> int:
        """Sum of one figure over the tree; a process that has just ended counts nothing."""
        total = 0
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in processes:
            try:
                total += getattr(process.memory_info() if what == "rss" else process.memory_full_info(), what)
            except psutil.Error:
                continue
        return total

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def main(command: list[str]) -> int:
    """Run, watch, print; the command's exit code."""
    started = time.perf_counter()
    running = subprocess.Popen(command)
    with Watch(psutil.Process(running.pid)) as watch:
        code = running.wait()
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} s, peak of all processes: RSS {watch.rss / GIB:.2f} GiB, PSS {watch.pss / GIB:.2f} GiB")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
