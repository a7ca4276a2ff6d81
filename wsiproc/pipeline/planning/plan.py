"""Plan one slide before anything expensive starts: tissue, calibration, regions, required resources.

A *region* is a processing tile throughout the pipeline, not a region of interest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc._version import __version__
from wsiproc.array.nuclei.measure import measurement_names
from wsiproc.array.tissue import left_out_masks
from wsiproc.core.frame import needed_windows
from wsiproc.core.geometry import Grid, Region
from wsiproc.core.paths import absolute
from wsiproc.core.phenotypes import Phenotypes
from wsiproc.core.types import BoolArray, UInt8Array
from wsiproc.errors import SettingsError
from wsiproc.executors import available_cores
from wsiproc.executors.limits import GB, require
from wsiproc.executors.memory import free_bytes
from wsiproc.io.geojson.areas import mask_mm2
from wsiproc.io.ome_zarr.image import CHUNK
from wsiproc.io.slides.open import SlideSource
from wsiproc.models import load_model
from wsiproc.models.base import DetectsBesideDab, Model
from wsiproc.models.device import Cluster, Device, choose_device, free_gpu_bytes
from wsiproc.models.inference import predict
from wsiproc.pipeline.planning.estimate import (
    disk_bytes,
    driver_bytes,
    run_seconds,
    small_last,
    split_regions,
    worker_bytes,
)
from wsiproc.pipeline.planning.scoring import SlideScoring, slide_scoring
from wsiproc.pipeline.planning.survey import Survey, survey_slide
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.stages.job import Job, stain_channels
from wsiproc.pipeline.stages.merge import BLOCK

# Settings that change what is written; a folder written with different values of these cannot be resumed. The model is
# identified by its content, not by its path.
_DECISIVE = ("min_score", "mpp", "reader", "tissue", "region", "stain", "compartment", "positive_dab")
_FORMAT = "2"  # increment it when results of a new version must not be mixed with earlier ones
_GPU_BYTES_PER_WINDOW, _MAX_BATCH = 5e8, 32


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything expensive starts; a printable value.

    ``infer``: regions in the order in which they are best submitted; ``windows``, ``mpx``: number of windows that the
    model predicts, and their area, Mpx of the grid; ``max_workers``: worker processes that may be started, of which
    this slide can keep ``workers`` busy.
    """

    job: Job
    identity: dict[str, str]
    infer: tuple[Region, ...]
    segment: tuple[Region, ...]
    windows: int
    mpx: float
    workers: int
    max_workers: int
    slide: dict[str, Any]
    overview: UInt8Array
    overview_mpp: tuple[float, float]
    tissue: BoolArray
    search: BoolArray
    seen: UInt8Array
    samples: Sequence[UInt8Array]
    scoring: SlideScoring | None
    read_s: float
    memory_bytes: int
    warnings: tuple[str, ...]

    @property
    def key(self) -> str:
        """Hash of everything that determines the results."""
        return work_key(self.identity)

    @cached_property
    def tissue_mm2(self) -> float:
        """Area of the tissue within the region of interest."""
        return mask_mm2(self.tissue, self.job.frame.slide, self.job.frame.slide_mpp, self.job.roi)

    @property
    def left_out(self) -> dict[str, BoolArray]:
        """Masks (h, w) on the overview of what is neither tissue nor background, by what it was classified as."""
        return left_out_masks(self.seen)

    @property
    def left_out_mm2(self) -> dict[str, float]:
        """The area of each of ``left_out``, mm²."""
        px_mm2 = self.overview_mpp[0] * self.overview_mpp[1] / 1e6
        return {name: float(mask.sum() * px_mm2) for name, mask in self.left_out.items()}

    @property
    def disk_bytes(self) -> int:
        """Projected size of all outputs."""
        return disk_bytes(int(self.mpx * 1e6), len(self.job.model.channels), self.tissue_mm2)


def plan_slide(
    path: Path,
    out: Path,
    settings: Settings,
    phenotypes: Phenotypes | None = None,
    cluster: Cluster | None = None,
    at_once: int = 1,
    name: str | None = None,
) -> Plan:
    """Plan one slide. Reads its overview and a few windows of tissue; predicts and writes nothing.

    ``phenotypes``: the classes that its cells get; None keeps the model's classes. ``cluster``: the workers, if they
    are not on this machine; ``at_once``: slides processed concurrently; ``name``: of the folder, if not the file's.

    Raises SlideError, ResolutionError, SettingsError, ModelError, or PlanError with both numbers where the work does
    not fit.
    """
    source, model = slide_source(path, settings), choose_model(settings)
    _check_region(settings.region, model)
    device = device_for(model, settings, cluster)
    seen = survey_slide(source, model, settings.tissue, settings.roi, settings.stain, settings.force)
    identity = run_identity(seen.slide["fingerprint"], settings, model, device, phenotypes)
    frame, search, model = seen.frame, seen.search, seen.model
    if phenotypes is not None:
        require_features(phenotypes, model, path)
    scoring = slide_scoring(model, seen.samples, settings.compartment, settings.cuts) if phenotypes is None else None
    folder = out.absolute() / (name or seen.slide["name"])
    job = _job(seen, source, folder, settings, device, _batch(settings, device, cluster), phenotypes, scoring)
    infer, segment = split_regions(search, frame.grid, job.region_px, job.context_px)
    windows = {region: needed_windows(search, frame.grid, region.box, job.window_rule) for region in infer}
    work = {region: sum(window.area for window in some) for region, some in windows.items()}
    each, driver = _bytes_per_worker(job), driver_bytes(at_once)
    room = memory_limit(settings) - driver
    max_workers = cluster.threads if cluster else settings.workers or workers_that_fit(each, room)
    workers = min(max_workers, len(infer))
    notes = [device.note] if device.note else []
    plan = Plan(
        job=job,
        identity=identity,
        infer=tuple(small_last(work)),
        segment=tuple(segment),
        windows=sum(len(some) for some in windows.values()),
        mpx=sum(work.values()) / 1e6,
        workers=workers,
        max_workers=max_workers,
        slide=seen.slide | {"name": job.folder.name},
        overview=seen.overview,
        overview_mpp=seen.overview_mpp,
        tissue=seen.tissue,
        search=search,
        seen=seen.seen,
        samples=seen.samples,
        read_s=seen.read_s,
        memory_bytes=driver + (0 if cluster else workers * each),  # a cluster's workers use memory elsewhere
        scoring=scoring,
        warnings=(*seen.warnings, *notes, *(scoring.warnings() if scoring else ())),
    )
    _check_plan(plan, settings)
    return plan


def _job(
    seen: Survey,
    source: SlideSource,
    folder: Path,
    settings: Settings,
    device: Device,
    batch: int,
    phenotypes: Phenotypes | None,
    scoring: SlideScoring | None,
) -> Job:
    return Job(
        source=dataclasses.replace(source, fill=seen.fill),
        folder=folder,
        fingerprint=seen.slide["fingerprint"],
        frame=seen.frame,
        model=seen.model,
        region_px=settings.region,
        device=device,
        batch=batch,
        roi=seen.roi,
        phenotypes=phenotypes,
        scoring=None if scoring is None else scoring.rule,
        strict=settings.strict,
    )


def _bytes_per_worker(job: Job) -> int:
    model = job.model
    zoom = max(1.0, model.mpp / job.frame.slide_mpp)
    each = worker_bytes(job.region_px, model.margin, model.window, model.halo, len(model.channels), zoom)
    return each + model.memory_bytes


def slide_source(path: Path, settings: Settings) -> SlideSource:
    """What workers need to open the slide."""
    return SlideSource(absolute(path), settings.mpp, settings.reader, settings.read_timeout_s)


def choose_model(settings: Settings) -> Model:
    """The model, with its stain normaliser if one is chosen. Raises ModelError, SettingsError or SlideError."""
    model = load_model(settings.model, settings.min_score)
    if settings.compartment != "auto" and isinstance(model, DetectsBesideDab):
        model = model.for_compartment(settings.compartment)
    if settings.stain_norm == "none":
        return model
    from wsiproc.pipeline.planning.stain_normaliser import normalised

    method, _, target = settings.stain_norm.removeprefix("tiatoolbox:").partition("=")
    return normalised(model, method, absolute(target) if target else None)


def device_for(model: Model, settings: Settings, cluster: Cluster | None) -> Device:
    """Device and precision that the model runs with. Raises SettingsError."""
    return (cluster.device if cluster else choose_device(settings.device, settings.precision)).suited(model)


def require_features(phenotypes: Phenotypes, model: Model, path: Path) -> None:
    """Refuse a slide on which the calibrated model does not measure what the phenotypes are distinguished by."""
    stains = list(stain_channels(model))
    missing = set(phenotypes.features) - set(measurement_names(stains))
    if missing:
        raise SettingsError(
            f"{path}: its stains are {' and '.join(stains)}, but the phenotypes (--classes) are distinguished by "
            f"{', '.join(sorted(missing))}; run slides of each stain separately, with phenotypes of their own"
        )


def _check_region(region_px: int, model: Model) -> None:
    """Require that a region's side is a multiple of the model's window and of the chunks of the maps."""
    unit = math.lcm(model.window, CHUNK)
    if region_px % unit:
        below = max(unit, region_px // unit * unit)
        raise SettingsError(
            f"region is {region_px} px; the model {model.name!r} needs a multiple of {unit} px: try {below} or "
            f"{below + unit}"
        )


def _batch(settings: Settings, device: Device, cluster: Cluster | None) -> int:
    """Batch size in windows: one on the CPU, where a fixed shape keeps results bit-identical; by free memory on a GPU.

    An estimate, since models differ; a batch that does not fit is halved at run time.
    """
    if device.name == "cpu":
        return 1
    if settings.batch:
        return settings.batch
    free = cluster.gpu_bytes if cluster else (free_gpu_bytes() or 0) / (settings.workers or available_cores())
    return int(np.clip(free / _GPU_BYTES_PER_WINDOW, 1, _MAX_BATCH))


@dataclass(frozen=True)
class Forecast:
    """Rough number of cells and duration of a run, estimated from a sample of one or two windows."""

    cells: float
    seconds: float


def forecast(plan: Plan) -> Forecast:
    """Run one or two sampled windows on this machine; estimated seconds and cells of the complete run."""
    job, model = plan.job, plan.job.model
    some = [_full_window(s, model.window, model.halo) for s in plan.samples[:: max(1, len(plan.samples) - 1)]]
    first = predict(model, some[0][None], job.device)[0]  # includes loading, so its time is not representative
    last, predict_s = _timed(lambda: predict(model, some[-1][None], job.device)[0])
    first_cells = len(model.instances(first).classes)
    found, segment_s = _timed(lambda: model.instances(last))
    # About half of the work in the margin is skipped.
    around = (1 + ((job.region_px + 2 * model.margin) / job.region_px) ** 2) / 2
    window_mm2 = model.window**2 * job.frame.px_um2 / 1e6
    cells = (first_cells + len(found.classes)) / 2 * plan.tissue_mm2 / window_mm2
    shards = {shard for region in plan.segment for shard in Grid(job.frame.grid, BLOCK).touching(region.box)}
    window_s = plan.read_s + predict_s + segment_s * around
    return Forecast(cells, run_seconds(plan.mpx * 1e6 / model.window**2, window_s, len(shards), cells, plan.workers))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def _full_window(sample: UInt8Array, window: int, halo: int) -> UInt8Array:
    """A sample, possibly cut off by the slide's edge, as a window with its halo, its edge pixels repeated."""
    below, right = (window - side + halo for side in sample.shape[:2])
    return np.pad(sample, ((halo, below), (halo, right), (0, 0)), mode="edge")


def memory_limit(settings: Settings) -> float:
    """Bytes that a run may use: what is free or in use by it already, at most the limit in the settings."""
    room = free_bytes()
    return min(room, settings.memory_gb * GB) if settings.memory_gb is not None else room


def workers_that_fit(each: int, room: float) -> int:
    """One worker per core, limited by memory; at least one, and whether that fits is checked separately."""
    return max(1, min(available_cores(), int(room // each)))


def _check_plan(plan: Plan, settings: Settings) -> None:
    """Refuse a plan that memory or disk cannot hold."""
    smaller = "Use fewer --workers or a smaller --region."
    require(f"{plan.slide['path']}: memory", plan.memory_bytes, memory_limit(settings), smaller)
    folder = next(p for p in [plan.job.folder, *plan.job.folder.parents] if p.exists())
    require(f"{plan.job.folder}: disk", plan.disk_bytes, shutil.disk_usage(folder).free, "Choose another -o folder.")


def run_identity(
    fingerprint: str, settings: Settings, model: Model, device: Device, phenotypes: Phenotypes | None = None
) -> dict[str, str]:
    """Everything that determines the results, by name: work that differs in any of it cannot be resumed or mixed in.

    Tissue, calibration and cells are functions of these, so they need not be computed to know that nothing changed.
    """
    try:
        roi = _digest(settings.roi.read_bytes()) if settings.roi else "none"
    except OSError as error:
        raise SettingsError(f"{settings.roi}: the region of interest cannot be read: {error.strerror}") from error
    identity = {
        "format of results": _FORMAT,
        "slide": fingerprint,
        "model": f"{model.name} {_digest(repr(_values(model)).encode())}",
        "device": device.name,
        "precision": device.precision,
        "region of interest": roi,
        "kinds of cells": "none" if phenotypes is None else _digest(repr(_values(phenotypes)).encode()),
        "version of wsiproc": __version__,
    }
    return identity | {name: str(getattr(settings, name)) for name in _DECISIVE}


def work_key(identity: Mapping[str, str]) -> str:
    """Hash of everything that determines the results."""
    return _digest(json.dumps(identity, sort_keys=True).encode())


def _values(value: object) -> object:
    """The content of a value without the names of its classes and fields, so that renaming these changes nothing.

    Fields that ``repr`` leaves out, such as the folder that a model was read from, are ignored.
    """
    if dataclasses.is_dataclass(value):
        return [_values(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr]
    if isinstance(value, list | tuple):
        return [_values(item) for item in value]
    if isinstance(value, Mapping):
        return [[_values(key), _values(item)] for key, item in value.items()]
    return value


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
