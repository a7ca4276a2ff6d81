"""The job that all tasks of a slide share, and how each task prepares its worker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from wsiproc.array.nuclei.measure import measurement_names
from wsiproc.core.frame import Frame, WindowRule
from wsiproc.core.geometry import Region
from wsiproc.core.immuno import RING_COLUMNS, Scoring
from wsiproc.core.palette import RGB, class_colour
from wsiproc.core.phenotypes import Phenotypes
from wsiproc.core.types import BoolArray
from wsiproc.executors import Measured, Task, measured, trim_heap, tune_malloc
from wsiproc.io.slides.open import Slide, SlideSource
from wsiproc.models.base import Model
from wsiproc.models.device import Device
from wsiproc.results.folder import WORK
from wsiproc.results.profile import Stage

if TYPE_CHECKING:
    from shapely import MultiPolygon


_Value = TypeVar("_Value")
_Arguments = ParamSpec("_Arguments")

# Twice the largest nucleus's reach from its centre.
CONTEXT_UM = 25.0


@dataclass(frozen=True)
class Job:
    """What every task of a slide needs; small and picklable."""

    source: SlideSource
    folder: Path
    fingerprint: str
    frame: Frame
    model: Model
    region_px: int
    device: Device
    batch: int
    roi: MultiPolygon | None
    phenotypes: Phenotypes | None = None
    scoring: Scoring | None = None
    strict: bool = False

    @property
    def classes(self) -> Mapping[str, RGB]:
        """Colours of the classes of cells by name: phenotypes, else classes by DAB, else the model's own."""
        if self.phenotypes is not None:
            return dict(zip(self.phenotypes.names, self.phenotypes.colours, strict=True))
        if self.scoring is not None:
            return self.scoring.classes
        return {name: class_colour(name, index) for index, name in enumerate(self.model.classes)}

    @property
    def measurements(self) -> list[str]:
        """Columns that are measured for each cell."""
        ring = RING_COLUMNS if self.scoring is not None else ()
        return [*measurement_names(list(stain_channels(self.model))), *ring]

    @property
    def context_px(self) -> int:
        """How far beyond the search mask maps are needed, grid px.

        Around tissue there is only background, so it is the reach of a nucleus at the edge. Around a region of interest
        tissue continues, so it is everything that a cell may depend on.
        """
        reach = round(CONTEXT_UM / self.frame.mean_mpp)
        return self.model.margin if self.roi is not None else min(self.model.margin, reach)

    @property
    def window_rule(self) -> WindowRule:
        """How maps are divided into windows."""
        return WindowRule(self.model.window, self.model.window_multiple, self.context_px)

    @property
    def work(self) -> Path:
        """The work directory, for files of unfinished work."""
        return self.folder / WORK

    @property
    def maps(self) -> Path:
        """The stitched maps."""
        return self.folder / "maps.ome.zarr"

    @property
    def image(self) -> Path:
        """Overview image and labels."""
        return self.folder / "slide.ome.zarr"

    @property
    def cells(self) -> Path:
        """The cell table."""
        return self.folder / "cells.parquet"

    def part(self, region: Region) -> Path:
        """Cells of one region."""
        return self.work / f"{region.key}.part"


# Slides processed concurrently; each keeps its file open.
_SLIDES = 2


@lru_cache(maxsize=_SLIDES)
def opened_slide(source: SlideSource) -> Slide:
    """The slide, opened once in each worker."""
    return source.open()


@lru_cache(maxsize=_SLIDES)
def _search(path: Path, modified_ns: int) -> BoolArray:
    """The search mask, read once in each worker; a changed file is read again."""
    mask: BoolArray = np.load(path)
    return mask


def search_mask(job: Job) -> BoolArray:
    """Where to search for cells: tissue and a narrow border around it, on the overview (h, w)."""
    path = job.work / "search.npy"
    return _search(path, path.stat().st_mtime_ns)


# What a worker's heap may keep between two regions of the usual size, and reuses for the next.
_HELD_BYTES = 1e9


def prepare_worker() -> None:
    """Use one thread per worker, since tasks run concurrently; so no sum depends on the number of cores either."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    trim_heap(_HELD_BYTES)
    tune_malloc()


def infer_marker(job: Job, key: str) -> Path:
    """The file that exists once the maps of a region are written."""
    return job.work / f"{key}.inferred.json"


def stain_channels(model: Model) -> dict[str, int]:
    """Stains among the maps: name → channel."""
    return {channel.name: index for index, channel in enumerate(model.channels) if channel.stain}


def stage(call: Callable[_Arguments, _Value]) -> Callable[_Arguments, Measured[_Value]]:
    """Decorate the function of a stage's tasks: it prepares its worker, and returns its metrics with its result."""
    timed = measured(call)

    @functools.wraps(call)
    def prepared(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Measured[_Value]:
        prepare_worker()
        return timed(*args, **kwargs)

    return prepared


def stage_task(
    stage: Stage,
    place: str,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    depends_on: tuple[str, ...] = (),
    *,
    gpu: bool = False,
) -> Task:
    """The task of a stage at a place."""
    return Task(task_key(stage, place), call, args, depends_on, stage, gpu=gpu)


def task_key(stage: Stage, place: str) -> str:
    """Name of the task of a stage at a place, as other tasks depend on it."""
    return f"{stage} {place}"
