"""What a run reports while it goes on, and what became of each slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiproc.io.slides.open import slide_name

if TYPE_CHECKING:
    from wsiproc.results.record import RunRecord


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
    """What became of one slide: ``status`` is *done*, *already done* or *failed*; ``record``: its ``run.json``.

    ``slide``: the name of its folder, as in the events about it; ``label``: what to call it where all are listed.
    """

    path: Path
    slide: str
    status: str
    folder: Path | None = None
    record: RunRecord | None = None
    error: Exception | None = None

    @cached_property
    def run(self) -> dict[str, Any] | None:
        """What ``run.json`` says, as JSON has it."""
        return None if self.record is None else self.record.as_dict()

    @property
    def label(self) -> str:
        """Name of the file; where others have the same name, its path."""
        return self.path.name if self.slide == slide_name(self.path) else str(self.path)
