"""``wsiproc export``: the cells and images of finished slides in the formats of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import Answers, AsJson, for_each_output, path

EXPORT_EXAMPLES = (
    "Examples:  wsiproc export wsiproc-out --to csv   ·   "
    "wsiproc export wsiproc-out/slide --to h5ad --to regions   ·   "
    "wsiproc export wsiproc-out --to spatialdata --out for-squidpy   ·   "
    "wsiproc export wsiproc-out --to ome-zarr --out for-napari"
)


class ExportFormat(StrEnum):
    """Names of formats, the keys of ``wsiproc.results.export.export.FORMATS``."""

    csv = "csv"
    h5ad = "h5ad"
    spatialdata = "spatialdata"
    ome_zarr = "ome-zarr"
    ome_zarr_04 = "ome-zarr-0.4"
    regions = "regions"
    annotation_store = "annotation-store"
    classes = "classes"


def export_command(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
    to: Annotated[
        list[ExportFormat], typer.Option("--to", "-t", help="Format; may be given several times.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path,
            help="Output folder, with one folder per slide. (default: export/ in each slide's)",
            metavar="FOLDER",
        ),
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Use the cells that `import` imported from QuPath.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    r"""Write finished slides in the formats of other tools.

    csv: cells.csv.gz, positions in px and µm, measurements · h5ad: cells.h5ad, AnnData for scanpy and squidpy ·
    spatialdata: spatialdata.zarr (needs wsiproc\[spatialdata]) · ome-zarr: slide.full.ome.zarr, the slide copied at
    full resolution with its labels · ome-zarr-0.4: images for readers without Zarr v3, such as QuPath · regions:
    regions.geojson, pieces of tissue with their cells counted · annotation-store: cells.db for TIAViz (needs
    wsiproc\[tiatoolbox]) · classes: one GeoJSON of cells per class. An interrupted ome-zarr is resumed.
    """
    from wsiproc.cli.console import tile_progress
    from wsiproc.results.export import export as formats
    from wsiproc.results.result import open_result

    answers = Answers("export", as_json)

    def report(output: Path, written: Path) -> None:
        if as_json:
            from wsiproc.cli.documents.folders import ExportedFile

            answers.give(ExportedFile(folder=str(output), path=str(written)))
        else:
            typer.echo(written)

    def write(output: Path) -> None:
        target = out / output.resolve().name if out else output / formats.FOLDER
        written: list[Path] = []
        try:
            with tile_progress(output.name) as advance:
                names = [each.value for each in to]
                written.extend(formats.export(open_result(output, corrected), names, target, advance))
        finally:
            for each in written:
                report(output, each)

    for_each_output(folders, "exporting it", write, answers)
    answers.end(0)
