"""``wsiproc import``: cells that were corrected in QuPath, brought back beside those that were found."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsiproc.cli.arguments import path

if TYPE_CHECKING:
    from wsiproc.results.qupath.import_corrections import Corrections

IMPORT_EXAMPLES = (
    "Examples:  wsiproc import corrections.geojson.gz wsiproc-out/slide --dry-run   ·   "
    "wsiproc import corrections.geojson.gz wsiproc-out/slide --exclude Necrosis"
)


class MissingCells(StrEnum):
    """What becomes of cells that are not in the file."""

    delete = "delete"
    keep = "keep"


def import_command(
    corrected: Annotated[
        Path, typer.Argument(parser=path, help="GeoJSON from QuPath, plain or gzipped.", show_default=False)
    ],
    folder: Annotated[
        Path, typer.Argument(parser=path, help="Folder of the slide that `run` wrote.", show_default=False)
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Annotations in which cells are left out, besides exclude and ignore."),
    ] = None,
    missing: Annotated[
        MissingCells | None,
        typer.Option(help="Cells that are not in the file. (default: delete, refused where it is more than half)"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change and write nothing.")] = False,
) -> None:
    """Bring cells back that were corrected in QuPath: cells.corrected.parquet beside cells.parquet, which stays.

    Other classes, other outlines (measured again in the maps), cells added or deleted, areas to exclude; what changed
    is counted, and told in corrections.json.
    """
    from wsiproc.errors import SettingsError
    from wsiproc.results.folder import find_outputs
    from wsiproc.results.qupath.import_corrections import FACTS, TABLE, import_corrections

    outputs = find_outputs(folder)
    if len(outputs) != 1:
        raise SettingsError(
            f"{folder}: the corrected cells are of one slide, and there are {len(outputs)}: name its folder"
        )
    told = import_corrections(
        corrected,
        outputs[0],
        exclude=exclude or [],
        missing=None if missing is None else missing.value,
        dry_run=dry_run,
    )
    for line in _lines(told):
        typer.echo(line)
    written = f"nothing was written (--dry-run); it would be {outputs[0] / TABLE}"
    typer.echo(written if dry_run else f"{outputs[0] / TABLE}; what changed is in {FACTS} beside it")


def _lines(told: Corrections) -> Iterator[str]:
    """What changed, a line each."""
    yield f"{told.before:,} cells before, {told.after:,} after: {told.unchanged:,} unchanged"
    for (old, new), cells in told.reclassified.items():
        yield f"  {cells:,} reclassified from {old} to {new}"
    changed = {"with another outline": told.outlines, "added": told.added, "deleted": told.deleted}
    yield from (f"  {cells:,} {what}" for what, cells in changed.items() if cells)
    if told.areas:
        yield f"  {told.excluded:,} excluded, in areas to leave out: {told.areas}"
    where = f" ({told.compartment})" if told.compartment else ""
    if told.positive_index is not None:
        before, after = told.positive_index
        yield f"  positive index{where} {before:.1%} before, {after:.1%} after"
    if told.h_score is not None:
        yield f"  H-score{where} {told.h_score[0]:.0f} before, {told.h_score[1]:.0f} after"
    if told.ignored:
        yield "  ignored: " + ", ".join(f"{number:,} of type {kind}" for kind, number in told.ignored.items())
    if told.skipped:
        yield f"  {told.skipped:,} objects could not be taken:"
        yield from (f"    {problem}" for problem in told.problems)
    yield from (f"  warning: {warning}" for warning in told.warnings)
