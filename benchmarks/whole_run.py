"""A whole run against the network alone, over the same windows of the same slide, with as many processes.

    python benchmarks/whole_run.py slide.svs [--workers 2] [--model default]

First `wsiproc run` into an empty folder, from the start of Python to the last file; then as many processes, a thread
each, that do nothing but the network's forward pass on as many windows as the run had, each process after a first pass
that does not count. Then what workers spent on all else, from the run's own profile, as megapixels of tissue at 0.25 µm
a core and second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from wsiproc.executors import keep_memory
from wsiproc.models import load_model
from wsiproc.models.folder import load_network
from wsiproc.profile import NETWORK, lines


def forward(model_name: str, windows: int) -> float:
    """Seconds for the forward passes of so many windows, one after the other, in one thread."""
    import torch

    torch.set_num_threads(1)
    keep_memory()
    model = load_model(model_name)
    network = load_network(model.folder, model.weights_sha256, "cpu")
    side = model.window + 2 * model.halo
    picture = torch.from_numpy(np.random.default_rng(0).random((1, 3, side, side), np.float32))
    picture = picture.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        network(picture)
        started = time.perf_counter()
        for _ in range(windows):
            network(picture)
    return time.perf_counter() - started


def whole(slide: Path, workers: int, model: str, out: Path) -> tuple[float, dict]:
    """Seconds of `wsiproc run`, and its ``run.json``."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "wsiproc.cli", "run", slide, "-o", out, "-w", workers, "--model", model, "-q"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return seconds, json.loads(next(out.glob("*/run.json")).read_text())


def main(slide: Path, workers: int, model: str) -> None:
    """Run, then the network alone, then both side by side."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds, run = whole(slide, workers, model, Path(scratch))
    windows = run["regions"]["windows"]
    shares = [windows // workers + (index < windows % workers) for index in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        alone = max(pool.map(forward, [model] * workers, shares))
    tissue_mpx = run["tissue_mm2"] / 0.25**2
    others = sum(line.seconds for line in lines(run) if line.what not in (NETWORK, "seam certificate"))
    print(f"{slide.name}: {run['tissue_mm2']:.2f} mm² of tissue, {windows} windows, {run['counts']['cells']:,} cells")
    print(f"whole run {seconds:.1f} s, network alone {alone:.1f} s: {seconds / alone:.2f} ×, {workers} workers")
    for line in lines(run):
        print(f"  {line.what:18} {line.seconds:7.1f} s of workers {line.share:5.0%}")
    for stage, spent in run["seconds"].items():
        print(f"  {stage:18} {spent:7.1f} s by the clock")
    print(f"all but the network: {tissue_mpx / others:.1f} Mpx of tissue at 0.25 µm/px a second and core")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args()
    main(arguments.slide, arguments.workers, arguments.model)
