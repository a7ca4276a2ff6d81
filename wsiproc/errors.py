"""Every error that wsiproc raises for the user.

::

    WsiprocError
    ├── SlideError(OSError)            the file: missing, not a slide, unreadable
    │   ├── SlideKindError             a good file of another kind: no colour, fluorescence, a plate
    │   └── SlideReadError             a part of a good slide that cannot be decoded
    │       └── SlideTimeoutError      … that took too long to read
    ├── ResolutionError(ValueError)    µm per pixel missing or impossible
    ├── SettingsError(ValueError)      an option, a config file, an ROI
    ├── PlanError(ValueError)          the run does not fit: memory, disk, no tissue
    │   └── MemoryLimitError           … exceeded during the run
    ├── ModelError(ValueError)         a model that cannot be found or loaded
    ├── OutputError(ValueError)        an output folder that is incomplete or invalid
    ├── RetryableError                 may succeed on another worker; mixed into other errors
    ├── WorkerError(RuntimeError)      workers that are gone, or killed by a task again and again
    ├── MissingExtraError(ImportError) an optional dependency that is not installed
    └── UnexpectedError(RuntimeError)  anything unforeseen; its cause is the original error

Each is also the built-in exception that one expects, so ``except OSError`` works. A message says what is wrong, where
(the file), the numbers on both sides, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class WsiprocError(Exception):
    """Base of all errors that wsiproc raises deliberately; the command line prints them without a traceback."""


class SlideError(WsiprocError, OSError):
    """A path that is not a readable slide."""


class SlideKindError(SlideError):
    """A readable file that holds something other than a brightfield slide; no other reader would do better."""


class SlideReadError(SlideError):
    """A part of an otherwise readable slide that cannot be decoded."""


class RetryableError(WsiprocError):
    """A failure that may not recur on retry, preferably on another worker: a slow disk, a lost mount."""


class SlideTimeoutError(SlideReadError, RetryableError):
    """A read that took too long."""


class ResolutionError(WsiprocError, ValueError):
    """The physical pixel size is missing or impossible."""


class SettingsError(WsiprocError, ValueError):
    """An invalid option, configuration file or region of interest."""


class PlanError(WsiprocError, ValueError):
    """A run that needs more than is available; the message gives both numbers."""


class MemoryLimitError(PlanError):
    """The run used more memory than ``--memory`` allows."""


class ModelError(WsiprocError, ValueError):
    """A model that is unknown or cannot be loaded."""


class OutputError(WsiprocError, ValueError):
    """An output folder that is incomplete, in use, or breaks a rule of its format."""


class WorkerError(WsiprocError, RuntimeError):
    """Workers or a scheduler gone for too long, or a task that repeatedly kills its worker."""


class MissingExtraError(WsiprocError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


class UnexpectedError(WsiprocError, RuntimeError):
    """An unforeseen error, usually of a library, with the location of its traceback."""


def sentence(error: Exception | None) -> str:
    """The message for the user; an unforeseen error is preceded by its type."""
    return str(error) if isinstance(error, WsiprocError) else f"{type(error).__name__}: {error}"


def first_problem(problems: Sequence[Mapping[str, Any]]) -> str:
    """The first of the problems of a file that pydantic lists, as one phrase."""
    problem = problems[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown key {place}"
    return f"{place}: {problem['msg']}".removeprefix(": ")
