"""``wsiproc benchmark``: score models on a labelled dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli import completion
from wsiproc.cli.arguments import make_place_outside_slides, path
from wsiproc.cli.slide_commands.options import DeviceName, PrecisionName, chosen_settings

BENCHMARK_EXAMPLES = (
    "Examples:  wsiproc benchmark monuseg MoNuSegTestData -m my-model   ·   "
    "wsiproc benchmark bcdata ki67 -m my-model -m other-model   ·   wsiproc benchmark my-images --mpp 0.5   ·   "
    "wsiproc benchmark benchmarks/no_nuclei.toml ../shared/data -m my-model"
)


def benchmark_command(
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
        typer.Argument(parser=path, help="Where that dataset or the listed images are.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Cell model; may be given several times. `classical` is always added. (default: default)",
            autocompletion=completion.models,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="Folder for tables, overlays and runs.")] = Path(
        "wsiproc-benchmark"
    ),
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of the images. (default: that of the named dataset)")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many images, the first ones.")] = None,
    csv: Annotated[Path | None, typer.Option(parser=path, help="Write the table here as well.")] = None,
    device: DeviceName = None,
    precision: PrecisionName = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Images run concurrently. (default: one per core, at most 8)")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run finished images again.")] = False,
) -> None:
    """Score models on a labelled dataset, and `classical` for comparison: one table, scores and overlays of each image.

    Each image is run as `run` runs a slide. Interrupted? Run the same command to resume.
    Exit code 0: every image was scored; 1: some failed, and are listed; 2: the command is invalid.
    """
    settings = chosen_settings(None, mpp=mpp, device=device, precision=precision, workers=workers)
    from wsiproc.cli.console import image_progress, print_benchmark
    from wsiproc.evaluate.benchmark import run_benchmark
    from wsiproc.evaluate.layouts import find_dataset
    from wsiproc.evaluate.tables import write_lines

    found = find_dataset(dataset, folder, limit)
    if csv is not None:
        make_place_outside_slides(csv)  # before the work
    with image_progress(found) as on_progress:
        done = run_benchmark(
            found, model or [settings.model], out, settings, overwrite=overwrite, on_progress=on_progress
        )
    print_benchmark(done, out)
    if csv is not None:
        write_lines(csv, done.lines)
    raise typer.Exit(int(bool(done.failures)))
