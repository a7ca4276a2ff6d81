"""What commands have in common: parsing of paths, and work on many folders whose failures are independent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wsiproc.cli import completion
from wsiproc.core.choices import Reader, either
from wsiproc.core.paths import absolute, did_you_mean, make_place
from wsiproc.errors import SettingsError, SlideError, UnexpectedError, WsiprocError

if TYPE_CHECKING:
    from pydantic import BaseModel

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in typer."""


def path(text: str) -> Path:
    """Parser of all arguments and options that are paths."""
    try:
        return absolute(text)
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


def make_place_outside_slides(file: Path) -> None:
    """Make the folder of a file that is to be written. Raises OutputError if no file of that name can be there, and for
    a folder that is a slide.
    """
    from wsiproc.io.slides.list import require_outside_slides

    require_outside_slides(file.parent)
    make_place(file)


def listed(
    given: Sequence[str],
    mpp: float | None,
    out: Path | None = None,
    counts_as_slide: Callable[[Path], bool] | None = None,
) -> tuple[Path, ...]:
    """The slides that arguments stand for; prints what was left out. Raises WsiprocError if none exists.

    ``counts_as_slide``: whether a folder is taken as a slide itself, not searched for slides.
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
        help="Slides: files, folders of DICOM or OME-Zarr, folders with slides in them, or @LIST, a file with one path "
        "per line.",
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
    bool, typer.Option("--json", help="Print one JSON document, described in docs/json.md; progress goes to stderr.")
]


def exit_code(error: Exception) -> int:
    """The exit code for an error that ends a command: 1 for unexpected errors, else 2."""
    return 2 if isinstance(error, WsiprocError) and not isinstance(error, UnexpectedError) else 1


class Answers:
    """The output of a command: printed as it comes, or with ``--json`` collected in one document at the end."""

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
        """Collect items (slides, folders) for the document's list."""
        self._items += items

    def fail(self, error: Exception, path: Path | None = None) -> None:
        """Report an error about the slide or folder ``path``, or about the command."""
        from wsiproc.cli.console import print_error

        # Print an error that several slides share only once.
        if not self.as_json and str(error) not in {str(reported) for reported, _ in self._errors}:
            print_error(error)
        self._errors.append((error, path))

    def end(self, code: int, **more: object) -> NoReturn:
        """End the command with this exit code; ``more``: fields of the document in addition to its list."""
        if self.as_json:
            from wsiproc.cli.documents import Problem, document

            errors = [Problem.of(error, path) for error, path in self._errors]
            typer.echo(document(self._command, code, self._items, errors, **more))
        raise typer.Exit(code)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """With ``--json``, print the document with everything given so far, however the block ends."""
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
    """Run a command with ``--json``; the exit code. An error that ends it early becomes its document."""
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
            reported = recorded(error, f"wsiproc {command}", None)
            code, problem = exit_code(reported), Problem.of(reported)
    typer.echo(document(command, code, errors=[problem]))
    return code


def for_each_slide(slides: Sequence[Path], step: str, show: Callable[[Path], None], answers: Answers) -> NoReturn:
    """``show(slide)`` for each; one that fails is reported and does not affect the others. Ends with 1 if any failed,
    else 0.
    """
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
    """``do(output)`` for each output of `run` in ``folders``; one that fails is reported, the others continue.

    Raises OutputError if a folder has no output, and the error of a single output; ends with 1 if some of several
    failed. If none did, the document of ``--json`` is left to the caller.
    """
    from wsiproc.results.folder import find_outputs
    from wsiproc.results.run_log import recorded

    answers = answers or Answers("", as_json=False)
    outputs = [output for folder in folders for output in find_outputs(folder)]
    for output in outputs:
        try:
            do(output)
        except Exception as error:
            reported = recorded(error, f"{output}: while {step}", output)
            alone = reported is error and len(outputs) == 1
            if alone and not answers.as_json:
                raise
            answers.fail(reported, output)
            if alone:
                answers.end(exit_code(reported))
    if answers.failed:
        answers.end(1)
