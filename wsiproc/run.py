"""From a path to a finished folder: carry out a plan, run many slides and lose none."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc._version import __version__
from wsiproc.core.geometry import Grid
from wsiproc.core.kinds import CellKinds
from wsiproc.crops import CropPlaces, take_crops
from wsiproc.discover import find_kinds
from wsiproc.errors import OutputError, SettingsError
from wsiproc.executors import Crew, crew, give_back_memory
from wsiproc.io.slides import slide_name
from wsiproc.io.whole import write_json
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.pipeline import (
    BLOCK,
    Block,
    cell_tasks,
    create_outputs,
    export_tasks,
    finish,
    merge_cells,
    render_tasks,
)
from wsiproc.plan import Cluster, Plan, choose_device, cluster_facts, plan_slide, slide_source, work_key
from wsiproc.report import ReportCells, write_report
from wsiproc.settings import Settings


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
    give_back_memory()
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
    np.save(job.work / "search.npy", plan.search)
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
    """What merging leaves behind: the blocks in order, sums for the report, places to show in it."""

    blocks: list[Block]
    sums: ReportCells
    places: CropPlaces


def _merge(plan: Plan, listen: Listener) -> _Merged:
    """Sort and number the cells, and count on the way."""
    job = plan.job
    mpp = float(np.mean(job.frame.mpp))
    merged = _Merged([], ReportCells.empty(job.frame.grid, mpp, len(job.classes)), CropPlaces())
    total = len({block for region in plan.segment for block in Grid(job.frame.grid, BLOCK).touching(region.box)})
    for block, cells in merge_cells(job, plan.segment):
        merged.blocks.append(block)
        merged.sums.add(cells)
        merged.places.add(cells)
        listen(Event(plan.slide["name"], "merge", len(merged.blocks), total, int(merged.sums.counts.sum())))
    return merged


def _draw(plan: Plan, blocks: Sequence[Block], workers: Crew, listen: Listener) -> int:
    """Table, GeoJSON, labels and pyramids, side by side; the number of cells that GeoJSON cannot hold."""
    tasks = export_tasks(plan.job, blocks) + render_tasks(plan.job, plan.infer, blocks)
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
        "model": _model_facts(job.model),
        "classes": {name: list(colour) for name, colour in job.classes.items()},
        "kinds": None if job.kinds is None else job.kinds.facts(),
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
            "classes": dict(zip(job.classes, counts.tolist(), strict=True)),
            "dropped": dropped,
        },
        "projected": {"memory_bytes": plan.memory_bytes, "disk_bytes": plan.disk_bytes, "seconds": plan.seconds},
        "busy_seconds": {
            "read": round(sum(r.get("read_s", 0.0) for r in done["infer"]), 3),
            "predict": round(sum(r.get("predict_s", 0.0) for r in done["infer"]), 3),
            "infer": round(sum(r["seconds"] for r in done["infer"]), 3),
            "segment": round(sum(r["seconds"] for r in done["segment"]), 3),
        },
        "workers": {stage: Counter(r.get("worker", "") for r in results) for stage, results in done.items()},
        "resumed": sum(bool(r.get("resumed")) for results in done.values() for r in results),
        "warnings": warnings,
        "versions": _versions(),
    }


def _model_facts(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "mpp": model.mpp,
        "weights_sha256": model.weights_sha256,
        "classes": list(model.classes),
        "calibration": model.calibration(),
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
        self._cluster: Cluster | None = None

    def cluster(self) -> Cluster | None:
        """What the workers of an existing cluster are; None where the workers are this machine's."""
        if self._cluster is None and self._settings.scheduler is not None:
            self._cluster = cluster_facts(self._started(), self._settings.device)
        return self._cluster

    def for_plan(self, plan: Plan) -> Crew:
        """Workers for a plan; a single region runs in this process unless a kind was chosen."""
        chosen = self._settings.executor != "auto" or self._settings.scheduler is not None
        if self._crew is None and plan.workers < 2 and not chosen:
            return Crew("loop", 1, None)
        return self._started()

    def _started(self) -> Crew:
        if self._crew is None:
            settings = self._settings
            self._crew = self._stack.enter_context(crew(settings.executor, settings.workers, settings.scheduler))
        return self._crew


def run_slides(
    paths: Sequence[Path], out: Path, settings: Settings, overwrite: bool = False, listen: Listener = ignore
) -> Iterator[Outcome]:
    """Run slide after slide into ``out``/<slide name>; yields what became of each. One that fails costs no other."""
    load_model(settings.model)  # an unknown name is said once, not once a slide
    title = paths[0].name if len(paths) == 1 else f"{len(paths)} slides"
    kinds = find_kinds(paths, out, settings, lambda done, total: listen(Event(title, "classes", done, total)))
    taken: dict[str, Path] = {}
    with ExitStack() as stack:
        crews = _Crews(settings, stack)
        for path in paths:
            try:
                name = slide_name(path)
                if name in taken:
                    raise SettingsError(f"{path} and {taken[name]} would both write {out / name}; run them apart")
                taken[name] = path
                yield _run_slide(path, out, settings, kinds, overwrite, crews, listen)
            except Exception as error:
                yield Outcome(path, "failed", error=error)


def _run_slide(
    path: Path,
    out: Path,
    settings: Settings,
    kinds: CellKinds | None,
    overwrite: bool,
    crews: _Crews,
    listen: Listener,
) -> Outcome:
    """One slide, unless its folder is finished already."""
    with slide_source(path, settings).open() as slide:
        cluster = crews.cluster()
        model, device = load_model(settings.model), cluster.device if cluster else choose_device(settings.device)
        key = work_key(slide.fingerprint(), settings, model, device, kinds)
        folder = out.absolute() / slide.name
    finished = folder / "run.json"
    if finished.exists():
        run: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        if run.get("key") == key and not overwrite:
            return Outcome(path, "already done", folder, run)
        if not overwrite:
            raise OutputError(
                f"{folder} holds the results of another slide, model, version, kinds of cells or settings. Choose "
                "another -o folder, or pass --overwrite to replace them"
            )
        shutil.rmtree(folder)
    listen(Event(folder.name, "plan", 0, 1))
    clock = time.perf_counter()
    plan = plan_slide(path, out, settings, kinds, cluster)
    give_back_memory()
    run = run_plan(plan, crews.for_plan(plan), settings, time.perf_counter() - clock, listen)
    return Outcome(path, "done", folder, run)
