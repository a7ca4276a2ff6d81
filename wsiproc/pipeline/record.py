"""What ``run.json`` says about a finished slide."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from wsiproc._version import __version__
from wsiproc.core.geometry import Grid
from wsiproc.core.numbers import CellCounts
from wsiproc.io.geojson.areas import as_geojson
from wsiproc.models.base import Model
from wsiproc.pipeline.planning.plan import Plan
from wsiproc.pipeline.settings import Settings
from wsiproc.pipeline.stages.infer import Inferred
from wsiproc.pipeline.stages.merge import Merged
from wsiproc.pipeline.stages.segment import Segmented
from wsiproc.results.profile import Profile, Stage, device_share
from wsiproc.results.record import (
    RECORD_VERSION,
    CountsRecord,
    FailedRegion,
    GridRecord,
    KindsRecord,
    ModelRecord,
    OverviewRecord,
    ProfileRecord,
    ProjectedRecord,
    RegionsRecord,
    RunRecord,
    SeamsRecord,
    SettingsRecord,
    SlideRecord,
)

DOUBTFUL = "low score for its neighbours or colour"
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
        doubtful = Counter({DOUBTFUL: sum(block.doubtful for block in self.merged)})
        return dict(sum((Counter(region.dropped) for region in self.segmented), +doubtful))

    @property
    def resumed(self) -> int:
        """How many tasks an earlier run had done."""
        return sum(each.resumed for each in self.inferred) + sum(each.resumed for each in self.segmented)


@dataclass(frozen=True)
class Drawn:
    """What drawing leaves behind: how many cells GeoJSON cannot hold, and the seam certificate."""

    left_out: int
    seams: SeamsRecord


@dataclass(frozen=True)
class Spent:
    """What a slide took so far: ``profile`` of the workers, ``seconds`` of each part and their total."""

    profile: ProfileRecord
    seconds: dict[str, float]

    @classmethod
    def of(cls, profile: Profile, workers: int, slides: int, seconds: dict[str, float]) -> Spent:
        """``slides`` at once shared the ``workers``."""
        told = ProfileRecord(**profile.as_dict(workers, slides))
        return cls(told.model_copy(update={"device_busy": round(device_share(told, seconds), 3)}), seconds)


def run_record(
    plan: Plan,
    settings: Settings,
    found: FoundCells,
    cells: CellCounts,
    drawn: Drawn,
    spent: Spent,
    warnings: Sequence[str],
) -> RunRecord:
    """The content of ``run.json`` but for the report's time and the memory. ``warnings``: of before the plan."""
    job, frame = plan.job, plan.job.frame
    counts, regions = _counts(plan, found, cells, drawn), _regions(plan, found)
    told = _warnings(len(regions.failed), len(regions.boxes), counts.cells, drawn.seams)
    return RunRecord(
        record_version=RECORD_VERSION,
        wsiproc=__version__,
        key=plan.key,
        made_with=plan.identity,
        slide=SlideRecord(**plan.slide),
        model=_model(job.model),
        classes=dict(job.classes),
        kinds=None if job.phenotypes is None else KindsRecord.model_validate(job.phenotypes.as_dict()),
        immuno=None if plan.scoring is None else plan.scoring.record(),
        settings=_settings(settings),
        device=job.device.name,
        precision=job.device.precision,
        grid=GridRecord(shape=frame.grid, mpp=frame.mpp, scale=frame.scale),
        overview=OverviewRecord(shape=(plan.overview.shape[0], plan.overview.shape[1]), mpp=plan.overview_mpp),
        roi=None if job.roi is None else as_geojson(job.roi),
        tissue_mm2=plan.tissue_mm2,
        left_out_mm2=plan.left_out_mm2,
        regions=regions,
        counts=counts,
        seams=drawn.seams,
        projected=ProjectedRecord(memory_bytes=plan.memory_bytes, disk_bytes=plan.disk_bytes),
        workers={stage: dict(done) for stage, done in found.done_by.items()},
        resumed=found.resumed,
        warnings=[*warnings, *plan.warnings, *told],
        versions=_versions(),
        profile=spent.profile,
        seconds=spent.seconds,
    ).with_numbers()


def _settings(settings: Settings) -> SettingsRecord:
    values = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(settings).items()}
    return SettingsRecord.model_validate(values)


def _regions(plan: Plan, found: FoundCells) -> RegionsRecord:
    job = plan.job
    boxes = {r.key: (r.box.y, r.box.x, r.box.h, r.box.w) for r in sorted(plan.infer)}
    failed = [
        FailedRegion(key=region.key, box=boxes[region.key], reason=region.failed)
        for region in found.inferred
        if region.failed is not None
    ]
    return RegionsRecord(
        step=job.region_px,
        total=len(Grid(job.frame.grid, job.region_px)),
        tissue=len(plan.segment),
        windows=plan.windows,
        mpx=round(plan.mpx, 3),
        failed=failed,
        boxes=list(boxes.values()),
    )


def _counts(plan: Plan, found: FoundCells, cells: CellCounts, drawn: Drawn) -> CountsRecord:
    counts = dataclasses.asdict(cells.of_classes(list(plan.job.classes)))
    return CountsRecord(**counts, dropped=found.dropped, not_in_geojson=drawn.left_out)


def _warnings(failed: int, regions: int, cells: int, seams: SeamsRecord) -> Iterator[str]:
    if failed:
        yield (
            f"{failed} of {regions} regions could not be read and hold no cells (run.json names them; --overwrite "
            "does the slide again)"
        )
    if not cells:
        yield "no cells were found: look at the tissue in report.html, and check stain and µm per pixel"
    faults = {name: number for name, number in seams.per_1000.items() if number}
    if faults:
        told = ", ".join(f"{number:g} {name}" for name, number in faults.items())
        yield f"at borders of regions, of 1000 cells: {told} (a model whose cells outgrow its margin?)"


def _model(model: Model) -> ModelRecord:
    return ModelRecord(
        name=model.name,
        mpp=model.mpp,
        weights_sha256=model.weights_sha256,
        classes=list(model.classes),
        calibration=model.calibration(),
    )


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
