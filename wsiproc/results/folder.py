"""The folder of a slide while it is run: one run at a time, no leftover files at the end, full disks named as such."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from wsiproc.errors import OutputError, WsiprocError
from wsiproc.executors import file_size_limit
from wsiproc.io.atomic import ONLY_OF_WRITING

RUN, WORK, STAGED = "run.json", ".work", ".reclassified"
SLIDE = "slide.json"  # within the work: whose it is
# What a run writes into the folder, the mark of completion first.
_OUTPUTS = (RUN, WORK, STAGED, "report.html", "cells.parquet", "cells.geojson.gz", "maps.ome.zarr", "slide.ome.zarr")
_REMEDIES = {
    errno.ENOSPC: "the disk is full: make room on it",
    errno.EDQUOT: "your quota of disk space is used up: make room",
    errno.EROFS: "it cannot be written: make the file system writable, or write to another folder",
    errno.EACCES: "you may not write there: change its permissions, or write to another folder",
    errno.EPERM: "you may not write there: change its permissions, or write to another folder",
    errno.ESTALE: "the network drive is gone: mount it again",
    errno.ENOTCONN: "the network drive is gone: mount it again",
    errno.EIO: "the drive does not answer: check it, or write to another folder",
}
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # by numpy.ndarray.tofile


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other run out of ``folder`` for the time of the block.

    The lock is the system's, on a file next to the folder, so that it ends with the process however that ends. Raises
    OutputError where another run holds it.
    """
    path = folder.with_name(f".{folder.name}.lock")
    new = not folder.parent.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc, or below an unmounted drive
        raise OutputError(f"{folder.parent}: no folder can be made there; choose another folder") from error
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            f"another run is writing to {folder}; wait until it has ended, or write to another folder"
        ) from error
    try:
        yield
    finally:
        # While it is still held: whoever takes the name from now on makes a file of its own.
        path.unlink(missing_ok=True)
        lock.release()
        if new:  # a slide that is refused leaves nothing behind
            with suppress(OSError):
                folder.parent.rmdir()


def empty(folder: Path) -> None:
    """Remove what an earlier run wrote, and nothing else that may lie there."""
    for name in _OUTPUTS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def clean_up(folder: Path) -> None:
    """Remove the work directory that a run left behind if it was killed right after it had finished."""
    if (folder / WORK).exists():
        shutil.rmtree(folder / WORK)


@contextmanager
def storage_explained(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an OutputError that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        explained = storage_problem(error, str(folder), _REMEDIES)
        if explained is None:
            raise
        raise explained from error


def storage_problem(error: Exception, where: str, remedies: Mapping[int, str] | None = None) -> OutputError | None:
    """The system's refusal to write as an OutputError with its remedy; None for any other error.

    Without ``remedies``, only what cannot come from reading: a full disk, no quota, a read-only file system, a file
    that may not become as large.
    """
    if not isinstance(error, OSError) or isinstance(error, WsiprocError):
        return None
    number = _number(error)
    known = remedies or {number: _REMEDIES[number] for number in ONLY_OF_WRITING if number in _REMEDIES}
    remedy = _larger_files() if number == errno.EFBIG else known.get(number)
    if remedy is None:
        return None
    return OutputError(f"{where}: {remedy}. What is done is kept; run the same command to resume")


def _larger_files() -> str:
    limit = file_size_limit()
    if limit is None:
        return "a file became larger than its file system allows, as 4 GB are on FAT32: choose another folder"
    return (
        f"a file became larger than the limit on files allows, which is {limit:,} bytes here: raise it with "
        "`ulimit -f unlimited`"
    )


def _number(error: OSError) -> int:
    """The system's number of an error. Arrow writes it into the text only; NumPy tells none where a file could not take
    all of an array: either a limit on files is at hand, or the disk is full.
    """
    told = re.search(r"\[errno (\d+)\]", str(error), re.IGNORECASE)
    if told is None and _CUT_SHORT.fullmatch(str(error)):
        return errno.ENOSPC if file_size_limit() is None else errno.EFBIG
    return error.errno or (int(told[1]) if told else 0)


def changed_keys(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """Names of what two works differ in, as a phrase: "model and region"."""
    names = [name for name in new if old.get(name) != new[name]]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def find_outputs(folder: Path) -> list[Path]:
    """The slide folders at ``folder``: itself, or those right inside it, finished or not.

    Raises ``OutputError`` where there is none.
    """
    if _is_output(folder):
        return [folder]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _is_output(path)) if folder.is_dir() else []
    if not found:
        what = "no output of wsiproc in it or in its folders" if folder.is_dir() else "no such folder"
        raise OutputError(f"{folder}: {what}; give the folder that `wsiproc run SLIDE -o FOLDER` wrote")
    return found


def _is_output(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "slide.ome.zarr", "cells.parquet"))
