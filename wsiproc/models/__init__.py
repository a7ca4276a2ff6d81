"""Models: what a model is, and those that come with the package."""

from __future__ import annotations

from wsiproc.errors import ModelError
from wsiproc.models.base import Model

MODELS = ("classical",)


def load_model(name: str) -> Model:
    """The model called ``name``. Raises ModelError for a name that is not known."""
    if name == "classical":
        from wsiproc.models.classical import Classical

        return Classical()
    raise ModelError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
