"""Paths as users write them: made absolute once, on input, so that nothing else handles other forms.

``..`` is resolved like the system does, through links; a link itself keeps its name, which becomes the slide's name.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import stat
import tempfile
import tomllib
import unicodedata
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from wsiproc.errors import OutputError, SettingsError

MOST_NAME_BYTES = 200
"""Length of the names that users may give; most systems take 255, and those of temporary files and locks are longer."""
# Minimum similarity of two names; below it, a hint misleads more often than it helps.
_ALIKE = 0.75
# As in s3://bucket/slide.svs; of two letters at least, since one is a drive of Windows.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]|%[A-Za-z_]+%")
_WINDOWS = re.compile(r"/[A-Za-z]:\\|\\\\[^\\]")


def as_text(path: object) -> str:
    """A path as text; SettingsError for what is none."""
    if not isinstance(path, str | bytes | PathLike):
        raise SettingsError(f"{path!r} is not a path: it is of type {type(path).__name__}; give text or a Path")
    return os.fsdecode(path)


def absolute(path: str | bytes | PathLike[str]) -> Path:
    """The absolute path without ``.``, ``..`` and ``~``, independent of later changes of the working folder. Also finds
    names in another Unicode composition (é as one character or two). Raises SettingsError for an invalid path (empty,
    or containing NUL), and for a relative one where the working directory was deleted.
    """
    text = as_text(path)
    if not text or "\0" in text:
        raise SettingsError(
            f"{text!r} is not a path: it is empty or contains a NUL character; is a shell variable not set?"
        )
    text = local(text)
    try:
        whole = Path(os.path.expanduser(text)).absolute()
    except FileNotFoundError as error:
        raise SettingsError(
            f"{text}: a relative path, and the working directory is gone: `cd` to a folder that exists, or give an "
            "absolute path"
        ) from error
    if whole.anchor == "//":  # POSIX leaves the meaning of two slashes open; on Linux and macOS they are one
        whole = Path("/", *whole.parts[1:])
    parts = whole.parts
    ups = [place for place, part in enumerate(parts) if part == ".."]
    if ups:
        try:
            whole = Path(*parts[: ups[-1] + 1]).resolve().joinpath(*parts[ups[-1] + 1 :])
        except (OSError, RuntimeError):  # a loop of links: the text is the best available
            whole = Path(os.path.normpath(whole))
    return _as_on_disk(whole)


def local(text: str) -> str:
    """The path in an address that begins with ``file:``; any other text as it is. Raises SettingsError for the address
    of something that is not on this machine.
    """
    if not _ADDRESS.match(text):
        return text
    parts = urlsplit(text)
    if parts.scheme.lower() == "file" and parts.netloc in ("", "localhost"):
        return url2pathname(parts.path)
    raise SettingsError(f"{text}: an address, not a path: download or mount what is there, and give its path")


def _as_on_disk(path: Path) -> Path:
    """The path with its parts in the Unicode composition of the file system, if they differ only in that."""
    if str(path).isascii() or os.path.lexists(path):
        return path
    parent = _as_on_disk(path.parent)
    if path.name.isascii():
        return parent / path.name
    wanted = unicodedata.normalize("NFC", path.name)
    same = [name for name in _names(parent) if unicodedata.normalize("NFC", name) == wanted]
    return parent / (same[0] if len(same) == 1 else path.name)


def did_you_mean(path: Path) -> str:
    """A hint for a missing path, to append to a message: ``; did you mean …?``, or ""."""
    if _VARIABLE.search(str(path)):
        return "; a variable in it was not replaced: the shell does so outside of single quotes only"
    if os.name != "nt" and _WINDOWS.search(str(path)):
        return "; it is written as on Windows: give the path that the drive has on this machine"
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    if there is None:
        return ""
    missing, *rest = path.relative_to(there).parts
    for name in difflib.get_close_matches(missing, _names(there), n=5, cutoff=_ALIKE):
        meant = there.joinpath(name, *rest)
        if meant.exists():
            return f"; did you mean {meant}?"
    return "; no file matches this pattern" if glob.has_magic(str(path)) else ""


def require_possible(folder: Path) -> None:
    """Raise OutputError if ``folder``, or what is there of the folders above it, is something else."""
    for path in (folder, *folder.parents):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # a name too long, no permission
            raise OutputError(f"{folder}: cannot be used: {error.strerror}; choose another folder") from error
        if not path.is_dir():
            what = "a link that leads to no folder" if path.is_symlink() else "not a folder"
            raise OutputError(f"{folder}: results cannot be written there: {path} is {what}; choose another folder")
        return


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it, unless they are there. Raises OutputError if it cannot be made or
    nothing may be written into it.
    """
    require_possible(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder}: nothing can be written there: {error.strerror}; change that, or choose another folder"
        ) from error


def make_place(file: Path) -> None:
    """Make the folder of a file that is to be written. Raises OutputError if no file of that name can be there."""
    require_possible(file.parent)
    if len(os.fsencode(file.name)) > MOST_NAME_BYTES:
        raise OutputError(f"{file}: too long a name: choose one of {MOST_NAME_BYTES} bytes at most")
    make_folder(file.parent)
    try:
        there = file.stat()
    except FileNotFoundError:
        if file.is_symlink():
            raise OutputError(f"{file}: a link that leads to no file; remove it, or choose another name") from None
        return
    except OSError as error:  # a loop of links
        raise OutputError(f"{file}: cannot be used: {error.strerror}; choose another name") from error
    if stat.S_ISDIR(there.st_mode):
        raise OutputError(f"{file}: a folder, where a file is to be written; add the name of a file")
    if not os.access(file, os.W_OK):
        raise OutputError(f"{file}: you may not write to it: change its permissions, or choose another name")


def read_settings_file(path: Path) -> dict[str, Any]:
    """The values of a TOML file with settings; SettingsError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: settings cannot be read: {error.strerror}{did_you_mean(path)}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: settings cannot be read: {error}") from error


def differing(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The ``parts`` of a path that distinguish it from others: without those common to all at either end."""
    everyone = [parts, *others]
    shortest = min(map(len, everyone))
    first = next((place for place in range(shortest) if len({each[place] for each in everyone}) > 1), shortest)
    most = shortest - first
    last = next((end for end in range(most) if len({each[-1 - end] for each in everyone}) > 1), most)
    return parts[first : len(parts) - last]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
