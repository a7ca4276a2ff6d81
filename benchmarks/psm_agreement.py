"""The fixed readout of the self-activation map against Grad-CAM for every picture: how alike, how fast.

    python benchmarks/psm_agreement.py DATA_DIR [--network res2net101] [--steps N] [--objective NAME]

DATA_DIR holds ``corpus``, folders of H&E pictures without labels as configs/default-model.toml names them, on which the
network is trained and the readout calibrated, and ``monuseg_train`` as ``wsiproc benchmark monuseg`` reads it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
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

from wsiproc.evaluate.tables import markdown_table
from wsiproc.psm.activation_map import calibrate_readout, grad_cam, orientation, read_map
from wsiproc.psm.activation_network import KINDS, as_input, build_activation_network, shallow_blocks
from wsiproc.psm.clustering import fit_clusters
from wsiproc.psm.objectives import OBJECTIVES
from wsiproc.psm.training import train_activation

REPEATS = 5


def main(data: Path, network: str, objective_name: str, steps: int, crop_px: int) -> None:
    """Print the table: a row a picture, the mean last."""
    torch.manual_seed(0)
    objective = OBJECTIVES[objective_name]()
    net = build_activation_network(network, objective.outputs)  # type: ignore[arg-type]
    corpus = unlabelled_pictures(data)
    train_activation(net, objective, corpus, steps=steps, crop_px=crop_px, batch=8, seed=0, lr=1e-3)
    blocks = shallow_blocks(net)
    known = corpus[:CALIBRATION_PICTURES]
    evidence = [haematoxylin(picture) for picture in known]
    readout = calibrate_readout(net, objective.score, [as_input(picture[None]) for picture in known], evidence)

    def published(pixels: Pixels) -> Floats:
        return grad_cam(net, objective.score, as_input(pixels[None]), blocks).numpy()

    def fixed(pixels: Pixels) -> Floats:
        return read_map(net, readout, as_input(pixels[None]))[0].numpy()

    sign = orientation([published(picture) for picture in known], evidence)
    pictures = labelled_pictures(data)
    lines = [compare(picture, sign, published, fixed) for picture in pictures]
    mean = {name: float(np.mean([line[name] for line in lines])) for name in list(lines[0])[1:]}  # type: ignore[arg-type]
    print(f"{network}, {objective_name}, {steps} steps; {torch.get_num_threads()} thread(s)\n")
    print(markdown_table([*lines, {"picture": "mean", **mean}]))
    cam_ms, read_ms = (least_ms(way, pictures[0].pixels) for way in (published, fixed))
    print(f"Grad-CAM {cam_ms:.0f} ms, fixed readout {read_ms:.0f} ms per 10⁶ px: {cam_ms / read_ms:.1f} times faster")


def compare(
    picture: Labelled, sign: int, published: Callable[[Pixels], Floats], fixed: Callable[[Pixels], Floats]
) -> dict[str, str | float]:
    """One row. ``sign``: of the Grad-CAM, one for all pictures."""
    cam, read = published(picture.pixels), fixed(picture.pixels)
    turned = cam if sign > 0 else 1 - cam
    masks = [nuclei(values, picture.pixels) for values in (turned, read)]
    truth = picture.truth > 0
    return {
        "picture": picture.name,
        "correlation of maps": float(np.corrcoef(turned.ravel(), read.ravel())[0, 1]),
        "Dice of masks": dice(*masks),
        "Dice, Grad-CAM": dice(masks[0], truth),
        "Dice, fixed": dice(masks[1], truth),
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
    parser.add_argument("--network", choices=KINDS, default="small")
    parser.add_argument("--objective", choices=OBJECTIVES, default="similarity")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--crop-px", type=int, default=128)
    arguments = parser.parse_args()
    main(arguments.data, arguments.network, arguments.objective, arguments.steps, arguments.crop_px)
