"""Benchmarks are run by hand; that they still can be is tested here, on little work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.command import BENCHMARKS, output_of, printed_here
from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import SlideSource
from wsiproc.synthetic import write_synthetic_slide

SVS = Path(__file__).parents[2].parent / "shared/data/slides/CMU-1-Small-Region.svs"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("peak_memory.py", sys.executable, "-c", "print('hello')"), "peak of all processes"),
        (("fuzz.py", "ndpi", "--files", "4"), "| ndpi | 4 | "),
        (("scheduler_overhead.py", "--tasks", "200"), "200 tasks: "),
        (
            ("simulate_cohort.py", "--slides", "2", "--regions", "4", "--workers", "1"),
            "measured: 2 slides of 4 regions",
        ),
    ],
)
def test_a_benchmark_prints_its_figures(command: tuple[str, ...], said: str) -> None:
    assert said in output_of(*command)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("million_cells.py", "4000", "1"), "peak of all processes"),
        (("cells_in_python.py", "--cells", "4000"), "SpatialData"),
        (("qupath_split.py", "4000"), "4,900 cells before, 4,900 after: 4,900 unchanged"),
        (("corrupt_batch.py", "15"), "good: 1 done, 0 lost; bad: 14 named, 0 not exactly once"),
        (("first_contact.py", "--only", "50_", "--model", "classical"), "| slides | 1 | 7 | 0 |"),
        (("geojson_write.py", "20000"), "per million"),
        (("read.py", str(SVS), "--strips", "2"), "2 of 2 |"),
    ],
)
def test_a_benchmark_without_settings_of_its_process_prints_its_figures(
    command: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said in printed_here(capfd, *command)


@pytest.mark.parametrize(
    ("script", "library", "given"),
    [("process_pools.py", "pebble", []), ("int8_libraries.py", "openvino", ["slide.svs"])],
)
def test_a_library_that_is_missing_is_named(script: str, library: str, given: list[str]) -> None:
    code = (
        f"import runpy, sys; sys.modules[{library!r}] = None; sys.argv[1:] = {given}\n"
        f"runpy.run_path({str(BENCHMARKS / script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"is not installed: pip install {library}")


def test_a_mosaic_is_the_slide_side_by_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_synthetic_slide(tmp_path / "drawn.tif", (700, 500), mpp=0.5, tissue_fraction=0.8)
    printed_here(capfd, "mosaic.py", str(tmp_path / "drawn.tif"), str(tmp_path / "large.tif"))
    with SlideSource(tmp_path / "drawn.tif").open() as one, SlideSource(tmp_path / "large.tif").open() as four:
        assert four.shape == (1400, 1000)
        copies = [four.read(Box(y, x, 700, 500), 0.5).astype(int) for y in (0, 700) for x in (0, 500)]
        assert all(np.abs(copy - one.read(Box(0, 0, 700, 500), 0.5)).mean() < 4 for copy in copies)
