"""From the command line's arguments and a TOML file to ``FitSettings``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Len
from pydantic import ConfigDict, TypeAdapter, ValidationError

from wsiproc.core.paths import read_settings_file
from wsiproc.errors import SettingsError, first_problem
from wsiproc.io.slides.list import list_slides
from wsiproc.psm.activation.objectives import OBJECTIVES
from wsiproc.psm.fit import FitSettings, quick_settings
from wsiproc.psm.tiles import Source, check_sources, is_image_folder, with_distinct_names

_Count = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class _SourceTable:
    path: str
    mpp: Annotated[float, Gt(0)] | None = None
    dab_outside_nuclei: bool = False


@dataclass(frozen=True)
class _Table:
    """Keys of the TOML file; paths are relative to the working folder. None: as ``FitSettings`` has it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    sources: tuple[_SourceTable, ...] = ()
    name: str | None = None
    base: str | None = None
    objective: str | None = None
    activation_steps: _Count | None = None
    rounds: Annotated[tuple[_Count, ...], Len(1)] | None = None
    teacher_widths: Annotated[tuple[_Count, ...], Len(1, 6)] | None = None
    student: Annotated[tuple[_Count, ...], Len(1)] | None = None
    tiles: _Count | None = None
    widths: Annotated[tuple[_Count, ...], Len(1, 6)] | None = None
    seed: Annotated[int, Ge(0)] | None = None


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
    """Settings from a file, overridden by the given arguments. Raises SettingsError."""
    table = _read(config) if config else _Table()
    named = [
        Source(path, entry.mpp, entry.dab_outside_nuclei)
        for entry in table.sources
        for path in list_slides([entry.path], entry.mpp, out, is_image_folder).slides
    ]
    sources = with_distinct_names([*named, *(Source(path, mpp) for path in paths)])
    check_sources(sources)
    given: dict[str, Any] = {name: value for name, value in vars(table).items() if value is not None}
    settings = FitSettings(**{"base": base} | given | {"sources": sources, "out": out, "device": device})
    if base is not None:
        settings = replace(settings, base=base)
    if settings.objective not in OBJECTIVES:
        raise SettingsError(f"objective is {settings.objective!r}; choose one of {', '.join(OBJECTIVES)}")
    if seed is not None:
        settings = replace(settings, seed=seed)
    return quick_settings(settings) if quick else settings


def _read(path: Path) -> _Table:
    """The file's values, with names and types validated."""
    values = read_settings_file(path)
    try:
        # Through JSON, in which strict validation accepts arrays as tuples.
        table: _Table = TypeAdapter(_Table).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_problem(error.errors(include_url=False))}") from error
    return table
