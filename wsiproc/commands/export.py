"""``wsiproc export``: the cells and pictures of finished slides in the formats of other tools."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wsiproc.commands.arguments import for_each_output, path

EXPORT_EXAMPLES = (
    "Examples:  wsiproc export wsiproc-out --to csv   ·   "
    "wsiproc export wsiproc-out/slide --to h5ad --to regions   ·   "
    "wsiproc export wsiproc-out --to spatialdata --out for-squidpy"
)


class ExportFormat(StrEnum):
    """Names of formats, as ``wsiproc.export.FORMATS`` has them."""

    csv = "csv"
    h5ad = "h5ad"
    spatialdata = "spatialdata"
    ome_zarr_04 = "ome-zarr-0.4"
    regions = "regions"
    annotation_store = "annotation-store"
    classes = "classes"


def export(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
    to: Annotated[
        list[ExportFormat], typer.Option("--to", "-t", help="Format; give it again for several.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=path,
            help="Folder that gets one folder a slide. (default: export/ in each slide's)",
            metavar="FOLDER",
        ),
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Take the cells that `import` brought back from QuPath.")
    ] = False,
) -> None:
    r"""Write finished slides in the formats of other tools.

    csv: cells.csv.gz, places in px and µm, measurements · h5ad: cells.h5ad, AnnData for scanpy and squidpy ·
    spatialdata: spatialdata.zarr (needs wsiproc\[spatialdata]) · ome-zarr-0.4: pictures for readers without zarr v3, as
    QuPath · regions: regions.geojson, pieces of tissue with their cells counted · annotation-store: cells.db for TIAViz
    (needs wsiproc\[tiatoolbox]) · classes: a GeoJSON of cells a class.
    """
    from wsiproc import export as formats
    from wsiproc.result import open_result

    def write(output: Path) -> None:
        target = out / output.resolve().name if out else output / formats.FOLDER
        for written in formats.export(open_result(output, corrected), [each.value for each in to], target):
            typer.echo(written)

    for_each_output(folders, "exporting it", write)
