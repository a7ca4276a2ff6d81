"""Atomic writes: a file is complete or absent, even if a writer is killed or several write it at the same time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

ONLY_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Numbers of errors that cannot come from reading: a full disk, no quota, a read-only drive, too large a file."""
_SUFFIX = ".tmp"


def temporary_name(path: Path) -> Path:
    """A unique temporary name next to ``path``.

    A task may run twice at the same time, if a worker was presumed dead and still runs. If both used one name, the
    first would rename a file that the second is still writing.
    """
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{_SUFFIX}")


class AtomicFileWriter(ABC):
    """A file written incrementally in a ``with`` block, and renamed to its final name when the block succeeds."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, temporary_name(path)

    @abstractmethod
    def finish(self) -> None:
        """Write the end of the file and close it."""

    @abstractmethod
    def abandon(self) -> None:
        """Close the incomplete file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
            os.replace(self._temporary, self._path)
        else:
            self.abandon()
            self._temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it is renamed to ``path`` when the block succeeds."""
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary name to write a folder to; it replaces what is at ``path`` when the block succeeds."""
    temporary = temporary_name(path)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a small JSON file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def remove_leftovers(folder: Path) -> None:
    """Delete leftover temporary files of killed writers in ``folder`` and below: ours, zarr's and tensorstore's."""
    for pattern in (f"*{_SUFFIX}", "*.partial", "*.__lock"):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)
