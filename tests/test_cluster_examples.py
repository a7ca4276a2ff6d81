"""Examples for job queues: what they would submit, and that a submitted job does the work. There is no queue here: a
stand-in for its submit command starts the job script at once, which is all that differs from the real thing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.example_runs import EXAMPLES, run_example
from tests.executors.cluster_processes import REPOSITORY
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide


def test_every_example_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in (EXAMPLES / "cluster").glob("*.py") if f"cluster/{path.name}" not in text] == []


@pytest.mark.parametrize(
    ("queue", "asked_for"),
    [
        (
            "slurm",
            [
                ["#SBATCH -p cpu", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G", "#SBATCH -A us"],
                ["#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH --gres=gpu:1", "#SBATCH -A us"],
            ],
        ),
        (
            "lsf",
            [
                ["#BSUB -q cpu", "#BSUB -n 8", '#BSUB -R "span[hosts=1]"', '#BSUB -P "us"', "#BSUB -W 08:00"],
                ["#BSUB -q gpu", "#BSUB -n 4", "#BSUB -gpu num=1", '#BSUB -P "us"', "#BSUB -W 08:00"],
            ],
        ),
    ],
)
def test_job_scripts_ask_for_what_their_workers_need(queue: str, asked_for: list[list[str]], tmp_path: Path) -> None:
    options = ["--show", "--cores", 8, "--gpu-jobs", 1, "--account", "us"]
    done = run_example("cluster/job_queue.py", queue, tmp_path, "slide.svs", *options)
    assert done.returncode == 0, done.stderr
    scripts = ["#!/usr/bin/env bash" + script for script in done.stdout.split("#!/usr/bin/env bash")[1:]]
    assert len(scripts) == 2
    for script, lines in zip(scripts, asked_for, strict=True):
        assert set(lines) <= set(script.splitlines())
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    cpu, gpu = (script.splitlines()[-1].split() for script in (s.rstrip() for s in scripts))
    assert cpu[cpu.index("--nworkers") + 1] == "8"
    assert cpu[cpu.index("--nthreads") + 1] == gpu[gpu.index("--nthreads") + 1] == "1"
    assert gpu[gpu.index("--resources") + 1] == "GPU=1"
    assert "--resources" not in cpu
    for command in (cpu, gpu):
        assert command[command.index("--dashboard-address") + 1] == "127.0.0.1:0"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_synthetic_slide(path, (700, 700), mpp=0.5, tissue_fraction=0.9)
    return path


@pytest.fixture(scope="module")
def cells(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a run at home finds."""
    (outcome,) = run_slides([slide], tmp_path_factory.mktemp("home"), Settings(model="classical", executor="loop"))
    assert outcome.folder is not None
    return (outcome.folder / "cells.parquet").read_bytes()


def stand_in(folder: Path, submit: str, cancel: str) -> None:
    """Commands of a queue that is always empty: a job starts when it is submitted, from a file or standard input."""
    folder.mkdir()
    commands = {
        submit: f'cat "${{1:-/dev/stdin}}" > {folder}/job.$$; setsid bash {folder}/job.$$ > {folder}/log.$$ 2>&1 &\n'
        "echo Submitted job $!",
        cancel: 'kill -- "-$1"',
    }
    for name, command in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{command}\n")
        (folder / name).chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="setsid")
@pytest.mark.parametrize(
    ("queue", "submit", "cancel", "gpu_jobs"), [("slurm", "sbatch", "scancel", 1), ("lsf", "bsub", "bkill", 0)]
)
def test_submitted_jobs_do_the_work(
    queue: str, submit: str, cancel: str, gpu_jobs: int, slide: Path, cells: bytes, tmp_path: Path
) -> None:
    stand_in(tmp_path / "queue", submit, cancel)
    path = f"{tmp_path / 'queue'}:{os.environ['PATH']}"
    options = ["--cpu-jobs", 1, "--cores", 1, "--gpu-jobs", gpu_jobs, "--model", "classical"]
    done = run_example(
        "cluster/job_queue.py", queue, tmp_path / "out", slide, *options, PATH=path, PYTHONPATH=str(REPOSITORY)
    )
    assert (done.returncode, done.stdout) == (0, "slide.tif: done\n"), done.stderr
    assert len(list((tmp_path / "queue").glob("job.*"))) == 1 + gpu_jobs
    assert (tmp_path / "out/slide/cells.parquet").read_bytes() == cells


@pytest.mark.skipif(importlib.util.find_spec("dask_cuda") is not None, reason="dask-cuda is installed")
def test_several_gpus_says_what_is_missing(tmp_path: Path) -> None:
    done = run_example("cluster/several_gpus.py", tmp_path, "slide.svs")
    assert done.returncode == 1
    assert done.stderr.startswith("several GPUs need dask-cuda (No module named 'dask_cuda'): pip install dask-cuda")
