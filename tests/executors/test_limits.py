"""Limits of containers and jobs on cores and memory: found in the files of the kernel, and kept by all that plans."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wsiproc.executors.limits as limits
from tests.command import wsiproc
from wsiproc.errors import PlanError
from wsiproc.executors import available_cores, core_limits, memory_limits
from wsiproc.executors.memory import bytes_held, enforced_bytes, free_bytes
from wsiproc.models.device import use_allowed_cores
from wsiproc.pipeline.planning.plan import plan_slide, workers_that_fit
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide

GB = 1_000_000_000
NO_LIMIT = "9223372036854771712"  # as version 1 says it


def system(root: Path, group: str, **files: str) -> Path:
    """A root whose ``proc`` and ``sys`` hold these files; ``__`` stands for a slash and ``_dot_`` for a dot."""
    texts = {"proc__self__cgroup": group} | {f"sys__fs__cgroup__{name}": text for name, text in files.items()}
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def found(root: Path, **environ: str) -> tuple[float | None, list[limits.MemoryRoom]]:
    """Cores that a control group allows, and limits on memory."""
    return core_limits(root, environ).get("control group"), memory_limits(root, environ)


# --- what the kernel and Slurm say -----------------------------------------------------------------------------------


def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    root = system(
        tmp_path, "0::/job/step",
        job__step__memory_dot_max="max", job__step__memory_dot_current="600000000",
        job__memory_dot_max="4000000000", job__memory_dot_current="3000000000",
        job__memory_dot_stat="anon 1800000000\nactive_file 300000000\ninactive_file 900000000",
        job__step__cpu_dot_max="150000 100000", job__cpu_dot_max="max 100000",
    )  # fmt: skip
    cores, memory = found(root)
    assert cores == 1.5
    assert memory == [limits.MemoryRoom("control group", 4_000_000_000, 1_800_000_000)]


def test_groups_of_version_1_are_found_where_a_container_mounts_them(tmp_path: Path) -> None:
    root = system(
        tmp_path, "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/system.slice",
        memory__memory_dot_limit_in_bytes="2000000000", memory__memory_dot_usage_in_bytes="900000000",
        memory__memory_dot_stat="cache 1\ninactive_file 1\ntotal_inactive_file 200000000\ntotal_active_file 100000000\n"
        "hierarchical_memory_limit 1500000000",
        cpu__cpu_dot_cfs_quota_us="200000", cpu__cpu_dot_cfs_period_us="100000",
    )  # fmt: skip
    cores, memory = found(root)
    assert cores == 2.0
    assert memory == [limits.MemoryRoom("control group", 1_500_000_000, 600_000_000)]


@pytest.mark.parametrize(
    ("group", "files"),
    [
        ("", {}),
        ("0::/", {"memory_dot_max": "max", "cpu_dot_max": "max 100000", "memory_dot_high": "max"}),
        ("0::/", {"cpu_dot_max": "", "memory_dot_max": "\x00\xff"}),
        ("0::/", {"cpu_dot_max": "100000 0", "memory_dot_max": "0"}),
        ("4:memory:/\n3:cpu:/", {
            "memory__memory_dot_limit_in_bytes": NO_LIMIT,
            "memory__memory_dot_stat": f"hierarchical_memory_limit {NO_LIMIT}",
            "cpu__cpu_dot_cfs_quota_us": "-1", "cpu__cpu_dot_cfs_period_us": "100000",
        }),
    ],
)  # fmt: skip
def test_no_limit_is_none(group: str, files: dict[str, str], tmp_path: Path) -> None:
    assert found(system(tmp_path, group, **files)) == (None, [])
    assert found(tmp_path / "nothing") == (None, [])


def test_a_group_above_the_mount_is_the_mount(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/../../other", memory_dot_max="3000000000", memory_dot_high="2500000000")
    assert found(root)[1] == [limits.MemoryRoom("control group", 2_500_000_000, 0)]


@pytest.mark.parametrize(
    ("environ", "cores", "memory"),
    [
        ({}, None, None),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "16", "SLURM_MEM_PER_NODE": "8192"}, 4, 8192 << 20),
        ({"SLURM_CPUS_ON_NODE": "16", "SLURM_MEM_PER_CPU": "2048"}, 16, 32768 << 20),
        ({"SLURM_CPUS_PER_TASK": "", "SLURM_MEM_PER_NODE": "0"}, None, None),
    ],
)
def test_what_slurm_gave_a_job(environ: dict[str, str], cores: int | None, memory: int | None, tmp_path: Path) -> None:
    assert core_limits(tmp_path, environ).get("Slurm") == cores
    assert [room.limit for room in memory_limits(tmp_path, environ)] == ([memory] if memory else [])


@given(st.integers(1, 10**7), st.integers(1_000, 10**6), st.sets(st.integers(0, 63), min_size=1), st.integers(1, 128))
def test_cores_are_whole_and_never_more_than_any_limit_needs(
    quota: int, period: int, affinity: set[int], slurm: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        root = system(Path(folder), "0::/", cpu_dot_max=f"{quota} {period}")
        patch.setattr(os, "sched_getaffinity", lambda pid: affinity, raising=False)
        patch.setattr(os, "cpu_count", lambda: 64)
        cores = available_cores(root, {"SLURM_CPUS_PER_TASK": str(slurm)})
    assert 1 <= cores <= min(len(affinity), slurm, 64)
    assert cores - 1 < quota / period or cores == 1
    assert cores >= min(len(affinity), slurm, quota / period, 64)


# --- what keeps to them ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "drawn.tif"
    write_synthetic_slide(path, (700, 700), mpp=0.5, tissue_fraction=0.9)
    return path


def allow(patch: pytest.MonkeyPatch, root: Path, memory: int, cores: float, others: int = 0) -> None:
    """Put this process in a group with these limits, in which other processes hold so many bytes."""
    taken = others + bytes_held(psutil.Process())
    system(
        root, "0::/", memory_dot_max=str(memory), memory_dot_current=str(taken + GB),
        memory_dot_stat=f"inactive_file {GB}", cpu_dot_max=f"{round(cores * 1e5)} 100000",
    )  # fmt: skip
    patch.setattr(limits, "ROOT", root)


def test_a_plan_keeps_to_the_container(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: _Memory(64 * GB))
    settings = Settings(model="classical", device="cpu", region=512)
    free = plan_slide(slide, tmp_path / "out", settings)
    assert free.max_workers == 16
    allow(monkeypatch, tmp_path / "root", 64 * GB, 2.5)
    assert plan_slide(slide, tmp_path / "out", settings).max_workers == 3
    allow(monkeypatch, tmp_path / "root", 5 * GB, 8, others=GB)
    tight = plan_slide(slide, tmp_path / "out", settings)
    assert 1 <= tight.max_workers < 8
    assert tight.memory_bytes <= 4.05 * GB
    # What this process itself holds may grow between two readings.
    with pytest.raises(PlanError, match=r"memory: \d+\.\d\d GB needed, (3\.9|4\.0)\d GB available"):
        plan_slide(slide, tmp_path / "out", replace(settings, workers=12, memory_gb=60))
    allow(monkeypatch, tmp_path / "root", 1 * GB, 8)
    with pytest.raises(PlanError, match=r"memory: \d\.\d\d GB needed, 1\.00 GB available"):
        plan_slide(slide, tmp_path / "out", settings)


class _Memory:
    """What psutil tells of a machine with so much free memory."""

    def __init__(self, available: int) -> None:
        self.available = available


def test_a_run_is_kept_to_what_it_was_given_and_to_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, tmp_path, 8 * GB, 2, others=2 * GB)
    assert enforced_bytes(None) == pytest.approx(0.95 * 6 * GB, rel=0.01)
    assert enforced_bytes(64 * GB) == pytest.approx(0.95 * 6 * GB, rel=0.01)
    assert enforced_bytes(3 * GB) == 3 * GB
    assert free_bytes() <= 6.1 * GB
    allow(monkeypatch, tmp_path, GB, 2, others=2 * GB)  # others have taken it all
    assert free_bytes() == enforced_bytes(None) == 0
    assert workers_that_fit(GB, free_bytes()) == 1


def test_without_limits_a_run_is_kept_to_what_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiproc.executors.memory.memory_limits", list)
    assert enforced_bytes(None) is None
    assert enforced_bytes(3.0) == 3.0


def test_training_starts_no_more_threads_than_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        monkeypatch.setattr("wsiproc.models.device.available_cores", lambda: 3)
        use_allowed_cores()
        assert torch.get_num_threads() == 3
        monkeypatch.setattr("wsiproc.models.device.available_cores", lambda: 64)
        use_allowed_cores()
        assert torch.get_num_threads() == 3  # as the user had it
    finally:
        torch.set_num_threads(before)


def test_a_job_of_slurm_gets_as_many_workers_as_cores(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real run, in an environment as Slurm makes it."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "6000")
    done = wsiproc("run", slide, "-o", tmp_path, "--model", "classical", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "drawn" / "run.json").read_text())
    assert run["profile"]["workers"] == 1
    assert run["memory"]["limit_bytes"] == pytest.approx(0.95 * 6000 * 2**20)
