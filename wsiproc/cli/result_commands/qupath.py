"""``wsiproc qupath``: cells in files that fit QuPath's memory, and scripts that import them and export corrections."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsiproc.cli.arguments import for_each_output, path

if TYPE_CHECKING:
    from wsiproc.results.qupath.split import QuPathSplit

QUPATH_EXAMPLES = (
    "Examples:  wsiproc qupath wsiproc-out   ·   wsiproc qupath wsiproc-out/slide --simplify 1   ·   "
    "wsiproc qupath wsiproc-out/slide --cells-per-file 50000   ·   wsiproc qupath wsiproc-out/slide --tiles 4"
)


def qupath_command(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
    simplify: Annotated[
        float,
        typer.Option(metavar="PX", help="How far a simplified outline may deviate from the true one, in slide px."),
    ] = 0.0,
    cells_per_file: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of cells per file. (default: as many as a heap of 4 GB can read)", show_default=False
        ),
    ] = None,
    tiles: Annotated[
        float | None,
        typer.Option(
            metavar="MM", help="Side in mm of the square that each file covers, whatever its number of cells."
        ),
    ] = None,
    min_area: Annotated[float, typer.Option(metavar="UM2", help="Leave out cells with a smaller area, in µm².")] = 0.0,
) -> None:
    """Split the cells of finished slides into files that fit QuPath's memory, with scripts to import and correct them.

    They are written to the folder qupath of each slide; docs/qupath.md describes every step.
    """
    from wsiproc.results.qupath.split import Wanted, split_cells

    wanted = Wanted(cells_per_file, tiles, simplify, min_area)

    def write(output: Path) -> None:
        for line in _summary(split_cells(output, wanted)):
            typer.echo(line)

    for_each_output(folders, "splitting its cells", write)


def _summary(split: QuPathSplit) -> list[str]:
    """What a user must know about a split."""
    largest = max(split.files, key=lambda file: file["heap_bytes"], default={"cells": 0, "heap_bytes": 0})
    lines = [
        f"{split.folder}: {split.cells:,} cells in {len(split.files)} files of squares of {split.side_px:,} px; the "
        f"largest has {largest['cells']:,} and needs about {largest['heap_bytes'] / 1e6:,.0f} MB of QuPath's heap"
    ]
    if split.too_small:
        lines.append(f"  left out: {split.too_small:,} smaller than --min-area")
    if split.not_writable:
        lines.append(f"  left out: {split.not_writable:,} without a valid outline, which QuPath would refuse")
    if split.not_simplified:
        lines.append(f"  {split.not_simplified:,} outlines could not be simplified and are as they were")
    return [*lines, "  open the slide in QuPath, drag import-cells.groovy from that folder onto it, and run it"]
