"""Whole-slide images to cells: no labels, no downloads, no seams.

>>> import wsiproc
>>> outcomes = wsiproc.run("slide.svs", "results")
>>> result = wsiproc.open("results/slide")
>>> result.cells()

Importing the package loads nothing heavy; the functions below do when they are called, and the classes of their
arguments and results when they are accessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Unpack

from wsiproc._version import __version__
from wsiproc.errors import (
    MemoryLimitError,
    MissingExtraError,
    ModelError,
    OutputError,
    PlanError,
    ResolutionError,
    RetryableError,
    SettingsError,
    SlideError,
    SlideKindError,
    SlideReadError,
    SlideTimeoutError,
    UnexpectedError,
    WorkerError,
    WsiprocError,
)

if TYPE_CHECKING:
    from wsiproc.pipeline.progress import Event, OnEvent, Outcome
    from wsiproc.pipeline.settings import Settings, SettingsArguments
    from wsiproc.results.result import Result, Results

__all__ = [
    "Event",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelError",
    "Outcome",
    "OutputError",
    "PlanError",
    "ResolutionError",
    "Result",
    "Results",
    "RetryableError",
    "Settings",
    "SettingsError",
    "SlideError",
    "SlideKindError",
    "SlideReadError",
    "SlideTimeoutError",
    "UnexpectedError",
    "WorkerError",
    "WsiprocError",
    "__version__",
    "open",
    "open_all",
    "run",
]

_ON_DEMAND = {
    "Event": "wsiproc.pipeline.progress",
    "Outcome": "wsiproc.pipeline.progress",
    "Result": "wsiproc.results.result",
    "Results": "wsiproc.results.result",
    "Settings": "wsiproc.pipeline.settings",
}

if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every name

    def __getattr__(name: str) -> object:
        if name not in _ON_DEMAND:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_ON_DEMAND[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def run(
    slides: str | PathLike[str] | Iterable[str | PathLike[str]],
    out: str | PathLike[str] = "wsiproc-out",
    *,
    overwrite: bool = False,
    on_progress: OnEvent | None = None,
    **settings: Unpack[SettingsArguments],
) -> list[Outcome]:
    """Find the cells of one or more slides, as the command ``wsiproc run`` does; the outcome of each slide.

    ``slides``: as the command takes them: files, folders with slides in them, patterns, ``@list.txt``; each is run
    once, with a warning for what is left out. ``settings`` by name, as in ``wsiproc.Settings``: ``model="classical"``,
    ``mpp=0.25``, ``workers=4``; None takes the default. ``overwrite`` runs finished slides again; ``on_progress`` is
    called with each step's ``Event``. A slide that fails does not affect the others and raises nothing: its ``Outcome``
    has the ``error``; the others have the ``folder`` for ``wsiproc.open``.

    Raises SettingsError for invalid settings and ModelError for a model that does not exist. Worker processes import
    the script that calls this, so in a script put the call under ``if __name__ == "__main__":``.
    """
    import warnings

    from wsiproc.core.paths import absolute
    from wsiproc.executors import preload
    from wsiproc.io.slides.list import list_slides
    from wsiproc.pipeline import PRELOADED
    from wsiproc.pipeline.settings import settings_by_name

    chosen = settings_by_name(settings)
    given = slides if isinstance(slides, Iterable) and not isinstance(slides, str | bytes | PathLike) else [slides]
    found = list_slides(given, chosen.mpp, absolute(out))
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    if not found.slides:
        raise SettingsError("no slide was given")
    preload(PRELOADED, chosen.executor, chosen.workers, chosen.scheduler)

    from wsiproc.pipeline.cohort import run_slides
    from wsiproc.pipeline.progress import ignore

    return list(run_slides(found.slides, absolute(out), chosen, overwrite, on_progress or ignore))


def open(folder: str | PathLike[str], *, corrected: bool = False) -> Result:
    """The result that ``wsiproc run`` wrote to ``folder``: its cells, maps, labels and metadata, read lazily.

    ``folder``: a slide's own, or that of a run with a single slide; ``corrected``: use the cells that ``wsiproc
    import`` imported from QuPath. Raises OutputError, with a remedy, if there is no result or it is unfinished.
    """
    from wsiproc.results.result import open_result

    return open_result(folder, corrected)


def open_all(folder: str | PathLike[str]) -> Results:
    """All results in ``folder`` by name; unfinished ones are left out, with a warning. Raises as ``open`` does.

    ``open_all(folder).anndata()`` has the cells of all slides in one table.
    """
    from wsiproc.results.result import open_results

    return open_results(folder)
