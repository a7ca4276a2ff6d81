import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsiproc.errors import PlanError, RetryableError, SlideReadError, WorkerError
from wsiproc.executors import EXECUTORS, Task, preload, worker_pool
from wsiproc.executors.machine import ONE_THREAD, START
from wsiproc.executors.processes import ProcessPool, WorkerProcess
from wsiproc.executors.task import Submission
from wsiproc.pipeline import PRELOADED


def note(folder: Path, name: str, needs: tuple[str, ...]) -> str:
    """Leave a file; fail where one that should be there is missing."""
    missing = [need for need in needs if not (folder / need).exists()]
    if missing:
        raise RuntimeError(f"{name} ran before {missing}")
    time.sleep(0.01)
    (folder / name).write_text(str(os.getpid()))
    return name


def fail() -> None:
    raise ValueError("broken on purpose")


def diamond(folder: Path) -> list[Task]:
    """Tasks that need one another like the tiles of a pyramid."""
    leaves = [Task(f"leaf{i}", note, (folder, f"leaf{i}", ())) for i in range(8)]
    inner = []
    for i in range(4):
        needs = (f"leaf{2 * i}", f"leaf{2 * i + 1}")
        inner.append(Task(f"inner{i}", note, (folder, f"inner{i}", needs), needs))
    keys = tuple(task.key for task in inner)
    return [*leaves, *inner, Task("top", note, (folder, "top", keys), keys)]


@pytest.mark.parametrize("kind", [kind for kind in EXECUTORS if kind != "auto"])
def test_every_executor_runs_every_task_after_those_it_needs(kind: str, tmp_path: Path) -> None:
    with worker_pool(kind, workers=2) as workers:
        results = {task.key: result for task, result in workers.run(diamond(tmp_path))}
    assert results == {task.key: task.key for task in diamond(tmp_path)}
    pids = {(tmp_path / key).read_text() for key in results}
    assert (str(os.getpid()) in pids) == (kind in ("loop", "threads"))


def test_an_existing_cluster_is_used(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        worker_pool("auto", scheduler=cluster.scheduler_address) as workers,
    ):
        assert len(list(workers.run(diamond(tmp_path)))) == 13
        assert workers.workers == 1


def test_a_cluster_without_workers_is_refused() -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        pytest.raises(PlanError, match="has no workers"),
        worker_pool("dask", scheduler=cluster.scheduler_address),
    ):
        pass


@pytest.mark.parametrize("kind", ["loop", "threads", "dask"])
def test_an_error_comes_out_as_it_was_raised(kind: str) -> None:
    with worker_pool(kind, workers=2) as workers, pytest.raises(ValueError, match="on purpose"):
        list(workers.run([Task("bad", fail, ())]))


def test_tasks_that_are_ready_go_in_the_order_of_the_list(tmp_path: Path) -> None:
    with worker_pool("threads", workers=1) as workers:
        tasks = [Task(f"t{i:02d}", note, (tmp_path, f"t{i:02d}", ())) for i in range(20)]
        submission = [task.key for task, _ in workers.run(tasks)]
    assert submission == sorted(submission)


def test_one_task_needs_no_cluster() -> None:
    with worker_pool("auto", workers=4, tasks=1) as workers:
        assert workers.backend is None


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(PlanError, match="choose one of"), worker_pool("fax"):
        pass


class SlowReadError(SlideReadError, RetryableError):
    """What a task raises that waited too long for a disk."""


def flaky(folder: Path, failures: int) -> tuple[str, int]:
    """Fails so often, wherever it runs, then says in which process it went well."""
    for number in range(failures):
        try:
            with (folder / f"failure {number}").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            continue
        raise SlowReadError(f"slow {number}")
    return "done", os.getpid()


@pytest.mark.parametrize("kind", ["loop", "threads", "processes", "dask"])
def test_what_may_go_well_elsewhere_is_tried_again_and_not_too_often(kind: str, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with worker_pool(kind, workers=2) as workers:
        ((_, (said, pid)),) = workers.run([Task("reading", flaky, (tmp_path / "a", 1), max_attempts=2)])
        assert said == "done"
        tried = int((tmp_path / "a/failure 0").read_text())
        assert (pid == tried) == (kind in ("loop", "threads"))
        with pytest.raises(SlowReadError, match="slow 1"):
            list(workers.run([Task("reading", flaky, (tmp_path / "b", 2), max_attempts=2)]))


def die_once(folder: Path, name: str) -> str:
    """Takes its process along the first time, as the system does where memory runs out."""
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return name
    return die()


def die() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_worker_that_dies_costs_only_time(kind: str, tmp_path: Path) -> None:
    tasks = diamond(tmp_path)
    tasks += [Task("deadly", die_once, (tmp_path, "deadly"), ("leaf1",))]
    tasks += [Task("after", note, (tmp_path, "after", ("deadly",)), ("deadly",))]
    with worker_pool(kind, workers=2) as workers:
        results = [(task.key, result) for task, result in workers.run(tasks)]
    assert sorted(results) == sorted((task.key, task.key) for task in tasks)


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_a_task_that_kills_worker_after_worker_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiproc.executors.scheduler.MOST_DEATHS", 4)  # time; that of Dask's own rounds
    with worker_pool(kind, workers=2) as workers, pytest.raises(WorkerError, match="died while running 'deadly'"):
        list(workers.run([Task("deadly", die, ())]))


SCRIPT = """
import os, sys, time
from pathlib import Path
from wsiproc.pipeline import PRELOADED
from wsiproc.executors import Task, worker_pool

def busy(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

def main():
    with worker_pool("processes", workers=2) as workers:
        list(workers.run([Task(str(number), busy, (sys.argv[1],)) for number in range(2)]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_processes_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    script, pids = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(SCRIPT + 'if __name__ == "__main__":\n    main()\n')
    pids.mkdir()
    with subprocess.Popen([sys.executable, str(script), str(pids)]) as driver:
        deadline = time.monotonic() + 60
        while len(list(pids.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = [psutil.Process(int(path.name)) for path in pids.iterdir()]
        driver.kill()
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_a_script_that_workers_cannot_import_is_told_what_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "main()\n")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=100)
    # Three or more: several may be starting when the third fails.
    assert re.search(r"WorkerError: \d+ worker processes have failed to start", done.stderr)
    assert 'must be guarded by `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
def test_several_threads_share_a_crew(kind: str, tmp_path: Path) -> None:
    found: dict[str, int] = {}

    def run(folder: Path) -> None:
        folder.mkdir()
        found[folder.name] = len(list(workers.run(diamond(folder))))

    with worker_pool(kind, workers=2) as workers:
        threads = [threading.Thread(target=run, args=(tmp_path / name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == dict.fromkeys("abc", 13)


class AtOnce(WorkerProcess):
    """A process whose tasks are done as soon as they are submitted."""

    def submit(self, task: Task) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(task.key)
        return done


def test_processes_whose_tasks_are_done_at_once_take_all_of_them() -> None:
    """A future that is done already calls back while tasks are being assigned."""
    with ProcessPool(2, AtOnce) as pool:
        outcomes = pool.submit([Submission(Task(str(number), int, ()), (0, number)) for number in range(50)])
        assert [outcome.result(timeout=5) for outcome in outcomes] == [str(number) for number in range(50)]


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads as Linux tells them")
def test_what_workers_are_forked_from_has_no_threads() -> None:
    script = """
from pathlib import Path
import distributed, sys, wsiproc.pipeline.preload
names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
assert "torch" in sys.modules
print(len(names) - names.count("jemalloc_bg_thd"))  # jemalloc sees to its own thread in a fork
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | ONE_THREAD, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def modules_and_threads() -> tuple[bool, str | None]:
    """Whether this process has the rehearsal behind it, and what it was told of threads."""
    return "wsiproc.pipeline.preload" in sys.modules, os.environ.get("OMP_NUM_THREADS")


def warm_worker() -> tuple[bool, str | None]:
    """What a worker knows that is started after a warm-up."""
    preload(PRELOADED, "processes", 1, None)
    with worker_pool("processes", 1) as workers:
        ((_, known),) = workers.run([Task("look", modules_and_threads, ())])
    return known


@pytest.mark.skipif(START != "forkserver", reason="this system forks no workers")
def test_workers_begin_with_everything_imported() -> None:
    before = dict(os.environ)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:  # where no server runs yet
        assert fresh.submit(warm_worker).result() == (True, "1")
    assert dict(os.environ) == before
