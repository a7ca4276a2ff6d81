"""What commands have in common: paths as users write them, and work on many folders of which none costs another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from wsiproc.errors import SettingsError, SlideError, WsiprocError
from wsiproc.paths import absolute, did_you_mean


def path(text: str) -> Path:
    """Parser of all arguments and options that are paths."""
    try:
        return absolute(text)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def listed(given: Sequence[str], mpp: float | None, out: Path | None = None) -> tuple[Path, ...]:
    """The slides that are meant; says what was left out. Raises WsiprocError where none is there."""
    from wsiproc.io.slide_list import list_slides

    found = list_slides(given, mpp, out)
    for note in found.notes:
        typer.echo(f"Note: {note}", err=True)
    if not found.slides:
        raise SettingsError("no slide was given; name slides, or a folder with slides in it")
    if any(map(os.path.lexists, found.slides)):
        return found.slides
    raise SlideError("; ".join(f"{slide}: no such file or folder{did_you_mean(slide)}" for slide in found.slides))


def for_each_slide(slides: Sequence[Path], step: str, show: Callable[[Path], None]) -> None:
    """``show(slide)`` for each; one that fails is named and costs no other. Exits with 1 where some failed."""
    from wsiproc.progress import print_error
    from wsiproc.unexpected import recorded

    failed = False
    for slide in slides:
        try:
            show(slide)
        except Exception as error:
            failed = True
            print_error(recorded(error, f"{slide}: while {step}", None))
    raise typer.Exit(int(failed))


def for_each_output(folders: Sequence[Path], step: str, do: Callable[[Path], None]) -> None:
    """``do(output)`` for each output of `run` in ``folders``; one that fails is named and costs no other.

    Raises OutputError where there is none in one of the folders, and what a single one raises; exits with 1 where some
    of several failed.
    """
    from wsiproc.io.outputs import find_outputs
    from wsiproc.progress import print_error
    from wsiproc.unexpected import recorded

    outputs = [output for folder in folders for output in find_outputs(folder)]
    failures: dict[str, WsiprocError] = {}
    for output in outputs:
        try:
            do(output)
        except Exception as error:
            told = recorded(error, f"{output}: while {step}", output)
            if told is error and len(outputs) == 1:
                raise
            if failures.setdefault(str(told), told) is told:  # what is the same for all is said once
                print_error(told)
    if failures:
        raise typer.Exit(1)
