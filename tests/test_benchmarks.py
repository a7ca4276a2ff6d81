"""Benchmarks are run by hand; that they still can be is tested here, on little work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.datasets_on_disk import picture, write_masks, write_points
from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import SlideSource
from wsiproc.synthetic import write_synthetic_slide

SVS = Path(__file__).parents[1].parent / "shared/data/slides/CMU-1-Small-Region.svs"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("million_cells.py", "4000", "1"), "peak of all processes"),
        (("peak_memory.py", sys.executable, "-c", "print('hello')"), "peak of all processes"),
        (("geojson_write.py", "20000"), "per million"),
        (("cells_in_python.py", "--cells", "4000"), "SpatialData"),
        (("read.py", str(SVS), "--strips", "2"), "2 of 2 |"),
        (("qupath_split.py", "4000"), "4,900 cells before, 4,900 after: 4,900 unchanged"),
        (("fuzz.py", "ndpi", "--files", "4"), "| ndpi | 4 | "),
        (("corrupt_batch.py", "15"), "good: 1 done, 0 lost; bad: 14 named, 0 not exactly once"),
        (("first_contact.py", "--only", "50_", "--model", "classical"), "| slides | 1 | 7 | 0 |"),
        (("scheduler_overhead.py", "--tasks", "200"), "200 tasks: "),
        (
            ("simulate_cohort.py", "--slides", "2", "--regions", "4", "--workers", "1"),
            "measured: 2 slides of 4 regions",
        ),
    ],
)
def test_a_benchmark_prints_its_figures(command: tuple[str, ...], said: str) -> None:
    assert said in output_of(*command)


def test_the_floor_is_scored_on_every_labelled_picture(tmp_path: Path) -> None:
    write_masks(tmp_path, ["one", "two"])
    printed = output_of("classical_floor.py", str(tmp_path))
    assert all(f"│ {name} " in printed for name in ("one", "two", "mean"))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("psm_agreement.py", ["| none: random weights | ", "| similarity | ", "times faster"]),
        ("psm_ablation.py", ["| similarity | layer1 | ", "| similarity | layer4 | ", "| none: colour alone | "]),
    ],
)
def test_the_published_method_is_measured(script: str, said: list[str], tmp_path: Path) -> None:
    write_masks(tmp_path / "monuseg_train", ["one"])
    folder = tmp_path / "corpus" / "breast_HE"
    folder.mkdir(parents=True)
    picture(5).save(folder / "a.png")
    printed = output_of(script, str(tmp_path), "--objective", "similarity", "--steps", "1", "--crop-px", "32")
    assert all(words in printed for words in said)


def output_of(script: str, *arguments: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_quality_and_cost_of_models_stand_side_by_side(tmp_path: Path) -> None:
    write_masks(tmp_path, ["one", "two"])
    printed = output_of("quality_per_second.py", str(tmp_path), "--limit", "1", "--model", "psm")
    assert "1 pictures, 0.2 Mpx, one core" in printed
    assert all(f"| {model} | 1 | " in printed for model in ("classical", "psm"))


def test_a_mosaic_is_the_slide_side_by_side(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "drawn.tif", (700, 500), mpp=0.5, tissue_fraction=0.8)
    output_of("mosaic.py", str(tmp_path / "drawn.tif"), str(tmp_path / "large.tif"))
    with SlideSource(tmp_path / "drawn.tif").open() as one, SlideSource(tmp_path / "large.tif").open() as four:
        assert four.shape == (1400, 1000)
        copies = [four.read(Box(y, x, 700, 500), 0.5).astype(int) for y in (0, 700) for x in (0, 500)]
        assert all(np.abs(copy - one.read(Box(0, 0, 700, 500), 0.5)).mean() < 4 for copy in copies)


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


def test_judges_are_asked_together_and_told_apart(tmp_path: Path) -> None:
    """The one that is missing is named; a line each, means of organs, gains over the baseline, and the worst drawn."""
    write_masks(tmp_path / "monuseg_train", ["TCGA-B0-5698-01Z-00-DX1", "TCGA-KB-A93J-01A-01-TS1"])
    (tmp_path / "judges" / "brca_m2c" / "images").mkdir(parents=True)
    picture(7).save(tmp_path / "judges" / "brca_m2c" / "images" / "a.png")
    write_points(tmp_path / "judges" / "brca_m2c" / "points" / "a.csv", [(50, 60, "nucleus")])
    write_masks(tmp_path / "judges" / "tnbc", ["the same as the first"])
    names = [part for name in ("monuseg", "tnbc", "nucls", "brca-m2c") for part in ("--judge", name)]
    printed = output_of(
        "judges.py", str(tmp_path), "-m", "psm", "-w", "1", *names, "--overlays", str(tmp_path / "worst"),
        "--worst", "1", "--reliability", str(tmp_path / "reliability.svg"),
    )  # fmt: skip
    assert "Left out: nucls, there is no " in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    judged = [row for row in rows if row[1] in {"chosen on", "unseen"}]
    assert [(row[0], row[1], row[3]) for row in judged] == [
        (judge, role, model)
        for judge, role in (("monuseg", "chosen on"), ("tnbc", "unseen"), ("brca-m2c", "unseen"))
        for model in ("classical", "psm")
    ]
    organs = [row for row in rows if row[0] == "monuseg" and row[1] in {"kidney", "stomach"}]
    assert [row[1:4] for row in organs] == [
        [organ, "1", model] for organ in ("kidney", "stomach") for model in ("classical", "psm")
    ]
    aji = {(row[0], row[3]): float(row[4]) for row in judged if row[4]}
    assert float(organs[0][4]) == aji["tnbc", "classical"] > 0.2
    (gains,) = (row for row in rows if row[0] == "psm")
    assert float(gains[1]) == pytest.approx(aji["monuseg", "psm"] - aji["monuseg", "classical"], abs=0.0011)
    assert float(gains[-1].split()[0]) == min(float(gain) for gain in gains[1:4])
    assert "share of cells that are true" in (tmp_path / "reliability.svg").read_text(encoding="utf-8")
    overlays = sorted(path.relative_to(tmp_path / "worst").as_posix() for path in (tmp_path / "worst").rglob("*.png"))
    assert [path.rsplit("/", 1)[0] for path in overlays] == [
        f"{judge}/{model}" for judge in ("brca-m2c", "monuseg", "tnbc") for model in ("classical", "psm")
    ]
