"""A Dask cluster of separate processes, as a lab has it: tags, deaths, a scheduler that is started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_nothing_lost import SETTINGS
from tests.test_pipeline import assert_same_cells, run_one
from wsiproc.errors import SettingsError, WorkerError
from wsiproc.executors import Task, crew
from wsiproc.plan import choose_device


class Cluster:
    """A scheduler and workers on loopback, each a process of its own, all of one thread and without a nanny."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard")

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        # The log goes to a file: a pipe that nobody reads would stop the process once it is full.
        with (self._folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, cwd=self._folder,
                env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            )  # fmt: skip

    def add_worker(self, *options: str) -> int:
        """Start a worker; its process number."""
        arguments = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1", "--memory-limit", "0")
        self.workers.append(self._start("worker", self.address, *arguments, *options))
        return self.workers[-1].pid

    def wait_for(self, workers: int) -> None:
        """Until so many workers are there."""
        from distributed import Client

        with Client(self.address, timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def restart_scheduler(self) -> None:
        """Kill the scheduler, whose workers then leave, and start both again."""
        self.scheduler.kill()
        self.scheduler.wait()
        for worker in self.workers:
            worker.kill()
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard")

    def close(self) -> None:
        """End all that was started."""
        for process in [self.scheduler, *self.workers]:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.close()


def run_beside(slide: Path, out: Path, cluster: Cluster) -> tuple[threading.Thread, list[Any]]:
    """A run on the cluster in a thread of its own, and where its outcome or error will be."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(run_one(slide, out, scheduler=cluster.address, **SETTINGS))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answer


def wait_until_regions_are_done(out: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("*/.work/*.infer.json"))) < number:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_inference_goes_to_workers_with_a_gpu_and_the_rest_anywhere(
    six: Path, whole: Path, cluster: Cluster, tmp_path: Path
) -> None:
    tagged = cluster.add_worker("--resources", "GPU=1")
    other = cluster.add_worker()
    cluster.wait_for(2)
    workers: dict[str, set[int]] = {"infer": set(), "segment": set()}

    import wsiproc.run

    real = wsiproc.run._find_cells

    def noted(*arguments: Any) -> Any:
        done = real(*arguments)
        for stage, results in done.items():
            workers[stage] |= {int(result["worker"].split(":")[1]) for result in results}
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wsiproc.run, "_find_cells", noted)
        run_one(six, tmp_path, scheduler=cluster.address, **SETTINGS)
    assert workers["infer"] == {tagged}
    assert other in workers["segment"]
    assert_same_cells(whole, tmp_path / "six")


def test_workers_that_are_killed_and_others_that_join_change_no_byte(
    six: Path, whole: Path, cluster: Cluster, tmp_path: Path
) -> None:
    for _ in range(2):
        cluster.add_worker()
    cluster.wait_for(2)
    thread, answer = run_beside(six, tmp_path, cluster)
    for number in (1, 3):
        wait_until_regions_are_done(tmp_path, number)
        cluster.workers.pop(0).send_signal(signal.SIGKILL)
        cluster.add_worker()
    thread.join(200)
    assert answer
    assert not isinstance(answer[0], Exception), answer[0]
    assert_same_cells(whole, tmp_path / "six")


def test_a_scheduler_that_is_started_again_is_found_and_what_was_lost_is_done_again(
    six: Path, whole: Path, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.add_worker()
    cluster.wait_for(1)
    thread, answer = run_beside(six, tmp_path, cluster)
    wait_until_regions_are_done(tmp_path, 2)
    cluster.restart_scheduler()
    cluster.add_worker()
    thread.join(200)
    assert answer
    assert not isinstance(answer[0], Exception), answer[0]
    assert_same_cells(whole, tmp_path / "six")


def test_a_cluster_without_gpu_workers_is_a_cpu_and_says_so_if_asked_for_more(cluster: Cluster) -> None:
    cluster.add_worker()
    cluster.wait_for(1)
    assert choose_device("auto", cluster.address) == "cpu"
    with pytest.raises(SettingsError, match=r"no workers with a GPU; .* --resources GPU=1"):
        choose_device("cuda", cluster.address)


def test_a_cluster_that_is_gone_is_named_after_a_while(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiproc.executors._PATIENCE_S", 3.0)
    cluster.add_worker()
    cluster.wait_for(1)
    with crew("dask", scheduler=cluster.address) as workers:
        results = workers.run([Task(f"t{i}", time.sleep, (0.2,)) for i in range(50)])
        next(results)
        cluster.close()
        with pytest.raises(WorkerError, match=r"no workers for 3 s.*What is done is kept"):
            list(results)
