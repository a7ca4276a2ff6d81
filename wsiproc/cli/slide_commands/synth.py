"""``wsiproc synth``: a synthetic slide whose nuclei are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import make_place_outside_slides, path
from wsiproc.core.choices import SceneStain

SYNTH_EXAMPLES = "Example:  wsiproc synth slide.tif --height 8192 --width 8192 --stain HDAB --labels"


def synth_command(
    target: Annotated[
        Path, typer.Argument(metavar="PATH", parser=path, help="TIFF to write; the ground truth is written next to it.")
    ],
    height: Annotated[int, typer.Option(help="px")] = 4096,
    width: Annotated[int, typer.Option(help="px")] = 4096,
    mpp: Annotated[float, typer.Option(help="µm per pixel.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Same seed, same slide.")] = 0,
    tissue: Annotated[float, typer.Option(help="Share of the slide that is tissue.")] = 0.4,
    stain: Annotated[SceneStain, typer.Option(help="H&E, or haematoxylin and DAB.")] = "HE",
    look: Annotated[str, typer.Option(help="Scanner: bright, grey, warm, purple or soft.")] = "bright",
    crowding: Annotated[float, typer.Option(help="How densely nuclei lie, 0 to 1.")] = 0.5,
    debris: Annotated[int, typer.Option(help="Number of pen marks, bubbles and dust particles.")] = 0,
    labels: Annotated[bool, typer.Option("--labels", help="Write the label image of the ground truth too.")] = False,
) -> None:
    """Write a synthetic slide whose nuclei are known, as a pyramidal TIFF that OpenSlide opens."""
    from wsiproc.cli.console import tile_progress
    from wsiproc.synthetic import write_synthetic_slide

    make_place_outside_slides(target)
    with tile_progress(target.name) as advance:
        truth = write_synthetic_slide(
            target, (height, width), mpp=mpp, seed=seed, tissue_fraction=tissue, stain=stain, look=look,
            crowding=crowding, debris=debris, labels=labels, progress=advance,
        )  # fmt: skip
    counts = ", ".join(f"{number:,} {name}" for name, number in truth.counts.items())
    typer.echo(f"{truth.path}: {counts}; truth in {truth.table_path}")
