"""Benchmarks are run by hand; that they still can be is tested here, on little work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("million_cells.py", "4000", "1"), "peak of all processes"),
        (("peak_memory.py", sys.executable, "-c", "print('hello')"), "peak of all processes"),
        (("geojson_write.py", "20000"), "per million"),
    ],
)
def test_a_benchmark_prints_its_figures(command: tuple[str, ...], said: str) -> None:
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
