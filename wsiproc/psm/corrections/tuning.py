"""From corrected cells to a model: a few minutes of training, from the weights of a model that is there already.

Each step draws crops around known pixels. There the network learns the cells as they were corrected; everywhere else,
and in crops of other places of the slides, it is held to what the model said before, so that it does not forget what
nobody corrected. The statistics of its batch norms stay, since the crops are few and alike. The result is a mean of the
weights before and after, in which those after count the more, the more cells were corrected. All numbers were chosen
on the labelled images named in docs/method.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from wsiproc._version import __version__
from wsiproc.core.types import Float32Array, Int64Array
from wsiproc.io.slides.list import require_outside_slides
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.models.builtin.hints import folded_input, half_resolution_density, hints
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.folder import DistilledConfig, InputNumbers, check_replaceable, write_folder
from wsiproc.models.networks.int8 import find_activation_ranges
from wsiproc.models.networks.unet import UNet
from wsiproc.psm.card import tuned_card
from wsiproc.psm.corrections.windows import Corrected, Window, find_corrected, read_windows
from wsiproc.psm.distil import DISTIL_MPP
from wsiproc.psm.fit import FOLD, INPUT
from wsiproc.psm.labels.labelling import density
from wsiproc.psm.labels.restain import without_dab
from wsiproc.psm.labels.targets import interior
from wsiproc.psm.segmenter import computes_bfloat16, jitter, jitter_hints, mean_weights, optimise, step_generator
from wsiproc.psm.teacher import Teacher, whole_input
from wsiproc.psm.work import finished_network, load_base, note_steps, open_work, read_curve, work_folder

_STEPS_PER_CELL, _FEWEST_STEPS, _MOST_STEPS = 3, 200, 600
_LR = 1.5e-3
_CROP_PX, _BATCH, _OTHERS = 192, 8, 2
_SCALES = 0.85, 1.18
_JITTER = 0.5  # share of what a network is trained on that has to suit all laboratories
_REVIEWED_SHARE = 0.85
"""Of the loss, if areas were reviewed. Single corrections weigh as all else around them: who made them has seen the
others, and most were right; a few deleted cells would outweigh them."""
_INTERIOR_WEIGHT = 0.5
_WARM_UP, _KEEP, _CHECKPOINT_STEPS = 10, 0.97, 10
_HALF_TRUSTED = 35
"""Corrected cells with which the trained weights and those before count alike; with fewer, those before count more."""
_THRESHOLD, _LEAST_SCORE = 0.4, 0.1
_RANGE_WINDOWS = 8
STAGE = "learning from corrections"


@dataclass(frozen=True)
class TuneSettings:
    """``corrections``: output folders of slides with corrected cells; ``base``: the model that learns from them."""

    corrections: tuple[Path, ...]
    out: Path
    base: str = "default"
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Lesson:
    """A window as the training sees it: optical density × gain (h, w, 3); ``target`` (h, w, 2), probabilities of
    nucleus and interior; positions (K, 2) of known pixels, (y, x); and whose ``window`` it is.
    """

    density: Float32Array
    target: Float32Array
    known: Int64Array
    window: Window


@dataclass(frozen=True)
class Tuned:
    """The model that was written, and how many ``cells`` of how many ``slides`` it learned from."""

    config: DistilledConfig
    cells: int
    slides: int


def tune(settings: TuneSettings, on_progress: Callable[[str, int, int], None] = lambda *_: None) -> Tuned:
    """Train ``base`` on corrected cells and write a model folder. Resumes an earlier call with the same settings.

    Raises OutputError and SettingsError for corrections, SlideError for slides, ModelError for ``base`` and for an
    output folder that contains something else.
    """
    settings = replace(settings, out=Path(os.path.abspath(settings.out)))
    corrected = find_corrected(settings.corrections)
    require_outside_slides(settings.out, [Path(each.result.record.slide.path) for each in corrected])
    base = load_base(settings.base, settings.out, INPUT, {(DISTIL_MPP, FOLD)})
    cells = sum(each.known_cells for each in corrected)
    steps = training_steps(cells)
    recipe = _recipe(settings, base, corrected, steps)
    config = _config(settings, base, recipe)
    check_replaceable(settings.out, config)
    work = open_work(work_folder(settings.out), recipe)
    numbers = base.config.input
    windows = read_windows(corrected, numbers.od99, partial(on_progress, "reading corrections"))
    before = Teacher(finished_network(base), numbers)
    lessons = [_lesson(window, before, settings.device) for window in windows]
    trained = optimise(
        before.net, partial(_loss, lessons, numbers, settings), steps, _LR,
        warm_up=_WARM_UP, keep=_KEEP, frozen_statistics=True, device=settings.device,
        checkpoint=work / "tuned.pt", every=_CHECKPOINT_STEPS,
        on_step=note_steps(STAGE, steps, work, on_progress),
    )  # fmt: skip
    net = before.net.cpu()
    net.load_state_dict(mean_weights(net, trained.cpu(), cells / (cells + _HALF_TRUSTED)))
    config = replace(config, int8_peaks=_activation_ranges(net, lessons, numbers))
    shown = [(window.pixels, window.labels, window.known) for window in windows if window.known.any()]
    card, images = tuned_card(recipe, shown, read_curve(work / "curve.csv"))
    written = write_folder(settings.out, config, net.state_dict(), card, images)
    assert isinstance(written, DistilledConfig)
    shutil.rmtree(work)
    return Tuned(written, cells, len(corrected))


def training_steps(cells: int) -> int:
    """How long is trained on so many corrected cells: few are soon learned by heart."""
    return min(max(_STEPS_PER_CELL * cells, _FEWEST_STEPS), _MOST_STEPS)


def _recipe(settings: TuneSettings, base: Distilled, corrected: Sequence[Corrected], steps: int) -> dict[str, Any]:
    """Everything that determines the result, as plain values."""
    slides = [
        {"name": each.result.name, "cells": each.known_cells, "corrections": each.digest()[:12]} for each in corrected
    ]
    return {
        "corrected": slides,
        "base": {"name": base.name, "weights_sha256": base.weights_sha256},
        "steps": steps,
        "seed": settings.seed,
        "version": __version__,
    }


def _config(settings: TuneSettings, base: Distilled, recipe: dict[str, Any]) -> DistilledConfig:
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return replace(
        base.config,
        name=settings.out.name,
        description="Nuclei, learned without labels, then from corrected cells by wsiproc fit",
        cut=replace(base.config.cut, threshold=_THRESHOLD, object=min(_LEAST_SCORE, base.config.cut.object)),
        training=recipe | {"recipe": digest},
    )


def _lesson(window: Window, before: Teacher, device: str) -> Lesson:
    """What a window teaches: the corrected cells where they are known, elsewhere what the model says."""
    tissue = replace(window.tissue.tiles, pixels=(window.pixels,))
    stained = density(tissue, 0)
    if tissue.dab_outside_nuclei:
        stained = without_dab(stained, tissue.stains)[0]
    logits = before.logits(stained, tissue, window.tissue.classical, device, views=1)
    target = 1 / (1 + np.exp(-logits.transpose(1, 2, 0)))
    truth = np.stack([window.labels > 0, interior(window.labels)], axis=2)
    target[window.known] = truth[window.known]
    return Lesson(stained, target.astype(np.float32), np.argwhere(window.known), window)


def _loss(
    lessons: Sequence[Lesson], numbers: InputNumbers, settings: TuneSettings, net: nn.Module, step: int
) -> Tensor:
    """The loss on the crops of one step."""
    od, target, reviewed, hint_planes = draw_lessons(lessons, settings.seed, step)
    device = settings.device
    generator = step_generator(settings.seed, 0, step, device)
    od = od.to(device)
    varied = od + (jitter(od, generator) - od) * _JITTER
    seen = folded_input(network_input(varied, 1.0, numbers), jitter_hints(hint_planes.to(device), generator))
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=computes_bfloat16(device)):
        logits = net(seen)
    return lesson_loss(logits.float(), target.to(device), reviewed.to(device))


def lesson_loss(logits: Tensor, target: Tensor, reviewed: Tensor) -> Tensor:
    """Cross-entropy of nucleus and interior, (b, 2, h, w) both: the mean over ``reviewed`` pixels (b, h, w) and that
    over all others, weighted; the mean over all if none or all of them were reviewed.
    """
    losses = nnf.binary_cross_entropy_with_logits(logits, target, reduction="none")
    each = losses[:, 0] + _INTERIOR_WEIGHT * losses[:, 1]
    if reviewed.all() or not reviewed.any():
        return each.mean()
    return _REVIEWED_SHARE * each[reviewed].mean() + (1 - _REVIEWED_SHARE) * each[~reviewed].mean()


def draw_lessons(lessons: Sequence[Lesson], seed: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crops around known pixels, and some of windows without any: optical density (b, 3, h, w), target (b, 2, h, w),
    reviewed pixels (b, h, w) and hints (b, HINTS, h/2, w/2). Each window of either kind is drawn equally often.
    """
    rng = np.random.default_rng([seed, step])
    taught = [lesson for lesson in lessons if len(lesson.known)]
    others = [lesson for lesson in lessons if not len(lesson.known)]
    crops = []
    for place in range(_BATCH):
        group = others if others and place < _OTHERS else taught
        crops.append(_draw_crop(group[rng.integers(len(group))], rng))
    ods, targets, masks, hint_planes = zip(*crops, strict=True)
    od, target, reviewed = (torch.from_numpy(np.stack(planes)) for planes in (ods, targets, masks))
    return od.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2), reviewed > 0, torch.cat(hint_planes)


def _draw_crop(lesson: Lesson, rng: np.random.Generator) -> tuple[Float32Array, Float32Array, Float32Array, Tensor]:
    """A square at a random scale, turned and mirrored, with a known pixel in it if there is one, and its hints."""
    shape = lesson.density.shape[:2]
    side = min(round(_CROP_PX / rng.uniform(*_SCALES)), *shape)
    known = lesson.known if len(lesson.known) else np.array([[rng.integers(length) for length in shape]])
    middle = known[rng.integers(len(known))]
    y, x = (
        int(np.clip(place - rng.integers(side), 0, length - side))
        for place, length in zip(middle.tolist(), shape, strict=True)
    )
    part = (slice(y, y + side), slice(x, x + side))
    size = (_CROP_PX, _CROP_PX)
    od = cv2.resize(lesson.density[part], size, interpolation=cv2.INTER_LINEAR)
    target = cv2.resize(lesson.target[part], size, interpolation=cv2.INTER_LINEAR)
    reviewed = cv2.resize(lesson.window.reviewed[part].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    od, target, reviewed = (_turned(plane, turns, mirrored) for plane in (od, target, reviewed))
    tissue = lesson.window.tissue
    given = torch.from_numpy(od).permute(2, 0, 1)[None]
    halved = half_resolution_density(given / tissue.tiles.gain)
    return od, target, reviewed, hints(halved, tissue.tiles.gain, tissue.tiles.stains, tissue.classical)


def _turned(plane: Any, turns: int, mirrored: bool) -> Float32Array:
    turned = np.rot90(plane, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned, np.float32)


def _activation_ranges(net: nn.Module, lessons: Sequence[Lesson], numbers: InputNumbers) -> tuple[float, ...]:
    """Activation ranges of the network for int8, on some of the windows."""
    assert isinstance(net, UNet)
    chosen = np.linspace(0, len(lessons) - 1, min(_RANGE_WINDOWS, len(lessons))).round().astype(int)
    some = ((lessons[i].density, lessons[i].window.tissue) for i in chosen)
    return find_activation_ranges(
        net, (whole_input(net, od, tissue.tiles, tissue.classical, numbers) for od, tissue in some)
    )
