"""Benchmarks of whole runs, and of other tools beside them."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import pytest

from tests.benchmarks.command import BENCHMARKS, output_of, printed_here
from wsiproc.synthetic import write_synthetic_slide


def test_peers_stand_beside_whole_runs_and_those_not_there_are_named(tmp_path: Path) -> None:
    """With what installs them; the classical pipeline of peers is there and finds the drawn nuclei."""
    truth = write_synthetic_slide(tmp_path / "drawn.tif", (500, 600), mpp=0.5, tissue_fraction=0.8)
    elsewhere = ["--python", f"cellpose={tmp_path}/none", "--python", f"instanseg={shutil.which('false')}"]
    chosen = ["--peers", "scikit-image", "stardist", "cellpose", "instanseg", "--scale", "0.1", "--cold"]
    printed = output_of("peers.py", str(tmp_path / "drawn.tif"), *chosen, "--threads", "1", *elsewhere)
    assert "| wsiproc `default` | whole run" in printed
    (found,) = re.findall(r"^\| scikit-image \S+ \| whole run over dask, ([\d,]+) cells \|", printed, re.MULTILINE)
    assert 0.7 * truth.cells < int(found.replace(",", "")) < 1.3 * truth.cells
    assert "| stardist | not installed: pip install stardist tensorflow-cpu |" in printed
    assert "| cellpose | failed: " in printed
    assert "| instanseg | failed: it said nothing |" in printed


def test_scaling_runs_one_slide_with_one_and_two_workers() -> None:
    printed = output_of("scaling.py", "--side", "512", "--times", "1")
    assert "| 1 × | " in printed
    assert "cells the same: yes" in printed


def test_scaling_finds_the_line_through_its_slides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    scaling = importlib.import_module("scaling")
    runs = [
        scaling.Run(mm2, 10, 7 + 3 * mm2, dict.fromkeys(scaling.STAGES, mm2), 2**30, n * 2**29, 4.0)
        for n, mm2 in enumerate((1, 2, 5), 1)
    ]
    scaling.print_areas([1, 2, 5], runs)
    printed = capsys.readouterr().out
    assert "| 5 × | 5.00 | 10 | 22.0 | 4.40 | 10.0 | 1.00 | 1.50 |" in printed
    assert "whole command = 7.0 s + 3.00 s per mm², r² = 1.0000" in printed
    assert "peak PSS from the first to the last: × 3.00" in printed


def test_stages_stand_beside_the_network(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_synthetic_slide(tmp_path / "some.tif", (400, 400), mpp=0.5, tissue_fraction=0.8)
    printed = printed_here(capfd, "stages.py", str(tmp_path / "some.tif"), "--model", "classical")
    assert all(f"| {stage} |" in printed for stage in ("network", "read", "segment", "merge", "labels", "GeoJSON"))
    assert "all but the network and the seam certificate: " in printed


def test_a_whole_run_is_held_against_its_network(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "drawn.tif", (300, 300), mpp=0.5, tissue_fraction=0.8)
    printed = output_of("whole_run.py", str(tmp_path / "drawn.tif"), "--workers", "1", "--model", "fast")
    assert "windows as the run cuts them" in printed
    assert "all but the network:" in printed
