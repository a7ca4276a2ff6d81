"""Every error that a user can meet.

::

    WsiprocError
    ├── SlideError(OSError)            the file: missing, not a slide, unreadable
    │   ├── SlideKindError             a good file of another kind: no colour, fluorescence, a plate
    │   └── SlideReadError             a place in a good slide that cannot be decoded
    │       └── SlideTimeoutError      … that did not answer in time
    ├── ResolutionError(ValueError)    no µm per pixel, or one that cannot be true
    ├── SettingsError(ValueError)      an option, a config file, an ROI
    ├── PlanError(ValueError)          the work does not fit: memory, disk, no tissue
    │   └── MemoryLimitError           … as it turned out while it went on
    ├── ModelError(ValueError)         a model that cannot be found or loaded
    ├── OutputError(ValueError)        an output folder that is incomplete or breaks a rule
    ├── RetryableError                 what may go well on another worker; mixed into errors of other kinds
    ├── WorkerError(RuntimeError)      workers that are gone, or that a task takes down with it
    ├── MissingExtraError(ImportError) an optional dependency that is not installed
    └── UnexpectedError(RuntimeError)  what nobody foresaw; its cause is the library's own error

Each is also the builtin that one expects, so that ``except OSError`` works. A message says what, where (the
file), the numbers on both sides, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class WsiprocError(Exception):
    """Base of all errors that wsiproc raises on purpose; the command line prints it without a traceback."""


class SlideError(WsiprocError, OSError):
    """A path that is no readable slide."""


class SlideKindError(SlideError):
    """A file that can be read and holds something else than a brightfield slide; no other reader would do better."""


class SlideReadError(SlideError):
    """A part of an otherwise readable slide that cannot be decoded."""


class RetryableError(WsiprocError):
    """What may go well when it is tried again, best on another worker: a slow disk, a lost mount."""


class SlideTimeoutError(SlideReadError, RetryableError):
    """A read that took too long."""


class ResolutionError(WsiprocError, ValueError):
    """The physical pixel size is missing or impossible."""


class SettingsError(WsiprocError, ValueError):
    """An option, configuration file or region of interest that makes no sense."""


class PlanError(WsiprocError, ValueError):
    """Work that cannot be done with what is there; the message carries both numbers."""


class MemoryLimitError(PlanError):
    """More memory was held than ``--memory`` allows."""


class ModelError(WsiprocError, ValueError):
    """A model that is unknown or cannot be loaded."""


class OutputError(WsiprocError, ValueError):
    """An output folder that is incomplete, in use, or breaks a rule of its format."""


class WorkerError(WsiprocError, RuntimeError):
    """Workers or a scheduler that are gone for too long, or a task in whose hands worker after worker dies."""


class MissingExtraError(WsiprocError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


class UnexpectedError(WsiprocError, RuntimeError):
    """An error of a library that nobody foresaw, with where its traceback is kept."""


def sentence(error: Exception | None) -> str:
    """The sentence for the user; an error that we did not foresee says its kind."""
    return str(error) if isinstance(error, WsiprocError) else f"{type(error).__name__}: {error}"


def first_problem(problems: Sequence[Mapping[str, Any]]) -> str:
    """One phrase of what may be many problems of a file, as pydantic lists them."""
    problem = problems[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key {place}"
    return f"{place}: {problem['msg']}".removeprefix(": ")
