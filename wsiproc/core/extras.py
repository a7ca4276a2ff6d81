"""TIAToolbox behind wsiproc's own nouns: readers, tissue maskers, stain normalisers, nucleus models, annotation store.

Needs ``pip install wsiproc[tiatoolbox]``. TIAToolbox takes many seconds to import, so its modules are imported when
first used, and only by what cannot do without.
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
    """The module ``tiatoolbox.`` + ``name``, or the error that names the extra."""
    try:
        with _logging_as_it_was():
            return importlib.import_module(f"tiatoolbox.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"TIAToolbox cannot be imported ({error}); install it, best in an environment of its own: "
            "pip install 'wsiproc[tiatoolbox]'"
        ) from error


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Undo what the import does to logging: handlers and a lower level for all libraries, and warnings as messages."""
    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        if warnings.showwarning is not show:
            logging.captureWarnings(False)
