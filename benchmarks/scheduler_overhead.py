"""The cost of scheduling a task: tasks that do nothing, through the same code that schedules regions.

    python benchmarks/scheduler_overhead.py [--tasks 100000] [--workers 2]

A local Dask cluster; its scheduler runs in this process, so the processor time of this process is that of driver
and scheduler together. Its memory is printed along the way: it must not grow with the number of finished tasks.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time

import psutil

from wsiproc.executors import Task, worker_pool


def nothing(number: int) -> int:
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    process = psutil.Process()
    tasks = [Task(f"nothing {number}", nothing, (number,)) for number in range(given.tasks)]
    seen = 0
    with worker_pool("dask", workers=given.workers) as workers:
        gc.collect()
        before, started = sum(process.cpu_times()[:2]), time.perf_counter()
        for done, (_, result) in enumerate(workers.run(tasks), start=1):
            seen += result
            if done % max(1, given.tasks // 10) == 0:
                seconds, cpu = time.perf_counter() - started, sum(process.cpu_times()[:2]) - before
                memory = process.memory_info().rss / 2**20
                print(
                    f"{done:>7,} tasks: {seconds / done * 1e3:.2f} ms a task, of which driver and scheduler compute "
                    f"{cpu / done * 1e3:.2f} ms; {memory:.0f} MiB resident",
                    flush=True,
                )
    assert seen == given.tasks * (given.tasks - 1) // 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
