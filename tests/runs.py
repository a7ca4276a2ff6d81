"""Slides run in this process, and what two runs must agree in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.progress import Outcome
from wsiproc.pipeline.settings import Settings

SIX: dict[str, Any] = {"model": "classical", "executor": "loop", "region": 512, "tissue": "all"}
"""Settings that make six regions of the slide ``six``."""


class Stop(BaseException):
    """Stands for the process being killed."""


def run_one(path: Path, out: Path, **settings: Any) -> Outcome:
    """The outcome of one slide, whose error is raised."""
    given: dict[str, Any] = {"model": "classical", "executor": "loop", "region": 1024} | settings
    (outcome,) = run_slides([path], out, Settings(**given))
    if outcome.error is not None:
        raise outcome.error
    return outcome


def assert_same_cells(a: Path, b: Path) -> None:
    for name in ("cells.parquet", "cells.geojson.gz"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), f"{name} differs"
    for name in ("cells", "classes"):
        one, other = (zarr.open_group(folder / "slide.ome.zarr/labels" / name, mode="r") for folder in (a, b))
        for level in one:
            assert np.array_equal(np.asarray(one[level]), np.asarray(other[level])), f"{name} {level} differs"
