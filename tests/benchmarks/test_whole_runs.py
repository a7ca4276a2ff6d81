"""Benchmarks of whole runs, and of other tools beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.benchmarks.command import output_of
from wsiproc.synthetic import write_synthetic_slide


def test_peers_that_are_not_there_are_named_with_what_installs_them(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "drawn.tif", (600, 800), mpp=0.5, tissue_fraction=0.8)
    elsewhere = ["--python", f"cellpose={tmp_path}/none", "--python", f"instanseg={shutil.which('false')}"]
    chosen = ["--peers", "scikit-image", "stardist", "cellpose", "instanseg", "--scale", "0.1", "--cold"]
    printed = output_of("peers.py", str(tmp_path / "drawn.tif"), *chosen, *elsewhere)
    assert "| wsiproc `default` | whole run" in printed
    assert "| scikit-image " in printed
    assert "| stardist | not installed: pip install stardist tensorflow-cpu |" in printed
    assert "| cellpose | failed: " in printed
    assert "| instanseg | failed: it said nothing |" in printed


def test_the_classical_pipeline_of_peers_finds_the_drawn_nuclei(tmp_path: Path) -> None:
    truth = write_synthetic_slide(tmp_path / "drawn.tif", (1200, 1600), mpp=0.5, tissue_fraction=0.8)
    found = json.loads(output_of("peer_tools.py", "scikit-image", str(tmp_path / "drawn.tif"), "1"))
    assert 0.7 * truth.cells < found["cells"] < 1.3 * truth.cells


def test_scaling_prints_its_line_and_its_ratio() -> None:
    printed = output_of("scaling.py", "--side", "1024", "--times", "1", "2")
    assert "r² = 1.0000" in printed  # two slides lie on a line
    assert "cells the same: yes" in printed


def test_stages_stand_beside_the_network(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "some.tif", (600, 600), mpp=0.5, tissue_fraction=0.8)
    printed = output_of("stages.py", str(tmp_path / "some.tif"), "--model", "classical")
    assert all(f"| {stage} |" in printed for stage in ("network", "read", "segment", "merge", "labels", "GeoJSON"))
    assert "all but the network and the seam certificate: " in printed


def test_a_whole_run_is_held_against_its_network(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "drawn.tif", (600, 600), mpp=0.5, tissue_fraction=0.8)
    printed = output_of("whole_run.py", str(tmp_path / "drawn.tif"), "--workers", "1")
    assert "windows as the run cuts them" in printed
    assert "all but the network:" in printed
