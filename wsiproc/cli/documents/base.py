"""What all documents of ``--json`` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from wsiproc.errors import sentence


class Part(BaseModel):
    """A part of a document; the text under a field is its description in the schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Problem(Part):
    """Something that went wrong."""

    kind: str
    """Name of the error: those of `wsiproc.errors`, or `UsageError` for a command that makes no sense."""
    message: str
    """The sentence for people: what, where, and what to do."""
    path: str | None = None
    """The slide or folder that it is about; null where it is about the command."""

    @classmethod
    def of(cls, error: Exception, path: Path | None = None) -> Self:
        """An error as the command line tells it."""
        return cls(kind=type(error).__name__, message=sentence(error), path=None if path is None else str(path))


class Document(Part):
    """What every document has."""

    items: ClassVar[str]

    command: str
    """Name of the command."""
    wsiproc: str
    """Version of wsiproc."""
    exit_code: int
    """Exit code of the process."""
    errors: list[Problem]
    """All that failed; empty where nothing did."""
