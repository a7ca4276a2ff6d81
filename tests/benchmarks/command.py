"""Benchmarks, run as by hand."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def output_of(script: str, *arguments: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_here(capfd: pytest.CaptureFixture[str], script: str, *arguments: str) -> str:
    """What a benchmark prints that is run in this process, where libraries are loaded already."""
    path, code = str(BENCHMARKS / script), None
    capfd.readouterr()
    with patch.object(sys, "argv", [path, *arguments]), patch.object(sys, "path", [str(BENCHMARKS), *sys.path]):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            code = end.code
    assert not code
    return capfd.readouterr().out
