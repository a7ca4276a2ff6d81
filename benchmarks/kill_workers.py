"""Kill one of four workers every 20 s while a slide is run, and compare the output with an undisturbed run.

    python benchmarks/kill_workers.py SLIDE [--model classical] [--region 1024] [--every 20]

Scheduler and workers are separate processes on loopback, as `dask scheduler` and `dask worker` start them; workers
are killed (``kill -9``) in turn, and Dask's nanny starts replacements.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distributed import Client

from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

WORKERS = 4
LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Address of a scheduler with four workers."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*dask, "scheduler", *LOOPBACK, "--port", "0", "--scheduler-file", file], **options)
    workers = subprocess.Popen(
        [*dask, "worker", *LOOPBACK, "--scheduler-file", file, "--nworkers", str(WORKERS), "--nthreads", "1"],
        **options | {"env": os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}},
    )
    try:
        with Client(scheduler_file=str(file), timeout="60s") as client:
            client.wait_for_workers(WORKERS, timeout=120)
            yield client.scheduler.address
    finally:
        for process in (workers, scheduler):
            process.terminate()
            process.wait()


class Killer:
    """Kills one worker after another, by its process id."""

    def __init__(self, address: str, every_s: float) -> None:
        self._address, self._every_s = address, every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._go)
        self.killed: list[int] = []

    def _go(self) -> None:
        with Client(self._address, set_as_default=False) as client:
            for number in itertools.count():
                if self._end.wait(self._every_s):
                    return
                pids = client.run(os.getpid, on_error="ignore")
                if not pids:
                    continue
                pid = pids[sorted(pids)[number % len(pids)]]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed.append(pid)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def run(slide: Path, out: Path, settings: Settings) -> tuple[float, dict[str, object]]:
    """Seconds of a run, and what it says of itself."""
    started = time.perf_counter()
    (outcome,) = run_slides([slide], out, settings)
    if outcome.error is not None:
        raise outcome.error
    assert outcome.run is not None
    return time.perf_counter() - started, outcome.run


def written(out: Path) -> dict[Path, bytes]:
    """All files but the two that tell of times and workers."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in ("run.json", "report.html"))
    return {path.relative_to(out): path.read_bytes() for path in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", default="classical")
    parser.add_argument("--region", type=int, default=1024)
    parser.add_argument("--every", type=float, default=20.0, help="seconds from kill to kill")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with cluster(folder) as address:
            settings = Settings(model=given.model, region=given.region, scheduler=address)
            calm_s, calm = run(given.slide, folder / "calm", settings)
            with Killer(address, given.every) as killer:
                killed_s, _ = run(given.slide, folder / "killed", settings)
        same = written(folder / "calm") == written(folder / "killed")
        files, size = zip(*((1, len(data)) for data in written(folder / "killed").values()), strict=True)
    counts = json.dumps(calm["counts"]["cells"])  # type: ignore[index]
    print(f"{given.slide.name}: {counts} cells, {len(calm['regions']['boxes'])} regions")  # type: ignore[index]
    print(f"undisturbed {calm_s:.0f} s; with {len(killer.killed)} workers killed {killed_s:.0f} s")
    print(f"{len(files)} files, {sum(size) / 1e6:.1f} MB: {'the same bytes' if same else 'DIFFERENT BYTES'}")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
