"""The fixed readout of the self-activation map against Grad-CAM for every image: how similar, how fast.

    python benchmarks/psm_agreement.py DATA_DIR [--network res2net101] [--objective NAME] [--steps N]

DATA_DIR contains ``corpus``, folders of unlabelled H&E images as listed in configs/default-model.toml, on which the
network is trained and the readout calibrated, and ``monuseg_train`` as ``wsiproc benchmark monuseg`` reads it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from psm_pictures import (
    CALIBRATION_PICTURES,
    SAMPLED_PX,
    Floats,
    Labelled,
    Mask,
    Pixels,
    clean,
    haematoxylin,
    labelled_pictures,
    unlabelled_pictures,
)
from torch import nn

from wsiproc.evaluate.tables import markdown_table
from wsiproc.psm.activation.clustering import fit_clusters
from wsiproc.psm.activation.map import calibrate_readout, grad_cam, predict_map, readout_sign
from wsiproc.psm.activation.network import (
    NETWORK_KINDS,
    NetworkKind,
    as_input,
    build_activation_network,
    shallow_blocks,
)
from wsiproc.psm.activation.objectives import OBJECTIVES, Objective, Similarity
from wsiproc.psm.activation.training import train_activation

RANDOM = "none: random weights"
REPEATS = 5


def main(data: Path, network: NetworkKind, objectives: Sequence[str], steps: int, crop_px: int) -> None:
    """Print the table: a row an objective, random weights first."""
    corpus, pictures = unlabelled_pictures(data), labelled_pictures(data)
    known = corpus[:CALIBRATION_PICTURES]
    lines = []
    for name, training_steps in [(RANDOM, 0), *((name, steps) for name in objectives)]:
        torch.manual_seed(0)
        objective = OBJECTIVES.get(name, Similarity)()
        net = build_activation_network(network, objective.outputs)
        # A larger learning rate than the paper's, which is for 100 epochs.
        train_activation(net, objective, corpus, steps=training_steps, crop_px=crop_px, batch=8, seed=0, lr=1e-3)
        ways = Ways(net, objective, known)
        lines.append({"objective": name, **compare(ways, pictures)})
    print(f"{network}, {steps} steps of 8 crops of {crop_px} px, {len(pictures)} pictures\n")
    print(markdown_table(lines))
    cam_ms, read_ms = (least_ms(way, pictures[0].pixels) for way in (ways.published, ways.fixed))
    print(
        f"Grad-CAM {cam_ms:.0f} ms, fixed readout {read_ms:.0f} ms per 10⁶ px: {cam_ms / read_ms:.1f} times faster; "
        f"{torch.get_num_threads()} thread(s)"
    )


class Ways:
    """Both ways to read a network's map; what is fixed was calibrated on the pictures ``known`` (h, w, 3)."""

    def __init__(self, net: nn.Module, objective: Objective, known: Sequence[Pixels]) -> None:
        self.net, self.objective, self.sign = net, objective, 1
        evidence = [haematoxylin(picture) for picture in known]
        self.readout = calibrate_readout(net, objective.score, [as_input(picture[None]) for picture in known], evidence)
        self.sign = readout_sign([self.published(picture) for picture in known], evidence)

    def published(self, pixels: Pixels) -> Floats:
        """Grad-CAM, its sign settled once for all pictures."""
        found = grad_cam(self.net, self.objective.score, as_input(pixels[None]), shallow_blocks(self.net)).numpy()
        return found if self.sign > 0 else 1 - found

    def fixed(self, pixels: Pixels) -> Floats:
        """The fixed readout."""
        return predict_map(self.net, self.readout, as_input(pixels[None]))[0].numpy()


def compare(ways: Ways, pictures: Sequence[Labelled]) -> dict[str, float]:
    """Means over the pictures; the same clustering makes both masks."""
    rows = []
    for picture in pictures:
        cam, read = ways.published(picture.pixels), ways.fixed(picture.pixels)
        masks = [nuclei(values, picture.pixels) for values in (cam, read)]
        truth = picture.truth > 0
        alike = float(np.corrcoef(cam.ravel(), read.ravel())[0, 1])
        rows.append([alike, dice(*masks), dice(masks[0], truth), dice(masks[1], truth)])
    table = np.array(rows)
    return {
        "correlation of maps": float(table[:, 0].mean()),
        "worst": float(table[:, 0].min()),
        "its size": float(np.abs(table[:, 0]).mean()),
        "pictures turned round": int((table[:, 0] < 0).sum()),
        "Dice of masks": float(table[:, 1].mean()),
        "Dice with truth, Grad-CAM": float(table[:, 2].mean()),
        "fixed": float(table[:, 3].mean()),
    }


def least_ms(way: Callable[[Pixels], Floats], pixels: Pixels) -> float:
    """Least ms per 10⁶ px of a picture that a map took, in some repetitions."""
    seconds = []
    for _ in range(REPEATS):
        clock = time.perf_counter()
        way(pixels)
        seconds.append(time.perf_counter() - clock)
    return 1e9 * min(seconds) / (pixels.shape[0] * pixels.shape[1])


def nuclei(activation: Floats, pixels: Pixels) -> Mask:
    """The mask that published clustering of the picture makes of a map."""
    return clean(fit_clusters([activation], [pixels], sample_px=SAMPLED_PX).assign(activation, pixels) == 0)


def dice(a: Mask, b: Mask) -> float:
    """2 |A ∩ B| / (|A| + |B|); 1 for two empty masks."""
    both = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", choices=NETWORK_KINDS, default="small")
    parser.add_argument("--objective", choices=OBJECTIVES, action="append", help="may be repeated; all without it")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--crop-px", type=int, default=128)
    given = parser.parse_args()
    main(given.data, given.network, given.objective or list(OBJECTIVES), given.steps, given.crop_px)
