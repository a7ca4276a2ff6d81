"""``run.json``: what a run says about a finished slide, as one typed record, which the pipeline writes.

Fields stand in the order of the file; the text under a field is its description in the JSON Schema
(``wsiproc schema run.json``). A field may be added in a later version. One that goes, or means something else, makes a
new ``RECORD_VERSION``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Strict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from wsiproc.core.choices import Compartment, CompartmentChoice, Reader
from wsiproc.core.immuno import rule_in_words
from wsiproc.core.numbers import ClassCounts, SlideNumbers, slide_numbers
from wsiproc.errors import OutputError
from wsiproc.io.atomic import write_json
from wsiproc.results.folder import RUN

RECORD_VERSION = 1
_MOST_PROBLEMS = 3  # reported of a file that is not a record


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """A number that has been checked, still 1 where it was 1 and not 1.0: what is read can be written again alike."""
    check(value)
    return value


Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), WrapValidator(_as_written)]
Pair = tuple[Number, Number]
Shape = tuple[Whole, Whole]


class RecordPart(BaseModel):
    """A part of the record.

    Fields that this version does not know are kept: what a later one added is still there after ``wsiproc reclassify``,
    and in ``Result.run``.
    """

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: plain values, without fields that an earlier version did not write."""
        # Pydantic's own way to JSON makes whole numbers fractions where a field may be either.
        values: dict[str, Any] = json.loads(json.dumps(self.model_dump(exclude_unset=True)))
        return values


class SlideRecord(RecordPart):
    """The slide that was run."""

    name: str
    """Name of the slide's folder of results."""
    path: str
    """Where the slide was."""
    shape: Shape
    """Height and width of the scanned part, px of level 0."""
    mpp: Number
    """µm per px of level 0."""
    format: str
    """Format of the file."""
    reader: str | None = None
    """Library that read the file; null for results of versions that did not keep it."""
    objective: Number | None = None
    """Magnification of the objective; null where the file does not say it."""
    levels: list[Number] = []
    """Px of level 0 per px of each level of the file."""
    fingerprint: str
    """Hash of the content, by which the slide is known again."""
    likely_mpp: Number | None = None
    """µm per px of level 0 that nuclei and chromatin of H&E look like; null where that cannot be told."""


class ModelRecord(RecordPart):
    """The model that found the cells."""

    name: str
    """Name of the model."""
    mpp: Number
    """µm per px that the model works at."""
    weights_sha256: str | None = None
    """SHA-256 of its weights; null where it has none."""
    classes: list[str]
    """Names of the model's own classes."""
    calibration: dict[str, Any]
    """All that was estimated from the slide for the model, by name: once per slide, never once per tile."""


class KindsRecord(RecordPart):
    """Kinds of cells that were discovered in the cells themselves."""

    scale: dict[str, Number]
    """By measurement, what differences are divided by before they are compared."""
    centres: dict[str, dict[str, Number]]
    """The typical cell of each kind: its measurements by name."""


class RecognisedRecord(RecordPart):
    """What samples of the slide say about its DAB."""

    compartment: Compartment
    """Where DAB lies; membrane and cytoplasm are not distinguished."""
    nucleus_dab_od: Number
    """Cut for nuclei, optical density."""
    nucleus_how: str
    """How it was found."""
    ring_dab_od: Number
    """Cut for what is around nuclei, optical density."""
    ring_how: str
    """How it was found."""
    brown_share: Number
    """Share of the tissue in the samples that is brown."""
    roundness: Number
    """How round what is brown is: 1 for discs of one size."""
    blob_um2: Number
    """Half of the brown area lies in objects of at least this size, µm²."""
    red_share: Number = 0.0
    """Share of the tissue in the samples that is red, as of a second antibody; earlier versions did not look for it."""


class ScoringRecord(RecordPart):
    """How cells are scored by DAB."""

    compartment: Compartment
    """Where DAB makes a cell positive."""
    compartment_from: str
    """Whether it was given or recognised."""
    positive_dab_od: list[Number]
    """Optical density of DAB above which a cell is positive, or three, for 1+, 2+ and 3+."""
    positive_dab_from: str
    """Whether it was given, or how it was found."""
    ring_dab_od: Number
    """Optical density of DAB above which a sector of the ring around a nucleus counts as stained."""
    index: bool = True
    """Whether positive cells make an index: not where DAB lies in no compartment that is scored."""
    recognised: RecognisedRecord
    """What was recognised in samples of the slide."""

    def in_words(self) -> str:
        """What makes a cell positive."""
        cuts = self.positive_dab_od
        return rule_in_words(self.compartment, self.compartment_from, cuts, self.positive_dab_from)


class SettingsRecord(RecordPart):
    """The settings of the run, by the names that they have in its configuration file."""

    model: str = "default"
    """Name of a model, or where it lies."""
    mpp: Number | None = None
    """µm per px of level 0 that was given; null takes what the file says."""
    reader: Reader = "auto"
    """Library that was asked for."""
    tissue: str = "auto"
    """How tissue was to be found."""
    stain: str = "auto"
    """Stain that was given, or auto."""
    compartment: CompartmentChoice = "auto"
    """Where DAB was to make a cell positive, or auto."""
    positive_dab: Number | tuple[Number, ...] | None = None
    """Cut or cuts of DAB that were given, optical density; null has them found."""
    min_score: Number | None = None
    """Score below which cells were left out; null takes the model's own limit."""
    stain_norm: str = "none"
    """What normalised the stain."""
    roi: str | None = None
    """File of the region of interest."""
    classes: Whole | str | None = None
    """Number of kinds of cells that were asked for, or the file that holds them."""
    region: Whole = 2048
    """Side of a region, px of the grid."""
    device: str = "auto"
    """Device that was asked for."""
    precision: str = "auto"
    """Precision that was asked for."""
    batch: Whole | None = None
    """Windows that a GPU was to predict at a time."""
    executor: str = "auto"
    """Executor that was asked for."""
    workers: Whole | None = None
    """Worker processes that were asked for."""
    scheduler: str | None = None
    """Address of the Dask scheduler."""
    memory_gb: Number | None = None
    """Memory that all processes together were allowed, GB."""
    read_timeout_s: Number = 300.0
    """Seconds after which a read counted as stuck."""
    strict: bool = False
    """Whether a region that could not be read was to stop the slide."""
    force: bool = False
    """Whether a slide that looked unsuitable was to be worked on."""


class GridRecord(RecordPart):
    """The frame of maps and labels."""

    shape: Shape
    """Height and width, px."""
    mpp: Pair
    """µm per px (y, x): extent of the slide ÷ extent of the grid."""
    scale: Pair
    """Px of level 0 per px (y, x)."""


class OverviewRecord(RecordPart):
    """The overview on which tissue was detected."""

    shape: Shape
    """Height and width, px."""
    mpp: Pair
    """µm per px (y, x)."""


class FailedRegion(RecordPart):
    """A region that could not be read, which holds no cells."""

    key: str
    """Its row and column among all regions."""
    box: tuple[Whole, Whole, Whole, Whole]
    """Top, left, height and width, px of the grid."""
    reason: str
    """Why it could not be read."""


class RegionsRecord(RecordPart):
    """The regions, squares in which the slide was worked on."""

    step: Whole
    """Side of a region, px of the grid."""
    total: Whole
    """Regions of the whole slide."""
    tissue: Whole
    """Regions with tissue, in which cells were looked for."""
    windows: Whole | None = None
    """Windows that the model saw."""
    mpx: Number | None = None
    """Area of these windows, millions of px of the grid."""
    failed: list[FailedRegion]
    """Regions that could not be read."""
    boxes: list[tuple[Whole, Whole, Whole, Whole]]
    """Top, left, height and width of each region that was worked on, px of the grid."""


class CountsRecord(RecordPart):
    """What was counted."""

    cells: Whole
    """All cells."""
    classes: dict[str, Whole]
    """Cells by class."""
    in_tissue: dict[str, Whole] | None = None
    """Those with their centre in tissue, by class; null for results of versions that did not count them."""
    dropped: dict[str, Whole]
    """What was found and left out, by reason."""
    not_in_geojson: Whole = 0
    """Cells whose outline GeoJSON cannot hold."""


class SeamsRecord(RecordPart):
    """Places across borders of regions, computed again in one piece and compared with the table."""

    places: Whole
    """Places that were computed again."""
    cells: Whole
    """Cells in them."""
    doubled: Whole
    """Cells that the table has twice."""
    cut: Whole
    """Cells that have another outline in the table."""
    lost: Whole
    """Cells that the table lacks."""
    per_1000: dict[str, Number]
    """Doubled, cut and lost ones of 1000 cells."""


class ProjectedRecord(RecordPart):
    """What the plan expected."""

    memory_bytes: Number
    """Memory of all processes at the peak."""
    disk_bytes: Number
    """Size of all outputs."""


class NumbersRecord(RecordPart):
    """What people compare, with one definition in all outputs."""

    cells: Whole
    """All cells."""
    cells_in_tissue: Whole | None
    """Those with their centre in tissue."""
    tissue_mm2: Number
    """Area of the tissue, mm²; with a region of interest of what of it lies in that."""
    cells_per_mm2: Number | None
    """Cells in tissue per mm² of it; null without tissue."""
    positive_index: Number | None
    """Share of positive cells of all, 0 to 1; null if there is no index."""
    h_score: Number | None
    """H-score of all cells, 0 to 300; null where cells have no degrees of positivity."""


class ProfileRecord(RecordPart):
    """What workers spent their time on."""

    workers: Whole
    """Worker processes."""
    slides_at_once: Whole
    """Slides that shared them."""
    busy_s: dict[str, Number]
    """Seconds that workers were busy, added up, by what they did."""
    mpx: dict[str, Number]
    """Millions of px that were read and predicted, halos included."""
    read_bytes: dict[str, Whole] = {}
    """Bytes read, by what for."""
    written_bytes: dict[str, Whole] = {}
    """Bytes written, by what for."""
    device_busy: Number | None = None
    """Share of the time of finding cells in which the device was busy with the network, 0 to 1."""


class MemoryRecord(RecordPart):
    """Memory of all processes."""

    peak_bytes: Number
    """The most that was held."""
    limit_bytes: Number | None
    """The most that was allowed; null where there was no limit."""


class RunRecord(RecordPart):
    """What a run says about a finished slide."""

    record_version: Whole = 0
    """Version of this record; 0 for files of versions of wsiproc that wrote none."""
    wsiproc: str
    """Version of wsiproc."""
    key: str
    """Hash of all that decides what is written."""
    made_with: dict[str, str] = {}
    """All that decides what is written, by name."""
    slide: SlideRecord
    """The slide."""
    model: ModelRecord
    """The model."""
    classes: dict[str, tuple[Whole, Whole, Whole]]
    """Colour (red, green, blue) of each class by name."""
    kinds: KindsRecord | None = None
    """Typical cells of kinds that were found; null without them."""
    immuno: ScoringRecord | None = None
    """How cells are scored by DAB; null without DAB."""
    settings: SettingsRecord
    """The settings."""
    device: str = "cpu"
    """Where the model ran: cpu or cuda."""
    precision: str | None = None
    """Kind of numbers that the model computed with; null for results of versions that did not keep it."""
    grid: GridRecord
    """Size and scale of maps and labels."""
    overview: OverviewRecord | None = None
    """The image of the whole slide."""
    roi: dict[str, Any] | None = None
    """Region of interest as GeoJSON, px of level 0; null without one."""
    tissue_mm2: Number
    """Area of the tissue, mm²; with a region of interest of what of it lies in that."""
    left_out_mm2: dict[str, Number] = {}
    """Area taken for neither tissue nor background, mm²: fill, pen, and shadow (also debris and bubbles)."""
    regions: RegionsRecord
    """The regions."""
    counts: CountsRecord
    """Cells that were counted."""
    seams: SeamsRecord | None = None
    """The seam certificate; null for results of versions that made none."""
    projected: ProjectedRecord | None = None
    """What the plan expected."""
    workers: dict[str, dict[str, Whole]] = {}
    """Tasks of each stage that each worker process did."""
    resumed: Whole = 0
    """Tasks that an earlier, stopped run had done."""
    warnings: list[str]
    """All that the user should know."""
    versions: dict[str, str]
    """Versions of Python and of libraries."""
    numbers: NumbersRecord | None = None
    """What people compare; null for results of versions that did not write it."""
    profile: ProfileRecord | None = None
    """What workers spent their time on; null for results of versions that kept no profile."""
    seconds: dict[str, Number]
    """Seconds by the clock of each part of the run, and their total."""
    memory: MemoryRecord | None = None
    """Memory of all processes; null for results of versions that did not watch it."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record in the folder of a finished slide.

        Raises ``OutputError`` where there is none, and for one that no version up to this one has written.
        """
        path = folder / RUN
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            record = cls.model_validate(values)
        except FileNotFoundError as error:
            raise OutputError(
                f"{folder}: unfinished, there is no run.json; run the same `wsiproc run` command to resume"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            found = problems(error) if isinstance(error, ValidationError) else [f"{type(error).__name__}: {error}"]
            raise OutputError(
                f"{path}: not what `wsiproc run` writes ({', '.join(found[:_MOST_PROBLEMS])}); "
                "wsiproc run --overwrite makes the result again"
            ) from error
        if record.record_version > RECORD_VERSION:
            raise OutputError(
                f"{path}: written by wsiproc {record.wsiproc} as version {record.record_version} of the record, but "
                f"this version reads {RECORD_VERSION} at most; update wsiproc"
            )
        return record

    def write(self, folder: Path) -> None:
        """Write the record into a folder, atomically."""
        write_json(folder / RUN, self.as_dict())

    @property
    def has_index(self) -> bool:
        """Whether positive cells mean something: not where DAB lies in no compartment that is scored."""
        return self.immuno is None or self.immuno.index

    def slide_numbers(self, counts: ClassCounts | None = None) -> SlideNumbers:
        """The numbers of the slide; of other ``counts`` than those of the run, theirs."""
        own = self.counts
        return slide_numbers(
            counts or ClassCounts(own.cells, own.classes, own.in_tissue), float(self.tissue_mm2), self.has_index
        )

    def with_numbers(self) -> Self:
        """The same with the numbers that follow from what was counted."""
        return self.model_copy(update={"numbers": NumbersRecord(**asdict(self.slide_numbers()))})


def problems(error: ValidationError) -> list[str]:
    """What keeps values from being a record: each field by its full name."""
    found = {".".join(map(str, each["loc"])) or RUN: each for each in error.errors()}
    return [
        f"`{name}` is missing or of the wrong type: {None if each['type'] == 'missing' else each['input']!r}"
        for name, each in found.items()
    ]
