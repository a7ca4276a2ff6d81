"""A whole run against the network alone, on the same slide, with the same number of processes.

    python benchmarks/whole_run.py slide.svs [--workers 2] [--model default] [--precision auto]

First `wsiproc run` into an empty folder, from the start of Python to the last file. Then the network's forward pass
alone, after a first one that does not count: over whole windows with their halo wherever there is tissue, by one
process with as many threads, which is what a plain loop does, in float32 and in the run's precision, and by as many
processes with one thread each; and by these over the windows of the run, which are cropped to the tissue and to what
cells at its edge need. Last, the workers' time on everything else, from the run's own profile, as megapixels of tissue
at 0.25 µm per core and second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from peers import MPX_A_MM2

from wsiproc.core.frame import WindowRule, needed_windows
from wsiproc.core.geometry import Box
from wsiproc.executors import tune_malloc
from wsiproc.models import load_model
from wsiproc.models.folder import load_int8_network, load_network
from wsiproc.pipeline.planning.plan import plan_slide
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.stages.infer import seen_by
from wsiproc.results.profile import NETWORK, lines
from wsiproc.results.record import RunRecord

Shape = tuple[int, int]
CHECK = "seam certificate"  # a second look at what others have done


def forward(model_name: str, precision: str, shapes: Sequence[Shape], threads: int) -> float:
    """Seconds for the forward passes over windows of these shapes (h, w), one after the other."""
    import torch

    torch.set_num_threads(threads)
    tune_malloc()
    model = load_model(model_name)
    if precision == "int8":
        network = load_int8_network(model.folder, model.weights_sha256)
    else:
        network = load_network(model.folder, model.weights_sha256, "cpu")
    rng = np.random.default_rng(0)
    numbers = model.config.network
    seen = {shape: (1, numbers.inputs, *(side // numbers.fold for side in shape)) for shape in set(shapes)}
    pictures = {shape: torch.from_numpy(rng.random(size, np.float32)) for shape, size in seen.items()}
    pictures = {shape: p.to(memory_format=torch.channels_last) for shape, p in pictures.items()}
    half = precision == "bfloat16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for picture in pictures.values():
            network(picture)
        started = time.perf_counter()
        for shape in shapes:
            network(pictures[shape])
    return time.perf_counter() - started


def alone(model_name: str, precision: str, shapes: Sequence[Shape], processes: int, threads: int) -> float:
    """Seconds by the clock of as many processes that share the windows."""
    shares = [shapes[index::processes] for index in range(processes)]
    with ProcessPoolExecutor(processes) as pool:
        return max(pool.map(partial(forward, model_name, precision), shares, [threads] * processes))


def windows(slide: Path, model_name: str, scratch: Path) -> tuple[list[Shape], list[Shape]]:
    """Shapes that the network sees: of whole windows where tissue is, and of the windows of the run."""
    plan = plan_slide(slide, scratch, Settings(model=model_name))
    job, grid = plan.job, plan.job.frame.grid
    everywhere = Box(0, 0, *grid)
    side = job.model.window + 2 * job.model.halo
    whole = needed_windows(plan.tissue, grid, everywhere, WindowRule(job.model.window, job.model.window, 0))
    cut = needed_windows(plan.search, grid, everywhere, job.window_rule)
    return [(side, side)] * len(whole), [seen_by(job.model, window).shape for window in cut]


def whole(slide: Path, workers: int, model: str, precision: str, out: Path) -> tuple[float, dict]:
    """Seconds of `wsiproc run`, and its ``run.json``."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "wsiproc.cli.main", "run", slide, "-o", out, "-w", workers, "--model", model]
    command += ["--precision", precision, "-q"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, json.loads(next(out.glob("*/run.json")).read_text())


def all_else(run: dict) -> float:
    """Mpx of tissue at 0.25 µm that go through all but the network and the second look, a second and core."""
    seconds = sum(
        line.seconds for line in lines(RunRecord.model_validate(run).profile) if line.what not in (NETWORK, CHECK)
    )
    return run["tissue_mm2"] * MPX_A_MM2 / seconds


def main(slide: Path, workers: int, model: str, precision: str) -> None:
    """Run, then the network alone, then both side by side."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds, run = whole(slide, workers, model, precision, Path(scratch))
        shapes = windows(slide, model, Path(scratch))
    print(f"{slide.name}: {run['tissue_mm2']:.2f} mm² of tissue, {run['counts']['cells']:,} cells, {workers} workers")
    print(f"whole run {seconds:.1f} s")
    own = run["precision"]
    for of_this, what, some, processes, threads in (
        *[(each, "whole windows with tissue", shapes[0], 1, workers) for each in dict.fromkeys(["float32", own])],
        (own, "whole windows with tissue", shapes[0], workers, 1),
        (own, "windows as the run cuts them", shapes[1], workers, 1),
    ):
        network = alone(model, of_this, some, processes, threads)
        mpx = sum(h * w for h, w in some) / 1e6
        print(
            f"network alone, {len(some)} {what} ({mpx:.1f} Mpx), {processes} × {threads} threads, {of_this}: ", end=""
        )
        print(f"{network:.1f} s, {seconds / network:.2f} ×")
    for line in lines(RunRecord.model_validate(run).profile):
        print(f"  {line.what:18} {line.seconds:7.1f} s of workers {line.share:5.0%}")
    for stage, spent in run["seconds"].items():
        print(f"  {stage:18} {spent:7.1f} s by the clock")
    print(f"all but the network: {all_else(run):.1f} Mpx of tissue at 0.25 µm/px a second and core")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="default")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    main(arguments.slide, arguments.workers, arguments.model, arguments.precision)
