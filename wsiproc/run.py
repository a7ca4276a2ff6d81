"""From a path to a finished folder: plan a slide, run the plan, run many slides and lose none."""

from __future__ import annotations

import ctypes.util
import dataclasses
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc._version import __version__
from wsiproc.array.tissue import find_tissue, looks_fluorescent
from wsiproc.core.geometry import Grid, Region, grid_shape
from wsiproc.crops import CropPlaces, take_crops
from wsiproc.errors import OutputError, PlanError, SettingsError
from wsiproc.executors import Crew, available_cores, crew
from wsiproc.io.roi import read_roi
from wsiproc.io.slides import Slide, SlideSource, read_overview, slide_name
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.pipeline import (
    BLOCK,
    Job,
    cell_tasks,
    create_outputs,
    finish,
    geojson_tasks,
    merge_cells,
    predict,
    render_tasks,
    write_json,
)
from wsiproc.planning import (
    GB,
    PROCESS_BYTES,
    Frame,
    Mask,
    disk_bytes,
    needed_windows,
    require,
    sample_windows,
    split_regions,
    worker_bytes,
)
from wsiproc.report import ReportCells, write_report
from wsiproc.settings import Settings

SAMPLE_WINDOWS = 16

# Settings that change what is written; a folder made with others of these cannot be continued.
_DECISIVE = ("model", "mpp", "reader", "tissue", "region")


@dataclass(frozen=True)
class Event:
    """Progress of one slide: ``done`` of ``total`` steps of a stage; ``cells`` found and ``mpx`` read so far."""

    slide: str
    stage: str
    done: int
    total: int
    cells: int = 0
    mpx: float = 0.0


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that wants nothing."""


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
    memory_bytes: int
    disk_bytes: int
    seconds: float
    cells: float
    warnings: tuple[str, ...]

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue."""
        return float(self.tissue.sum() * self.overview_mpp[0] * self.overview_mpp[1] / 1e6)


# --- plan ------------------------------------------------------------------------------------------------------------


def plan_slide(path: Path, out: Path, settings: Settings) -> Plan:
    """Decide everything for one slide. Reads its overview and a few windows of tissue; writes nothing.

    Raises SlideError, ResolutionError, SettingsError, ModelError, or PlanError with both numbers where the work does
    not fit.
    """
    source, model = _source(path, settings), load_model(settings.model)
    _check_region(settings.region, model)
    device = _device(settings.device)
    with source.open() as slide:
        fingerprint = slide.fingerprint()
        key = work_key(fingerprint, settings, model, device)
        overview, overview_mpp = read_overview(slide)
        warnings = _stain_warnings(slide, overview)
        frame = Frame(slide.shape, grid_shape(slide.shape, slide.mpp, model.mpp), slide.mpp)
        roi = read_roi(settings.roi, slide.shape) if settings.roi else None
        tissue = _restrict(_tissue_mask(overview, overview_mpp, settings.tissue), roi, slide.shape)
        if not tissue.any():
            raise PlanError(f"{path}: no tissue found{' in the region of interest' if roi else ''}. {_LOOK}")
        boxes = sample_windows(tissue, frame.grid, model.window, SAMPLE_WINDOWS)
        samples, read_s = _timed(lambda: [slide.read(box, model.mpp) for box in boxes])
        model = model.calibrate(samples)
        job = Job(
            source=source,
            folder=out.absolute() / slide.name,
            fingerprint=fingerprint,
            frame=frame,
            model=model,
            step=settings.region,
            device=device,
            batch=_batch(settings, device),
            roi=roi,
        )
        facts = _slide_facts(slide)
    infer, segment = split_regions(tissue, frame.grid, job.step, model.margin)
    windows = sum(len(needed_windows(tissue, frame.grid, r.box, model.window, model.margin)) for r in infer)
    seconds, cells = _probe(job, samples, read_s / len(boxes), windows)
    workers = min(settings.workers or available_cores(), len(infer))
    zoom = max(1.0, model.mpp / slide.mpp)
    each = worker_bytes(job.step, model.margin, model.window, model.halo, len(model.channels), zoom)
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
        memory_bytes=PROCESS_BYTES + workers * each,
        disk_bytes=disk_bytes(windows * model.window**2, len(model.channels), cells),
        seconds=seconds / workers,
        cells=cells,
        warnings=tuple(warnings),
    )
    _check_plan(plan, settings)
    _give_back_memory()
    return plan


def _source(path: Path, settings: Settings) -> SlideSource:
    return SlideSource(path.absolute(), settings.mpp, settings.reader)  # type: ignore[arg-type]  # checked on opening


_LOOK = "Look at its overview with `wsiproc info`; --tissue all takes the whole slide."


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
    library, _, name = method.partition(":")
    if library == "tiatoolbox" and name in ("otsu", "morphological"):
        from wsiproc.bridges.tiatoolbox import tissue_mask

        return tissue_mask(overview, name, sum(mpp) / 2)  # type: ignore[arg-type]  # checked above
    raise SettingsError(f"tissue is {method!r}; choose auto, all, tiatoolbox:otsu or tiatoolbox:morphological")


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


def _device(choice: str) -> str:
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
    """Projected seconds of one worker and number of cells, from up to three samples run for real."""
    model, halo = job.model, job.model.halo
    some = [np.pad(s, ((halo, halo), (halo, halo), (0, 0)), mode="edge") for s in samples[:: max(1, len(samples) // 3)]]
    predict(model, some[0][None], job.device)  # the first call pays for loading and compiling
    maps, predict_s = _timed(lambda: [predict(model, s[None], job.device)[0] for s in some])
    model.instances(maps[0])
    found, segment_s = _timed(lambda: [model.instances(m) for m in maps])
    around = ((job.step + 2 * model.margin) / job.step) ** 2
    each = read_s + (predict_s + segment_s * around) / len(some)
    cells = sum(len(f.classes) for f in found) / len(some) * windows
    return windows * each * 1.3 + cells * 6e-5, cells


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


def _give_back_memory() -> None:
    """Return freed memory to the system: the C library keeps it, and workers need room beside this process.

    Only glibc needs the hint; elsewhere nothing is done.
    """
    library = ctypes.util.find_library("c")
    if platform.system() == "Linux" and library:
        trim = getattr(ctypes.CDLL(library), "malloc_trim", None)
        if trim is not None:
            trim(0)


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


# --- run -------------------------------------------------------------------------------------------------------------


def run_plan(plan: Plan, workers: Crew, settings: Settings, plan_s: float, listen: Listener = ignore) -> dict[str, Any]:
    """Carry out a plan that took ``plan_s`` seconds to make; what ``run.json`` says."""
    clock = time.perf_counter()
    seconds = {"plan": round(plan_s, 3)}

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage] = round(now - clock, 3)
        clock = now

    _open_folder(plan)
    lap("prepare")
    done = _find_cells(plan, workers, listen)
    lap("infer and segment")
    merged = _merge(plan, listen)
    _give_back_memory()
    lap("merge")
    left_out = _draw(plan, merged.blocks, workers, listen)
    lap("render and export")
    run = _run_facts(plan, settings, done, merged.sums.counts)
    run["counts"]["not_in_geojson"] = left_out
    run["seconds"] = seconds | {"total": round(sum(seconds.values()), 3)}
    listen(Event(plan.slide["name"], "report", 0, 1))
    with plan.job.source.open() as slide:
        crops = take_crops(plan.job, slide, merged.blocks, merged.places)
    write_report(plan.job.folder / "report.html", run, plan.overview, plan.tissue, merged.sums, crops)
    lap("report")
    run["seconds"] = seconds | {"total": round(sum(seconds.values()), 3)}
    finish(plan.job, run)
    return run


def _open_folder(plan: Plan) -> None:
    """Make the folder ready: go on where the same work was left, else start anew."""
    job = plan.job
    key = {"key": plan.key}
    marker = job.work / "plan.json"
    if marker.exists() and json.loads(marker.read_text()) == key:
        return
    shutil.rmtree(job.work, ignore_errors=True)
    for path in (job.maps, job.image):
        shutil.rmtree(path, ignore_errors=True)
    job.work.mkdir(parents=True)
    np.save(job.work / "tissue.npy", plan.tissue)
    create_outputs(job, plan.overview, plan.overview_mpp, plan.tissue)
    write_json(marker, key)


def _find_cells(plan: Plan, workers: Crew, listen: Listener) -> dict[str, list[dict[str, Any]]]:
    """Infer and segment all regions."""
    done: dict[str, list[dict[str, Any]]] = {"infer": [], "segment": []}
    tasks = cell_tasks(plan.job, plan.infer, plan.segment)
    cells, mpx = 0, 0.0
    for number, (task, result) in enumerate(workers.run(tasks), start=1):
        done[task.key.split()[0]].append(result)
        cells += result.get("cells", 0)
        mpx += result.get("windows", 0) * plan.job.model.window**2 / 1e6
        listen(Event(plan.slide["name"], "cells", number, len(tasks), cells, mpx))
    return done


@dataclass(frozen=True)
class _Merged:
    """What merging leaves behind: the table's blocks in order, sums for the report, places to show in it."""

    blocks: list[Region]
    sums: ReportCells
    places: CropPlaces


def _merge(plan: Plan, listen: Listener) -> _Merged:
    """Write the cell table and count on the way."""
    job = plan.job
    mpp = float(np.mean(job.frame.mpp))
    merged = _Merged([], ReportCells.empty(job.frame.grid, mpp, len(job.model.classes)), CropPlaces())
    total = len({block for region in plan.segment for block in Grid(job.frame.grid, BLOCK).touching(region.box)})
    for block, cells in merge_cells(job, plan.segment):
        merged.blocks.append(block)
        merged.sums.add(cells)
        merged.places.add(cells)
        listen(Event(plan.slide["name"], "merge", len(merged.blocks), total, int(merged.sums.counts.sum())))
    return merged


def _draw(plan: Plan, blocks: Sequence[Region], workers: Crew, listen: Listener) -> int:
    """Labels, pyramids and GeoJSON, side by side; the number of cells that GeoJSON cannot hold."""
    tasks = geojson_tasks(plan.job, len(blocks)) + render_tasks(plan.job, plan.infer, blocks)
    left_out = 0
    for number, (_, result) in enumerate(workers.run(tasks), start=1):
        left_out += result.get("left_out", 0)
        listen(Event(plan.slide["name"], "render", number, len(tasks)))
    return left_out


def _run_facts(
    plan: Plan, settings: Settings, done: dict[str, list[dict[str, Any]]], counts: npt.NDArray[np.int64]
) -> dict[str, Any]:
    """The content of ``run.json`` but for the timings of the whole."""
    job, frame = plan.job, plan.job.frame
    boxes = {r.key: [r.box.y, r.box.x, r.box.h, r.box.w] for r in plan.infer}
    failed = [
        {"key": r["key"], "box": boxes[r["key"]], "reason": r["failed"]}
        for r in done["infer"]
        if r["failed"] is not None
    ]
    dropped: dict[str, int] = {}
    for result in done["segment"]:
        for reason, number in result["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + number
    warnings = list(plan.warnings)
    if failed:
        warnings.append(f"{len(failed)} of {len(boxes)} regions could not be read and hold no cells")
    if not counts.sum():
        warnings.append("no cells were found: look at the tissue in report.html, and check stain and µm per pixel")
    return {
        "wsiproc": __version__,
        "key": plan.key,
        "slide": plan.slide,
        "model": {
            "name": job.model.name,
            "mpp": job.model.mpp,
            "classes": list(job.model.classes),
            "calibration": job.model.calibration(),
        },
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()},
        "device": job.device,
        "grid": {"shape": list(frame.grid), "mpp": list(frame.mpp), "scale": list(frame.scale)},
        "overview": {"shape": list(plan.overview.shape[:2]), "mpp": list(plan.overview_mpp)},
        "tissue_mm2": plan.tissue_mm2,
        "regions": {
            "step": job.step,
            "total": len(Grid(frame.grid, job.step)),
            "tissue": len(plan.segment),
            "windows": plan.windows,
            "failed": failed,
            "boxes": list(boxes.values()),
        },
        "counts": {
            "cells": int(counts.sum()),
            "classes": dict(zip(job.model.classes, counts.tolist(), strict=True)),
            "dropped": dropped,
        },
        "projected": {"memory_bytes": plan.memory_bytes, "disk_bytes": plan.disk_bytes, "seconds": plan.seconds},
        "busy_seconds": {
            "read": round(sum(r.get("read_s", 0.0) for r in done["infer"]), 3),
            "predict": round(sum(r.get("predict_s", 0.0) for r in done["infer"]), 3),
            "infer": round(sum(r["seconds"] for r in done["infer"]), 3),
            "segment": round(sum(r["seconds"] for r in done["segment"]), 3),
        },
        "resumed": sum(bool(r.get("resumed")) for results in done.values() for r in results),
        "warnings": warnings,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    names = (
        "torch",
        "numpy",
        "zarr",
        "dask",
        "openslide-python",
        "numba",
        "opencv-python-headless",
        "shapely",
        "pyarrow",
    )
    return {"python": platform.python_version(), "wsiproc": __version__} | {name: version(name) for name in names}


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: ``status`` is *done*, *already done* or *failed*; ``run`` as in ``run.json``."""

    path: Path
    status: str
    folder: Path | None = None
    run: dict[str, Any] | None = None
    error: Exception | None = None


class _Crews:
    """Workers, started when the first slide needs them and kept for the others."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings, self._stack = settings, stack
        self._crew: Crew | None = None

    def for_plan(self, plan: Plan) -> Crew:
        """Workers for a plan; a single region runs in this process unless a kind was chosen."""
        chosen = self._settings.executor != "auto" or self._settings.scheduler is not None
        if self._crew is None:
            if plan.workers < 2 and not chosen:
                return Crew("loop", 1, None)
            settings = self._settings
            self._crew = self._stack.enter_context(crew(settings.executor, settings.workers, settings.scheduler))
        return self._crew


def run_slides(
    paths: Sequence[Path], out: Path, settings: Settings, overwrite: bool = False, listen: Listener = ignore
) -> Iterator[Outcome]:
    """Run slide after slide into ``out``/<slide name>; yields what became of each. One that fails costs no other."""
    taken: dict[str, Path] = {}
    with ExitStack() as stack:
        crews = _Crews(settings, stack)
        for path in paths:
            try:
                name = slide_name(path)
                if name in taken:
                    raise SettingsError(f"{path} and {taken[name]} would both write {out / name}; run them apart")
                taken[name] = path
                yield _run_slide(path, out, settings, overwrite, crews, listen)
            except Exception as error:
                yield Outcome(path, "failed", error=error)


def _run_slide(path: Path, out: Path, settings: Settings, overwrite: bool, crews: _Crews, listen: Listener) -> Outcome:
    """One slide, unless its folder is finished already."""
    with _source(path, settings).open() as slide:
        key = work_key(slide.fingerprint(), settings, load_model(settings.model), _device(settings.device))
        folder = out.absolute() / slide.name
    finished = folder / "run.json"
    if finished.exists():
        run: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        if run.get("key") == key and not overwrite:
            return Outcome(path, "already done", folder, run)
        if not overwrite:
            raise OutputError(
                f"{folder} holds the results of another slide, model, version or settings. Choose another -o folder, "
                "or pass --overwrite to replace them"
            )
        shutil.rmtree(folder)
    listen(Event(folder.name, "plan", 0, 1))
    clock = time.perf_counter()
    plan = plan_slide(path, out, settings)
    run = run_plan(plan, crews.for_plan(plan), settings, time.perf_counter() - clock, listen)
    return Outcome(path, "done", folder, run)
