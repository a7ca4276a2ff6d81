"""What commands have in common: paths as users write them, and work on many folders of which none costs another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wsiproc.cli import completion
from wsiproc.core.choices import Reader, either
from wsiproc.core.paths import absolute, did_you_mean
from wsiproc.errors import SettingsError, SlideError, UnexpectedError, WsiprocError

if TYPE_CHECKING:
    from pydantic import BaseModel

INTERRUPTED = 130
"""Exit code after Ctrl-C, as typer has it."""


def path(text: str) -> Path:
    """Parser of all arguments and options that are paths."""
    try:
        return absolute(text)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def listed(
    given: Sequence[str],
    mpp: float | None,
    out: Path | None = None,
    counts_as_slide: Callable[[Path], bool] | None = None,
) -> tuple[Path, ...]:
    """The slides that are meant; says what was left out. Raises WsiprocError where none is there.

    ``counts_as_slide``: which folders stand for themselves and not for the slides in them.
    """
    from wsiproc.io.slides.list import list_slides

    found = list_slides(given, mpp, out, counts_as_slide)
    for note in found.notes:
        typer.echo(f"Note: {note}", err=True)
    if not found.slides:
        raise SettingsError("no slide was given; name slides, or a folder with slides in it")
    if any(map(os.path.lexists, found.slides)):
        return found.slides
    raise SlideError("; ".join(f"{slide}: no such file or folder{did_you_mean(slide)}" for slide in found.slides))


Slides = Annotated[
    list[str],
    typer.Argument(
        help="Slides: files, folders of DICOM or OME-Zarr, folders with slides in them, or @LIST, a file with a path a "
        "line.",
        show_default=False,
        autocompletion=completion.slides,
    ),
]
Mpp = Annotated[float | None, typer.Option(help="µm per pixel of the slide, where the file does not say it.")]
ReaderName = Annotated[
    str | None,
    typer.Option(help=f"{either(Reader)}. (default: auto)", autocompletion=completion.choices(Reader)),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Answer with one JSON document, as docs/json.md has it; progress goes to stderr.")
]


def exit_code(error: Exception) -> int:
    """The exit code for what ends a command: 1 for what nobody foresaw, else 2."""
    return 2 if isinstance(error, WsiprocError) and not isinstance(error, UnexpectedError) else 1


class Answers:
    """Where the answers of a command go: to the terminal as they come, or with ``--json`` into one document at the end.

    ``failed``: whether something failed so far.
    """

    def __init__(self, command: str, as_json: bool) -> None:
        self.as_json = as_json
        self._command = command
        self._items: list[BaseModel] = []
        self._errors: list[tuple[Exception, Path | None]] = []

    @property
    def failed(self) -> bool:
        """Whether anything failed so far."""
        return bool(self._errors)

    def give(self, *items: BaseModel) -> None:
        """Keep slides, folders or what else the document lists."""
        self._items += items

    def fail(self, error: Exception, path: Path | None = None) -> None:
        """Tell of an error about a slide or folder, or the command."""
        from wsiproc.cli.console import print_error

        # What is the same for all is said once to people.
        if not self.as_json and str(error) not in {str(told) for told, _ in self._errors}:
            print_error(error)
        self._errors.append((error, path))

    def end(self, code: int, **more: object) -> NoReturn:
        """End the command with this exit code; ``more``: fields of the document beside its list."""
        if self.as_json:
            from wsiproc.cli.documents import Problem, document

            errors = [Problem.of(error, path) for error, path in self._errors]
            typer.echo(document(self._command, code, self._items, errors, **more))
        raise typer.Exit(code)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """With ``--json``, whatever ends the block, the document has what was given until then."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.as_json:
                raise
            self.end(INTERRUPTED)
        except Exception as error:
            if not self.as_json or isinstance(error, typer.Exit):
                raise
            self.fail(error)
            self.end(exit_code(error))


def answer_in_json(app: typer.Typer, command: str) -> int:
    """Run a command with ``--json``; the exit code. What ends it before it has an answer becomes its document."""
    from wsiproc.cli.documents import Problem, document
    from wsiproc.results.run_log import recorded

    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # of typer's parser, whose class has no public name
            code, problem = 2, Problem(kind="UsageError", message=error.format_message())
        else:
            told = recorded(error, f"wsiproc {command}", None)
            code, problem = exit_code(told), Problem.of(told)
    typer.echo(document(command, code, errors=[problem]))
    return code


def for_each_slide(slides: Sequence[Path], step: str, show: Callable[[Path], None], answers: Answers) -> NoReturn:
    """``show(slide)`` for each; one that fails is named and costs no other. Ends with 1 where some failed, else 0."""
    from wsiproc.results.run_log import recorded

    for slide in slides:
        try:
            show(slide)
        except Exception as error:
            answers.fail(recorded(error, f"{slide}: while {step}", None), slide)
    answers.end(int(answers.failed))


def for_each_output(
    folders: Sequence[Path], step: str, do: Callable[[Path], None], answers: Answers | None = None
) -> None:
    """``do(output)`` for each output of `run` in ``folders``; one that fails is named and costs no other.

    Raises OutputError where there is none in one of the folders, and what a single one raises; ends with 1 where some
    of several failed. The document of ``--json`` is left to the caller where none did.
    """
    from wsiproc.results.folder import find_outputs
    from wsiproc.results.run_log import recorded

    answers = answers or Answers("", as_json=False)
    outputs = [output for folder in folders for output in find_outputs(folder)]
    for output in outputs:
        try:
            do(output)
        except Exception as error:
            told = recorded(error, f"{output}: while {step}", output)
            alone = told is error and len(outputs) == 1
            if alone and not answers.as_json:
                raise
            answers.fail(told, output)
            if alone:
                answers.end(exit_code(told))
    if answers.failed:
        answers.end(1)
