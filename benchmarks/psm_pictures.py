"""What both benchmarks of the published method share: images at 0.5 µm/px, evidence, masks, a score of maps."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.stats import rankdata

from wsiproc.array.nuclei.instances import split_clumps
from wsiproc.array.pyramid import downsample_mean, downsample_mode
from wsiproc.array.stains import Stains, unmixing
from wsiproc.evaluate.layouts import find_dataset, load_truth
from wsiproc.models.cells import SplitLengths
from wsiproc.psm.published.pseudo import pseudo_mask
from wsiproc.psm.tiles import Source, read_tiles

MPP = 0.5
CALIBRATION_PICTURES, SAMPLED_PX = 12, 20_000
SMALLEST_PX, LARGEST_HOLE_PX = 50, 16  # the published 200 and 64 px at half the resolution
STRIDE = 16  # of the deepest layer
SOURCES = Path(__file__).parents[1] / "configs" / "default-model.toml"

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """A picture (h, w, 3) and its true labels (h, w); sides are multiples of ``STRIDE``."""

    name: str
    pixels: Pixels
    truth: npt.NDArray[np.integer]


def labelled_pictures(data: Path) -> list[Labelled]:
    """The labelled pictures of ``data``/monuseg_train, halved to 0.5 µm/px."""
    pictures = []
    for picture in find_dataset("monuseg", data / "monuseg_train").images:
        with Image.open(picture.image) as image:
            rgb = np.asarray(image.convert("RGB"))
        truth = load_truth(picture.truth, (rgb.shape[0], rgb.shape[1])).astype(np.uint32)
        halved = downsample_mean(rgb.transpose(2, 0, 1)).transpose(1, 2, 0)
        pictures.append(Labelled(picture.name, trim(halved), trim(downsample_mode(truth)).astype(np.int32)))
    return pictures


def unlabelled_pictures(data: Path) -> list[Pixels]:
    """The H&E pictures of ``data``/corpus at 0.5 µm/px, one of each folder first, then the second of each, …"""
    table = tomllib.loads(SOURCES.read_text(encoding="utf-8"))
    sources = [Source(data / row["path"], row["mpp"]) for row in table["sources"] if row["path"].endswith("_HE")]
    folders = [read_tiles(source, MPP, 1, 1.0).pixels for source in sources if source.path.is_dir()]
    if not folders:
        raise SystemExit(f"{data / 'corpus'}: none of the H&E folders that {SOURCES} names is there")
    rounds = range(max(len(folder) for folder in folders))
    return [trim(folder[i]) for i in rounds for folder in folders if i < len(folder)]


def trim(picture: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The picture without the rows and columns beyond a multiple of ``STRIDE``."""
    h, w = (side // STRIDE * STRIDE for side in picture.shape[:2])
    return picture[:h, :w]


def haematoxylin(picture: Pixels) -> Floats:
    """(h, w) amount of haematoxylin by textbook vectors, in optical density."""
    stains = Stains()
    od = -np.log10(np.maximum(picture, 1) / np.array(stains.white))
    return (np.maximum(od, 0) @ unmixing(stains))[..., 0]


def clean(mask: Mask) -> Mask:
    """The published clean-up, its sizes for 0.5 µm/px."""
    return pseudo_mask(mask, SMALLEST_PX, LARGEST_HOLE_PX)


def instances(mask: Mask) -> npt.NDArray[np.int32]:
    """Single nuclei of a mask, split as by all models here."""
    return split_clumps(mask, SplitLengths().at(MPP)).labels


def area_under_curve(values: Floats, truth: Mask) -> float:
    """Probability that a pixel of a nucleus has the higher value than one of the background; ties count half."""
    ranks, positive = rankdata(values.ravel()), truth.ravel()
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))
