"""Paths as users write them: made absolute once, where they come in, so that nothing below sees another form.

``..`` is followed as the system follows it, through links; a link itself keeps its name, since a slide is called by it.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from wsiproc.errors import SettingsError

# Two names are alike where so much of them agrees; below it, a hint misleads more often than it helps.
_ALIKE = 0.75


def absolute(path: str | PathLike[str]) -> Path:
    """The absolute path without ``.``, ``..`` and ``~``, whatever the working folder becomes later.

    What is there under a name of other Unicode composition (é as one character or as two) is found. Raises
    SettingsError for what can be no path: an empty one, one with a NUL.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise SettingsError(f"{text!r} is not a path: it is empty or holds a NUL; was a shell variable not set?")
    whole = Path(os.path.expanduser(text)).absolute()
    if whole.anchor == "//":  # POSIX leaves open what two slashes mean; to Linux and macOS they are one
        whole = Path("/", *whole.parts[1:])
    parts = whole.parts
    ups = [place for place, part in enumerate(parts) if part == ".."]
    if ups:
        try:
            whole = Path(*parts[: ups[-1] + 1]).resolve().joinpath(*parts[ups[-1] + 1 :])
        except (OSError, RuntimeError):  # a loop of links: the text is the best that there is
            whole = Path(os.path.normpath(whole))
    return _as_on_disk(whole)


def _as_on_disk(path: Path) -> Path:
    """The path with its parts composed as the file system has them, where they only differ in that."""
    if str(path).isascii() or os.path.lexists(path):
        return path
    parent = _as_on_disk(path.parent)
    if path.name.isascii():
        return parent / path.name
    wanted = unicodedata.normalize("NFC", path.name)
    same = [name for name in _names(parent) if unicodedata.normalize("NFC", name) == wanted]
    return parent / (same[0] if len(same) == 1 else path.name)


def did_you_mean(path: Path) -> str:
    """A hint for a path that is not there, to follow what is said of it: ``; did you mean …?``, or nothing."""
    there = next((parent for parent in path.parents if parent.is_dir()), None)
    if there is None:
        return ""
    missing, *rest = path.relative_to(there).parts
    for name in difflib.get_close_matches(missing, _names(there), n=5, cutoff=_ALIKE):
        meant = there.joinpath(name, *rest)
        if meant.exists():
            return f"; did you mean {meant}?"
    return ""


def differing(parts: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Those ``parts`` of a path that tell it apart from others: without what all have in common at either end."""
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
