"""Shell completion: values of options, slides, and files of the type that an option expects.

Where nothing is offered, the shell falls back to its own completion of files, which also quotes their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

_PLAIN = re.compile(r"[\w./~:@%+=,-]*")  # needs no quoting in any shell
_MAX_SHOWN = 200  # a longer list is of no use


def choices(of: Any) -> Callable[[str], list[str]]:
    """Completion of the values of a type of ``wsiproc.core.choices``."""
    return lambda incomplete: [value for value in get_args(of) if value.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Completion of bundled models and model folders."""
    from wsiproc.models import MODELS

    names = [name for name in MODELS if name.startswith(incomplete)]
    return names + _paths(incomplete, lambda path: (path / "model.toml").is_file())


def slides(incomplete: str) -> list[str]:
    """Completion of slides by their file names, OME-Zarr folders, and other folders on the way to them."""
    from wsiproc.io.slides.list import IMAGE_SUFFIXES, SLIDE_SUFFIXES

    return _paths(incomplete, lambda path: path.name.lower().endswith(SLIDE_SUFFIXES + IMAGE_SUFFIXES))


def files(*suffixes: str) -> Callable[[str], list[str]]:
    """Completion of files with these suffixes."""
    return lambda incomplete: _paths(incomplete, lambda path: path.is_file() and path.name.endswith(suffixes))


def datasets(incomplete: str) -> list[str]:
    """Completion of names of known datasets; folders are left to the shell."""
    from wsiproc.evaluate.known import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Wanted paths that begin with ``incomplete``, and folders; empty where the shell's own completion is better.

    A single folder is descended into at once, since a shell ends the word after a single match.
    """
    head, tail = incomplete[: incomplete.rfind("/") + 1], incomplete[incomplete.rfind("/") + 1 :]
    found = _entries(head, tail, wanted)
    while len(found) == 1 and found[0].endswith("/"):
        inside = _entries(found[0], "", wanted)
        if not inside:
            break
        found = inside
    hits = [name for name in found if not name.endswith("/")]
    if not hits or len(found) > _MAX_SHOWN or not all(map(_PLAIN.fullmatch, found)):
        return []
    return found


def _entries(head: str, tail: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Names in the folder ``head`` that begin with ``tail``: wanted ones, then other folders with a slash."""
    try:
        entries = sorted(Path(head or ".").expanduser().iterdir())
    except OSError:
        return []
    seen = [path for path in entries if path.name.startswith(tail) and (tail or not path.name.startswith("."))]
    hits = [path for path in seen if wanted(path)]
    folders = [path for path in seen if path not in hits and path.is_dir()]
    return [f"{head}{path.name}" for path in hits] + [f"{head}{path.name}/" for path in folders]
