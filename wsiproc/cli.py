"""The command line: arguments in, one plain sentence or table out. Nothing is imported before it is needed."""

from __future__ import annotations

import gc
import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiproc import completion
from wsiproc._version import __version__
from wsiproc.commands.arguments import (
    INTERRUPTED,
    Answers,
    AsJson,
    Mpp,
    ReaderName,
    Slides,
    answer_in_json,
    exit_code,
    for_each_slide,
    listed,
    path,
)
from wsiproc.commands.check import CHECK_EXAMPLES, check
from wsiproc.commands.doctor import DOCTOR_EXAMPLES, doctor
from wsiproc.commands.evaluate import EVALUATE_EXAMPLES, evaluate
from wsiproc.commands.export import EXPORT_EXAMPLES, export
from wsiproc.commands.immuno import RECLASSIFY_EXAMPLES, CompartmentName, PositiveDab, StainName, reclassify
from wsiproc.commands.import_cells import IMPORT_EXAMPLES, import_cells
from wsiproc.commands.info import INFO_EXAMPLES, info
from wsiproc.commands.profile import PROFILE_EXAMPLES, profile
from wsiproc.commands.qupath import QUPATH_EXAMPLES, qupath
from wsiproc.commands.schema import JSON_COMMANDS, SCHEMA_EXAMPLES, schema
from wsiproc.commands.synth import SYNTH_EXAMPLES, synth
from wsiproc.commands.view import VIEW_EXAMPLES, view
from wsiproc.errors import SlideError, WsiprocError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsiproc.settings import Settings

app = typer.Typer(
    name="wsiproc",
    help="Whole-slide images to cells: no labels, no downloads, no seams.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Shared by `run` and `plan`; None means "as in --config, or the default".
Out = Annotated[Path, typer.Option("--out", "-o", parser=path, help="Folder that gets one folder a slide.")]
Config = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        help="TOML file with any of these settings; options given here win.",
        autocompletion=completion.files(".toml"),
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Cell model: a name, the path of a model folder, or tiatoolbox:NAME=WEIGHTS. (default: default)",
        autocompletion=completion.models,
    ),
]
_LOW_SCORE = "Leave out cells with a lower score. (default: the model's own limit)"
MinScore = Annotated[float | None, typer.Option(min=0, max=1, help=_LOW_SCORE)]
Tissue = Annotated[
    str | None,
    typer.Option(
        help="auto, all, tiatoolbox:otsu or tiatoolbox:morphological. (default: auto)",
        autocompletion=completion.choices("tissue"),
    ),
]
StainNorm = Annotated[
    str | None,
    typer.Option(
        help="Bring the stain to another first: tiatoolbox:reinhard, :macenko, :vahadane or :ruifrok, and =PICTURE of "
        "the stain that is wanted. (default: none)",
        autocompletion=completion.choices("stain_norm"),
    ),
]
Roi = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        help="GeoJSON with areas to work in, as QuPath exports annotations.",
        autocompletion=completion.files(".geojson", ".json"),
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Number of kinds of cells to find, or a classes.toml. (default: the model's own classes)",
        autocompletion=completion.files(".toml"),
    ),
]
RegionPx = Annotated[
    int | None,
    typer.Option("--region", help="Side of a region in px, a multiple of the model's window. (default: 2048)"),
]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu or cuda. (default: auto)", autocompletion=completion.choices("device")),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, as few bits as the device is fast at; float32, bfloat16, float16, int8. (default: auto)",
        autocompletion=completion.choices("precision"),
    ),
]
Batch = Annotated[int | None, typer.Option(help="Windows at a time on a GPU. (default: by free memory)")]
ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="auto, dask, processes, threads or loop.",
        autocompletion=completion.choices("executor"),
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", "-w", help="Worker processes. (default: one a core)")]
Scheduler = Annotated[str | None, typer.Option(help="Address of an existing Dask scheduler: tcp://host:8786.")]
_UNITS = {"": 1.0, "gb": 1.0, "gib": 2**30 / 1e9, "mb": 1e-3, "mib": 2**20 / 1e9, "tb": 1e3, "tib": 2**40 / 1e9}


def gigabytes(size: str) -> float:
    """A size as users write it, in GB: ``8GB``, ``8 GiB``, ``800MB``; without a unit, GB."""
    parts = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", size, re.IGNORECASE)
    if parts is None or parts[2].lower() not in _UNITS:
        raise typer.BadParameter(f"{size!r} is no size; write it as 8GB, 8GiB or 800MB")
    return float(parts[1]) * _UNITS[parts[2].lower()]


Memory = Annotated[
    float | None,
    typer.Option("--memory", parser=gigabytes, metavar="SIZE", help="Memory that all processes may use, as 8GB."),
]
ReadTimeout = Annotated[
    float | None,
    typer.Option(
        "--read-timeout", help="Seconds after which a read counts as stuck and is tried again. (default: 300)"
    ),
]
Strict = Annotated[bool | None, typer.Option("--strict", help="Stop a slide at the first region that cannot be read.")]

Force = Annotated[
    bool | None,
    typer.Option("--force", help="Work on a slide that looks unsuitable, as one without colour, with a warning."),
]


def _settings(config: Path | None, **given: Any) -> Settings:
    """Settings from a file, then from the options that were given."""
    from wsiproc.settings import Settings, load_settings

    values = load_settings(config) if config else {}
    return Settings(**values | {name: value for name, value in given.items() if value is not None})


def _listed(slides: list[str], settings: Settings, out: Path) -> tuple[Path, ...]:
    """The slides that are meant; of two mistakes, a model that is unknown is named before slides that are not there."""
    try:
        return listed(slides, settings.mpp, out)
    except SlideError:
        from wsiproc.models import load_model

        load_model(settings.model)
        raise


def _classes(given: str | None) -> int | Path | None:
    """A number of kinds, or the path of their file."""
    if given is None:
        return None
    return int(given) if given.lstrip("-").isdecimal() else path(given)


@app.command(
    epilog="Examples:  wsiproc run slide.svs   ·   wsiproc run slides/*.ndpi -o results --workers 8   ·   "
    "wsiproc run scan.png --mpp 0.25   ·   wsiproc run slides/*.svs --classes 4   ·   "
    "wsiproc run slide.svs --scheduler tcp://head:8786"
)
def run(
    slides: Slides,
    out: Out = Path("wsiproc-out"),
    config: Config = None,
    model: ModelName = None,
    min_score: MinScore = None,
    mpp: Mpp = None,
    reader: ReaderName = None,
    tissue: Tissue = None,
    stain: StainName = None,
    compartment: CompartmentName = None,
    positive_dab: PositiveDab = None,
    stain_norm: StainNorm = None,
    roi: Roi = None,
    classes: Classes = None,
    region: RegionPx = None,
    device: Device = None,
    precision: Precision = None,
    batch: Batch = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    memory_gb: Memory = None,
    read_timeout: ReadTimeout = None,
    strict: Strict = None,
    force: Force = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished slides again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the summary.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the cells of slides: OME-Zarr maps and labels, GeoParquet and QuPath cells, a report.

    Stopped halfway? The same command goes on where it was. Exit code 0: every slide is done; 1: some failed, and the
    summary names them with their reasons; 2: the command itself makes no sense.
    """
    from wsiproc.executors import warm_up

    settings = _settings(
        config, model=model, min_score=min_score, mpp=mpp, reader=reader, tissue=tissue, stain=stain,
        compartment=compartment, positive_dab=positive_dab, stain_norm=stain_norm, roi=roi, classes=_classes(classes),
        region=region, device=device, precision=precision, batch=batch, executor=executor, workers=workers,
        scheduler=scheduler, memory_gb=memory_gb, read_timeout_s=read_timeout, strict=strict, force=force,
    )  # fmt: skip
    warm_up(settings.executor, settings.workers, settings.scheduler)

    found = _listed(slides, settings, out)
    answers = Answers("run", as_json)
    with answers.kept():
        failed = _run(found, out, settings, overwrite, quiet, answers)
    answers.end(int(failed))


def _run(slides: Sequence[Path], out: Path, settings: Settings, overwrite: bool, quiet: bool, answers: Answers) -> bool:
    """Run slides; whether one failed. What became of those that are done is told, whatever ends the run."""
    from wsiproc.documents.slides import RunSlide
    from wsiproc.progress import display, print_summary
    from wsiproc.slide_queue import Outcome, run_slides

    outcomes: list[Outcome] = []
    try:
        with display(len(slides), quiet) as show:
            for outcome in run_slides(slides, out, settings, overwrite, show.listen):
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


@app.command(epilog="Example:  wsiproc plan slide.svs --region 4096 --workers 8")
def plan(
    slides: Slides,
    out: Out = Path("wsiproc-out"),
    config: Config = None,
    model: ModelName = None,
    min_score: MinScore = None,
    mpp: Mpp = None,
    reader: ReaderName = None,
    tissue: Tissue = None,
    stain: StainName = None,
    compartment: CompartmentName = None,
    positive_dab: PositiveDab = None,
    stain_norm: StainNorm = None,
    roi: Roi = None,
    region: RegionPx = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    memory_gb: Memory = None,
    force: Force = None,
    as_json: AsJson = False,
) -> None:
    """Show what `run` would do and need: regions, memory, disk and time, from a few windows tried for real."""
    from wsiproc.plan import forecast, plan_slide
    from wsiproc.progress import print_plan

    settings = _settings(
        config, model=model, min_score=min_score, mpp=mpp, reader=reader, tissue=tissue, stain=stain,
        compartment=compartment, positive_dab=positive_dab, stain_norm=stain_norm, roi=roi, region=region,
        device=device, precision=precision, workers=workers, memory_gb=memory_gb, force=force,
    )  # fmt: skip

    answers = Answers("plan", as_json)

    def show(slide: Path) -> None:
        planned = plan_slide(slide, out, settings)
        expected = forecast(planned)
        if as_json:
            from wsiproc.documents.slides import PlanSlide

            answers.give(PlanSlide.of(planned, expected))
        else:
            print_plan(planned, expected)

    for_each_slide(_listed(slides, settings, out), "planning", show, answers)


@app.command(
    epilog="Examples:  wsiproc fit slides/*.svs -o our-model   ·   wsiproc fit @slides.txt -o our-model   ·   "
    "wsiproc fit slide.svs --quick -o quick-model   ·   wsiproc fit tiles/ --mpp 0.25 -o tile-model   ·   "
    "wsiproc fit slides/*.svs --from default -o adapted"
)
def fit(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slides, folders with slides in them, folders of pictures of one slide each, or @LIST, a file with a "
            "path a line.",
            show_default=False,
            autocompletion=completion.slides,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="Model folder to write.")] = Path("model"),
    config: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="TOML file with settings; options given here win.",
            autocompletion=completion.files(".toml"),
        ),
    ] = None,
    mpp: Mpp = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--from", help="Model to begin with: default, or a model folder.", autocompletion=completion.models
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps: one slide, two cores, twenty minutes.")] = False,
    seed: Annotated[int | None, typer.Option(help="Same seed, same model, on one device.")] = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")] = False,
) -> None:
    """Learn a cell model from slides or tiles, with no labels: a folder for `run --model`, with a model card.

    Stopped halfway? The same command goes on where it was.
    """
    from wsiproc.devices import choose_device, use_allowed_cores
    from wsiproc.progress import fit_progress
    from wsiproc.psm.fit import fit as learn
    from wsiproc.psm.recipe import fit_settings
    from wsiproc.psm.tiles import is_picture_folder
    from wsiproc.unexpected import net

    chosen = choose_device(_settings(None, device=device).device, "float32").name
    paths = listed(sources, mpp, out, is_picture_folder) if sources else ()
    settings = fit_settings(config, paths, out, mpp=mpp, quick=quick, base=base, seed=seed, device=chosen)
    use_allowed_cores()
    with net("fit", out.parent), fit_progress(quiet) as listen:
        learn(settings, listen)
    typer.echo(f"{out}: use it with  wsiproc run SLIDE --model {out}   (what it learned from: {out / 'README.md'})")


@app.command(
    epilog="Examples:  wsiproc benchmark monuseg MoNuSegTestData -m my-model   ·   "
    "wsiproc benchmark bcdata ki67 -m my-model -m other-model   ·   wsiproc benchmark my-pictures --mpp 0.5   ·   "
    "wsiproc benchmark benchmarks/no_nuclei.toml ../shared/data -m my-model"
)
def benchmark(
    dataset: Annotated[
        str,
        typer.Argument(
            help="monuseg, tnbc, nucls, nucls-points, brca-m2c or bcdata; a folder with images/ and labels/ or "
            "points/; or a TOML list of areas without nuclei.",
            show_default=False,
            autocompletion=completion.datasets,
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(parser=path, help="Where that dataset or the listed pictures are.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Cell model, once for each; `classical` is always added. (default: default)",
            autocompletion=completion.models,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="Folder for tables, overlays and runs.")] = Path(
        "wsiproc-benchmark"
    ),
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of the pictures. (default: that of the named dataset)")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many pictures only.")] = None,
    csv: Annotated[Path | None, typer.Option(parser=path, help="Write the table here as well.")] = None,
    device: Device = None,
    precision: Precision = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Pictures at a time. (default: one a core, at most 8)")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do finished pictures again.")] = False,
) -> None:
    """Score models on a labelled dataset, `classical` beside them: one table, scores and overlays of each picture.

    Each picture is run as `run` runs a slide. Stopped halfway? The same command goes on where it was.
    Exit code 0: every picture was scored; 1: some failed, and are named; 2: the command itself makes no sense.
    """
    from wsiproc.benchmark import run_benchmark
    from wsiproc.evaluate.layouts import find_dataset
    from wsiproc.evaluate.tables import write_lines
    from wsiproc.progress import picture_progress, print_benchmark

    settings = _settings(None, mpp=mpp, device=device, precision=precision, workers=workers)
    found = find_dataset(dataset, folder, limit)
    with picture_progress(found) as listen:
        done = run_benchmark(found, model or [settings.model], out, settings, overwrite=overwrite, listen=listen)
    print_benchmark(done, out)
    if csv is not None:
        write_lines(csv, done.lines)
    raise typer.Exit(int(bool(done.failures)))


app.command(epilog=INFO_EXAMPLES)(info)
app.command(epilog=CHECK_EXAMPLES)(check)
app.command(epilog=EVALUATE_EXAMPLES)(evaluate)
app.command(epilog=SYNTH_EXAMPLES)(synth)
app.command(epilog=EXPORT_EXAMPLES)(export)
app.command(epilog=PROFILE_EXAMPLES)(profile)
app.command(epilog=QUPATH_EXAMPLES)(qupath)
app.command("import", epilog=IMPORT_EXAMPLES)(import_cells)
app.command(epilog=RECLASSIFY_EXAMPLES)(reclassify)
app.command(epilog=VIEW_EXAMPLES)(view)
app.command(epilog=DOCTOR_EXAMPLES)(doctor)
app.command(epilog=SCHEMA_EXAMPLES)(schema)


def _print_error(error: Exception) -> None:
    from wsiproc.progress import print_error

    print_error(error)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"wsiproc {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: errors that we expect become one sentence and exit code 2; Ctrl-C is answered.

    What nobody foresaw becomes a sentence too, with exit code 1 and its traceback in a file.
    """
    for stream in (sys.stdout, sys.stderr):  # what a terminal or log cannot show is written as its code
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = next(iter(sys.argv[1:]), "")
    try:
        if "--json" in sys.argv and command in JSON_COMMANDS:
            sys.exit(answer_in_json(app, command))
        app()
    except WsiprocError as error:
        _print_error(error)
        sys.exit(exit_code(error))
    except Exception as error:
        from wsiproc.unexpected import recorded

        _print_error(recorded(error, " ".join(["wsiproc", command]), None))
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("Stopped. The same command goes on from here.", err=True)
        raise
    finally:
        gc.freeze()  # the end of the process need not look for garbage among all that was imported: most of a second


if __name__ == "__main__":
    main()
