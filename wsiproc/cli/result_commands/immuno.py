"""Immunohistochemistry on the command line: options, and ``wsiproc reclassify``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from wsiproc.cli import completion
from wsiproc.cli.arguments import Answers, AsJson, for_each_output, path
from wsiproc.core.choices import CompartmentChoice, StainChoice, either

RECLASSIFY_EXAMPLES = (
    "Examples:  wsiproc reclassify wsiproc-out --positive-dab 0.25   ·   "
    "wsiproc reclassify wsiproc-out/slide --positive-dab 0.2 0.4 0.6   ·   "
    "wsiproc reclassify wsiproc-out/slide --compartment membrane"
)


def densities(text: str) -> float | tuple[float, ...]:
    """One optical density, or three for weak, moderate and strong, as ``0.2`` or ``0.2,0.4,0.6``."""
    try:
        values = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not an optical density; write one as 0.2, or three as 0.2,0.4,0.6"
        ) from None
    return values[0] if len(values) == 1 else values


StainName = Annotated[
    str | None,
    typer.Option(
        "--stain",
        help=f"{either(StainChoice)} (haematoxylin and DAB); other stains are not supported. (default: auto)",
        autocompletion=completion.choices(StainChoice),
    ),
]
CompartmentName = Annotated[
    str | None,
    typer.Option(
        "--compartment",
        help=f"Where DAB makes a cell positive: {either(CompartmentChoice)}. (default: auto, where it is "
        "found; the positive index is given for DAB in nuclei, or if a compartment is named here)",
        autocompletion=completion.choices(CompartmentChoice),
    ),
]
PositiveDab = Annotated[
    Any,
    typer.Option(
        "--positive-dab",
        parser=densities,
        metavar="OD",
        help="Optical density of DAB above which a cell is positive, or three for weak, moderate and strong: "
        "0.2,0.4,0.6. (default: estimated once per slide, from its own nuclei)",
    ),
]


def reclassify_command(
    folders: Annotated[
        list[str],
        typer.Argument(
            help="Folders that `run` wrote, or folders of them; numbers here are further densities of --positive-dab."
        ),
    ],
    positive_dab: PositiveDab = None,
    compartment: CompartmentName = None,
    as_json: AsJson = False,
) -> None:
    """Reclassify cells scored by DAB, in all files, in seconds and without segmenting again.

    The result is what `run` with the same options would have given. Interrupted? Run the same command to resume. Exit
    code 0: all slides have their new classes; 1: some failed, and are listed.
    """
    from wsiproc.pipeline.reclassify import reclassify as change
    from wsiproc.pipeline.reclassify import update_cohort

    cuts = [] if positive_dab is None else [positive_dab] if isinstance(positive_dab, float) else [*positive_dab]
    cuts += [float(text) for text in folders if _is_number(text)]
    given = None if not cuts else cuts[0] if len(cuts) == 1 else tuple(cuts)

    answers, cohorts = Answers("reclassify", as_json), set[Path]()

    def give(output: Path) -> None:
        done = change(output, cast("CompartmentChoice | None", compartment), given)  # it refuses others
        cohorts.add(done.folder.parent)
        if as_json:
            from wsiproc.cli.documents.folders import ReclassifiedSlide

            answers.give(ReclassifiedSlide.of(done))
            return
        counts = ", ".join(f"{cells:,} {name}" for name, cells in done.after.items())
        typer.echo(f"{output}: {counts}")
        for warning in done.warnings:
            typer.echo(f"  warning: {warning}")

    outputs = [path(text) for text in folders if not _is_number(text)]
    try:
        for_each_output(outputs, "reclassifying its cells", give, answers)
    finally:  # also of a cohort in which some failed, or that was interrupted
        for cohort in sorted(cohorts):
            update_cohort(cohort)
    answers.end(0)


def _is_number(text: str) -> bool:
    """Whether an argument is a density, as in ``--positive-dab 0.2 0.4 0.6``, and not a folder."""
    return re.fullmatch(r"\d*\.?\d+", text) is not None and not Path(text).exists()
