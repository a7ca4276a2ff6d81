"""What a model gains from corrected cells: areas of labelled images are corrected by their truth, the rest is scored.

    python benchmarks/corrections.py ../shared/data --judge monuseg --cells 20 50 100 200

Everything is done by the commands that a user types: `wsiproc run`, `wsiproc import` of a GeoJSON file with a reviewed
area in each image, `wsiproc fit --corrections`, and `wsiproc run` with the model that it wrote. An area is a square at
a random place, as large as the number of cells asks for, the same number in each image; those for few cells lie within
those for many. In an area, the cells that were found are deleted and the true ones are drawn. What lies in the areas
for the most cells is never scored. ``--single`` marks no area as reviewed, so only the cells that changed count;
``--elsewhere`` corrects every second image and scores the others whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from judges import JUDGES

from wsiproc.array.nuclei.outline import as_polygons, trace
from wsiproc.core.types import BoolArray, Int64Array
from wsiproc.evaluate import metrics
from wsiproc.evaluate.datasets import load_labels
from wsiproc.evaluate.layouts import Dataset, find_dataset, load_truth
from wsiproc.evaluate.tables import TableLine, markdown_table
from wsiproc.io.geojson.write import iter_features
from wsiproc.results.folder import find_outputs

FEWEST_LEFT = 10
"""True cells without which what is left of an image is not scored."""


@dataclass(frozen=True)
class Image:
    """An image with its truth (h, w), and the boxes (y0, x0, y1, x1) of its areas by the number of cells asked for."""

    path: Path
    truth: Int64Array
    areas: dict[int, tuple[int, int, int, int]]

    def inside(self, cells: int) -> BoolArray:
        """(h, w) pixels of the area for so many cells."""
        mask = np.zeros(self.truth.shape, bool)
        if cells in self.areas:
            y0, x0, y1, x1 = self.areas[cells]
            mask[y0:y1, x0:x1] = True
        return mask


def draw_areas(truth: Int64Array, wanted: dict[int, float], rng: np.random.Generator) -> dict[int, Any]:
    """For each number of cells in all images, the square around one place with so many cells of this image."""
    h, w = truth.shape
    y, x = (int(rng.integers(side // 5, 4 * side // 5)) for side in (h, w))
    areas = {}
    for cells, here in wanted.items():
        for reach in range(8, max(h, w), 4):
            box = max(0, y - reach), max(0, x - reach), min(h, y + reach), min(w, x + reach)
            if len(np.unique(truth[box[0] : box[2], box[1] : box[3]])) - 1 >= here:
                break
        areas[cells] = box
    return areas


def load_images(dataset: Dataset, counts: list[int], seed: int, elsewhere: bool) -> list[Image]:
    """The images; with ``elsewhere``, every second one is not corrected."""
    rng = np.random.default_rng(seed)
    taught = len(dataset.images[::2]) if elsewhere else len(dataset.images)
    images = []
    for number, labelled in enumerate(dataset.images):
        truth = load_truth(labelled.truth, load_labels(labelled.truth).shape)
        areas = draw_areas(truth, {count: count / taught for count in counts}, rng)
        images.append(Image(labelled.image, truth, {} if elsewhere and number % 2 else areas))
    return images


def true_cells(truth: Int64Array, mask: BoolArray) -> list[shapely.Polygon]:
    """Outlines of the true cells that touch a mask (h, w)."""
    touched = np.unique(truth[mask])
    kept = np.where(np.isin(truth, touched[touched > 0]), truth, 0)
    ids, labels = np.unique(kept, return_inverse=True)
    labels = labels.reshape(truth.shape).astype(np.int32)
    rings = trace(labels, np.arange(1, len(ids)))
    return list(as_polygons(rings.vertices[:, ::-1].astype(float), rings.offsets))


def correct(image: Image, output: Path, cells: int, single: bool) -> int:
    """Import what a user would have corrected in the image's area; returns the number of true cells there."""
    y0, x0, y1, x1 = image.areas[cells]
    area = shapely.box(x0, y0, x1, y1)
    found = list(iter_features(output / "cells.geojson.gz"))
    features = [each for each in found if not shapely.from_geojson(json.dumps(each["geometry"])).intersects(area)]
    drawn = true_cells(image.truth, image.inside(cells))
    features += [_feature(shape, "detection", "Nucleus") for shape in drawn]
    if not single:
        features.append(_feature(area, "annotation", "reviewed"))
    path = output.with_name(f"{output.name}.corrections.geojson")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    wsiproc("import", path, output, "--missing", "delete")
    return len(drawn)


def _feature(shape: shapely.Geometry, kind: str, name: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": {"objectType": kind, "name": name, "classification": {"name": name}},
    }


def wsiproc(*arguments: object) -> float:
    """Run a command; returns its seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "wsiproc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def run(images: list[Image], mpp: float, model: object, out: Path) -> dict[str, Path]:
    """Run all images; returns the folder of each by its name."""
    wsiproc("run", *(i.path for i in images), "--mpp", mpp, "--tissue", "all", "--model", model, "-o", out, "--quiet")
    outputs = {json.loads((each / "run.json").read_text())["slide"]["path"]: each for each in find_outputs(out)}
    return {str(image.path): outputs[str(image.path)] for image in images}


def score(images: list[Image], outputs: dict[str, Path], most: int) -> np.ndarray:
    """AJI, PQ and F1 (N, 3) of each image, outside its area for the most cells; if some have no area, of those."""
    rows = []
    for image in images:
        if not image.areas or all(each.areas for each in images):
            apart = ~image.inside(most)
            if len(np.unique(image.truth[apart])) < FEWEST_LEFT:
                continue
            found = load_labels(outputs[str(image.path)]).astype(np.int64)
            table = metrics.overlap(found * apart, image.truth * apart)
            rows.append((metrics.aji(table), metrics.panoptic_quality(table)[0], metrics.detection_f1(table)[0]))
    return np.array(rows)


def judge(dataset: Dataset, options: argparse.Namespace, out: Path) -> list[TableLine]:
    """A line for the base model and one for each number of corrected cells."""
    images = load_images(dataset, options.cells, options.seed, options.elsewhere)
    mpp, most = dataset.mpp, max(options.cells)
    before = run(images, mpp, options.base, out / "base")
    base = score(images, before, most)
    lines = [_line(dataset, 0, base, base, 0.0)]
    for cells in options.cells:
        taught = [image for image in images if image.areas]
        drawn = sum(correct(image, before[str(image.path)], cells, options.single) for image in taught)
        model = out / f"model-{cells}"
        seconds = wsiproc(
            "fit", "--corrections", out / "base", "--from", options.base, "-o", model, "--seed", options.seed, "--quiet"
        )
        after = score(images, run(images, mpp, model, out / f"corrected-{cells}"), most)
        lines.append(_line(dataset, drawn, after, base, seconds))
        print(markdown_table(lines), flush=True)
    return lines


def _line(dataset: Dataset, cells: int, scores: np.ndarray, base: np.ndarray, seconds: float) -> TableLine:
    gains = scores - base
    means = dict(zip(("AJI", "PQ", "F1"), (f"{value:.3f}" for value in scores.mean(0)), strict=True))
    gained = dict(zip(("AJI +", "PQ +", "F1 +"), (f"{value:+.3f}" for value in gains.mean(0)), strict=True))
    worse = int((gains[:, 0] < -0.005).sum())
    return {
        "judge": dataset.name, "pictures": len(scores), "corrected cells": cells, **means, **gained,
        "AJI worse by 0.005": worse, "seconds of fit": f"{seconds:.0f}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--judge", nargs="+", default=["monuseg"], choices=[*JUDGES])
    parser.add_argument("--cells", nargs="+", type=int, default=[20, 50, 100, 200])
    parser.add_argument("--base", default="default", help="the model that learns")
    parser.add_argument("--seed", type=int, default=0, help="of the places of areas, and of the training")
    parser.add_argument("--elsewhere", action="store_true", help="score images of which nothing was corrected")
    parser.add_argument("--single", action="store_true", help="do not mark the areas as reviewed")
    parser.add_argument("--out", type=Path, default=Path("corrections"))
    options = parser.parse_args()
    options.cells.sort()
    lines: list[TableLine] = []
    for name in options.judge:
        dataset = find_dataset(name, options.data.resolve() / JUDGES[name])
        lines += judge(dataset, options, options.out / name)
    print(markdown_table(lines))


if __name__ == "__main__":
    main()
