"""What ``run.json`` says about a finished slide."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsiproc._version import __version__
from wsiproc.core.geometry import Grid
from wsiproc.core.numbers import CellCounts, slide_numbers
from wsiproc.io.geojson.areas import as_geojson
from wsiproc.models.base import Model
from wsiproc.pipeline.planning.plan import Plan
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.stages.infer import Inferred
from wsiproc.pipeline.stages.merge import Merged
from wsiproc.pipeline.stages.segment import Segmented
from wsiproc.results.profile import Stage

_CELL_STAGES = (Stage.INFER, Stage.SEGMENT, Stage.MERGE)


@dataclass
class FoundCells:
    """What came of looking for cells: results of each stage, and how many tasks of it each worker has done."""

    inferred: list[Inferred] = field(default_factory=list)
    segmented: list[Segmented] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)
    done_by: dict[str, Counter[str]] = field(default_factory=lambda: {s: Counter() for s in _CELL_STAGES})

    def count(self, stage: str, worker: str) -> None:
        """A worker has done a task of a stage."""
        self.done_by[stage][worker] += 1

    @property
    def dropped(self) -> dict[str, int]:
        """How many outlines were dropped, by what spoke against them."""
        return dict(sum((Counter(region.dropped) for region in self.segmented), Counter()))

    @property
    def resumed(self) -> int:
        """How many tasks an earlier run had done."""
        return sum(each.resumed for each in self.inferred) + sum(each.resumed for each in self.segmented)


@dataclass(frozen=True)
class Drawn:
    """What drawing leaves behind: how many cells GeoJSON cannot hold, and the seam certificate."""

    left_out: int
    seams: dict[str, Any]


def run_facts(plan: Plan, settings: Settings, found: FoundCells, cells: CellCounts, drawn: Drawn) -> dict[str, Any]:
    """The content of ``run.json`` but for the timings and the memory of the whole."""
    counts = cells.of_classes(list(plan.job.classes))
    job, frame = plan.job, plan.job.frame
    boxes = {r.key: [r.box.y, r.box.x, r.box.h, r.box.w] for r in sorted(plan.infer)}
    failed = [
        {"key": region.key, "box": boxes[region.key], "reason": region.failed}
        for region in found.inferred
        if region.failed is not None
    ]
    warnings = [*plan.warnings, *_warnings(len(failed), len(boxes), counts["cells"], drawn.seams)]
    run = {
        "wsiproc": __version__,
        "key": plan.key,
        "made_with": plan.identity,
        "slide": plan.slide,
        "model": _model_facts(job.model),
        "classes": {name: list(colour) for name, colour in job.classes.items()},
        "kinds": None if job.phenotypes is None else job.phenotypes.as_dict(),
        "immuno": None if plan.scoring is None else plan.scoring.facts(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()},
        "device": job.device.name,
        "precision": job.device.precision,
        "grid": {"shape": list(frame.grid), "mpp": list(frame.mpp), "scale": list(frame.scale)},
        "overview": {"shape": list(plan.overview.shape[:2]), "mpp": list(plan.overview_mpp)},
        "roi": None if job.roi is None else as_geojson(job.roi),
        "tissue_mm2": plan.tissue_mm2,
        "left_out_mm2": plan.left_out_mm2,
        "regions": {
            "step": job.region_px,
            "total": len(Grid(frame.grid, job.region_px)),
            "tissue": len(plan.segment),
            "windows": plan.windows,
            "mpx": round(plan.mpx, 3),
            "failed": failed,
            "boxes": list(boxes.values()),
        },
        "counts": {
            **counts,
            "dropped": found.dropped,
            "not_in_geojson": drawn.left_out,
        },
        "seams": drawn.seams,
        "projected": {"memory_bytes": plan.memory_bytes, "disk_bytes": plan.disk_bytes},
        "workers": found.done_by,
        "resumed": found.resumed,
        "warnings": warnings,
        "versions": _versions(),
    }
    return run | {"numbers": dataclasses.asdict(slide_numbers(run))}


def _warnings(failed: int, regions: int, cells: int, seams: dict[str, Any]) -> Iterator[str]:
    if failed:
        yield (
            f"{failed} of {regions} regions could not be read and hold no cells (run.json names them; --overwrite "
            "does the slide again)"
        )
    if not cells:
        yield "no cells were found: look at the tissue in report.html, and check stain and µm per pixel"
    faults = {name: number for name, number in seams["per_1000"].items() if number}
    if faults:
        told = ", ".join(f"{number:g} {name}" for name, number in faults.items())
        yield f"at borders of regions, of 1000 cells: {told} (a model whose cells outgrow its margin?)"


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
