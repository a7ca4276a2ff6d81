"""One region of a slide, the unit of work: its maps, and the cells whose centres lie in it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiproc.array.measure import LabelSums, centroids, label_sums, measure, measurement_names
from wsiproc.array.outline import trace
from wsiproc.array.ring import ring_sums
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.geometry import Box, Region, at_points
from wsiproc.core.immuno import RING_COLUMNS, RING_COMPLETE, RING_DAB, Scoring
from wsiproc.core.kinds import CellKinds
from wsiproc.core.palette import RGB, class_colour
from wsiproc.devices import Device
from wsiproc.errors import SlideError, SlideReadError, SlideTimeoutError
from wsiproc.executors import Meter, give_back_memory, keep_memory, worker_name
from wsiproc.inference import predict_each
from wsiproc.io import ngff
from wsiproc.io.mirror import read_mirrored
from wsiproc.io.parquet import write_part
from wsiproc.io.slides import Slide, SlideSource
from wsiproc.io.whole import write_json
from wsiproc.models.base import OD_STEP, Instances, Model
from wsiproc.projection import Frame, Mask, WindowRule, needed_windows
from wsiproc.workfolder import WORK

if TYPE_CHECKING:
    from shapely import MultiPolygon


# Twice what the largest nucleus reaches from its middle.
_SIGHT_UM = 25.0


@dataclass(frozen=True)
class Job:
    """What every task of a slide needs to know; small and picklable."""

    source: SlideSource
    folder: Path
    fingerprint: str
    frame: Frame
    model: Model
    step: int
    device: Device
    batch: int
    roi: MultiPolygon | None
    kinds: CellKinds | None = None
    scoring: Scoring | None = None
    strict: bool = False

    @property
    def classes(self) -> Mapping[str, RGB]:
        """Colours of the classes of cells by name: discovered kinds, else classes by DAB, else the model's own."""
        if self.kinds is not None:
            return dict(zip(self.kinds.names, self.kinds.colours, strict=True))
        if self.scoring is not None:
            return self.scoring.classes
        return {name: class_colour(name, index) for index, name in enumerate(self.model.classes)}

    @property
    def measurements(self) -> list[str]:
        """Columns that are measured for each cell."""
        ring = RING_COLUMNS if self.scoring is not None else ()
        return [*measurement_names(list(stain_channels(self.model))), *ring]

    @property
    def sight(self) -> int:
        """Grid px beyond where cells are looked for whose maps are needed.

        There is nothing but glass, so it is what a nucleus at the edge reaches. Around a region of interest tissue goes
        on, so it is all that a cell may depend on.
        """
        glass = round(_SIGHT_UM / float(np.mean(self.frame.mpp)))
        return self.model.margin if self.roi is not None else min(self.model.margin, glass)

    @property
    def window_rule(self) -> WindowRule:
        """How the maps are asked for."""
        return WindowRule(self.model.window, self.model.grain, self.sight)

    @property
    def work(self) -> Path:
        """Files of unfinished work."""
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


# Slides that are worked on at the same time; each keeps its file open.
_SLIDES = 2


@lru_cache(maxsize=_SLIDES)
def _slide(source: SlideSource) -> Slide:
    """The slide, opened once in each worker."""
    return source.open()


@lru_cache(maxsize=_SLIDES)
def _search(path: Path, modified_ns: int) -> Mask:
    """The mask of where to look, read once in each worker; a changed file is read again."""
    mask: Mask = np.load(path)
    return mask


def search_mask(job: Job) -> Mask:
    """Where to look for cells: tissue and a narrow border around it, on the overview (h, w)."""
    path = job.work / "search.npy"
    return _search(path, path.stat().st_mtime_ns)


# --- infer -----------------------------------------------------------------------------------------------------------


# What a worker holds between two regions of the usual size, and takes again for the next.
_HELD_BYTES = 1e9


def begin_task() -> None:
    """Tasks run side by side, a thread each; so no sum depends on how many cores there are either."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    give_back_memory(_HELD_BYTES)
    keep_memory()


def _infer_marker(job: Job, key: str) -> Path:
    """There once the maps of a region are."""
    return job.work / f"{key}.infer.json"


def infer_region(job: Job, region: Region) -> dict[str, Any]:
    """Write the maps of one region; what was done, as plain values.

    A place that cannot be decoded costs its region, not the slide: the region's maps stay empty and ``failed`` says
    why. It costs the slide where the job is strict, or where the whole slide is out of reach. A read that takes too
    long raises SlideTimeoutError, and is worth another try.
    """
    marker = _infer_marker(job, region.key)
    if marker.exists():
        done: dict[str, Any] = json.loads(marker.read_text())
        return done | {"resumed": True}
    begin_task()
    meter = Meter()
    windows = needed_windows(search_mask(job), job.frame.grid, region.box, job.window_rule)
    done_mpx = sum(window.area for window in windows) / 1e6
    result: dict[str, Any] = {"key": region.key, "windows": len(windows), "mpx": done_mpx, "failed": None}
    try:
        if windows:
            box = ngff.part_to_write(_around(windows), region.box, job.step)
            maps = np.zeros((len(job.model.channels), *box.shape), np.uint8)
            result |= predict_windows(job, box, windows, maps)
            ngff.write_pyramid(job.maps, box, maps, job.step)
    except SlideTimeoutError:
        _slide.cache_clear()  # the read may be stuck for good, and hold what the file needs
        raise
    except SlideReadError as error:
        result |= unread(job, region, error)
    result |= meter.facts()
    result["worker"] = worker_name()
    if result["failed"] is None:  # else a run that goes on from here tries again
        write_json(marker, result)
    return result


def unread(job: Job, region: Region, error: Exception) -> dict[str, Any]:
    """What stands for a region that could not be read; raises what must stop the slide."""
    try:
        job.source.path.stat()
    except OSError as gone:
        raise SlideError(
            f"{job.source.path} is out of reach: {gone.strerror}. Is its drive still there? What is done is kept; the "
            "same command goes on from there"
        ) from error
    if job.strict:
        raise error
    return {"key": region.key, "windows": 0, "mpx": 0.0, "failed": str(error), "seconds": 0.0}


def predict_windows(job: Job, box: Box, windows: Sequence[Box], maps: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Fill ``maps`` (c, h, w) of a box from the windows in it, row by row.

    Seconds spent reading and predicting, and how many megapixels went through either, halos included.
    """
    halo = job.model.halo
    spent = {"read_s": 0.0, "predict_s": 0.0, "read_mpx": 0.0, "network_mpx": 0.0}
    given: deque[list[Box]] = deque()  # the windows of the batches that are on their way
    for outputs, seconds in predict_each(job.model, _inputs(job, windows, given, spent), job.device):
        spent["predict_s"] += seconds
        for window, output in zip(given.popleft(), outputs, strict=True):
            part = window.relative_to(box)
            maps[(slice(None), *part.slices)] = output[:, halo : halo + part.h, halo : halo + part.w]
    return spent


def _inputs(
    job: Job, windows: Sequence[Box], given: deque[list[Box]], spent: dict[str, float]
) -> Iterator[npt.NDArray[np.uint8]]:
    """What the model sees of the windows (b, h, w, 3), batch after batch, read a row at a time; told in ``given``."""
    slide = _slide(job.source)
    for row in _rows(windows, job.model.window):
        seen = [seen_by(job.model, window) for window in row]
        strip = _around(seen)
        clock = time.perf_counter()
        pixels = read_mirrored(slide, strip, job.model.mpp)
        spent["read_s"] += time.perf_counter() - clock
        spent["read_mpx"] += strip.area / 1e6
        for some in _batches(seen, job.batch):
            spent["network_mpx"] += sum(seen[i].area for i in some) / 1e6
            given.append([row[i] for i in some])
            yield np.stack([pixels[seen[i].relative_to(strip).slices] for i in some])


def _rows(windows: Sequence[Box], side: int) -> list[list[Box]]:
    """Windows in raster order, a list a row of the raster; cut ones begin anywhere in it."""
    return [list(row) for _, row in itertools.groupby(windows, lambda window: window.y // side)]


def seen_by(model: Model, window: Box) -> Box:
    """What the model sees of a window: whole grains and the halo, mirrored where the slide ends."""
    h, w = (-(-side // model.grain) * model.grain for side in window.shape)
    return Box(window.y, window.x, h, w).pad(model.halo)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all."""
    y, x = min(box.y for box in boxes), min(box.x for box in boxes)
    return Box(y, x, max(box.y1 for box in boxes) - y, max(box.x1 for box in boxes) - x)


def _batches(boxes: Sequence[Box], most: int) -> Iterator[Sequence[int]]:
    """Indices of neighbours of the same shape, at most so many at a time."""
    for _, same in itertools.groupby(range(len(boxes)), lambda i: boxes[i].shape):
        alike = list(same)
        yield from (alike[first : first + most] for first in range(0, len(alike), most))


# --- segment ---------------------------------------------------------------------------------------------------------


def segment_region(job: Job, region: Region, needs: tuple[str, ...]) -> dict[str, Any]:
    """Cut the cells of one region out of the stitched maps and write them as a part file; counts as plain values.

    ``needs``: keys of the regions whose maps it reads. Where one could not be read, a later run tries that again, and
    this one after it.
    """
    marker = job.work / f"{region.key}.segment.json"
    if marker.exists():
        done: dict[str, Any] = json.loads(marker.read_text())
        return done | {"resumed": True}
    begin_task()
    meter = Meter()
    around = region.box.pad(job.model.margin).clip(job.frame.grid)
    cells, dropped = cells_inside(job, region.box, around, ngff.read_box(job.maps, 0, around))
    write_part(job.part(region), cells)
    result = {
        "key": region.key,
        "cells": len(cells),
        "dropped": dropped,
        "worker": worker_name(),
        **meter.facts(),
    }
    if all(_infer_marker(job, key).exists() for key in needs):
        write_json(marker, result)
    return result


def cells_inside(job: Job, box: Box, around: Box, maps: npt.NDArray[np.uint8]) -> tuple[CellTable, dict[str, int]]:
    """Cells whose centres lie in a box, from the maps (c, h, w) of the box with what is ``around`` it.

    Also how many others there were, by what spoke against them.
    """
    found = job.model.instances(maps, box.relative_to(around))
    sums = label_sums(found.labels, len(found.classes), maps)
    # Absolute places before anything is divided: then every cut-out rounds alike.
    shift = np.array([around.y, around.x, 0, 0])
    sums = dataclasses.replace(sums, boxes=sums.boxes + shift)
    centres = centroids(sums)
    here = inside(box, centres)
    kept = here & _wanted(job, centres)
    cells = cell_table(job.model, found, sums, np.flatnonzero(kept), (around.y, around.x), job.frame.px_um2)
    if job.kinds is not None:
        cells = dataclasses.replace(cells, classes=job.kinds.nearest(cells.measurements))
    elif job.scoring is not None:
        measured = cells.measurements | _around_nuclei(job, job.scoring, found.labels, sums, kept, around, maps)
        cells = dataclasses.replace(cells, measurements=measured, classes=job.scoring.classify(measured))
    local = box.relative_to(around)
    dropped = {reason: int(inside(local, places.astype(float)).sum()) for reason, places in found.dropped.items()}
    return cells, dropped | {"outside the tissue or region of interest": int(here.sum() - kept.sum())}


def _around_nuclei(
    job: Job,
    scoring: Scoring,
    labels: npt.NDArray[np.int32],
    sums: LabelSums,
    kept: Mask,
    around: Box,
    maps: npt.NDArray[np.uint8],
) -> dict[str, npt.NDArray[np.float32]]:
    """DAB in the rings around the ``kept`` cells, by column; ``sums``: of all ``labels``, in the frame of the grid."""
    dab = maps[stain_channels(job.model)["dab"]]
    rings = ring_sums(labels, sums, (around.y, around.x), maps[0], dab, float(np.mean(job.frame.mpp)))
    columns = {RING_DAB: rings.means() * OD_STEP, RING_COMPLETE: rings.completeness(scoring.ring_cut / OD_STEP)}
    return {name: values[kept].astype(np.float32) for name, values in columns.items()}


def inside(box: Box, points: npt.NDArray[np.floating]) -> Mask:
    """Which ``points`` (N, 2), (y, x), lie in a box: the one rule of who owns a cell."""
    y, x = points.T
    owned: Mask = (y >= box.y) & (y < box.y1) & (x >= box.x) & (x < box.x1)
    return owned


def _wanted(job: Job, centres: npt.NDArray[np.float64]) -> Mask:
    """Which centres (N, 2), grid px, lie where cells are looked for and in the region of interest."""
    looked_for: Mask = at_points(search_mask(job), job.frame.grid, centres)
    if job.roi is None:
        return looked_for
    import shapely

    y, x = (centres * job.frame.scale).T
    in_roi: Mask = shapely.contains_xy(job.roi, x, y)
    return looked_for & in_roi


def cell_table(
    model: Model,
    found: Instances,
    sums: LabelSums,
    rows: npt.NDArray[np.int64],
    corner: tuple[int, int],
    px_um2: float,
) -> CellTable:
    """The chosen rows as a table, measured; ``corner``: where the labels lie in the frame of the sums."""
    rings = trace(found.labels, rows + 1)
    rings = Rings(rings.offsets, rings.vertices + np.array(corner, np.int32))
    sums = LabelSums(*(getattr(sums, field.name)[rows] for field in dataclasses.fields(sums)))
    return CellTable(
        found.classes[rows],
        found.scores[rows],
        centroids(sums),
        sums.boxes.astype(np.int32),
        measure(sums, rings, px_um2, stain_channels(model), OD_STEP),
        rings,
    )


def stain_channels(model: Model) -> dict[str, int]:
    """Stains among the maps: name → channel."""
    return {channel.name: index for index, channel in enumerate(model.channels) if channel.stain}
