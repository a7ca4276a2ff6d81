"""What a run reports while it goes on, and what became of each slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiproc.io.slides.open import slide_name


@dataclass(frozen=True)
class Event:
    """Progress of one slide: ``done`` of ``total`` steps of a stage; ``cells`` found and ``mpx`` read so far.

    ``most``: what the workers spent most of their time on so far, with its share.
    """

    slide: str
    stage: str
    done: int
    total: int
    cells: int = 0
    mpx: float = 0.0
    most: str = ""


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Outcome:
    """What became of one slide: ``status`` is *done*, *already done* or *failed*; ``run`` as in ``run.json``.

    ``slide``: the name of its folder, as in the events about it; ``label``: what to call it where all are listed.
    """

    path: Path
    slide: str
    status: str
    folder: Path | None = None
    run: dict[str, Any] | None = None
    error: Exception | None = None

    @property
    def label(self) -> str:
        """Name of the file; where others have the same name, its path."""
        return self.path.name if self.slide == slide_name(self.path) else str(self.path)
