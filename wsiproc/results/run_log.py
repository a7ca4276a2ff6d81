"""The net under everything: an error that nobody foresaw becomes a sentence, and its traceback a file."""

from __future__ import annotations

import errno
import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsiproc._version import __version__
from wsiproc.errors import UnexpectedError, WsiprocError, sentence
from wsiproc.executors import address_space_limit
from wsiproc.results.folder import storage_problem

LOG = "run.log"
# What libraries say of too little memory in errors of other types: the system's loader, PyTorch, OpenCV, C++.
_OF_MEMORY = re.compile(
    "failed to map segment|can(no|')t allocate memory|not enough memory|insufficient memory|bad_alloc", re.IGNORECASE
)
# … and what has other causes as well, unless address space is limited: threads and oneDNN; half an import is retried.
_PROBABLY_OF_MEMORY = re.compile("can't start new thread|could not create a primitive|partially initialized module")


def recorded(error: Exception, what: str, folder: Path | None) -> WsiprocError:
    """The error for the user: what, with the file in ``folder`` that has the traceback.

    ``what``: slide or command, and step; without a folder, or where it cannot be written, the file is a temporary one.
    Errors that wsiproc raises on purpose stay as they are; a full disk is told as such, without a file.
    """
    if isinstance(error, WsiprocError):
        return error
    if (full := storage_problem(error, what)) is not None:
        full.__cause__ = error
        return full
    log = _write(error, what, folder)
    kept = f"the traceback is in {log}" if log else "no file could be written for the traceback"
    told = UnexpectedError(f"{what}: {sentence(error)} ({_remedy(error)}; {kept})")
    told.__cause__ = error
    return told


@contextmanager
def net(what: str, folder: Path | None) -> Iterator[None]:
    """Raise UnexpectedError for what nobody foresaw in the block; as ``recorded`` says."""
    try:
        yield
    except Exception as error:
        told = recorded(error, what, folder)
        if told is error:
            raise
        raise told from error


def _remedy(error: Exception) -> str:
    limit = address_space_limit()
    if limit is not None and (_is_of_memory(error) or _PROBABLY_OF_MEMORY.search(str(error))):
        return (
            f"there was not enough memory: `ulimit -v` allows each process {limit / 1e9:.2f} GB of address space; "
            "raise it with `ulimit -v unlimited`, and run the same command to resume"
        )
    if _is_of_memory(error):
        return "there was not enough memory: use fewer --workers or a smaller --region, and give the same command again"
    return (
        "not foreseen: what is done is kept, so give the same command again; where it fails again, `wsiproc doctor` "
        "looks at the installation, and a report of the problem needs the traceback"
    )


def _is_of_memory(error: Exception) -> bool:
    number = error.errno if isinstance(error, OSError) else None
    return isinstance(error, MemoryError) or number == errno.ENOMEM or bool(_OF_MEMORY.search(str(error)))


def _write(error: Exception, what: str, folder: Path | None) -> Path | None:
    """Append to the log; its path, or None where there is none to be had."""
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} wsiproc {__version__}: {what}\n"
    text = head + "".join(traceback.format_exception(error)) + "\n"
    for place in ([folder / LOG] if folder else []) + [Path(tempfile.gettempdir()) / f"wsiproc-{LOG}"]:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
        except OSError:
            continue
        return place
    return None
