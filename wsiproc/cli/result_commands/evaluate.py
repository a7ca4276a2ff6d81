"""``wsiproc evaluate``: score cells against the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import Answers, AsJson, make_place_outside_slides, path

EVALUATE_EXAMPLES = "Example:  wsiproc evaluate wsiproc-out/slide truth.labels.tif --figures figures"


def evaluate_command(
    prediction: Annotated[
        Path, typer.Argument(parser=path, help="Label image, GeoJSON or output folder; or a folder of them.")
    ],
    truth: Annotated[Path, typer.Argument(parser=path, help="The same for the truth; folders are paired by name.")],
    csv: Annotated[Path | None, typer.Option(parser=path, help="Write the table here as well.")] = None,
    figures: Annotated[
        Path | None, typer.Option(parser=path, help="Folder for overlays, the worst images first.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score cells against the ground truth: Dice, AJI, PQ, detection F1; one row per image, and their mean."""
    from rich.console import Console

    from wsiproc.evaluate.compare import evaluate_paths, score_table, write_scores

    if csv is not None:
        make_place_outside_slides(csv)  # before the work
    rows = evaluate_paths(prediction, truth, figures)
    if csv is not None:
        write_scores(csv, rows)
    if as_json:
        from wsiproc.cli.documents.folders import evaluated

        answers = Answers("evaluate", as_json)
        images, mean = evaluated(rows)
        answers.give(*images)
        answers.end(0, mean=mean)
    Console(width=max(Console().width, 140)).print(
        score_table(rows)
    )  # in a narrower table the numbers would be cut off
