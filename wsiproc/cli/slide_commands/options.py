"""Options shared by the commands that run slides; None means "as in --config, or the default"."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiproc.cli import completion
from wsiproc.cli.arguments import listed, path
from wsiproc.core import choices
from wsiproc.core.choices import either
from wsiproc.errors import SlideError

if TYPE_CHECKING:
    from wsiproc.pipeline.settings import Settings


# Shared by `run` and `plan`; None means "as in --config, or the default".
Out = Annotated[Path, typer.Option("--out", "-o", parser=path, help="Output folder, with one folder per slide.")]
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
TissueName = Annotated[
    str | None,
    typer.Option(
        help=f"Tissue detection: {either(choices.TissueChoice)}. (default: auto)",
        autocompletion=completion.choices(choices.TissueChoice),
    ),
]
StainNormOption = Annotated[
    str | None,
    typer.Option(
        help=f"Stain normalization: {either(choices.StainNormChoice)}; =IMAGE after a method gives an image of the "
        "target stain. (default: none)",
        autocompletion=completion.choices(choices.StainNormChoice),
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
        help="Number of phenotypes (clusters of cells) to find, or a classes.toml. (default: the model's own classes)",
        autocompletion=completion.files(".toml"),
    ),
]
RegionPx = Annotated[
    int | None,
    typer.Option("--region", help="Side of a region in px, a multiple of the model's window. (default: 2048)"),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        help=f"{either(choices.DeviceChoice)}. (default: auto)",
        autocompletion=completion.choices(choices.DeviceChoice),
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        help=f"{either(choices.PrecisionChoice)}; auto is the lowest precision that is fast on the device. "
        "(default: auto)",
        autocompletion=completion.choices(choices.PrecisionChoice),
    ),
]
Batch = Annotated[int | None, typer.Option(help="Batch size on a GPU, in windows. (default: by free memory)")]
ExecutorName = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help=f"{either(choices.Executor)}. (default: auto)",
        autocompletion=completion.choices(choices.Executor),
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", "-w", help="Worker processes. (default: one per core)")]
Scheduler = Annotated[str | None, typer.Option(help="Address of an existing Dask scheduler: tcp://host:8786.")]
_UNITS = {"": 1.0, "gb": 1.0, "gib": 2**30 / 1e9, "mb": 1e-3, "mib": 2**20 / 1e9, "tb": 1e3, "tib": 2**40 / 1e9}


def gigabytes(size: str) -> float:
    """A size as users write it, in GB: ``8GB``, ``8 GiB``, ``800MB``; without a unit, GB."""
    parts = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", size, re.IGNORECASE)
    if parts is None or parts[2].lower() not in _UNITS:
        raise typer.BadParameter(f"{size!r} is not a size; write it as 8GB, 8GiB or 800MB")
    return float(parts[1]) * _UNITS[parts[2].lower()]


Memory = Annotated[
    float | None,
    typer.Option(
        "--memory", parser=gigabytes, metavar="SIZE", help="Memory limit of all processes together, such as 8GB."
    ),
]
ReadTimeout = Annotated[
    float | None,
    typer.Option("--read-timeout", help="Timeout of a read in seconds, after which it is retried. (default: 300)"),
]
Strict = Annotated[bool | None, typer.Option("--strict", help="Stop a slide at the first region that cannot be read.")]

Force = Annotated[
    bool | None,
    typer.Option("--force", help="Run a slide that looks unsuitable, such as one without colour, with a warning."),
]


def chosen_settings(config: Path | None, **given: Any) -> Settings:
    """Settings from a file, overridden by the options that were given."""
    from wsiproc.pipeline.settings import Settings, load_settings

    values = load_settings(config) if config else {}
    return Settings(**values | {name: value for name, value in given.items() if value is not None})


def slides_to_run(slides: list[str], settings: Settings, out: Path) -> tuple[Path, ...]:
    """The slides that arguments stand for; an unknown model is reported before slides that do not exist."""
    try:
        return listed(slides, settings.mpp, out)
    except SlideError:
        from wsiproc.models import load_model

        load_model(settings.model)
        raise


def classes_setting(given: str | None) -> int | Path | None:
    """A number of phenotypes, or the path of their file."""
    if given is None:
        return None
    return int(given) if given.lstrip("-").isdecimal() else path(given)
