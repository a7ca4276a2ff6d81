"""``wsiproc run``: find the cells of slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsiproc.cli.arguments import Answers, AsJson, Mpp, ReaderName, Slides
from wsiproc.cli.result_commands.immuno import CompartmentName, PositiveDab, StainName
from wsiproc.cli.slide_commands.options import (
    Batch,
    Classes,
    Config,
    DeviceName,
    ExecutorName,
    Force,
    Memory,
    MinScore,
    ModelName,
    Out,
    PrecisionName,
    ReadTimeout,
    RegionPx,
    Roi,
    Scheduler,
    StainNormOption,
    Strict,
    TissueName,
    Workers,
    chosen_settings,
    classes_setting,
    slides_to_run,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsiproc.pipeline.settings import Settings


RUN_EXAMPLES = (
    "Examples:  wsiproc run slide.svs   ·   wsiproc run slides/*.ndpi -o results --workers 8   ·   "
    "wsiproc run scan.png --mpp 0.25   ·   wsiproc run slides/*.svs --classes 4   ·   "
    "wsiproc run slide.svs --scheduler tcp://head:8786"
)


def run_command(
    slides: Slides,
    out: Out = Path("wsiproc-out"),
    config: Config = None,
    model: ModelName = None,
    min_score: MinScore = None,
    mpp: Mpp = None,
    reader: ReaderName = None,
    tissue: TissueName = None,
    stain: StainName = None,
    compartment: CompartmentName = None,
    positive_dab: PositiveDab = None,
    stain_norm: StainNormOption = None,
    roi: Roi = None,
    classes: Classes = None,
    region: RegionPx = None,
    device: DeviceName = None,
    precision: PrecisionName = None,
    batch: Batch = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_gb: Memory = None,
    read_timeout: ReadTimeout = None,
    strict: Strict = None,
    force: Force = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run finished slides again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the cells of slides: OME-Zarr maps and labels, GeoParquet and QuPath cells, a report.

    Interrupted? Run the same command to resume. Exit code 0: every slide is done; 1: some failed, and the summary lists
    them with their reasons; 2: the command is invalid.
    """
    from wsiproc.executors import preload
    from wsiproc.pipeline import PRELOADED

    settings = chosen_settings(
        config, model=model, min_score=min_score, mpp=mpp, reader=reader, tissue=tissue, stain=stain,
        compartment=compartment, positive_dab=positive_dab, stain_norm=stain_norm, roi=roi,
        classes=classes_setting(classes), region=region, device=device, precision=precision, batch=batch,
        executor=executor, workers=workers,
        scheduler=scheduler, memory_gb=memory_gb, read_timeout_s=read_timeout, strict=strict, force=force,
    )  # fmt: skip
    preload(PRELOADED, settings.executor, settings.workers, settings.scheduler)

    found = slides_to_run(slides, settings, out)
    answers = Answers("run", as_json)
    with answers.kept():
        failed = _run(found, out, settings, overwrite, quiet, answers)
    answers.end(int(failed))


def _run(slides: Sequence[Path], out: Path, settings: Settings, overwrite: bool, quiet: bool, answers: Answers) -> bool:
    """Run slides; whether any failed. The outcomes so far are reported however the run ends."""
    from wsiproc.cli.console import display, print_summary
    from wsiproc.cli.documents.slides import RunSlide
    from wsiproc.pipeline.cohort import run_slides
    from wsiproc.pipeline.progress import Outcome

    outcomes: list[Outcome] = []
    try:
        with display(len(slides), quiet) as show:
            for outcome in run_slides(slides, out, settings, overwrite, show.on_progress):
                show.finished(outcome)
                outcomes.append(outcome)
    finally:
        if outcomes and not answers.as_json:
            print_summary(outcomes)
        for outcome in outcomes if answers.as_json else ():
            answers.give(RunSlide.of(outcome))
            if outcome.error is not None:
                answers.fail(outcome.error, outcome.path)
    return any(outcome.error for outcome in outcomes)
