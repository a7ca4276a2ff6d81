"""Clusters of separate processes: the same bytes, wherever the work is done and whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.executors.cluster_processes import Cluster, cluster
from wsiproc.errors import SettingsError, WorkerError
from wsiproc.executors import Task, Timeouts, worker_pool
from wsiproc.models.device import Device, DeviceProbe, common_device
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.progress import Event
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide

NONE = "it has no VNNI"
GPU_WORKER = ("--resources", "GPU=1", "--name", "with GPU")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "shared slide.tif"
    write_synthetic_slide(path, (2000, 3000), mpp=0.25, seed=3, tissue_fraction=0.6)
    return path


@pytest.fixture(scope="module")
def reference(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a plain run at home writes."""
    out = tmp_path_factory.mktemp("home")
    (outcome,) = run_slides([slide], out, settings(executor="loop"))
    assert outcome.error is None
    return written(out)


def settings(**given: Any) -> Settings:
    return Settings(model="classical", region=512, **given)


def written(out: Path) -> dict[str, bytes]:
    """All files but those that tell of times and workers."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("run.json", "report.html")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler, a plain worker, and one that says that it has a GPU."""
    with cluster(tmp_path_factory.mktemp("cluster"), (), GPU_WORKER) as there:
        yield there


def test_the_same_command_infers_where_the_gpu_is_and_segments_anywhere(
    mixed: Cluster, slide: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "wsiproc.cli.main",
        "run",
        str(slide),
        "-o",
        str(tmp_path),
        "--scheduler",
        mixed.address,
    ]
    command += ["--model", "classical", "--region", "512", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(tmp_path) == reference
    (file,) = tmp_path.glob("*/run.json")
    run = json.loads(file.read_text())
    pids = {
        stage: {int(name.rsplit(":", 1)[1]) for name in workers} - {os.getpid()}
        for stage, workers in run["workers"].items()
    }
    assert run["device"] == "cpu"
    assert pids["infer"] == {mixed.workers[1].pid}
    assert mixed.workers[0].pid in pids["segment"]
    assert pids["segment"] <= {worker.pid for worker in mixed.workers}


def test_cuda_is_refused_with_the_names_of_workers_without(mixed: Cluster, slide: Path, tmp_path: Path) -> None:
    (outcome,) = run_slides([slide], tmp_path, settings(scheduler=mixed.address, device="cuda"))
    assert isinstance(outcome.error, SettingsError)
    assert "1 of 1 workers for inference find no CUDA device: tcp://127.0.0.1" in str(outcome.error)


def test_the_device_is_what_all_workers_for_inference_have() -> None:
    one, other, none = DeviceProbe(8, True, NONE), DeviceProbe(6, False, NONE), DeviceProbe(None, False, NONE)
    assert common_device({"a": one, "b": other}, "auto") == (Device("cuda", "float16"), 6)
    assert common_device({"a": one, "b": other}, "cuda", "float32") == (Device("cuda", "float32"), 6)
    assert common_device({"a": one, "b": none}, "cpu") == (Device("cpu", "float32"), 0)
    assert common_device({"a": none, "b": none}, "auto") == (Device("cpu", "float32"), 0)
    for choice in ("auto", "cuda"):
        with pytest.raises(SettingsError, match="1 of 2 workers for inference find no CUDA device: b"):
            common_device({"a": one, "b": none}, choice)


def test_cpus_use_the_fewest_bits_that_all_are_fast_at() -> None:
    new, half, old = DeviceProbe(None, True, ""), DeviceProbe(None, True, NONE), DeviceProbe(None, False, NONE)
    assert common_device({"a": new, "b": new}, "auto")[0] == Device("cpu", "int8")
    assert common_device({"a": new, "b": new}, "auto")[0].fallback == "bfloat16"
    assert common_device({"a": new, "b": half}, "auto")[0] == Device("cpu", "bfloat16")
    assert common_device({"a": new, "b": old}, "auto")[0] == Device("cpu", "float32")
    assert common_device({"a": new, "b": new}, "cpu", "float32")[0] == Device("cpu", "float32")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into processes")
def test_nothing_listens_on_anything_but_loopback(mixed: Cluster) -> None:
    with worker_pool("dask", workers=2) as local, worker_pool(scheduler=mixed.address):
        assert local.workers == 2
        ours = psutil.Process().children(recursive=True)
        sockets = [
            s for process in [psutil.Process(), *ours] for s in process.net_connections() if s.status == "LISTEN"
        ]
        assert len(sockets) > 6
        assert {s.laddr.ip for s in sockets} == {"127.0.0.1"}


class Disturbance:
    """Calls something now and then while a run goes on, from the first region on; in the end the run has peace.

    Else nothing would ever be done where workers die sooner than a busy machine can start them.
    """

    def __init__(self, disturb: Any, every_s: float, most: int) -> None:
        self._disturb, self._every_s, self._most = disturb, every_s, most
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._go)
        self.times = 0

    def on_progress(self, event: Event) -> None:
        """Begin with the first region."""
        if event.stage == "cells" and not self._thread.is_alive() and not self.times:
            self._thread.start()

    def _go(self) -> None:
        while self.times < self._most and not self._stop.wait(self._every_s if self.times else 0):
            self._disturb()
            self.times += 1

    def end(self) -> None:
        """Leave the run in peace."""
        self._stop.set()
        self._thread.join()


def run_disturbed(slide: Path, out: Path, address: str, disturb: Any, every_s: float, most: int) -> int:
    """Run on a cluster that is disturbed; how often it was."""
    disturbance = Disturbance(disturb, every_s, most)
    try:
        (outcome,) = run_slides([slide], out, settings(scheduler=address), on_progress=disturbance.on_progress)
    finally:
        disturbance.end()
    assert outcome.error is None
    return disturbance.times


def test_workers_that_die_and_join_change_no_byte(slide: Path, reference: dict[str, bytes], tmp_path: Path) -> None:
    with cluster(tmp_path / "cluster", (), ()) as there:

        def replace_one() -> None:
            there.start_worker()
            there.kill_worker()

        assert run_disturbed(slide, tmp_path / "out", there.address, replace_one, every_s=1, most=2) == 2
    assert written(tmp_path / "out") == reference


def test_a_scheduler_that_dies_and_comes_back_changes_no_byte(
    slide: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    with cluster(tmp_path / "cluster", ()) as there:

        def restart() -> None:
            there.restart_scheduler()
            there.start_worker()  # workers leave with their scheduler; something has to start them again

        assert run_disturbed(slide, tmp_path / "out", there.address, restart, every_s=0, most=1) == 1
    assert written(tmp_path / "out") == reference


def wait_for(path: Path) -> str:
    while not path.exists():
        time.sleep(0.05)
    return path.read_text()


def test_workers_or_a_scheduler_gone_for_good_are_waited_for_a_while(tmp_path: Path) -> None:
    timeouts = Timeouts(workers_s=2, scheduler_s=2)
    tasks = [Task("waiting", wait_for, (tmp_path / "never",))]
    with cluster(tmp_path / "cluster", ()) as there, worker_pool(scheduler=there.address, timeouts=timeouts) as workers:
        threading.Timer(1, there.kill_worker).start()
        with pytest.raises(WorkerError, match=r"at tcp://\S+ has had no workers for \d+ s.*same command to resume"):
            list(workers.run(tasks))
        there.start_workers(())
        threading.Timer(1, there.scheduler.kill).start()
        with pytest.raises(WorkerError, match=r"was lost and has not answered for 2 s .*same command to resume"):
            list(workers.run(tasks))


def test_gpu_tasks_wait_for_a_gpu_that_was_there_and_not_for_one_that_never_was(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("done")
    tasks = [Task("inference", wait_for, (tmp_path / "there",), gpu=True)]
    with cluster(tmp_path / "cluster", ()) as there:
        with worker_pool(scheduler=there.address) as workers:
            assert [result for _, result in workers.run(tasks)] == ["done"]
        there.start_workers(GPU_WORKER)
        with worker_pool(scheduler=there.address, timeouts=Timeouts(workers_s=2)) as workers:
            there.kill_worker(1)
            with pytest.raises(WorkerError, match="has had no workers with a GPU for"):
                list(workers.run(tasks))
