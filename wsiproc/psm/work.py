"""What every fit needs: the model that it starts from, and a work folder with what it keeps while it is unfinished."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wsiproc.core.paths import make_folder
from wsiproc.core.types import Int32Array, UInt8Array
from wsiproc.errors import ModelError
from wsiproc.io.atomic import atomic_file
from wsiproc.models import load_model
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.models.folder import InputNumbers, load_weights

OnStage = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done, and their total."""


def load_base(name: str, out: Path, numbers: InputNumbers, kinds: Collection[tuple[float, int]]) -> Distilled:
    """The model that a fit starts from, of one of the ``kinds``: µm/px and fold. Raises ModelError if it cannot be."""
    base = load_model(name)
    if (
        not isinstance(base, Distilled)
        or (base.mpp, base.config.network.fold) not in kinds
        or (base.config.network.outputs, base.config.input) != (2, numbers)
    ):
        raise ModelError(f"{name} cannot be adapted; pass default, or a model written by `wsiproc fit`")
    if base.folder == out:
        raise ModelError(f"{name} would be replaced by the model adapted from it; choose another output folder")
    return base


def finished_network(model: Distilled) -> nn.Module:
    """The network of a model folder, in evaluation mode."""
    net = model.config.network.build()
    load_weights(model.folder, model.config, net)
    return net.eval()


def work_folder(out: Path) -> Path:
    """The work folder of an unfinished fit."""
    return out.with_name(f".{out.name}.fit")


def open_work(work: Path, wanted: Mapping[str, Any]) -> Path:
    """Make the work folder of a fit of what is ``wanted``, as plain values; one of anything else is cleared."""
    text = json.dumps(wanted, indent=1, sort_keys=True)
    marker = work / "recipe.json"
    if work.exists() and not (marker.exists() and marker.read_text(encoding="utf-8") == text):
        shutil.rmtree(work)
    make_folder(work)
    with atomic_file(marker) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return work


def note_steps(stage: str, steps: int, work: Path, on_progress: OnStage) -> Callable[[int, float], None]:
    """Records the training curve and reports progress."""

    def note(step: int, loss: float) -> None:
        if step % 10 == 0 or step == steps:
            with (work / "curve.csv").open("a", newline="") as file:
                csv.writer(file).writerow([stage, step, f"{loss:.5f}"])
        on_progress(stage, step, steps)

    return note


def load_pseudo_labels(path: Path) -> list[tuple[Int32Array, UInt8Array]] | None:
    """Labels and targets of a source's tiles from an earlier call; None if there are none."""
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return [(arrays[f"labels{i}"], arrays[f"target{i}"]) for i in range(len(arrays.files) // 2)]


def save_labels(path: Path, found: Sequence[tuple[Int32Array, UInt8Array]]) -> None:
    """Save labels and targets of a source's tiles."""
    arrays: dict[str, Any] = {f"labels{i}": labels for i, (labels, _) in enumerate(found)}
    arrays |= {f"target{i}": target for i, (_, target) in enumerate(found)}
    with atomic_file(path) as temporary, temporary.open("wb") as file:  # numpy would append its own suffix to a name
        np.savez_compressed(file, **arrays)


def read_curve(path: Path) -> dict[str, dict[int, float]]:
    """Stage → step → loss; steps done twice, before and after an interruption, count once."""
    curve: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for stage, step, loss in csv.reader(file):
            curve.setdefault(stage, {})[int(step)] = float(loss)
    return curve
