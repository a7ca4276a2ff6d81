"""A result with two classes of cells, made by the Python API itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import wsiproc
from wsiproc.results.result import Result
from wsiproc.synthetic import write_synthetic_slide


@pytest.fixture(scope="session")
def drawn_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An IHC slide in two pieces of tissue, wider than high."""
    path = tmp_path_factory.mktemp("slides") / "drawn.tif"
    write_synthetic_slide(path, (1400, 2200), mpp=0.25, tissue_fraction=0.5, stain="HDAB", seed=3)
    return path


@pytest.fixture(scope="session")
def result(drawn_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What was found in it."""
    out = tmp_path_factory.mktemp("out")
    (outcome,) = wsiproc.run(drawn_slide, out, model="classical", executor="loop", region=512)
    assert outcome.error is None
    return wsiproc.open(out)
