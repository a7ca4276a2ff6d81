"""The paper's two ablations: the question that the activation network answers, and the layer at which its map is read.

    python benchmarks/psm_ablation.py DATA_DIR [--objective NAME] [--steps N]

DATA_DIR contains ``corpus``, folders of unlabelled H&E images as listed in configs/default-model.toml, on which the
networks are trained, and ``monuseg_train`` as ``wsiproc benchmark monuseg`` reads it, on which they are scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from psm_pictures import (
    CALIBRATION_PICTURES,
    SAMPLED_PX,
    Floats,
    Labelled,
    Mask,
    Pixels,
    area_under_curve,
    clean,
    haematoxylin,
    instances,
    labelled_pictures,
    unlabelled_pictures,
)
from torch import nn

from wsiproc.evaluate.metrics import aji, dice, overlap
from wsiproc.evaluate.tables import markdown_table
from wsiproc.models.networks.readout import nucleus_probability
from wsiproc.psm.activation.clustering import fit_clusters, fit_model_clusters
from wsiproc.psm.activation.map import calibrate_readout, grad_cam, predict_map, readout_sign
from wsiproc.psm.activation.network import LAYERS, Layer, as_input, build_activation_network, shallow_blocks
from wsiproc.psm.activation.objectives import OBJECTIVES, Objective
from wsiproc.psm.activation.training import train_activation

SCALE = (0.5, 1.0, 0.5, 0.5)  # of map, red, green and blue optical density where the map is a feature of its own
Line = dict[str, str | float]


@dataclass(frozen=True)
class Known:
    """Pictures without labels on which all that is fixed once is calibrated, and their haematoxylin."""

    pixels: Sequence[Pixels]
    evidence: Sequence[Floats]


def main(data: Path, objectives: Sequence[str], steps: int, crop_px: int) -> None:
    """Print the table."""
    corpus, pictures = unlabelled_pictures(data), labelled_pictures(data)
    known = Known(corpus[:CALIBRATION_PICTURES], [haematoxylin(picture) for picture in corpus[:CALIBRATION_PICTURES]])
    lines = []
    for name, training_steps in [("none: random weights", 0), *((name, steps) for name in objectives)]:
        torch.manual_seed(0)
        objective = OBJECTIVES.get(name, OBJECTIVES["similarity"])()
        net = build_activation_network("small", objective.outputs)
        # A larger learning rate than the paper's, which is for 100 epochs.
        train_activation(net, objective, corpus, steps=training_steps, crop_px=crop_px, batch=8, seed=0, lr=1e-3)
        lines += [score(name, layer, net, objective, pictures, known) for layer in LAYERS]
    lines.append(colour_alone(pictures, known))
    print(f"{steps} steps of 8 crops of {crop_px} px; mean over {len(pictures)} pictures\n")
    print(markdown_table(lines))


def score(
    name: str, layer: Layer, net: nn.Module, objective: Objective, pictures: Sequence[Labelled], known: Known
) -> Line:
    """One row: both readings of one layer."""
    published = list(grad_cams(net, objective, layer, [*known.pixels, *(picture.pixels for picture in pictures)]))
    if readout_sign(published[: len(known.pixels)], known.evidence) < 0:
        published = [1 - values for values in published]
    published = published[len(known.pixels) :]
    inputs = [as_input(picture[None]) for picture in known.pixels]
    readout = calibrate_readout(net, objective.score, inputs, known.evidence, layer)

    def read(pixels: Pixels) -> Floats:
        return predict_map(net, readout, as_input(pixels[None]), layer)[0].numpy()

    fixed = [read(picture.pixels) for picture in pictures]
    areas = [area_under_curve(values, p.truth > 0) for values, p in zip(published, pictures, strict=True)]
    return {
        "objective": name,
        "layer": layer,
        "AUC": float(np.mean(areas)),
        "worst AUC": min(areas),
        **mask_scores("", cluster_each(published, pictures), pictures),
        "AUC, fixed": float(np.mean([area_under_curve(v, p.truth > 0) for v, p in zip(fixed, pictures, strict=True)])),
        **mask_scores(
            ", fixed", cluster_once(fixed, pictures, [read(p) for p in known.pixels], known, SCALE), pictures
        ),
    }


def colour_alone(pictures: Sequence[Labelled], known: Known) -> Line:
    """The row without any map: a map that is 0 everywhere adds nothing to the vectors."""
    empty = [np.zeros(picture.truth.shape) for picture in pictures]
    none = [np.zeros(pixels.shape[:2]) for pixels in known.pixels]
    return {
        "objective": "none: colour alone",
        "layer": "–",
        **mask_scores("", cluster_each(empty, pictures), pictures),
        **mask_scores(", fixed", cluster_once(empty, pictures, none, known, (0.0, *SCALE[1:])), pictures),
    }


def grad_cams(net: nn.Module, objective: Objective, layer: Layer, pictures: Sequence[Pixels]) -> Iterator[Floats]:
    """The published map of each picture."""
    for pixels in pictures:
        yield grad_cam(net, objective.score, as_input(pixels[None]), shallow_blocks(net, layer)).numpy()


def cluster_each(maps: Sequence[Floats], pictures: Sequence[Labelled]) -> Iterator[Mask]:
    """As published: JET + RGB, K = 3 anew in each picture, the darkest."""
    for values, picture in zip(maps, pictures, strict=True):
        clusters = fit_clusters([values], [picture.pixels], sample_px=SAMPLED_PX)
        yield clusters.assign(values, picture.pixels) == 0


def cluster_once(
    maps: Sequence[Floats],
    pictures: Sequence[Labelled],
    known_maps: Sequence[Floats],
    known: Known,
    scale: tuple[float, float, float, float],
) -> Iterator[Mask]:
    """As the direct engine: the map a feature of its own beside optical density, K = 3 once for all pictures."""
    rows = [features(m, p).reshape(-1, 4) for m, p in zip(known_maps, known.pixels, strict=True)]
    pixels = np.random.default_rng(0).permutation(np.concatenate(rows))[: 5 * SAMPLED_PX]
    clusters = fit_model_clusters(pixels, scale)
    for values, picture in zip(maps, pictures, strict=True):
        planes = torch.from_numpy(features(values, picture.pixels)).permute(2, 0, 1)[None]
        yield nucleus_probability(planes, clusters)[0].numpy() > 0.5


def features(activation: Floats, pixels: Pixels) -> Floats:
    """(h, w, 4) map, and optical density of red, green and blue, a little smoothed."""
    od = -np.log10(np.maximum(cv2.GaussianBlur(pixels, (0, 0), 1.0), 1) / 245.0).clip(max=0)
    return np.concatenate([activation[..., None], od], axis=-1).astype(np.float32)


def mask_scores(suffix: str, masks: Iterator[Mask], pictures: Sequence[Labelled]) -> Line:
    """Mean Dice and AJI of masks, cleaned and split."""
    tables = [overlap(instances(clean(m)), p.truth) for m, p in zip(masks, pictures, strict=True)]
    means = {name: float(np.mean([of(t) for t in tables])) for name, of in (("Dice", dice), ("AJI", aji))}
    return {name + suffix: value for name, value in means.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--objective", choices=OBJECTIVES, action="append", help="may be repeated; all without it")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--crop-px", type=int, default=128)
    given = parser.parse_args()
    main(given.data, given.objective or list(OBJECTIVES), given.steps, given.crop_px)
