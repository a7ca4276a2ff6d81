"""Files that are there whole or not at all, whoever dies while writing them, and however many write them at once."""

from __future__ import annotations

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

_SUFFIX = ".tmp"


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer has.

    A task may run twice at the same time, where a worker was given up that still lives. With one name for both, the
    first would put a file in place that the second is still writing.
    """
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{_SUFFIX}")


class WholeFileWriter(ABC):
    """A file written piece by piece in a ``with`` block; it gets its name, in one step, when the block ends well."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, temporary_name(path)

    @abstractmethod
    def finish(self) -> None:
        """Write what comes last and close the file."""

    @abstractmethod
    def abandon(self) -> None:
        """Close the file as it is."""

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
def whole_file(path: Path) -> Iterator[Path]:
    """Another name to write to; the file gets its own, in one step, when the block ends well."""
    temporary = temporary_name(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Another name to write a folder to; it takes the place of what is at ``path`` when the block ends well."""
    temporary = temporary_name(path)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, value: object) -> None:
    """A small JSON file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def remove_unfinished(folder: Path) -> None:
    """Delete what killed writers left in ``folder`` and below: ours, those of zarr and tensorstore."""
    for pattern in (f"*{_SUFFIX}", "*.partial", "*.__lock"):
        for path in folder.rglob(pattern):
            path.unlink(missing_ok=True)
