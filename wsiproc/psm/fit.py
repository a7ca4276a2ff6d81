"""READ SECOND: a cell model from unlabelled tissue, from sources to model folder, top to bottom.

*Tissue*: tiles of every source are read at 0.5 µm/px. *Activation*: a small network learns to answer a question about
whole images, and its self-activation map is read with fixed weights. *Pseudo-labels*: the classical model, a component
tree and the map label nuclei; what all three agree on is accepted. *Teacher*: a small U-Net learns from accepted and
pasted nuclei, then relabels the tissue for the next round, where an object is accepted if the image supports it. With
``base`` the teacher is given, and the fit starts here. *Competition*: the tissue is read again in full; at 0.25 µm/px
the proposals of the teacher and of the classical model compete for every nucleus, with outlines that follow the image.
*Student*: the network that is shipped learns from the winners. *Scores* are fitted to what the competition accepts. In
later rounds, the student and the first teacher label together, less what the neighbours of cells speak against.
*Write*: the model folder, and inside it the teacher (``fast``) and the direct engine (``psm``) if learned here.

Each stage leaves files in a work folder; a fit that was interrupted resumes from them when it is called again with the
same settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wsiproc._version import __version__
from wsiproc.core.types import Float32Array
from wsiproc.errors import PlanError
from wsiproc.io.atomic import atomic_file
from wsiproc.io.slides.fingerprint import fingerprint
from wsiproc.io.slides.list import require_outside_slides
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.models.cells import CutRule, ScoreRule, SplitLengths
from wsiproc.models.folder import (
    DistilledConfig,
    InputNumbers,
    UNetNumbers,
    check_replaceable,
    write_folder,
)
from wsiproc.models.networks.int8 import find_activation_ranges
from wsiproc.models.networks.readout import Clusters, Readout
from wsiproc.models.networks.unet import UNet
from wsiproc.psm import distil
from wsiproc.psm.activation.direct import activation_config, activation_pixels
from wsiproc.psm.activation.map import calibrate_readout, predict_map
from wsiproc.psm.activation.network import as_input, build_activation_network
from wsiproc.psm.activation.objectives import OBJECTIVES
from wsiproc.psm.activation.training import train_activation
from wsiproc.psm.card import FitSummary, direct_card, model_card
from wsiproc.psm.distil import Tissue, find_scores, first_student, read_tissue, taught_examples
from wsiproc.psm.labels.labelling import agreed_labels, classical_labels, density, make_example, network_labels
from wsiproc.psm.segmenter import Example, Training, mean_weights, train_segmenter
from wsiproc.psm.teacher import Teacher, whole_input
from wsiproc.psm.tiles import Source, Tiles, read_tiles
from wsiproc.psm.work import (
    OnStage,
    finished_network,
    load_base,
    load_pseudo_labels,
    note_steps,
    open_work,
    read_curve,
    save_labels,
    work_folder,
)

FIT_MPP = 0.5
INPUT = InputNumbers((0.45, 0.45, 0.45), (0.25, 0.25, 0.25), od99=1.6)
FOLD = 2
TEACHER_THRESHOLD = 0.7  # chosen on the labelled images named in docs/method.md
CUT, SPLIT = CutRule(threshold=0.6), SplitLengths(smooth_um=0.75)
_MOST_TILES = 400
_READOUT_TILES = 12
_CROP_PX, _BATCH = 128, 16
_FIRST_LR, _LATER_LR = 2e-3, 1e-3  # peak learning rate of the final network, and once it has learned before
_LONGEST_NAME = 60  # leaves room for a suffix such as " psm"


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit. ``rounds``: steps of each round of the teacher, whose levels have ``teacher_widths`` channels;
    ``student``: steps of each round of the final network, ``widths``: its channels; ``tiles``: windows per slide;
    ``base``: an existing model as teacher, instead of training one first; if it has the same architecture, training
    also starts from its weights.
    """

    sources: tuple[Source, ...]
    out: Path
    base: str | None = None
    objective: str = "mean value"
    activation_steps: int = 600
    rounds: tuple[int, ...] = (600, 1000)
    teacher_widths: tuple[int, ...] = (16, 32, 64, 96)
    student: tuple[int, ...] = (1700,)
    widths: tuple[int, ...] = (24, 48, 96, 128)
    tiles: int = 24
    seed: int = 0
    device: str = "cpu"
    name: str = field(default="")

    @property
    def work(self) -> Path:
        """The work folder of an unfinished fit."""
        return work_folder(self.out)


def quick_settings(settings: FitSettings) -> FitSettings:
    """Fewer steps and tiles: a usable model from one slide within twenty minutes on two cores."""
    return replace(settings, activation_steps=200, rounds=(300,), student=(350,), tiles=12)


def fit(settings: FitSettings, on_progress: OnStage = lambda *_: None) -> DistilledConfig:
    """Train a model and write its folder. Resumes an earlier call with the same settings.

    Raises SlideError, ResolutionError, PlanError for sources, ModelError for ``base`` and for an output folder that
    contains something else, OutputError where there can be none.
    """
    settings = replace(settings, out=Path(os.path.abspath(settings.out)))
    require_outside_slides(settings.out, [source.path for source in settings.sources])
    base = _base_model(settings)
    if base is not None and base.config.network.fold == FOLD:
        settings = replace(settings, widths=base.config.network.widths)
    recipe = _recipe(settings, base)
    check_replaceable(settings.out, _config(settings, recipe, CUT))
    files = {source.name: fingerprint(source.path) for source in settings.sources}
    work = open_work(settings.work, {"recipe": recipe, "files": files})
    teacher, write_teacher = _first_teacher(settings, base, recipe, work, on_progress)
    student = _first_student(settings, base)
    tissue = read_tissue(settings.sources, settings.tiles, INPUT.od99, partial(on_progress, "reading tissue in full"))
    student, examples, learned = _train_students(settings, student, teacher, tissue, recipe, work, on_progress)
    sources = tuple(each.tiles for each in tissue)
    summary = FitSummary(recipe, sources, tuple(examples), student, read_curve(work / "curve.csv"))
    config = _write(settings, summary, learned)
    write_teacher()
    shutil.rmtree(work)
    return config


def _first_teacher(
    settings: FitSettings, base: Distilled | None, recipe: dict[str, Any], work: Path, on_progress: OnStage
) -> tuple[Teacher, Callable[[], None]]:
    """The teacher, from ``base`` or trained now, and a function that writes it and the direct engine."""
    if base is not None:
        return Teacher(finished_network(base), INPUT, base.config), lambda: None
    sources = _read_sources(settings, on_progress)
    activation = _fit_activation(settings, sources, work, on_progress)
    examples = _pseudo_label(settings, sources, activation, work, on_progress)
    net = _random_network(settings)
    for number, steps in enumerate(settings.rounds, start=1):
        if number > 1:
            examples = _relabel(settings, sources, net, number, work, on_progress)
        net = _round(settings, net, examples, number, steps, work, on_progress)

    def write() -> None:
        summary = FitSummary(recipe, tuple(sources), tuple(examples), net, read_curve(work / "curve.csv"))
        _write_teacher(settings, summary)
        _write_direct(settings, recipe, activation, sources, examples)

    return Teacher(net, INPUT), write


def _first_student(settings: FitSettings, base: Distilled | None) -> nn.Module:
    """The weights of ``base`` if they fit, otherwise random ones from the seed."""
    if base is not None and base.config.network.fold == FOLD:
        return finished_network(base)
    return first_student(settings.widths, settings.seed)


def _train_students(
    settings: FitSettings,
    net: nn.Module,
    first: Teacher,
    tissue: Sequence[Tissue],
    recipe: dict[str, Any],
    work: Path,
    on_progress: OnStage,
) -> tuple[nn.Module, list[Example], DistilledConfig]:
    """The final network, what it was trained on last, and its configuration with the scores. Each round is taught by
    the network of the one before, together with the ``first`` teacher, and ends with the mean of both networks.
    """
    teacher, tuned = first, first.config is not None and first.config.network.fold == FOLD
    for number, steps in enumerate(settings.student, start=1):
        nth = "" if number == 1 else f" {number}"
        labelling = partial(on_progress, f"labelling by the teacher{nth}")
        examples = taught_examples(tissue, teacher, work / f"taught-{number}", settings.device, labelling)
        later = tuned or number > 1
        lr = _LATER_LR if later else _FIRST_LR
        training = Training(steps, distil.DISTIL_MPP, 2 * _CROP_PX, _BATCH, lr, settings.seed, number, folded=True)
        before, net = net, train_segmenter(
            net, examples, training, INPUT, device=settings.device,
            checkpoint=work / f"student-{number}.pt", on_step=note_steps(f"student{nth}", steps, work, on_progress),
        )  # fmt: skip
        if number > 1:
            net.load_state_dict(mean_weights(before.cpu(), net.cpu()))
        score = find_scores(net.cpu().eval(), INPUT, tissue, examples)
        config = _student_config(settings, recipe, score, distil.LATER_LEAST_SCORE if later else distil.LEAST_SCORE)
        teacher = Teacher(net, INPUT, config, others=(first,))
    return net, examples, config


def _base_model(settings: FitSettings) -> Distilled | None:
    """The model to start from. Raises ModelError if it cannot be adapted."""
    if settings.base is None:
        return None
    return load_base(settings.base, settings.out, INPUT, {(FIT_MPP, 1), (distil.DISTIL_MPP, FOLD)})


def _recipe(settings: FitSettings, base: Distilled | None) -> dict[str, Any]:
    """Everything that determines the result, as plain values."""
    recipe = asdict(settings) | {"version": __version__}
    recipe["sources"] = [
        {"name": s.name} | {k: v for k, v in (("mpp", s.mpp), ("dab_outside_nuclei", s.dab_outside_nuclei)) if v}
        for s in settings.sources
    ]
    recipe["base"] = base and {"name": base.name, "weights_sha256": base.weights_sha256}
    return {key: value for key, value in recipe.items() if key not in {"out", "name", "device"} and value is not None}


def _read_sources(settings: FitSettings, on_progress: OnStage) -> list[Tiles]:
    sources = []
    count = max(4, min(settings.tiles, _MOST_TILES // len(settings.sources)))
    for number, source in enumerate(settings.sources, start=1):
        sources.append(read_tiles(source, FIT_MPP, count, INPUT.od99))
        on_progress("reading tissue", number, len(settings.sources))
    return sources


@dataclass(frozen=True)
class TrainedActivation:
    """The trained activation network and how its map is read."""

    net: nn.Module
    readout: Readout


def _fit_activation(
    settings: FitSettings, sources: Sequence[Tiles], work: Path, on_progress: OnStage
) -> TrainedActivation:
    """Train the activation network, or load the one trained before an interruption; calibrate its readout."""
    torch.manual_seed(settings.seed)
    objective = OBJECTIVES[settings.objective]()
    net = build_activation_network("small", objective.outputs)
    trained = nn.ModuleList([net, *objective.modules()])
    path = work / "activation.safetensors"
    if path.exists():
        trained.load_state_dict(load_file(path))
    else:
        images = [activation_pixels(density(s, i)) for s in sources for i in range(len(s.pixels))]
        train_activation(
            net, objective, images, steps=settings.activation_steps, crop_px=_CROP_PX, batch=_BATCH,
            seed=settings.seed, device=settings.device, lr=1e-3,
            on_step=note_steps("activation network", settings.activation_steps, work, on_progress),
        )  # fmt: skip
        with atomic_file(path) as temporary:
            save_file(trained.cpu().state_dict(), temporary)
    trained.eval()
    chosen = [(s, i) for i in range(2) for s in sources if i < len(s.pixels)][:_READOUT_TILES]
    densities = [density(source, number) for source, number in chosen]
    tensors = [_even(as_input(activation_pixels(od)[None])) for od in densities]
    evidence = [od[: t.shape[2], : t.shape[3], 0] for od, t in zip(densities, tensors, strict=True)]
    return TrainedActivation(net, calibrate_readout(net, objective.score, tensors, evidence))


def _even(image: torch.Tensor) -> torch.Tensor:
    """The image (1, 3, h, w) cropped to multiples of the map's stride."""
    h, w = (side // 16 * 16 for side in image.shape[2:])
    return image[..., :h, :w]


def activation_map(activation: TrainedActivation, od: Float32Array) -> Float32Array:
    """The self-activation map (h, w) of one tile of optical density × gain (h, w, 3)."""
    h, w = od.shape[:2]
    wide = np.pad(od, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    found: Float32Array = predict_map(
        activation.net, activation.readout, as_input(activation_pixels(wide)[None])
    ).numpy()[0]
    return found[:h, :w]


def _pseudo_label(
    settings: FitSettings, sources: Sequence[Tiles], activation: TrainedActivation, work: Path, on_progress: OnStage
) -> list[Example]:
    """Examples on which all three pseudo-labellers agree."""
    total = sum(len(source.pixels) for source in sources)
    examples: list[Example] = []
    for source in sources:
        path = work / f"pseudo-labels-{source.name}.npz"
        labels = load_pseudo_labels(path)
        if labels is None:
            classical = classical_labels(source, FIT_MPP)
            labels = []
            for number, seen in enumerate(classical):
                od = density(source, number)
                labels.append(agreed_labels(od, seen, activation_map(activation, od), FIT_MPP))
            save_labels(path, labels)
        examples += [make_example(source, i, *found, FIT_MPP) for i, found in enumerate(labels)]
        on_progress("pseudo-labelling", len(examples), total)
    if not any(len(example.palette.colours) for example in examples):
        names = ", ".join(source.name for source in sources)
        raise PlanError(
            f"{names}: no nuclei to start from. Are these slides stained with haematoxylin and in focus, and is their "
            "µm per pixel right? (wsiproc info shows it, --mpp replaces it)"
        )
    return examples


def _relabel(
    settings: FitSettings, sources: Sequence[Tiles], net: nn.Module, number: int, work: Path, on_progress: OnStage
) -> list[Example]:
    """Examples for a later round: nuclei that the network finds and the image supports."""
    total = sum(len(source.pixels) for source in sources)
    examples: list[Example] = []
    net = net.to(settings.device).eval()
    for source in sources:
        path = work / f"labels-{number}-{source.name}.npz"
        labels = load_pseudo_labels(path)
        if labels is None:
            densities = (density(source, i) for i in range(len(source.pixels)))
            labels = [network_labels(net, od, INPUT, CUT, SPLIT, FIT_MPP, settings.device) for od in densities]
            save_labels(path, labels)
        examples += [make_example(source, i, *found, FIT_MPP) for i, found in enumerate(labels)]
        on_progress(f"relabelling {number}", len(examples), total)
    return examples


def _random_network(settings: FitSettings) -> nn.Module:
    """A teacher with random weights from the seed."""
    torch.manual_seed(settings.seed)
    return UNetNumbers(widths=settings.teacher_widths, outputs=2).build()


def _round(
    settings: FitSettings,
    net: nn.Module,
    examples: Sequence[Example],
    number: int,
    steps: int,
    work: Path,
    on_progress: OnStage,
) -> nn.Module:
    """One round of the segmenter; later ones start from the weights of the previous one."""
    training = Training(steps, FIT_MPP, _CROP_PX, _BATCH, seed=settings.seed, round=number)
    return train_segmenter(
        net, examples, training, INPUT, device=settings.device, checkpoint=work / f"round-{number}.pt",
        on_step=note_steps(f"round {number}", steps, work, on_progress),
    )  # fmt: skip


def _write_direct(
    settings: FitSettings,
    recipe: dict[str, Any],
    activation: TrainedActivation,
    sources: Sequence[Tiles],
    examples: Sequence[Example],
) -> None:
    """Write the direct engine, a model folder inside the model folder, from the first tile of each source."""
    first = {example.group: example.target[..., 0] for example in reversed(examples)}
    tiles = [density(source, 0) for source in sources]
    maps = [activation_map(activation, od) for od in tiles]
    sigma = Clusters.smooth_um / FIT_MPP
    smooth = [np.asarray(cv2.GaussianBlur(od, (0, 0), sigma), np.float32) for od in tiles]
    width = len(activation.readout.weights[0])
    name = f"{(settings.name or settings.out.name)[:_LONGEST_NAME]} psm"
    accepted = [first[source.name] for source in sources]
    config = activation_config(activation.readout, width, maps, smooth, accepted, FIT_MPP, name, recipe)
    card = direct_card(name, recipe)
    write_folder(settings.out / "psm", config, _shallow_weights(activation.net), card)


def _shallow_weights(net: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that the direct engine needs: stem and first layer."""
    return {name: t for name, t in net.state_dict().items() if name.startswith(("stem.", "layer1."))}


def _write(settings: FitSettings, summary: FitSummary, learned: DistilledConfig) -> DistilledConfig:
    """Write the model folder, with its card and images."""
    return _write_network(settings.out, replace(learned, int8_peaks=_activation_ranges(summary)), summary)


def _student_config(settings: FitSettings, recipe: dict[str, Any], score: ScoreRule, least: float) -> DistilledConfig:
    """Configuration of the final network; ``least``: its minimum score."""
    return replace(_config(settings, recipe, replace(distil.CUT, object=least)), score=score)


def _write_teacher(settings: FitSettings, summary: FitSummary) -> None:
    """Write the teacher, a model folder inside the model folder: at half the resolution, and several times as fast."""
    config = replace(
        _config(settings, summary.recipe, replace(CUT, threshold=TEACHER_THRESHOLD)),
        name=f"{(settings.name or settings.out.name)[:_LONGEST_NAME]} fast",
        mpp=FIT_MPP,
        window=512,
        halo=32,
        network=UNetNumbers(widths=settings.teacher_widths, outputs=2),
        split=SPLIT,
        outline=None,
        int8_peaks=_activation_ranges(summary),
    )
    _write_network(settings.out / "fast", config, summary)


def _write_network(folder: Path, config: DistilledConfig, summary: FitSummary) -> DistilledConfig:
    config.training["tiles_read"] = sum(len(source.pixels) for source in summary.sources)
    card, images = model_card(summary, config.mpp)
    written = write_folder(folder, config, summary.net.cpu().state_dict(), card, images)
    assert isinstance(written, DistilledConfig)
    return written


def _activation_ranges(summary: FitSummary) -> tuple[float, ...]:
    """Activation ranges of the network, on two tiles of each source."""
    net = summary.net.cpu().eval()
    assert isinstance(net, UNet)
    classical = {example.group: example.classical for example in summary.examples}
    tiles = ((source, number) for source in summary.sources for number in sorted({0, len(source.pixels) // 2}))
    inputs = (whole_input(net, density(source, i), source, classical[source.name], INPUT) for source, i in tiles)
    return find_activation_ranges(net, inputs)


def _config(settings: FitSettings, recipe: dict[str, Any], cut: CutRule) -> DistilledConfig:
    """Configuration of the model folder."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return DistilledConfig(
        name=settings.name or settings.out.name,
        description="Nuclei, learned without labels by wsiproc fit",
        mpp=distil.DISTIL_MPP,
        window=distil.WINDOW,
        halo=distil.HALO,
        network=UNetNumbers(widths=settings.widths, outputs=2, fold=FOLD),
        input=INPUT,
        cut=cut,
        split=distil.SPLIT,
        outline=distil.OUTLINE,
        neighbours=distil.NEIGHBOURS,
        colour=distil.COLOUR,
        training=recipe | {"recipe": digest},
    )
