"""Other classes by DAB for the cells of a finished slide, in all its files, without finding a cell again.

A cell's class is a matter of its own measurements, which are in the table. Every file that tells of classes is written
anew in a folder beside the old ones; only when all are there do they take their places, ``run.json`` last. Whatever
ends the process, the same command goes on: with what was not staged whole it begins anew, else it puts it in place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.array.tissue import classify_overview, left_out_masks
from wsiproc.core.cells import CellTable
from wsiproc.core.choices import CompartmentChoice
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.core.immuno import checked_cuts
from wsiproc.core.types import BoolArray, UInt8Array, UInt32Array
from wsiproc.errors import OutputError, SettingsError, SlideError
from wsiproc.io.atomic import remove_leftovers
from wsiproc.io.cells.parquet import CellReader, write_classes
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, features_bytes
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.ome_zarr.downsample import downsample_tasks
from wsiproc.io.slides.open import open_slide
from wsiproc.pipeline.planning.plan import work_key
from wsiproc.pipeline.planning.scoring import RecognisedDab, SlideScoring, scored_by
from wsiproc.pipeline.settings import settings_by_name
from wsiproc.pipeline.stages.crops import CropPlaces, draw_crops
from wsiproc.pipeline.stages.merge import BLOCK
from wsiproc.pipeline.stages.render import create_class_labels
from wsiproc.results.cohort_table import HTML, failed_before, has_cohort, write_cohort
from wsiproc.results.folder import RUN, STAGED, locked, storage_explained
from wsiproc.results.record import RunRecord, ScoringRecord, SettingsRecord
from wsiproc.results.report.cells import ReportCells
from wsiproc.results.report.page import Crop, write_report

_TABLE, _GEOJSON, _REPORT = "cells.parquet", "cells.geojson.gz", "report.html"
_LABELS = "slide.ome.zarr/labels/classes"
_PLACED = (_TABLE, _GEOJSON, _LABELS, _REPORT)  # run.json comes after them


@dataclass(frozen=True)
class Reclassified:
    """What became of a slide: cells a class ``before`` and ``after``, and what the user should know."""

    folder: Path
    before: dict[str, int]
    after: dict[str, int]
    warnings: list[str]


def reclassify(
    folder: Path, compartment: CompartmentChoice | None, positive_dab: float | tuple[float, ...] | None
) -> Reclassified:
    """Give the cells of a slide's folder the classes that a run with these settings would have given them.

    What is None stays as it was. The table of all slides is left to ``update_cohort``. Raises OutputError for a folder
    that is not complete or has no cells scored by DAB, whose nuclei a run with these settings would detect otherwise,
    or that another process writes to; SettingsError for values that make no sense.
    """
    given = _checked(compartment=compartment, positive_dab=positive_dab)
    if not given:
        raise SettingsError("say what shall change: --positive-dab, --compartment or both")
    folder = folder.absolute()
    with storage_explained(folder), locked(folder):
        _put_in_place(folder)  # what an earlier call had staged whole
        run = RunRecord.read(folder)
        scoring = _scoring(folder, run, run.settings.model_copy(update=given))
        new, warnings = _stage(folder, run, _changed(run, scoring, given), scoring)
        _put_in_place(folder)
    return Reclassified(folder, run.counts.classes, new.counts.classes, warnings)


def _checked(**given: Any) -> dict[str, Any]:
    """The settings that are not None, as a run would have them; SettingsError for others than it takes."""
    settings = settings_by_name(given)
    return {name: getattr(settings, name) for name, value in given.items() if value is not None}


def update_cohort(out: Path) -> None:
    """Write the table of all slides in ``out`` anew, if there is one: once, after the last slide was reclassified.

    It reads the ``run.json`` and thumbnail of every slide, so for each of them the time would grow with the square.
    """
    with storage_explained(out):
        if has_cohort(out):
            write_cohort(out, failed_before(out))


def _scoring(folder: Path, run: RunRecord, settings: SettingsRecord) -> SlideScoring:
    """The new rule; OutputError where the slide has none."""
    if run.immuno is None:
        stain = run.model.calibration.get("stain", "another stain")
        raise OutputError(
            f"{folder}: its cells are not scored by DAB ({stain}, classes {', '.join(run.classes)}). For a slide "
            "taken for the wrong stain, run it again with --stain hdab"
        )
    cuts = settings.positive_dab
    given = None if cuts is None else checked_cuts(cuts if isinstance(cuts, tuple) else (cuts,))
    scoring = scored_by(RecognisedDab.of_record(run.immuno.recognised), settings.compartment, given)
    compartment, beside = scoring.rule.compartment, run.model.calibration.get("dab_outside_nuclei")
    if beside is not None and beside != (compartment != "nucleus"):
        raise OutputError(
            f"{folder}: its nuclei were detected as for DAB {'outside of' if beside else 'in'} nuclei. Run the slide "
            f"again with --compartment {compartment} --overwrite"
        )
    return scoring


def _changed(run: RunRecord, scoring: SlideScoring, given: Mapping[str, Any]) -> RunRecord:
    """``run.json`` as a run with the settings ``given`` would say it, but for the counts."""
    made_with = run.made_with | {name: str(value) for name, value in given.items()}
    old = [] if run.immuno is None else _rule_of(run.immuno).warnings()
    changed = {
        "key": work_key(made_with),
        "made_with": made_with,
        "classes": dict(scoring.rule.classes),
        "immuno": scoring.record(),
        "settings": run.settings.model_copy(update=given),
        "warnings": scoring.warnings() + [text for text in run.warnings if text not in old],
    }
    return run.model_copy(update=changed)


def _rule_of(told: ScoringRecord) -> SlideScoring:
    """The rule that the cells of a finished slide have."""
    compartment: CompartmentChoice = "auto" if told.compartment_from != "given" else told.compartment
    return scored_by(RecognisedDab.of_record(told.recognised), compartment, tuple(told.positive_dab_od))


# --- staging ---------------------------------------------------------------------------------------------------------


def _stage(folder: Path, run: RunRecord, new: RunRecord, scoring: SlideScoring) -> tuple[RunRecord, list[str]]:
    """Write every file anew into the folder of staged files, ``run.json`` last; ``new`` with its counts; warnings."""
    staged = folder / STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    rule = scoring.rule
    write_classes(folder / _TABLE, staged / _TABLE, rule.classes, rule.classify)
    reader = CellReader(staged / _TABLE)
    grid, mpp = run.grid.shape, float(np.mean(run.grid.mpp))
    tissue = ngff.read_all(folder / "slide.ome.zarr/labels/tissue") > 0
    sums, places = ReportCells.empty(grid, mpp, len(reader.classes), tissue), CropPlaces()
    values = np.zeros(run.counts.cells + 1, np.uint8)  # of the label image of classes, by id
    bounds: list[Box] = []
    with GeoJsonWriter(staged / _GEOJSON) as writer:
        for ids, cells in _blocks(reader):
            facts = (run.slide.fingerprint, list(reader.classes), list(reader.classes.values()), reader.scale)
            writer.append(Piece.of(*features_bytes(cells, int(ids[0]), *facts)))
            sums.add(cells)
            places.add(cells)
            values[ids] = cells.classes + 1
            bounds.append(_around(cells))
    counts = run.counts.model_copy(update=asdict(sums.counts.of_classes(list(reader.classes))))
    new = new.model_copy(update={"counts": counts}).with_numbers()
    _stage_labels(folder, staged, run, reader, values)
    crops, warnings = _crops(run, reader, places, bounds, grid, mpp)
    overview = ngff.read_all(folder / "slide.ome.zarr").transpose(1, 2, 0)
    cohort = f"../{HTML}" if has_cohort(folder.parent) else None
    write_report(staged / _REPORT, new, overview, tissue, _left_out(new, overview), sums, crops, cohort)
    remove_leftovers(staged)
    new.write(staged)
    return new, warnings


def _left_out(run: RunRecord, overview: UInt8Array) -> dict[str, BoolArray]:
    """Masks of what the run took for neither tissue nor glass, told apart once more on the overview (h, w, 3)."""
    if not any(run.left_out_mm2.values()):
        return {}
    mpp = run.slide.mpp * run.slide.shape[1] / overview.shape[1]
    return left_out_masks(classify_overview(overview, mpp))


def _blocks(reader: CellReader) -> Iterator[tuple[UInt32Array, CellTable]]:
    """Ids and cells, a row group at a time."""
    return (reader.read(group) for group in range(len(reader)) if reader.counts[group])


def _around(cells: CellTable) -> Box:
    """The smallest box that holds all cells (grid px)."""
    low, high = cells.boxes[:, :2].min(axis=0), (cells.boxes[:, :2] + cells.boxes[:, 2:]).max(axis=0)
    return Box(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


def _stage_labels(folder: Path, staged: Path, run: RunRecord, reader: CellReader, values: UInt8Array) -> None:
    """The label image of classes, from that of cells: each pixel has the class of the cell that it shows."""
    grid, image = run.grid.shape, staged / "slide.ome.zarr"
    create_class_labels(image, reader.classes, grid, run.grid.mpp)
    target = image / "labels/classes"
    drawn: list[Region] = []
    for shard in Grid(grid, BLOCK):
        ids = ngff.read_box(folder / "slide.ome.zarr/labels/cells", 0, shard.box)
        rows, cols = np.flatnonzero(ids.any(axis=1)), np.flatnonzero(ids.any(axis=0))
        if not len(rows):
            continue
        inner = Box(int(rows[0]), int(cols[0]), int(np.ptp(rows)) + 1, int(np.ptp(cols)) + 1)
        box = ngff.part_to_write(inner.shifted(shard.box.y, shard.box.x), shard.box, BLOCK)
        ngff.write_pyramid(target, box, values[ids[box.relative_to(shard.box).slices]], BLOCK)
        drawn.append(shard)
    for task in downsample_tasks("labels", (target,), grid, BLOCK, drawn):
        task.call(*task.args)


def _crops(
    run: RunRecord,
    reader: CellReader,
    places: CropPlaces,
    bounds: list[Box],
    grid: tuple[int, int],
    mpp: float,
) -> tuple[list[Crop], list[str]]:
    """Samples for the report, read from the slide again; without it there are none, and a warning says so."""
    groups = [group for group in range(len(reader)) if reader.counts[group]]

    def near(box: Box) -> Iterator[CellTable]:
        return (reader.read(g)[1] for g, bound in zip(groups, bounds, strict=True) if bound.intersect(box).area)

    settings = run.settings
    try:
        with open_slide(Path(run.slide.path), settings.mpp, settings.reader) as slide:
            if slide.fingerprint() != run.slide.fingerprint:
                raise SlideError(f"{slide.path} is another file than the one that was run")
            return draw_crops(slide, places, near, grid, mpp, run.model.mpp), []
    except SlideError as error:
        return [], [f"report.html has no samples of cells, since the slide cannot be read: {error}"]


# --- putting in place ------------------------------------------------------------------------------------------------


def _put_in_place(folder: Path) -> None:
    """Let staged files take the places of the old ones, ``run.json`` last; those not staged whole are removed."""
    staged = folder / STAGED
    if (staged / RUN).exists():
        (folder / RUN).unlink(missing_ok=True)  # its presence means that all files tell of the same classes
        for name in _PLACED:
            source, target = staged / name, folder / name
            if not source.exists():  # it is in place already
                continue
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(source, target)
        os.replace(staged / RUN, folder / RUN)
    shutil.rmtree(staged, ignore_errors=True)
