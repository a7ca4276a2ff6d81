"""Schedule the tasks of a huge cohort, slide after slide, without the actual work.

    python benchmarks/simulate_cohort.py [--slides 10000] [--regions 500] [--seconds 120] [--workers 2]

The tasks are those of a run: a segmentation that depends on the regions it reads, with the job and the region as
arguments; results have the size of real ones. As many slides are done as fit into ``--seconds``; the rest is
extrapolated, and marked as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from wsiproc.core.frame import Frame
from wsiproc.core.geometry import Grid, Region
from wsiproc.executors import Task, worker_pool
from wsiproc.io.slides.open import SlideSource
from wsiproc.models import load_model
from wsiproc.models.device import Device
from wsiproc.pipeline.slide import cell_tasks
from wsiproc.pipeline.stages.job import Job

STEP = 2048


def answer(job: Job, region: Region, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a task says when it is done."""
    times = {"read_s": 0.123456, "predict_s": 1.23456, "seconds": 1.3579}
    return {"key": region.key, "worker": "node0123:45678", "windows": 16, "failed": None, "cells": 4321} | times


def slide_tasks(number: int, regions: int) -> list[Task]:
    """The tasks of one slide, whose work is left out."""
    side = int(regions**0.5)
    grid = ((regions // side) * STEP, side * STEP)
    frame = Frame((2 * grid[0], 2 * grid[1]), grid, 0.25)
    path = Path(f"/shared/slides/cohort/slide {number:06d}.svs")
    folder = Path(f"/shared/results/slide {number:06d}")
    job = Job(
        SlideSource(path),
        folder,
        f"{number:064d}",
        frame,
        load_model("default"),
        STEP,
        Device("cuda", "float16"),
        16,
        None,
    )
    places = list(Grid(grid, STEP))
    return [dataclasses.replace(task, call=answer) for task in cell_tasks(job, places, places)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=10_000)
    parser.add_argument("--regions", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    process = psutil.Process()
    slides = tasks = cells = 0
    build_s = 0.0
    with worker_pool("dask", workers=given.workers) as workers:
        started, before = time.perf_counter(), sum(process.cpu_times()[:2])
        while slides < given.slides and time.perf_counter() - started < given.seconds:
            clock = time.perf_counter()
            todo = slide_tasks(slides, given.regions)
            build_s += time.perf_counter() - clock
            done: list[dict[str, Any]] = [result for _, result in workers.run(todo)]
            cells += sum(result["cells"] for result in done)
            slides, tasks = slides + 1, tasks + len(todo)
            if slides & (slides - 1) == 0:
                gc.collect()
                print(f"{slides:>6} slides: {process.memory_info().rss / 2**20:.0f} MiB resident", flush=True)
        seconds, cpu = time.perf_counter() - started, sum(process.cpu_times()[:2]) - before
    memory = process.memory_info().rss / 2**20
    print(
        f"measured: {slides} slides of {len(todo) // 2} regions, {tasks:,} tasks in {seconds:.0f} s, "
        f"{tasks / seconds:.0f} tasks/s, of which driver and scheduler compute {cpu / tasks * 1e3:.2f} ms a task "
        f"and making the tasks takes {build_s / slides * 1e3:.0f} ms a slide; {memory:.0f} MiB resident at the end"
    )
    if slides < given.slides:
        hours = seconds / slides * given.slides / 3600
        print(
            f"extrapolated: {given.slides:,} slides, {tasks // slides * given.slides:,} tasks in {hours:.1f} h of "
            f"handing out; {tasks / seconds:.0f} tasks/s keep {tasks / seconds * 5:.0f} workers busy with tasks of 5 s"
        )
    return int(not cells)


if __name__ == "__main__":
    sys.exit(main())
