"""``wsiproc plan``: what a run would do and need."""

from __future__ import annotations

from pathlib import Path

from wsiproc.cli.arguments import Answers, AsJson, Mpp, ReaderName, Slides, for_each_slide
from wsiproc.cli.result_commands.immuno import CompartmentName, PositiveDab, StainName
from wsiproc.cli.slide_commands.options import (
    Config,
    DeviceName,
    Force,
    Memory,
    MinScore,
    ModelName,
    Out,
    PrecisionName,
    RegionPx,
    Roi,
    StainNormOption,
    TissueName,
    Workers,
    chosen_settings,
    slides_to_run,
)

PLAN_EXAMPLES = "Example:  wsiproc plan slide.svs --region 4096 --workers 8"


def plan_command(
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
    region: RegionPx = None,
    device: DeviceName = None,
    precision: PrecisionName = None,
    workers: Workers = None,
    memory_gb: Memory = None,
    force: Force = None,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do and need: regions, memory, disk and time. It runs a sample of one or two windows."""
    settings = chosen_settings(
        config, model=model, min_score=min_score, mpp=mpp, reader=reader, tissue=tissue, stain=stain,
        compartment=compartment, positive_dab=positive_dab, stain_norm=stain_norm, roi=roi, region=region,
        device=device, precision=precision, workers=workers, memory_gb=memory_gb, force=force,
    )  # fmt: skip
    from wsiproc.cli.console import print_plan
    from wsiproc.pipeline.folders import output_folder
    from wsiproc.pipeline.planning.plan import forecast, plan_slide

    found = slides_to_run(slides, settings, out)
    output_folder(out, found)  # which a run would refuse as well

    answers = Answers("plan", as_json)

    def show(slide: Path) -> None:
        planned = plan_slide(slide, out, settings)
        expected = forecast(planned)
        if as_json:
            from wsiproc.cli.documents.slides import PlanSlide

            answers.give(PlanSlide.of(planned, expected))
        else:
            print_plan(planned, expected)

    for_each_slide(found, "planning", show, answers)
