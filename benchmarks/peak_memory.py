"""Run a command and print its wall time and the peak memory of all its processes together.

    python benchmarks/peak_memory.py wsiproc run slide.tif -o out

Twenty times a second the resident memory of the command and all its descendants is added up. *RSS* counts pages that
processes share (libraries) once each time; *PSS* splits them fairly, which is what the machine really spends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

GIB = 2**30


def tree(root: psutil.Process) -> Iterator[psutil.Process]:
    """A process and its descendants."""
    yield root
    yield from root.children(recursive=True)


def sample(root: psutil.Process, what: str) -> int:
    """Sum of one figure of ``memory_full_info`` over the tree; a process that has just ended counts nothing."""
    total = 0
    for process in tree(root):
        try:
            total += getattr(process.memory_info() if what == "rss" else process.memory_full_info(), what)
        except psutil.Error:
            continue
    return total


def main(command: list[str]) -> int:
    """Run, watch, print; the command's exit code."""
    started, peaks, count = time.perf_counter(), {"rss": 0, "pss": 0}, 0
    running = subprocess.Popen(command)
    root = psutil.Process(running.pid)
    while running.poll() is None:
        try:
            peaks["rss"] = max(peaks["rss"], sample(root, "rss"))
            if count % 10 == 0:  # reading PSS walks every mapping and slows the command down
                peaks["pss"] = max(peaks["pss"], sample(root, "pss"))
        except psutil.NoSuchProcess:
            break
        count += 1
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    print(f"{seconds:.1f} s, peak of all processes: RSS {peaks['rss'] / GIB:.2f} GiB, PSS {peaks['pss'] / GIB:.2f} GiB")
    return running.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
