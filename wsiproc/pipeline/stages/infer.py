"""Infer: one region of the slide through the network, its maps written as one complete shard of the stitched image."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.core.frame import needed_windows
from wsiproc.core.geometry import Box, Region
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideError, SlideReadError, SlideTimeoutError
from wsiproc.executors import Measured, Task, TaskMetrics
from wsiproc.io.atomic import write_json
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.slides.pixels.mirror import read_mirrored
from wsiproc.models.base import Model
from wsiproc.models.inference import predict_each
from wsiproc.pipeline.stages.job import Job, infer_marker, opened_slide, search_mask, stage, stage_task
from wsiproc.results.profile import NetworkTime, Stage

_MAX_ATTEMPTS = 3  # of a region whose reads time out


@dataclass(frozen=True)
class Inferred:
    """The result of a region: number of windows predicted, their area in Mpx, and why it could not be read, if so.

    ``resumed``: whether an earlier run had done it; the time was ``spent`` then.
    """

    key: str
    windows: int
    mpx: float
    spent: NetworkTime
    failed: str | None = None
    resumed: bool = False


def infer_task(job: Job, region: Region) -> Task:
    """The task that fills the maps of a region."""
    fallback = partial(_timed_out, job, region)
    task = stage_task(Stage.INFER, region.key, infer_region, (job, region), gpu=True)
    return replace(task, max_attempts=_MAX_ATTEMPTS, fallback=fallback)


@stage
def infer_region(job: Job, region: Region) -> Inferred:
    """Write the maps of one region.

    An area that cannot be decoded fails its region, not the slide: the region's maps stay empty and ``failed`` says
    why. It fails the slide if the job is strict, or if the slide's file is inaccessible. A read that takes too long
    raises SlideTimeoutError, and may be retried.
    """
    marker = infer_marker(job, region.key)
    if marker.exists():
        return _resumed(marker)
    windows = needed_windows(search_mask(job), job.frame.grid, region.box, job.window_rule)
    try:
        spent = _fill_maps(job, region, windows)
    except SlideTimeoutError:
        opened_slide.cache_clear()  # the read may be stuck indefinitely, and block others
        raise
    except SlideReadError as error:
        return _unread(job, region, error)  # without a marker, so that a later run retries it
    done = Inferred(region.key, len(windows), sum(window.area for window in windows) / 1e6, spent)
    write_json(marker, asdict(done))
    return done


def _resumed(marker: Path) -> Inferred:
    """The result of an earlier run."""
    done: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
    return Inferred(**done | {"spent": NetworkTime(**done["spent"]), "resumed": True})


def _fill_maps(job: Job, region: Region, windows: Sequence[Box]) -> NetworkTime:
    """Predict the windows of a region and write their maps."""
    if not windows:
        return NetworkTime()
    box = ngff.part_to_write(_around(windows), region.box, job.region_px)
    maps = np.zeros((len(job.model.channels), *box.shape), np.uint8)
    spent = predict_windows(job, box, windows, maps)
    ngff.write_pyramid(job.maps, box, maps, job.region_px)
    return spent


def _timed_out(job: Job, region: Region, error: Exception) -> Measured[Inferred]:
    """The result of a region whose every attempt timed out."""
    return Measured(_unread(job, region, error), TaskMetrics())


def _unread(job: Job, region: Region, error: Exception) -> Inferred:
    """The result of a region that could not be read; raises what must stop the slide."""
    try:
        job.source.path.stat()
    except OSError as gone:
        raise SlideError(
            f"{job.source.path} is out of reach: {gone.strerror}. Is its drive still connected? Completed work is "
            "kept; run the same command to resume"
        ) from error
    if job.strict:
        raise error
    return Inferred(region.key, 0, 0.0, NetworkTime(), failed=str(error))


def predict_windows(job: Job, box: Box, windows: Sequence[Box], maps: UInt8Array) -> NetworkTime:
    """Fill ``maps`` (c, h, w) of a box from the windows in it, row by row; the time spent."""
    halo = job.model.halo
    spent = NetworkTime()
    in_flight: deque[list[Box]] = deque()  # the windows of the batches that are being predicted
    for outputs, seconds in predict_each(job.model, _inputs(job, windows, in_flight, spent), job.device):
        spent.predict_s += seconds
        for window, output in zip(in_flight.popleft(), outputs, strict=True):
            part = window.relative_to(box)
            maps[(slice(None), *part.slices)] = output[:, halo : halo + part.h, halo : halo + part.w]
    return spent


def _inputs(job: Job, windows: Sequence[Box], in_flight: deque[list[Box]], spent: NetworkTime) -> Iterator[UInt8Array]:
    """The model's input for the windows, batch by batch (b, h, w, 3), read a row at a time; each batch's windows are
    appended to ``in_flight``.
    """
    slide = opened_slide(job.source)
    for row in _rows(windows, job.model.window):
        seen = [seen_by(job.model, window) for window in row]
        strip = _around(seen)
        clock = time.perf_counter()
        pixels = read_mirrored(slide, strip, job.model.mpp)
        spent.read_s += time.perf_counter() - clock
        spent.read_mpx += strip.area / 1e6
        for some in _batches(seen, job.batch):
            spent.network_mpx += sum(seen[i].area for i in some) / 1e6
            in_flight.append([row[i] for i in some])
            yield np.stack([pixels[seen[i].relative_to(strip).slices] for i in some])


def _rows(windows: Sequence[Box], side: int) -> list[list[Box]]:
    """Windows in raster order, one list per row of the raster; cropped ones may begin anywhere in it."""
    return [list(row) for _, row in itertools.groupby(windows, lambda window: window.y // side)]


def seen_by(model: Model, window: Box) -> Box:
    """The model's input for a window: its sides rounded up to ``window_multiple``, and the halo; mirrored where the
    slide ends.
    """
    h, w = (-(-side // model.window_multiple) * model.window_multiple for side in window.shape)
    return Box(window.y, window.x, h, w).pad(model.halo)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all."""
    y, x = min(box.y for box in boxes), min(box.x for box in boxes)
    return Box(y, x, max(box.y1 for box in boxes) - y, max(box.x1 for box in boxes) - x)


def _batches(boxes: Sequence[Box], most: int) -> Iterator[Sequence[int]]:
    """Indices of consecutive boxes of the same shape, at most ``most`` at a time."""
    for _, same in itertools.groupby(range(len(boxes)), lambda i: boxes[i].shape):
        alike = list(same)
        yield from (alike[first : first + most] for first in range(0, len(alike), most))
