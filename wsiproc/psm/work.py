"""What an unfinished fit keeps in its work folder: labels, and the training curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.core.types import Int32Array, UInt8Array
from wsiproc.io.atomic import atomic_file


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
