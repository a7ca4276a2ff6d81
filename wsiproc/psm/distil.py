"""The last stage of a fit: the final network is trained at full resolution on labels of its teacher. The teacher and
the classical model (``wsiproc.psm.teacher``) label the tissue; the network learns from the accepted labels, from pasted
nuclei and from pasted negatives. Its scores are calibrated on their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from torch import nn

from wsiproc.core.types import BoolArray, Float64Array, Int32Array, UInt8Array
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.cells import CutRule, OutlineRule, ScoreRule, SplitLengths, cut_cells
from wsiproc.models.doubt import ColourRule, NeighbourRule
from wsiproc.models.folder import InputNumbers
from wsiproc.psm.labels.consensus import best_iou, object_boxes
from wsiproc.psm.labels.labelling import density
from wsiproc.psm.segmenter import Example
from wsiproc.psm.teacher import Teacher, calibrated_classical, outlined_cells, taught_example, teach
from wsiproc.psm.tiles import Source, Tiles, read_tiles
from wsiproc.psm.work import load_pseudo_labels, save_labels

DISTIL_MPP = 0.25
CUT, OUTLINE = CutRule(threshold=0.35), OutlineRule()
TEACHING_SPLIT = SplitLengths(smooth_um=0.75)
SPLIT = SplitLengths(saddle=0.85, merge_um=6.0, smooth_um=0.75, smallest_um2=7.0)
LEAST_SCORE, LATER_LEAST_SCORE = 0.25, 0.15  # of a first round and of later ones, whose labels are stricter
NEIGHBOURS, COLOUR = NeighbourRule(), ColourRule()
WINDOW, HALO = 1024, 64
_MOST_TILES = 400
_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Tissue:
    """One source at full resolution, with its classical model."""

    tiles: Tiles
    classical: Classical


def read_tissue(
    sources: Sequence[Source], count: int, od99: float, on_progress: Callable[[int, int], None]
) -> list[Tissue]:
    """The sources at ``DISTIL_MPP``, at most ``count`` windows per slide. Raises like ``read_tiles``."""
    found = []
    each = max(2, min(count, _MOST_TILES // len(sources)))
    for number, source in enumerate(sources, start=1):
        tiles = read_tiles(source, DISTIL_MPP, each, od99)
        found.append(Tissue(tiles, calibrated_classical(tiles, DISTIL_MPP)))
        on_progress(number, len(sources))
    return found


def taught_examples(
    tissue: Sequence[Tissue],
    teacher: Teacher,
    work: Path,
    device: str,
    on_progress: Callable[[int, int], None],
) -> list[Example]:
    """Training examples from the accepted labels of all tissue, source by source; cached in the folder ``work``."""
    work.mkdir(exist_ok=True)
    examples: list[Example] = []
    total = sum(len(each.tiles.pixels) for each in tissue)
    for each in tissue:
        path = work / f"{each.tiles.name}.npz"
        labels = load_pseudo_labels(path)
        if labels is None:
            labels = teach(each.tiles, teacher, each.classical, TEACHING_SPLIT, DISTIL_MPP, device)
            save_labels(path, labels)
        examples += [
            taught_example(each.tiles, i, *found, each.classical, DISTIL_MPP) for i, found in enumerate(labels)
        ]
        on_progress(len(examples), total)
    return examples


def find_scores(
    net: nn.Module, numbers: InputNumbers, tissue: Sequence[Tissue], examples: Sequence[Example]
) -> ScoreRule:
    """Calibrate scores: a logistic regression of whether a cell is accepted on its probability and outline. No label is
    used: *true* are cells accepted by the teacher and the classical model, *false* all others that the network finds,
    including doubtful ones; on the last tile of each source.
    """
    student, rows, wanted = Teacher(net, numbers), [], []
    last = {example.group: example.target for example in examples}
    for each in tissue:
        features, true = _judged(student, each, len(each.tiles.pixels) - 1, last[each.tiles.name])
        rows.append(features)
        wanted.append(true)
    return _logistic(np.concatenate(rows), np.concatenate(wanted))


def _judged(student: Teacher, tissue: Tissue, number: int, target: UInt8Array) -> tuple[Float64Array, BoolArray]:
    """Evidence (N, 3) of each cell that the network finds in a tile, and whether it is accepted."""
    stained = density(tissue.tiles, number)
    logits = student.logits(stained, tissue.tiles, tissue.classical, "cpu", views=1)
    cells = outlined_cells(logits, stained / np.float32(tissue.tiles.gain), CUT, SPLIT, OUTLINE, DISTIL_MPP)
    labels, evidence = cells.labels, cells.evidence
    assert evidence is not None
    return np.stack(evidence, axis=1), best_iou(labels, object_boxes(labels), _objects(target)) > _MATCH_IOU


def _objects(target: UInt8Array) -> Int32Array:
    """Accepted objects of a target (h, w, 2); touching ones are separated by their interiors."""
    inside = (target[..., 0] == 1).astype(np.uint8) * 255
    return cut_cells(
        inside[None],
        replace(CUT, spur_um=0.3),
        SPLIT,
        DISTIL_MPP,
        interior=(target[..., 1] == 1).astype(np.uint8) * 255,
    ).labels


def _logistic(rows: Float64Array, wanted: BoolArray) -> ScoreRule:
    """The rule for which ``wanted`` (N,) is most likely given ``rows`` (N, 3), slightly regularised."""
    if len(rows) == 0 or wanted.all() or not wanted.any():
        return ScoreRule(0.0, 1.0, 0.0, 0.0)
    given = np.column_stack([np.ones(len(rows)), rows])
    sign = np.where(wanted, 1.0, -1.0)

    def loss(weights: Float64Array) -> float:
        return float(np.logaddexp(0, -sign * (given @ weights)).mean() + 1e-4 * (weights[1:] ** 2).sum())

    found = minimize(loss, np.zeros(given.shape[1])).x
    bias, probability, closed, fall = (round(float(weight), 4) for weight in found)
    return ScoreRule(bias, probability, closed, fall)


def first_student(widths: tuple[int, ...], seed: int) -> nn.Module:
    """A folded network with random weights from the seed."""
    from wsiproc.models.folder import UNetNumbers

    torch.manual_seed(seed)
    return UNetNumbers(widths=widths, outputs=2, fold=2).build()
