"""Benchmarks of whole runs, and of other tools beside them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.benchmarks.command import output_of
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


def test_scaling_prints_its_line_and_its_ratio() -> None:
    printed = output_of("scaling.py", "--side", "512", "--times", "1", "2")
    assert "r² = 1.0000" in printed  # two slides lie on a line
    assert "cells the same: yes" in printed


def test_stages_stand_beside_the_network(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "some.tif", (400, 400), mpp=0.5, tissue_fraction=0.8)
    printed = output_of("stages.py", str(tmp_path / "some.tif"), "--model", "classical")
    assert all(f"| {stage} |" in printed for stage in ("network", "read", "segment", "merge", "labels", "GeoJSON"))
    assert "all but the network and the seam certificate: " in printed


def test_a_whole_run_is_held_against_its_network(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "drawn.tif", (300, 300), mpp=0.5, tissue_fraction=0.8)
    printed = output_of("whole_run.py", str(tmp_path / "drawn.tif"), "--workers", "1", "--model", "fast")
    assert "windows as the run cuts them" in printed
    assert "all but the network:" in printed
