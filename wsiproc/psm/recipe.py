"""What a fit is told: the command line's arguments and a TOML file become ``FitSettings``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from wsiproc.errors import SettingsError, first_problem
from wsiproc.psm.fit import FitSettings, quick_settings
from wsiproc.psm.objectives import OBJECTIVES
from wsiproc.psm.tiles import Source, check_sources


@with_config(ConfigDict(extra="forbid", strict=True))
class _SourceTable(TypedDict, total=False):
    path: str
    mpp: float


@with_config(ConfigDict(extra="forbid", strict=True))
class _Table(TypedDict, total=False):
    """Keys of the TOML file; paths are relative to the working folder."""

    sources: list[_SourceTable]
    name: str
    objective: str
    activation_steps: int
    rounds: list[int]
    tiles: int
    widths: list[int]
    seed: int


def fit_settings(
    config: Path | None,
    paths: Sequence[Path],
    out: Path,
    *,
    mpp: float | None,
    quick: bool,
    base: str | None,
    seed: int | None,
    device: str,
) -> FitSettings:
    """Settings from a file, then from the arguments that were given. Raises SettingsError."""
    table = _read(config) if config else {}
    named = [Source(Path(entry["path"]), entry.get("mpp")) for entry in table.pop("sources", [])]
    sources = tuple(named) + tuple(Source(path, mpp) for path in paths)
    check_sources(sources)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    settings = FitSettings(sources=sources, out=out, base=base, device=device, **values)
    if settings.objective not in OBJECTIVES:
        raise SettingsError(f"objective is {settings.objective!r}; choose one of {', '.join(OBJECTIVES)}")
    if seed is not None:
        settings = replace(settings, seed=seed)
    return quick_settings(settings) if quick else settings


def _read(path: Path) -> dict[str, Any]:
    """The file's values, names and types checked."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return dict(TypeAdapter(_Table).validate_python(values))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read settings from {path}: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_problem(error.errors(include_url=False))}") from error
