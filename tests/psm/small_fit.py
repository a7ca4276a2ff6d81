"""A fit that costs seconds; as a program one that kills itself: ``python -m tests.psm.small_fit SLIDE OUT STAGE N``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from wsiproc.psm import fit as fitting
from wsiproc.psm import segmenter, tiles
from wsiproc.psm.activation import direct
from wsiproc.psm.fit import FitSettings, fit
from wsiproc.psm.tiles import Source
from wsiproc.psm.work import OnStage

CHECKPOINT_STEPS = 5


def shrink(replace: Callable[[object, str, object], None]) -> None:
    """Smaller tiles and batches and earlier checkpoints by ``replace(module, name, value)``; the rest is as always."""
    replace(tiles, "TRAINING_TILE_PX", 192)
    replace(fitting, "_BATCH", 2)
    replace(fitting, "_CROP_PX", 64)
    replace(fitting, "_READOUT_TILES", 2)
    replace(direct, "_SAMPLED_PX", 5_000)
    replace(segmenter, "_CHECKPOINT_STEPS", CHECKPOINT_STEPS)


def small(slide: Path, out: Path, **others: object) -> FitSettings:
    """Ten steps of the activation network, two rounds of 15 of the teacher, and two of 15 and 5 of the student."""
    numbers: dict[str, object] = {
        "activation_steps": 10, "rounds": (15, 15), "student": (15, 5), "tiles": 4, "teacher_widths": (8, 16),
        "widths": (8, 16),
    }  # fmt: skip
    return FitSettings(**{"sources": (Source(slide),), "out": out} | numbers | others)  # type: ignore[arg-type]


def stop_at(stage: str, step: int, stop: Callable[[], None]) -> OnStage:
    """Something that listens and calls ``stop`` at a step of a stage."""

    def on_progress(now: str, done: int, total: int) -> None:
        if (now, done) == (stage, step):
            stop()

    return on_progress


if __name__ == "__main__":
    slide, out, stage, step = sys.argv[1:]
    torch.set_num_threads(1)
    shrink(setattr)
    fit(small(Path(slide), Path(out)), stop_at(stage, int(step), lambda: os.kill(os.getpid(), signal.SIGKILL)))
