from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy.spatial import cKDTree
from scipy.special import expit
from skimage.measure import regionprops

import wsiproc
from wsiproc.array.stains import STANDARD
from wsiproc.core.geometry import Box
from wsiproc.evaluate.metrics import aji, dice, overlap, panoptic_quality
from wsiproc.models import load_model
from wsiproc.synthetic import Scene

MODELS = Path(__file__).parents[2] / "wsiproc" / "models"


def find_cells(name: str, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Labels of a picture (h, w, 3) at 0.25 µm/px; even sides."""
    zoom = round(load_model(name).mpp / 0.25)
    smaller = cv2.resize(pixels, None, fx=1 / zoom, fy=1 / zoom, interpolation=cv2.INTER_AREA)
    pixels = np.asarray(smaller, np.uint8)
    model = load_model(name).calibrate([pixels])
    h, w = pixels.shape[:2]
    pad = ((model.halo, model.halo + -h % 64), (model.halo, model.halo + -w % 64), (0, 0))
    maps = model.predict(torch.from_numpy(np.pad(pixels, pad, mode="reflect"))[None])[0].numpy()
    found = model.instances(maps[:, model.halo : model.halo + h, model.halo : model.halo + w])
    labels: npt.NDArray[np.int32] = np.repeat(np.repeat(found.labels, zoom, 0), zoom, 1)
    return labels


def test_the_package_holds_it_all_in_little_room() -> None:
    for bundled in (MODELS / "default", MODELS / "fast"):
        files = [path for path in bundled.rglob("*") if path.is_file()]
        wanted = {"model.toml", "weights.safetensors", "README.md", "examples.png", "curves.png"}
        assert wanted <= {path.name for path in files}
        assert sum(path.stat().st_size for path in files) < 20e6
        assert "without a single label" in (bundled / "README.md").read_text()


@pytest.mark.parametrize(("name", "mpp"), [("default", 0.25), ("fast", 0.5), ("psm", 0.5)])
def test_they_load_and_say_who_they_are(name: str, mpp: float) -> None:
    model = load_model(name)
    assert len(model.weights_sha256 or "") == 64
    assert (model.name, model.mpp) == (name, mpp)


@pytest.mark.parametrize("stain", ["HE", "HDAB"])
def test_drawn_nuclei_are_found(stain: Literal["HE", "HDAB"]) -> None:
    """Nuclei drawn by another hand than those it learned from."""
    box = Box(0, 0, 1024, 1024)
    scene = Scene(box.shape, mpp=0.25, seed=3, tissue_fraction=1.0, stain=stain)
    labels = find_cells("default", scene.render(box))
    assert dice(overlap(labels, scene.labels(box).astype(np.int64))) > 0.7


def drawn_membranes(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Pale blue nuclei (N, 2: y, x) at 0.25 µm/px, each second one in a cell with a thick brown membrane, and strands
    of brown and black as wide as nuclei.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:768, :768].astype(np.float64)
    blue, brown = (np.array(vector) / np.linalg.norm(vector) for vector in STANDARD["H-DAB"])
    od = 0.03 + 0.01 * rng.normal(size=(768, 768, 3))
    for middle, colour in ((40, 0.9 * brown), (52, np.full(3, 1.3))):
        strand = np.exp(-(((x + 20 * np.sin(y / 40 + middle) - middle) / 9) ** 4))
        od += strand[..., None] * colour
    centres = []
    for i, (row, column) in enumerate((row, column) for row in range(50, 730, 60) for column in range(150, 730, 60)):
        cy, cx = row + rng.uniform(-8, 8), column + rng.uniform(-8, 8)
        apart = np.hypot(y - cy, (x - cx) * rng.uniform(0.85, 1.15))
        nucleus = expit((rng.uniform(11, 15) - apart) / 0.8)
        od += (rng.uniform(0.25, 0.4) * nucleus * (1 + 0.15 * rng.normal(size=nucleus.shape)))[..., None] * blue
        if i % 2:
            od += (0.8 * np.exp(-(((apart - 21) / 4) ** 4)))[..., None] * brown
        centres.append((cy, cx))
    pixels = np.asarray(cv2.GaussianBlur(243 * 10 ** -np.maximum(od, 0), (0, 0), 0.8))
    return np.clip(pixels, 0, 255).round().astype(np.uint8), np.array(centres)


def test_nuclei_are_found_beside_brown_membranes_and_brown_is_none() -> None:
    pixels, centres = drawn_membranes(seed=1)
    found = regionprops(find_cells("default", pixels))
    nearest, _ = cKDTree(centres).query([each.centroid for each in found])
    assert (nearest < 8).mean() > 0.95
    assert len(found) > 0.9 * len(centres)


def test_better_than_the_classical_model_on_real_tissue(data: Path) -> None:
    """A quarter of thirteen pictures of seven organs, scored with labels that no model has seen."""
    scores: dict[str, list[tuple[float, float]]] = {"default": [], "classical": []}
    for path in sorted((data / "monuseg_train" / "labels").glob("*.png")):
        corner = (0, 0, 500, 500)
        truth = np.asarray(Image.open(path).crop(corner)).astype(np.int64)
        pixels = np.asarray(Image.open(path.parents[1] / "images" / path.name).convert("RGB").crop(corner))
        for name, kept in scores.items():
            labels = find_cells(name, pixels)
            table = overlap(labels, truth)
            kept.append((aji(table), panoptic_quality(table)[0]))
    means = {name: np.mean(kept, axis=0) for name, kept in scores.items()}
    assert (means["default"] > means["classical"]).all(), means


def test_ki67_index_of_a_real_picture(data: Path, tmp_path: Path) -> None:
    """The share of positive cells in one picture of BCData with many cells of both classes."""
    picture = data / "bcdata_dev" / "images" / "0.png"
    with (data / "bcdata_dev" / "points" / "0.csv").open() as file:
        truth = [row["class"] == "positive" for row in csv.DictReader(file)]
    (done,) = wsiproc.run(picture, tmp_path, mpp=0.25, tissue="all", executor="loop")
    assert done.record is not None
    index = done.record.slide_numbers().positive_index
    assert index is not None
    assert abs(index - float(np.mean(truth))) < 0.15
