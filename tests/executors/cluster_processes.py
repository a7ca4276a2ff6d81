"""A Dask cluster of separate processes on loopback, started as a user would, each in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


class Cluster:
    """One scheduler and some workers, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0
        self.start_scheduler(port=0)

    def start_scheduler(self, port: int) -> None:
        """Returns when it can be reached; port 0 is any."""
        file = self._folder / "scheduler.json"
        file.unlink(missing_ok=True)
        options = ["--port", str(port), "--scheduler-file", str(file), "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = self._start("scheduler", *options)
        limit = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < limit, self.logs()
            time.sleep(0.05)
        self.address: str = json.loads(file.read_text())["address"]

    def restart_scheduler(self) -> None:
        """Gone without a word, and back at its address."""
        kill(self.scheduler)
        self.start_scheduler(int(self.address.rsplit(":", 1)[1]))

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """A worker that joins when it is ready; its process is the one that works."""
        there = ["--dashboard-address", "127.0.0.1:0"]  # else it listens everywhere, --host or not
        worker = self._start("worker", self.address, "--nthreads", "1", "--no-nanny", *there, *options)
        self.workers.append(worker)
        return worker

    def start_workers(self, *options: tuple[str, ...]) -> None:
        """Workers that are there when this returns."""
        from distributed import Client

        for some in options:
            self.start_worker(*some)
        with Client(self.address, timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(len(self.workers), timeout=60)

    def kill_worker(self, index: int = 0) -> None:
        """The oldest, or another."""
        kill(self.workers.pop(index))

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        self._started += 1
        home = self._folder / f"{self._started} {what}"
        home.mkdir()
        # One thread a process, as on a cluster whose cores are shared; modules of tests can be imported.
        variables = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (home / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", what, "--host", "127.0.0.1", *options],
                cwd=home,
                env=os.environ | variables,
                stdout=log,
                stderr=log,
            )

    def logs(self) -> str:
        """The last words of all."""
        return "\n".join(f"{path}\n{path.read_text()[-2000:]}" for path in sorted(self._folder.glob("*/log")))

    def stop(self) -> None:
        """End all that was started."""
        for process in [*self.workers, self.scheduler]:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """As a lost node looks: no chance to tidy up."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def cluster(folder: Path, *workers: tuple[str, ...]) -> Iterator[Cluster]:
    """A cluster with a worker for each tuple of options."""
    folder.mkdir(parents=True, exist_ok=True)
    there = Cluster(folder)
    try:
        there.start_workers(*workers)
        yield there
    finally:
        there.stop()
