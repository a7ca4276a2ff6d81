"""TIAToolbox behind wsiproc's own types: readers, tissue maskers, stain normalisers, nucleus models, annotation store.

Needs ``pip install wsiproc[tiatoolbox]``. TIAToolbox takes many seconds to import, so its modules are imported on first
use, and only where needed.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from wsiproc.errors import MissingExtraError


def load(name: str) -> ModuleType:
    """The module ``tiatoolbox.`` + ``name``; raises MissingExtraError, which names the extra."""
    try:
        with _logging_as_it_was():
            return importlib.import_module(f"tiatoolbox.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"TIAToolbox cannot be imported ({error}); install it, preferably in a separate environment: "
            "pip install 'wsiproc[tiatoolbox]'"
        ) from error


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Restore logging after the import, which adds handlers, lowers all levels and captures warnings."""
    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        if warnings.showwarning is not show:
            logging.captureWarnings(False)
