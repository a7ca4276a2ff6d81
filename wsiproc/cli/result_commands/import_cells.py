"""``wsiproc import``: import cells that were corrected in QuPath, next to those that were found."""

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
    """What to do with cells that are not in the file."""

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
        typer.Option(
            metavar="CLASS", help="Class of annotations in which cells are left out, besides exclude and ignore."
        ),
    ] = None,
    missing: Annotated[
        MissingCells | None,
        typer.Option(help="Cells that are not in the file. (default: delete, refused if these are more than half)"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change and write nothing.")] = False,
) -> None:
    """Import cells that were corrected in QuPath: writes cells.corrected.parquet next to cells.parquet, which stays.

    Changed classes, changed outlines (measured again in the maps), cells added or deleted, areas to exclude; the
    changes are counted, and reported in corrections.json.
    """
    from wsiproc.errors import SettingsError
    from wsiproc.results.folder import find_outputs
    from wsiproc.results.qupath.import_corrections import FACTS, TABLE, import_corrections

    outputs = find_outputs(folder)
    if len(outputs) != 1:
        raise SettingsError(
            f"{folder}: the corrected cells are of one slide, but this holds {len(outputs)}; give that slide's folder"
        )
    changes = import_corrections(
        corrected,
        outputs[0],
        exclude=exclude or [],
        missing=None if missing is None else missing.value,
        dry_run=dry_run,
    )
    for line in _lines(changes):
        typer.echo(line)
    written = f"nothing was written (--dry-run); it would be {outputs[0] / TABLE}"
    typer.echo(written if dry_run else f"{outputs[0] / TABLE}; the changes are in {FACTS} next to it")


def _lines(changes: Corrections) -> Iterator[str]:
    """The changes, one per line."""
    right = f", {changes.right:,} of them marked as right" if changes.right else ""
    yield f"{changes.before:,} cells before, {changes.after:,} after: {changes.unchanged:,} unchanged{right}"
    for (old, new), cells in changes.reclassified.items():
        yield f"  {cells:,} reclassified from {old} to {new}"
    changed = {"with another outline": changes.outlines, "added": changes.added, "deleted": changes.deleted}
    yield from (f"  {cells:,} {what}" for what, cells in changed.items() if cells)
    if changes.areas:
        yield f"  {changes.excluded:,} excluded, in areas to leave out: {changes.areas}"
    if changes.reviewed:
        yield f"  reviewed areas, from which `wsiproc fit --corrections` learns: {changes.reviewed}"
    where = f" ({changes.compartment})" if changes.compartment else ""
    if changes.positive_index is not None:
        before, after = changes.positive_index
        yield f"  positive index{where} {before:.1%} before, {after:.1%} after"
    if changes.h_score is not None:
        yield f"  H-score{where} {changes.h_score[0]:.0f} before, {changes.h_score[1]:.0f} after"
    if changes.ignored:
        yield "  ignored: " + ", ".join(f"{number:,} of type {kind}" for kind, number in changes.ignored.items())
    if changes.skipped:
        yield f"  {changes.skipped:,} objects could not be imported:"
        yield from (f"    {problem}" for problem in changes.problems)
    yield from (f"  warning: {warning}" for warning in changes.warnings)
