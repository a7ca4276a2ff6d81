"""Models: the model protocol, and the bundled models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsiproc.core.paths import absolute, did_you_mean
from wsiproc.errors import ModelError

if TYPE_CHECKING:
    from wsiproc.models.base import Model

BUNDLED, FAST = (Path(__file__).parent / name for name in ("default", "fast"))
BUNDLED_FOLDERS = {"default": BUNDLED, "fast": FAST, "psm": FAST / "psm"}
MODELS = ("classical", *BUNDLED_FOLDERS)


def load_model(name: str, min_score: float | None = None) -> Model:
    """The model called ``name``, or the one in the folder ``name``. Raises ModelError.

    ``min_score``: cells with a lower score are left out; None uses the model's own limit. ``tiatoolbox:NAME=FILE`` is
    one of TIAToolbox's nucleus models with the weights in FILE.
    """
    if name.startswith("tiatoolbox:"):
        if min_score is not None:
            raise ModelError(f"{name}: cells of TIAToolbox's models have no score to filter by; omit --min-score")
        from wsiproc.models.tiatoolbox.nuclei import open_nucleus_model

        return open_nucleus_model(name)
    if name == "classical":
        from wsiproc.models.builtin.classical import Classical

        return Classical(min_score=min_score or 0.0)
    folder = BUNDLED_FOLDERS[name] if name in BUNDLED_FOLDERS else absolute(name)
    if name in BUNDLED_FOLDERS and not (folder / "model.toml").is_file():
        raise ModelError(f"the model {name!r} is not part of this installation; {folder} is missing")
    try:
        is_there = folder.exists()
    except OSError:  # a name too long, a folder without permission
        is_there = False
    if not is_there:
        raise ModelError(
            f"unknown model {name!r}; known are {', '.join(MODELS)}, or the path of a model folder"
            + did_you_mean(folder)
        )
    return _open_folder(folder, min_score)


def _open_folder(folder: Path, min_score: float | None) -> Model:
    from wsiproc.models.builtin.activation import Activation
    from wsiproc.models.builtin.distilled import Distilled
    from wsiproc.models.folder import ActivationConfig, DistilledConfig, read_folder

    config = read_folder(folder)
    if min_score is not None:
        config = replace(config, cut=replace(config.cut, object=min_score, object_dab=min_score))
    if isinstance(config, ActivationConfig):
        return Activation(config, folder)
    assert isinstance(config, DistilledConfig)
    return Distilled(config, folder)
