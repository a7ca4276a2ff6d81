"""What the Tab key offers in a shell: values of options, slides, and files of the kind that an option wants.

Where nothing is offered, the shell completes files as it always does, which also knows how to quote their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

_PLAIN = re.compile(r"[\w./~:@%+=,-]*")  # what no shell reads as anything but itself
_SHOWN = 200  # more are no help to choose from


def choices(of: Any) -> Callable[[str], list[str]]:
    """Offers the values of a type of ``wsiproc.core.choices``."""
    return lambda incomplete: [value for value in get_args(of) if value.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Models that come with the package, and model folders."""
    from wsiproc.models import MODELS

    names = [name for name in MODELS if name.startswith(incomplete)]
    return names + _paths(incomplete, lambda path: (path / "model.toml").is_file())


def slides(incomplete: str) -> list[str]:
    """Files that are slides by their names, and folders of OME-Zarr; folders to look into, where they lead there."""
    from wsiproc.io.slides.list import IMAGE_SUFFIXES, SLIDE_SUFFIXES

    return _paths(incomplete, lambda path: path.name.lower().endswith(SLIDE_SUFFIXES + IMAGE_SUFFIXES))


def files(*suffixes: str) -> Callable[[str], list[str]]:
    """Offers files with these endings."""
    return lambda incomplete: _paths(incomplete, lambda path: path.is_file() and path.name.endswith(suffixes))


def datasets(incomplete: str) -> list[str]:
    """Names of datasets whose layout is known; folders are left to the shell."""
    from wsiproc.evaluate.known import KNOWN

    return [name for name in KNOWN if name.startswith(incomplete)]


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """What begins with ``incomplete`` and is wanted, and folders; nothing where the shell had better do it.

    A single folder is entered at once: a shell that is given one name closes the word behind it.
    """
    head, tail = incomplete[: incomplete.rfind("/") + 1], incomplete[incomplete.rfind("/") + 1 :]
    found = _entries(head, tail, wanted)
    while len(found) == 1 and found[0].endswith("/"):
        inside = _entries(found[0], "", wanted)
        if not inside:
            break
        found = inside
    hits = [name for name in found if not name.endswith("/")]
    if not hits or len(found) > _SHOWN or not all(map(_PLAIN.fullmatch, found)):
        return []
    return found


def _entries(head: str, tail: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Names in the folder ``head`` that begin with ``tail``: those that are wanted, then other folders with a slash."""
    try:
        entries = sorted(Path(head or ".").expanduser().iterdir())
    except OSError:
        return []
    seen = [path for path in entries if path.name.startswith(tail) and (tail or not path.name.startswith("."))]
    hits = [path for path in seen if wanted(path)]
    folders = [path for path in seen if path not in hits and path.is_dir()]
    return [f"{head}{path.name}" for path in hits] + [f"{head}{path.name}/" for path in folders]
