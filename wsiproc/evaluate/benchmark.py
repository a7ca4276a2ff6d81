"""Benchmark models on a dataset: every image is run as a slide, scored against its ground truth, and drawn.

``OUT/<model>/runs/<image>/`` is the output of ``wsiproc run``, so an interrupted benchmark can be resumed;
``OUT/<model>/figures/`` has overlays, the worst first; ``scores.csv`` has one row per model and image, ``table.md`` one
per model, and one per organ if the dataset gives organs. The model ``classical`` is always included as the baseline
that a trained model must beat.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiproc._version import __version__
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.paths import make_folder
from wsiproc.core.types import UInt8Array
from wsiproc.errors import OutputError, SettingsError, sentence
from wsiproc.evaluate import areas
from wsiproc.evaluate.compare import ScoreRow, Scores, evaluate, mean_scores, write_figure
from wsiproc.evaluate.datasets import load_labels
from wsiproc.evaluate.known import Role, TruthKind
from wsiproc.evaluate.layouts import Dataset, LabelledImage, load_truth
from wsiproc.evaluate.points import (
    Count,
    cell_points,
    count_points,
    headline_f1,
    load_points,
    point_dataset_columns,
    point_image_columns,
    write_point_figure,
)
from wsiproc.evaluate.reliability import Judged, calibration_errors, judge_cells
from wsiproc.evaluate.tables import TableLine, markdown_table, write_lines
from wsiproc.executors import Task, WorkerPool, available_cores, worker_pool
from wsiproc.io.atomic import atomic_file
from wsiproc.io.ome_zarr.image import CHUNK
from wsiproc.io.slides.open import open_slide
from wsiproc.io.slides.pixels.mirror import read_mirrored
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.device import Device, choose_device
from wsiproc.models.inference import predict
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.folders import output_folder
from wsiproc.pipeline.settings import Settings
from wsiproc.results.record import SlideRecord

BASELINE = "classical"
MOST_OVERLAYS = 50
"""Images drawn per model, from the worst upwards."""
_MAX_WORKERS = 8  # each holds the libraries, some 0.7 GB; by default no more are started
_FEWEST_CALLS, _TIMED_S = 3, 1.0  # the network is timed for so many calls and seconds


@dataclass(frozen=True)
class Work:
    """One image for one model: all that a worker needs. ``label`` names the model's folder in ``out``."""

    label: str
    labelled: LabelledImage
    kind: TruthKind
    classes: bool
    radius_um: float
    settings: Settings
    out: Path
    overwrite: bool

    @property
    def home(self) -> Path:
        """The folder of the model."""
        return self.out / self.label

    @property
    def marked(self) -> areas.MarkedImage:
        """The image's entry in its list of areas."""
        listed = areas.load_marks(self.labelled.truth).images
        return next(marked for marked in listed if self.labelled.image.as_posix().endswith(marked.file))


@dataclass(frozen=True)
class ImageResult:
    """The result of one image: its scores or tallies, or the ``error`` that it failed with.

    ``rank``: AJI, F1 or the negative of false cells per mm², by which the worst come first; ``folder``: the run's
    output; ``seconds``: duration of its run; ``judged``: its cells one by one, where the truth is labels.
    """

    work: Work
    status: str = "failed"
    folder: Path | None = None
    scores: Scores | dict[str, Count] | None = None
    tallies: areas.Tallies | None = None
    rank: float = 0.0
    judged: Judged | None = None
    cells: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The results: one line per model, one per model and organ, one per model and image; and failures, as sentences.

    ``judged``: each model's cells in all images, where truths are labels.
    """

    dataset: Dataset
    lines: list[TableLine]
    organs: list[TableLine]
    images: list[TableLine]
    judged: dict[str, Judged]
    failures: list[str]


OnImage = Callable[[int, int, ImageResult], None]
"""Called after each image: number done, total number, and the result."""


def ignore_image(done: int, total: int, result: ImageResult) -> None:
    """A callback that does nothing."""


def run_benchmark(
    dataset: Dataset,
    models: Sequence[str],
    out: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    on_progress: OnImage = ignore_image,
) -> Benchmark:
    """Run and score ``models`` (names or folders) and the baseline on all images; everything is written to ``out``.

    Five of ``settings`` are used: ``mpp``, which overrides the dataset's own, ``device``, ``precision``, ``workers``
    (images run concurrently) and ``region``. An image that fails does not affect the others. Raises ModelError,
    SettingsError, ResolutionError or SlideError where no image can be scored.
    """
    return run_benchmarks({out: dataset}, models, settings, overwrite=overwrite, on_progress=on_progress)[0]


def run_benchmarks(
    datasets: Mapping[Path, Dataset],
    models: Sequence[str],
    settings: Settings,
    *,
    overwrite: bool = False,
    on_progress: OnImage = ignore_image,
    figures: int = MOST_OVERLAYS,
    timed: bool = True,
) -> list[Benchmark]:
    """As :func:`run_benchmark`, on several datasets by the same workers; each is written to the folder that is its key.

    ``figures``: overlays per model and dataset; ``timed``: whether each model's network is timed on each dataset.
    """
    named = _label_models([BASELINE, *(model for model in models if model != BASELINE)])
    settings = dataclasses.replace(settings, device=choose_device(settings.device, "float32").name)
    works = [work for out, dataset in datasets.items() for work in _works(dataset, out, named, settings, overwrite)]
    for out, dataset in datasets.items():
        make_folder(output_folder(out, [labelled.image for labelled in dataset.images]))
    workers = settings.workers or (1 if settings.device == "cuda" else min(available_cores(), _MAX_WORKERS))
    with worker_pool("auto", workers, tasks=len(works)) as team:
        results = _score(works, team, on_progress)
        _draw(results, team, figures)
    mine = [[result for result in results if result.work.out == out.absolute()] for out in datasets]
    return [
        _report(dataset, out, list(named), some, timed)
        for (out, dataset), some in zip(datasets.items(), mine, strict=True)
    ]


def _works(dataset: Dataset, out: Path, named: dict[str, str], settings: Settings, overwrite: bool) -> list[Work]:
    """Every image for every model."""
    settings = dataclasses.replace(settings, mpp=settings.mpp or dataset.mpp)
    with open_slide(dataset.images[0].image, settings.mpp or dataset.images[0].mpp):
        pass  # no pixel size, or no such image: said once, not once an image
    kind, classes, radius_um = dataset.kind, dataset.classes, dataset.radius_um
    return [
        Work(label, labelled, kind, classes, radius_um, _settings_of_image(each, labelled), out.absolute(), overwrite)
        for label, each in ((label, _settings_of_model(model, settings, dataset)) for label, model in named.items())
        for labelled in dataset.images
    ]


def _settings_of_model(model: str, settings: Settings, dataset: Dataset) -> Settings:
    """How each image is run: as a slide that is all tissue unless the dataset says otherwise, in this process, in
    regions that suit the model.
    """
    step = math.lcm(load_model(model).window, CHUNK)
    return Settings(
        model=model, mpp=settings.mpp, tissue=dataset.tissue, region=max(1, settings.region // step) * step,
        device=settings.device, precision=settings.precision, executor="loop", workers=1,
    )  # fmt: skip


def _settings_of_image(settings: Settings, labelled: LabelledImage) -> Settings:
    """``settings`` with the µm/px of one image, unless all have the same."""
    return dataclasses.replace(settings, mpp=settings.mpp or labelled.mpp)


def _label_models(models: Sequence[str]) -> dict[str, str]:
    """Models by the name of their folder in the output; ModelError for an unknown one, SettingsError for duplicate
    names.
    """
    named: dict[str, str] = {}
    for model in dict.fromkeys(models):
        load_model(model)
        label = os.path.basename(os.path.abspath(model))
        if label in named:
            raise SettingsError(f"models {named[label]} and {model} have the same name; rename or copy one of them")
        named[label] = model
    return named


def _score(works: Sequence[Work], team: WorkerPool, on_progress: OnImage) -> list[ImageResult]:
    """All results in the order of ``works``."""
    tasks = [Task(f"{number}", score_image, (work,)) for number, work in enumerate(works)]
    results: dict[int, ImageResult] = {}
    for task, result in team.run(tasks):
        results[int(task.key)] = result
        on_progress(len(results), len(tasks), result)
    return [results[number] for number in range(len(tasks))]


def score_image(work: Work) -> ImageResult:
    """Run one image as a slide, unless it is already done, and score its cells."""
    try:
        (outcome,) = run_slides([work.labelled.image], work.home / "runs", work.settings, work.overwrite)
        if outcome.folder is None or outcome.record is None:
            raise outcome.error or OutputError(f"{work.labelled.image}: the run left no results")
        result = _compare(work, outcome.folder, outcome.record.slide)
    except Exception as error:  # one bad image or truth does not affect the others
        return ImageResult(work, error=sentence(error))
    cells, seconds = outcome.record.counts.cells, outcome.record.seconds["total"]
    return dataclasses.replace(result, status=outcome.status, cells=cells, seconds=seconds)


def _compare(work: Work, folder: Path, slide: SlideRecord) -> ImageResult:
    """Scores of the cells in a run's ``folder``."""
    if work.kind == "areas":
        tallies = areas.count_false(cell_points(folder).yx, work.marked)
        return ImageResult(work, folder=folder, tallies=tallies, rank=-areas.total(tallies).per_mm2)
    if work.kind == "points":
        truth = load_points(work.labelled.truth)
        counts = count_points(cell_points(folder), truth, work.radius_um / slide.mpp, work.classes)
        return ImageResult(work, folder=folder, scores=counts, rank=headline_f1(counts))
    labels, true_labels = load_labels(folder, slide.shape), load_truth(work.labelled.truth, slide.shape)
    scores, judged = evaluate(labels, true_labels), judge_cells(folder, labels, true_labels)
    return ImageResult(work, folder=folder, scores=scores, rank=scores.aji, judged=judged)


def _draw(results: Sequence[ImageResult], team: WorkerPool, figures: int) -> None:
    """Draw overlays of every model's worst images; those of an earlier benchmark are removed."""
    tasks = []
    for home in dict.fromkeys(result.work.home for result in results):
        shutil.rmtree(home / "figures", ignore_errors=True)
        scored = [result for result in results if result.work.home == home and result.folder is not None]
        worst = sorted(scored, key=lambda result: result.rank)[:figures]
        for place, result in enumerate(worst, start=1):
            path = home / "figures" / f"{place:02d}_{result.work.labelled.name}.png"
            tasks.append(Task(str(path), draw_image_figure, (result, path)))
    for _ in team.run(tasks):
        pass


def draw_image_figure(result: ImageResult, path: Path) -> None:
    """Draw one overlay on the image itself."""
    work, folder = result.work, result.folder
    assert folder is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_slide(work.labelled.image, work.settings.mpp) as slide:
        pixels, shape, mpp = slide.read(Box(0, 0, *slide.shape), slide.mpp), slide.shape, slide.mpp
    if work.kind == "areas":
        areas.write_area_figure(path, cell_points(folder).yx, work.marked, pixels)
    elif work.kind == "points":
        found, truth = cell_points(folder), load_points(work.labelled.truth)
        write_point_figure(path, found, truth, pixels, work.radius_um / mpp, work.classes)
    else:
        write_figure(path, load_labels(folder, shape), load_truth(work.labelled.truth, shape), pixels)


# --- tables ----------------------------------------------------------------------------------------------------------


def _report(
    dataset: Dataset, out: Path, labels: Sequence[str], results: Sequence[ImageResult], timed: bool
) -> Benchmark:
    """Lines of all tables, written as files."""
    lines: list[TableLine] = []
    organs: list[TableLine] = []
    images: list[TableLine] = []
    failures: list[str] = []
    judged: dict[str, Judged] = {}
    for label in labels:
        mine = [result for result in results if result.work.label == label]
        good = [result for result in mine if not result.error]
        cost = _cost(good[0]) if good and timed else {}
        cells = [result.judged for result in good if result.judged is not None]
        errors: dict[str, float] = {}
        if cells:
            judged[label] = Judged.concat(cells)
            errors = dict(zip(("score_error", "score_error_centre"), calibration_errors(judged[label]), strict=True))
        lines.append({"model": label, "pictures": len(good), **_means(good), **errors, **cost})
        organs += _organ_lines(label, good, dataset.organs)
        images += [_image_line(result) for result in good]
        failures += [f"{label}, {result.work.labelled.name}: {result.error}" for result in mine if result.error]
    write_lines(out / "scores.csv", images)
    done = Benchmark(dataset, lines, organs, images, judged, failures)
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(_markdown(done, results[0].work.settings), encoding="utf-8")
    return done


def _image_line(result: ImageResult) -> TableLine:
    return {
        "model": result.work.label,
        "picture": result.work.labelled.name,
        **_image_scores(result),
        "cells": result.cells,
        "seconds": result.seconds,
    }


def _image_scores(result: ImageResult) -> TableLine:
    if result.tallies is not None:
        return areas.area_image_columns(result.tallies)
    scores = result.scores
    return dataclasses.asdict(scores) if isinstance(scores, Scores) else point_image_columns(scores or {})


def _organ_lines(label: str, good: Sequence[ImageResult], organs: Mapping[str, str]) -> list[TableLine]:
    """Means over the images of each organ, by its name."""
    by_organ: dict[str, list[ImageResult]] = {}
    for result in good:
        if result.work.labelled.name in organs:
            by_organ.setdefault(organs[result.work.labelled.name], []).append(result)
    return [
        {"organ": organ, "model": label, "pictures": len(some), **_means(some)}
        for organ, some in sorted(by_organ.items())
    ]


def _means(good: Sequence[ImageResult]) -> dict[str, float]:
    """The scores of one model on the dataset."""
    tallies = [result.tallies for result in good if result.tallies is not None]
    if tallies:
        return areas.area_dataset_columns(tallies)
    rows = [ScoreRow(result.work.labelled.name, result.scores) for result in good if isinstance(result.scores, Scores)]
    counts = [result.scores for result in good if isinstance(result.scores, dict)]
    if rows:
        return dataclasses.asdict(mean_scores(rows))
    return point_dataset_columns(counts) if counts else {}


def _cost(result: ImageResult) -> dict[str, float]:
    """µm/px that a model works at, and seconds that its network takes per 10⁶ px of 0.25 µm, timed on one window."""
    import torch

    work = result.work
    settings = work.settings
    model = load_model(settings.model)
    device = choose_device(settings.device, settings.precision).suited(model)
    with open_slide(work.labelled.image, work.settings.mpp) as slide:
        h, w = grid_shape(slide.shape, slide.mpp, model.mpp)
        middle = Box((h - model.window) // 2, (w - model.window) // 2, model.window, model.window)
        model = model.calibrate([read_mirrored(slide, middle, model.mpp)])
        window = read_mirrored(slide, middle.pad(model.halo), model.mpp)[None]
    columns = {"mpp": model.mpp}
    before = torch.get_num_threads()
    for threads in (1,) if device.name == "cuda" else sorted({1, available_cores()}):
        torch.set_num_threads(threads)
        where = "gpu" if device.name == "cuda" else f"{threads}_thread{'s' * (threads > 1)}"
        columns[f"s_per_Mpx_{where}"] = _predict_s(model, window, device) / (
            (model.window * model.mpp / 0.25) ** 2 / 1e6
        )
    torch.set_num_threads(before)
    return columns


def _predict_s(model: Model, window: UInt8Array, device: Device) -> float:
    """Seconds of one call; the minimum of several, since other load can only slow it down."""
    predict(model, window, device)  # the first call pays for loading and compiling
    seconds: list[float] = []
    while len(seconds) < _FEWEST_CALLS or sum(seconds) < _TIMED_S:
        started = time.perf_counter()
        predict(model, window, device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


_NOTES = {
    "labels": (
        "Scores are means over images: Dice and IoU of pixels; AJI (Kumar et al. 2017); PQ = DQ × SQ, F1, precision "
        "and recall of cells matched at IoU > 0.5; object Dice; n pred and n true, cells per image. Score error: the "
        "expected calibration error of the cells' scores over all images, where a cell is true at IoU > 0.5, or if "
        "its centre lies in a true one."
    ),
    "points": (
        "Cells and points are matched one to one within {radius:g} µm. Precision, recall and F1 are of the counts of "
        "all images together; mean picture F1 and the errors are means over images, of absolute differences of "
        "counts."
    ),
    "areas": (
        "False cells per mm²: of all areas, of all but glass, the same for images of either role (*choosing*: "
        "settings and models may be chosen by them; *reporting*: never), and of each kind. A cell is false where its "
        "centre lies in an area in which no nucleus is seen. Areas: {areas}."
    ),
    "classes": (
        " F1, precision and recall without a name are means of positive and negative, matched within the class; "
        "detection ignores the class. Ki-67 is positive / (positive + negative)."
    ),
    "cost": (
        "mpp: µm/px at which the model works; s per Mpx: what its `predict` takes for the tissue of 10⁶ px of 0.25 µm, "
        "the window's halo included, the best of several calls, without reading and without cutting out cells. Models "
        "that need more bits than the device is fastest at compute with them."
    ),
}

_ROLES: dict[Role, str] = {
    "chosen on": "Settings of the bundled models were **chosen on** these images.",
    "unseen": "To the bundled models these images are **unseen**: nothing was learned from them or chosen on them.",
}


def _markdown(done: Benchmark, settings: Settings) -> str:
    """The table of models with the notes needed to read it."""
    dataset = done.dataset
    count, without = len(dataset.images), len(dataset.without)
    listed = areas.load_marks(dataset.images[0].truth).images if dataset.kind == "areas" else ()
    note = _NOTES[dataset.kind].format(radius=dataset.radius_um, areas=areas.describe_area(listed[:count]))
    note += _NOTES["classes"] * dataset.classes
    own = dataset.images[0].mpp is not None
    resolution = "µm/px as listed" if own else f"{settings.mpp:g} µm/px" if settings.mpp else "µm/px as in the files"
    parts = [
        f"# {dataset.name}",
        f"{count} images of {dataset.folder}"
        + f" ({without} more without truth were left out)" * bool(without)
        + f", {resolution}; wsiproc {__version__}, device {choose_device(settings.device, settings.precision)}."
        + (f" {_ROLES[dataset.role]}" if dataset.role else ""),
        markdown_table(done.lines).rstrip(),
        *([markdown_table(sorted(done.organs, key=lambda line: str(line["organ"]))).rstrip()] if done.organs else []),
        note,
        _NOTES["cost"],
    ]
    if done.failures:
        parts.append("\n".join(["Failed, and missing above:", "", *(f"- {line}" for line in done.failures)]))
    return "\n\n".join(parts) + "\n"
