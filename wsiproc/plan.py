"""Decide everything about one slide before anything expensive starts: tissue, calibration, regions, what it needs."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc._version import __version__
from wsiproc.array.tissue import find_tissue, grow, looks_fluorescent
from wsiproc.core.geometry import Grid, Region, grid_shape
from wsiproc.errors import PlanError, SettingsError
from wsiproc.executors import available_cores
from wsiproc.io.roi import read_roi
from wsiproc.io.slides import Slide, SlideSource, read_overview
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.pipeline import BLOCK, Job, predict
from wsiproc.projection import (
    DRIVER_BYTES,
    GB,
    Frame,
    Mask,
    disk_bytes,
    needed_windows,
    require,
    run_seconds,
    sample_windows,
    split_regions,
    worker_bytes,
)
from wsiproc.settings import Settings

SAMPLE_WINDOWS = 16

# Cells are looked for so far beyond the tissue, whose edge is found on a coarse overview and smoothed.
_BORDER_UM = 40.0

# Settings that change what is written; a folder made with others of these cannot be continued. The model counts as what
# it is, not as the path where it lies.
_DECISIVE = ("mpp", "reader", "tissue", "region")


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything expensive starts; a value that can be printed."""

    job: Job
    key: str
    infer: tuple[Region, ...]
    segment: tuple[Region, ...]
    windows: int
    workers: int
    slide: dict[str, Any]
    overview: npt.NDArray[np.uint8]
    overview_mpp: tuple[float, float]
    tissue: Mask
    search: Mask
    memory_bytes: int
    disk_bytes: int
    seconds: float
    cells: float
    warnings: tuple[str, ...]

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue."""
        return float(self.tissue.sum() * self.overview_mpp[0] * self.overview_mpp[1] / 1e6)


def plan_slide(path: Path, out: Path, settings: Settings) -> Plan:
    """Decide everything for one slide. Reads its overview and a few windows of tissue; writes nothing.

    Raises SlideError, ResolutionError, SettingsError, ModelError, or PlanError with both numbers where the work does
    not fit.
    """
    source, model = slide_source(path, settings), load_model(settings.model)
    _check_region(settings.region, model)
    device = choose_device(settings.device)
    with source.open() as slide:
        facts = _slide_facts(slide)
        key = work_key(facts["fingerprint"], settings, model, device)
        overview, overview_mpp = read_overview(slide)
        warnings = _stain_warnings(slide, overview)
        frame = Frame(slide.shape, grid_shape(slide.shape, slide.mpp, model.mpp), slide.mpp)
        roi = read_roi(settings.roi, slide.shape) if settings.roi else None
        everywhere = _tissue_mask(overview, overview_mpp, settings.tissue)
        tissue = _restrict(everywhere, roi, slide.shape)
        search = _restrict(grow(everywhere, _BORDER_UM / overview_mpp[0]), roi, slide.shape)
        _require_tissue(tissue, path, roi)
        boxes = sample_windows(tissue, frame.grid, model.window, SAMPLE_WINDOWS)
        samples, read_s = _timed(lambda: [slide.read(box, model.mpp) for box in boxes])
        model = model.calibrate(samples)
        job = Job(
            source=source,
            folder=out.absolute() / slide.name,
            fingerprint=facts["fingerprint"],
            frame=frame,
            model=model,
            step=settings.region,
            device=device,
            batch=_batch(settings, device),
            roi=roi,
        )
    infer, segment = split_regions(search, frame.grid, job.step, model.margin)
    windows = sum(len(needed_windows(search, frame.grid, r.box, model.window, model.margin)) for r in infer)
    window_s, cells = _probe(job, samples, read_s / len(boxes), windows)
    workers = min(settings.workers or available_cores(), len(infer))
    shards = {shard for region in segment for shard in Grid(frame.grid, BLOCK).touching(region.box)}
    each = _bytes_a_worker(job)
    plan = Plan(
        job=job,
        key=key,
        infer=tuple(infer),
        segment=tuple(segment),
        windows=windows,
        workers=workers,
        slide=facts,
        overview=overview,
        overview_mpp=overview_mpp,
        tissue=tissue,
        search=search,
        memory_bytes=DRIVER_BYTES + workers * each,
        disk_bytes=disk_bytes(windows * model.window**2, len(model.channels), cells),
        seconds=run_seconds(windows, window_s, len(shards), cells, workers),
        cells=cells,
        warnings=tuple(warnings),
    )
    _check_plan(plan, settings)
    return plan


def _bytes_a_worker(job: Job) -> int:
    model = job.model
    zoom = max(1.0, model.mpp / job.frame.slide_mpp)
    return worker_bytes(job.step, model.margin, model.window, model.halo, len(model.channels), zoom)


def _require_tissue(tissue: Mask, path: Path, roi: Any) -> None:
    if not tissue.any():
        where = " in the region of interest" if roi else ""
        raise PlanError(f"{path}: no tissue found{where}. If there is some, --tissue all takes the whole slide")


def slide_source(path: Path, settings: Settings) -> SlideSource:
    """What workers need to open the slide."""
    return SlideSource(path.absolute(), settings.mpp, settings.reader)


def _check_region(step: int, model: Model) -> None:
    if step % model.window:
        below = max(model.window, step // model.window * model.window)
        raise SettingsError(
            f"region is {step} px; the model {model.name!r} needs a multiple of its window, {model.window} px: "
            f"try {below} or {below + model.window}"
        )


def _stain_warnings(slide: Slide, overview: npt.NDArray[np.uint8]) -> list[str]:
    if looks_fluorescent(overview):
        return [
            f"{slide.path.name} looks like fluorescence (bright on black); the model expects a brightfield stain such "
            "as H&E, so the cells are not to be trusted"
        ]
    return []


def _tissue_mask(overview: npt.NDArray[np.uint8], mpp: tuple[float, float], method: str) -> Mask:
    """Tissue in the overview by the method that the user chose."""
    if method == "auto":
        return find_tissue(overview, sum(mpp) / 2)
    if method == "all":
        return np.ones(overview.shape[:2], bool)
    from wsiproc.bridges.tiatoolbox import tissue_mask

    return tissue_mask(overview, method.removeprefix("tiatoolbox:"), sum(mpp) / 2)  # type: ignore[arg-type]


def _restrict(tissue: Mask, roi: Any, slide_shape: tuple[int, int]) -> Mask:
    """Tissue within one overview px of the region of interest; the exact border is kept per cell, later."""
    if roi is None:
        return tissue
    import shapely

    fy, fx = slide_shape[0] / tissue.shape[0], slide_shape[1] / tissue.shape[1]
    y, x = np.mgrid[: tissue.shape[0], : tissue.shape[1]]
    near = shapely.buffer(roi, max(fy, fx))
    shapely.prepare(near)
    inside: Mask = shapely.contains_xy(near, (x + 0.5) * fx, (y + 0.5) * fy)
    return tissue & inside


def choose_device(choice: str) -> str:
    """``cuda`` or ``cpu``; raises SettingsError where CUDA is asked for and not there."""
    if choice == "cpu":
        return choice
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "cuda":
        raise SettingsError("device is cuda, but PyTorch finds no CUDA device; use --device cpu or auto")
    return "cpu"


def _batch(settings: Settings, device: str) -> int:
    """Windows at a time: one on the CPU, where a fixed shape keeps every digit; by free memory on a GPU."""
    if device == "cpu":
        return 1
    if settings.batch:
        return settings.batch
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(np.clip(free / (settings.workers or 1) / 2e9, 1, 64))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def _probe(job: Job, samples: Sequence[npt.NDArray[np.uint8]], read_s: float, windows: int) -> tuple[float, float]:
    """Seconds a window and cells in all, from up to three samples run for real."""
    model = job.model
    some = [_full_window(s, model.window, model.halo) for s in samples[:: max(1, len(samples) // 3)]]
    predict(model, some[0][None], job.device)  # the first call pays for loading and compiling
    maps, predict_s = _timed(lambda: [predict(model, s[None], job.device)[0] for s in some])
    model.instances(maps[0])
    found, segment_s = _timed(lambda: [model.instances(m) for m in maps])
    around = ((job.step + 2 * model.margin) / job.step) ** 2
    each = read_s + (predict_s + segment_s * around) / len(some)
    cells = sum(len(f.classes) for f in found) / len(some) * windows
    return each, cells


def _full_window(sample: npt.NDArray[np.uint8], window: int, halo: int) -> npt.NDArray[np.uint8]:
    """A sample, which the slide's edge may have cut, as a window with its halo: its edge pixels repeated."""
    below, right = (window - side + halo for side in sample.shape[:2])
    return np.pad(sample, ((halo, below), (halo, right), (0, 0)), mode="edge")


def _slide_facts(slide: Slide) -> dict[str, Any]:
    return {
        "name": slide.name,
        "path": str(slide.path),
        "shape": list(slide.shape),
        "mpp": slide.mpp,
        "format": slide.format,
        "objective": slide.objective,
        "levels": list(slide.levels),
        "fingerprint": slide.fingerprint(),
    }


def _check_plan(plan: Plan, settings: Settings) -> None:
    """Refuse the impossible before it starts."""
    import psutil

    free = psutil.virtual_memory().available
    limit = min(free, settings.memory_gb * GB) if settings.memory_gb else free
    smaller = "Use fewer --workers or a smaller --region."
    require(f"{plan.slide['path']}: memory", plan.memory_bytes, limit, smaller)
    folder = next(p for p in [plan.job.folder, *plan.job.folder.parents] if p.exists())
    require(f"{plan.job.folder}: disk", plan.disk_bytes, shutil.disk_usage(folder).free, "Choose another -o folder.")


def work_key(fingerprint: str, settings: Settings, model: Model, device: str) -> str:
    """Hash of everything that decides what is written: work with another key can neither be continued nor mixed in.

    Tissue, calibration and cells are functions of these, so they need not be computed to know that nothing changed.
    """
    try:
        roi = hashlib.sha256(settings.roi.read_bytes()).hexdigest() if settings.roi else None
    except OSError as error:
        raise SettingsError(f"{settings.roi}: the region of interest cannot be read: {error.strerror}") from error
    chosen = {name: getattr(settings, name) for name in _DECISIVE}
    facts = {"wsiproc": __version__, "slide": fingerprint, "model": repr(model), "device": device, "roi": roi, **chosen}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
