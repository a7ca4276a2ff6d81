"""Importing TIAToolbox on demand."""

from __future__ import annotations

import logging
import sys
import warnings
from types import ModuleType

import pytest

from wsiproc.core.extras import load


def test_what_the_import_does_to_logging_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the messages of all libraries would run through what the command line prints."""

    def imported(name: str) -> ModuleType:
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger().setLevel(logging.INFO)
        logging.captureWarnings(True)
        return ModuleType(name)

    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("importlib.import_module", imported)
    assert load("tools.stainnorm").__name__ == "tiatoolbox.tools.stainnorm"
    assert (root.handlers, root.level, warnings.showwarning) == (handlers, level, show)
