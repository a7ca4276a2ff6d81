import os
import signal
import time
from pathlib import Path

import pytest

from wsiproc.errors import PlanError, RetryableError, WorkerError
from wsiproc.executors import KINDS, Task, crew


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
    needs = tuple(task.key for task in inner)
    return [*leaves, *inner, Task("top", note, (folder, "top", needs), needs)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "auto"])
def test_every_executor_runs_every_task_after_those_it_needs(kind: str, tmp_path: Path) -> None:
    with crew(kind, workers=2) as workers:
        results = {task.key: result for task, result in workers.run(diamond(tmp_path))}
    assert results == {task.key: task.key for task in diamond(tmp_path)}
    pids = {(tmp_path / key).read_text() for key in results}
    assert (str(os.getpid()) in pids) == (kind in ("loop", "threads"))


def test_an_existing_cluster_is_used(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        crew("auto", scheduler=cluster.scheduler_address) as workers,
    ):
        assert len(list(workers.run(diamond(tmp_path)))) == 13
        assert workers.workers == 1


def test_a_cluster_without_workers_is_refused() -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        pytest.raises(PlanError, match="has no workers"),
        crew("dask", scheduler=cluster.scheduler_address),
    ):
        pass


@pytest.mark.parametrize("kind", ["loop", "threads", "dask"])
def test_an_error_comes_out_as_it_was_raised(kind: str) -> None:
    with crew(kind, workers=2) as workers, pytest.raises(ValueError, match="on purpose"):
        list(workers.run([Task("bad", fail, ())]))


def test_tasks_that_are_ready_go_in_the_order_of_the_list(tmp_path: Path) -> None:
    tasks = [Task(f"t{i:02d}", note, (tmp_path, f"t{i:02d}", ())) for i in range(20)]
    with crew("threads", 1) as workers:
        order = [task.key for task, _ in workers.run(tasks)]
    assert order == sorted(order)


def test_one_task_needs_no_cluster() -> None:
    with crew("auto", workers=4, tasks=1) as workers:
        assert workers.pool is None


def test_an_unknown_executor_is_refused() -> None:
    with pytest.raises(PlanError, match="choose one of"), crew("fax"):
        pass


# --- what another try may help ---------------------------------------------------------------------------------------


def fails_at_first(folder: Path, key: str, times: int) -> int:
    """Fail so many times, then tell which try this was; each try leaves the number of its process."""
    tries = len(list(folder.glob(f"{key} *")))
    (folder / f"{key} {tries}").write_text(str(os.getpid()))
    if tries < times:
        raise RetryableError(f"{key} failed")
    return tries


@pytest.mark.parametrize("kind", ["loop", "threads", "processes", "dask"])
def test_what_is_worth_another_try_gets_as_many_as_it_may(kind: str, tmp_path: Path) -> None:
    tasks = [
        Task("good", fails_at_first, (tmp_path, "good", 2), tries=3),
        Task("bad", fails_at_first, (tmp_path, "bad", 9), tries=3, otherwise=str),
        Task("after", note, (tmp_path, "after", ("good 2", "bad 2")), after=("good", "bad")),
    ]
    with crew(kind, workers=2) as workers:
        results = {task.key: result for task, result in workers.run(tasks)}
        assert results == {"good": 2, "bad": "bad failed", "after": "after"}
        with pytest.raises(RetryableError, match="hopeless failed"):
            list(workers.run([Task("hopeless", fails_at_first, (tmp_path, "hopeless", 9), tries=2)]))
    assert len(list(tmp_path.glob("bad *"))) == 3
    assert len(list(tmp_path.glob("hopeless *"))) == 2
    if kind == "dask":  # it knows who has tried, and asks the other one
        pids = [(tmp_path / f"good {i}").read_text() for i in range(2)]
        assert pids[0] != pids[1]


def dies_at_first(folder: Path, key: str, times: int) -> int:
    """Kill this process so many times as if memory had run out, then tell which try this was."""
    tries = len(list(folder.glob(f"{key} *")))
    (folder / f"{key} {tries}").write_text(str(os.getpid()))
    if tries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


@pytest.mark.parametrize("kind", ["processes", "dask"])
def test_workers_that_die_cost_nothing_but_time(kind: str, tmp_path: Path) -> None:
    tasks = [Task(f"t{i}", note, (tmp_path, f"t{i}", ())) for i in range(6)]
    tasks.insert(1, Task("deadly", dies_at_first, (tmp_path, "deadly", 2)))
    tasks.append(Task("last", note, (tmp_path, "last", ("deadly 2", "t5")), after=("deadly", "t5")))
    with crew(kind, workers=2) as workers:
        results = {task.key: result for task, result in workers.run(tasks)}
    assert results == {f"t{i}": f"t{i}" for i in range(6)} | {"deadly": 2, "last": "last"}


def test_a_task_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    with crew("processes", workers=1) as workers:
        with pytest.raises(WorkerError, match=r"deadly: 5 times a worker died .*--memory-gb"):
            list(workers.run([Task("deadly", dies_at_first, (tmp_path, "deadly", 99))]))
        assert [result for _, result in workers.run([Task("t", note, (tmp_path, "t", ()))])] == ["t"]
