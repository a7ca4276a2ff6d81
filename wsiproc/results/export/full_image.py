"""A slide at full resolution with its labels in one OME-Zarr, for those who want all in one folder.

The slide is copied shard by shard, each by one task, so that memory is that of a shard for each worker and the bytes
are the same by any number of them. An interrupted copy is resumed; it gets its name when it is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc._version import __version__
from wsiproc.core.geometry import Box, Grid
from wsiproc.core.types import OnProgress, UInt8Array
from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.executors import Task, available_cores, worker_pool
from wsiproc.executors.limits import require
from wsiproc.executors.memory import free_bytes
from wsiproc.io.atomic import remove_leftovers, write_json
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.ome_zarr.downsample import downsample_tasks
from wsiproc.io.slides.arrays import opened
from wsiproc.io.slides.open import Slide, SlideSource
from wsiproc.results.folder import locked, storage_explained

"""Called with shards done and shards in all."""

_CHANNELS = [("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255))]
# A shard as it is read, in planes, halved and compressed; and what a worker needs anyway.
_WORKER_BYTES = 7e8
# With all levels: slides full of tissue took 1.6 and 2.6, those that are mostly background 0.3 and 0.4.
_BYTES_A_PX = 3.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Copy:
    """What every task needs to know: the slide, where it is copied to, and the side of a shard in px."""

    source: SlideSource
    work: Path
    mpp: float
    shard: int

    @property
    def image(self) -> Path:
        """The unfinished OME-Zarr."""
        return self.work / "image"

    def marker(self, key: str) -> Path:
        """There once a shard is copied."""
        return self.work / f"{key}.json"


def write_full_image(
    source: SlideSource,
    labels: Path,
    target: Path,
    *,
    on_progress: OnProgress = lambda done, total: None,
    workers: int | None = None,
    shard: int = ngff.SHARD,
) -> None:
    """Write the slide of ``source`` with the ``labels`` of its result (a group) to the OME-Zarr ``target``.

    ``workers``: processes, one a core if it is not given and memory allows it; ``shard``: side of a shard of level 0,
    px. Places of the slide that cannot be read are white, and warned of. Raises as ``open_slide`` does, PlanError where
    the disk is too small, and OutputError where it is full or another process writes there.
    """
    slide = opened(source)
    copy = _Copy(source, target.with_name(f".{target.name}.unfinished"), slide.mpp, shard)
    with storage_explained(target), locked(target):
        require(f"{target}: disk", _disk_bytes(slide), shutil.disk_usage(target.parent).free, "Choose another folder.")
        levels = len(ngff.level_shapes(labels / "cells"))  # labels must have as many as their image
        _prepare(copy, slide, levels)
        _fill(copy, slide, levels, on_progress, workers)
        _warn(copy, slide)
        shutil.rmtree(copy.image / "labels", ignore_errors=True)
        shutil.copytree(labels, copy.image / "labels")
        remove_leftovers(copy.image)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(copy.image, target)
        shutil.rmtree(copy.work)


def _disk_bytes(slide: Slide) -> int:
    return int(slide.shape[0] * slide.shape[1] * _BYTES_A_PX)


def _prepare(copy: _Copy, slide: Slide, levels: int) -> None:
    """Go on with what is there where it is of the same slide, else begin anew."""
    facts = {
        "slide": slide.fingerprint(),
        "mpp": copy.mpp,
        "shard": copy.shard,
        "levels": levels,
        "version of wsiproc": __version__,
    }
    marker = copy.work / "copy.json"
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == facts:
        return
    shutil.rmtree(copy.work, ignore_errors=True)
    copy.work.mkdir(parents=True)
    name = f"{slide.name}, {slide.mpp:.3g} µm/px"
    ngff.create_image(copy.image, slide.shape, (slide.mpp, slide.mpp), levels, _CHANNELS, copy.shard, name)
    write_json(marker, facts)


def _fill(copy: _Copy, slide: Slide, levels: int, on_progress: OnProgress, workers: int | None) -> None:
    """Copy the shards, then draw the coarse levels that no shard fills."""
    shards = list(Grid(slide.shape, copy.shard))
    tasks = [Task(f"image 0 {region.key}", copy_shard, (copy, region.box, region.key)) for region in shards]
    coarse = downsample_tasks("image", (copy.image,), slide.shape, copy.shard, shards, levels)
    total = len(tasks) + len(coarse)
    on_progress(0, total)
    size = workers or max(1, min(available_cores(), int(free_bytes() // _WORKER_BYTES)))
    with worker_pool("auto", min(size, len(tasks)), tasks=len(tasks)) as pool:
        done = 0
        for stage in (tasks, coarse):
            for _ in pool.run(stage):
                done += 1
                on_progress(done, total)


def copy_shard(copy: _Copy, box: Box, key: str) -> dict[str, Any]:
    """Copy one shard to all levels that it fills; how many of its px could not be read, and why."""
    marker = copy.marker(key)
    if marker.exists():
        done: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        return done
    pixels, unread, reason = _read(opened(copy.source), box, copy.mpp)
    ngff.write_pyramid(copy.image, box, np.ascontiguousarray(pixels.transpose(2, 0, 1)), copy.shard)
    result = {"unread_px": unread, "reason": reason}
    write_json(marker, result)
    return result


def _read(slide: Slide, box: Box, mpp: float) -> tuple[UInt8Array, int, str | None]:
    """The (h, w, 3) pixels of a box, white in the chunks that cannot be read; how many px those have, and why."""
    try:
        return slide.read(box, mpp), 0, None
    except SlideTimeoutError:
        raise
    except SlideReadError as error:
        reason = str(error)
    pixels, unread = np.full((*box.shape, 3), 255, np.uint8), 0
    for part in Grid(box.shape, ngff.CHUNK):
        place = part.box.shifted(box.y, box.x)
        try:
            pixels[part.box.slices] = slide.read(place, mpp)
        except SlideTimeoutError:
            raise
        except SlideReadError:
            unread += place.area
    return pixels, unread, reason


def _warn(copy: _Copy, slide: Slide) -> None:
    """Say how much of the slide could not be read."""
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(copy.work.glob("r*.json"))]
    lost = [each for each in told if each["unread_px"]]
    if lost:
        share = sum(each["unread_px"] for each in lost) / (slide.shape[0] * slide.shape[1])
        _log.warning("%s: %.2f %% could not be read and is white. %s", slide.path, 100 * share, lost[0]["reason"])
