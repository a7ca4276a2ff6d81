"""Documents that list slides: of ``run``, ``info`` and ``plan``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from wsiproc.cli.documents.base import Document, Part

if TYPE_CHECKING:
    from wsiproc.pipeline.planning.plan import Forecast, Plan
    from wsiproc.pipeline.progress import Outcome
    from wsiproc.results.record import RunRecord

# --- run --------------------------------------------------------------------------------------------------------------


class RunSlide(Part):
    """What became of one slide; what is not known of a slide that failed is null."""

    slide: str
    """Name of the slide's folder in the output folder."""
    path: str
    """The slide."""
    status: Literal["done", "already done", "failed"]
    """What became of it; `errors` has the reason, under the same path."""
    folder: str | None = None
    """Folder of the results."""
    cells: int | None = None
    """Number of cells."""
    cells_in_tissue: int | None = None
    """Number of cells whose centre lies in the tissue; null for results that did not count them."""
    classes: dict[str, int] | None = None
    """Number of cells of each class."""
    tissue_mm2: float | None = None
    """Area of the tissue, mm²."""
    cells_per_mm2: float | None = None
    """Cells in tissue per mm² of it; null without tissue."""
    positive_index: float | None = None
    """Share of positive cells, 0 to 1, of slides that are scored by DAB."""
    h_score: float | None = None
    """H-score, 0 to 300, where there are three degrees of positivity."""
    failed_regions: int | None = None
    """Regions that could not be read."""
    total_s: float | None = None
    """Seconds that the slide took, when it was done."""
    warnings: list[str]
    """All that the user should know."""

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        """From what became of a slide."""
        known: dict[str, Any] = {"slide": outcome.slide, "path": str(outcome.path), "status": outcome.status}
        known["folder"] = None if outcome.folder is None else str(outcome.folder)
        numbers = {"warnings": []} if outcome.record is None else cls._numbers(outcome.record)
        return cls.model_validate(known | numbers)

    @staticmethod
    def _numbers(run: RunRecord) -> dict[str, Any]:
        """What is known of a slide that is done."""
        return asdict(run.slide_numbers()) | {
            "classes": run.counts.classes,
            "failed_regions": len(run.regions.failed),
            "total_s": run.seconds["total"],
            "warnings": run.warnings,
        }


class RunDocument(Document):
    """Answer of `wsiproc run`."""

    items: ClassVar[str] = "slides"

    slides: list[RunSlide]
    """The slides, in the order in which they ended."""


# --- info -------------------------------------------------------------------------------------------------------------


class InfoSlide(Part):
    """What is known about one slide."""

    path: str
    """The slide."""
    name: str
    """Its name, which its results get."""
    format: str
    """Format of the file."""
    reader: str | None = None
    """What reads it."""
    width_px: int
    """Width of the scanned part, px of level 0."""
    height_px: int
    """Height of it."""
    mpp: float | None
    """µm per px of level 0; null where it is not known or cannot be true: see `remedy`."""
    objective: float | None
    """Magnification of the objective; null where the file does not say it."""
    width_mm: float | None
    """Width, mm; null without a pixel size."""
    height_mm: float | None
    """Height, mm; null without a pixel size."""
    level_downsamples: list[float]
    """Px of level 0 per px of each level of the file."""
    file_bytes: int
    """Size of all files of the slide."""
    looks_fluorescent: bool
    """Whether it looks like fluorescence, which is refused."""
    looks_grey: bool
    """Whether it has no colour, which is refused."""
    damaged: str | None
    """How much of the overview cannot be read, and why; null where all can."""
    remedy: str | None
    """What keeps a run from working on the slide, and what to do; null where nothing does."""
    remarks: dict[str, str]
    """What else the file says of itself, by name."""
    warnings: list[str]
    """All that the user should know."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Self:
        """From what ``wsiproc.io.slides.open.describe`` says."""
        (height, width), size_mm = facts["size_px"], facts["size_mm"]
        taken = {*cls.model_fields, "size_px", "size_mm", "gigapixels", "levels"}
        notes = {name: value for name, value in facts.items() if name not in taken}
        known = {name: facts.get(name) for name in cls.model_fields}
        return cls.model_validate(
            known
            | {
                "width_px": width,
                "height_px": height,
                "width_mm": None if size_mm is None else size_mm[1],
                "height_mm": None if size_mm is None else size_mm[0],
                "level_downsamples": list(facts["levels"]),
                "remarks": {name: str(value) for name, value in notes.items() if not name.startswith("warning")},
                "warnings": [str(value) for name, value in notes.items() if name.startswith("warning")],
            }
        )


class InfoDocument(Document):
    """Answer of `wsiproc info`."""

    items: ClassVar[str] = "slides"

    slides: list[InfoSlide]
    """The slides, in the order in which they were given."""


# --- plan -------------------------------------------------------------------------------------------------------------


class PlanSlide(Part):
    """What a run would do with one slide, and need."""

    path: str
    """The slide."""
    format: str
    """Format of the file."""
    width_px: int
    """Width of the scanned part, px of level 0."""
    height_px: int
    """Height of it."""
    mpp: float
    """µm per px of level 0."""
    model: str
    """Name of the model."""
    grid_width_px: int
    """Width of maps and labels, px."""
    grid_height_px: int
    """Height of them."""
    grid_mpp: float
    """µm per px of maps and labels, as the model wants it."""
    tissue_mm2: float
    """Area of the tissue, mm²."""
    regions: int
    """Regions with tissue."""
    region_px: int
    """Side of a region, px of the grid."""
    windows: int
    """Windows that the model sees."""
    megapixels: float
    """Area of the windows, millions of px of the grid."""
    workers: int
    """Worker processes that the slide keeps busy."""
    device: str
    """Where the model runs: cpu or cuda."""
    precision: str
    """Kind of numbers that the model computes with."""
    memory_bytes: int
    """Memory of all processes at the peak, projected."""
    disk_bytes: int
    """Size of all outputs, projected."""
    expected_cells: float
    """Cells that will be found, roughly."""
    expected_s: float
    """Seconds that it will take, roughly."""
    calibration: dict[str, Any]
    """What was estimated from the slide for the model, by name, as in `run.json`."""
    likely_mpp: float | None = None
    """µm per px of level 0 that nuclei and chromatin of H&E look like."""
    scoring: str | None = None
    """What makes a cell positive, in words; null where there is no DAB."""
    warnings: list[str]
    """All that the user should know."""

    @classmethod
    def of(cls, plan: Plan, expected: Forecast) -> Self:
        """From a plan and what it is expected to give."""
        (height, width), job = plan.slide["shape"], plan.job
        return cls(
            path=plan.slide["path"],
            format=plan.slide["format"],
            width_px=width,
            height_px=height,
            mpp=plan.slide["mpp"],
            model=job.model.name,
            grid_width_px=job.frame.grid[1],
            grid_height_px=job.frame.grid[0],
            grid_mpp=job.model.mpp,
            tissue_mm2=plan.tissue_mm2,
            regions=len(plan.segment),
            region_px=job.region_px,
            windows=plan.windows,
            megapixels=plan.mpx,
            workers=plan.workers,
            device=job.device.name,
            precision=job.device.precision,
            memory_bytes=plan.memory_bytes,
            disk_bytes=plan.disk_bytes,
            expected_cells=expected.cells,
            expected_s=expected.seconds,
            calibration=job.model.calibration(),
            likely_mpp=plan.slide["likely_mpp"],
            scoring=None if plan.scoring is None else plan.scoring.in_words(),
            warnings=list(plan.warnings),
        )


class PlanDocument(Document):
    """Answer of `wsiproc plan`."""

    items: ClassVar[str] = "slides"

    slides: list[PlanSlide]
    """The slides, in the order in which they were given."""
