"""How many positive nuclei of Ki-67 images from another laboratory are found, compared with points set by eye.

    python benchmarks/ki67_positives.py DATA [MODEL ...] [--fade 0.4]

``judges/ki67_os2.csv``: nuclei in areas of four images of DATA/corpus/OS2_Ki67-IHC (px of the image). *positive*
ones are brown; *doubtful* ones, greyish, out of focus, fragments or cut off, count neither way. Set by eye on images
magnified three and four times, without any cells drawn. Cells and points are matched one to one within 6 µm.
``--fade``: the images with this fraction of their optical density, like a paler stain.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.optimize import linear_sum_assignment

import wsiproc
from wsiproc.pipeline.reclassify import reclassify

JUDGE = Path(__file__).parent / "judges/ki67_os2.csv"
# Picture → corner and side of the area that was looked at (px), µm per px.
AREAS = {
    "os-OS-2-ndpi_0_0": (0, 0, 512, 0.2271),
    "os-OS-2-ndpi_0_1178": (300, 300, 512, 0.2271),
    "os-OS-2-ndpi_1178_1178": (400, 400, 512, 0.2271),
    "os-OS-2-vsi_0_0": (0, 0, 400, 0.3461),
}
RADIUS_UM = 6.0
CUTS = {"classical": 0.2, "default": 0.33}  # as they were before cuts were found in the slide

Points = npt.NDArray[np.float64]


def points() -> dict[tuple[str, str], Points]:
    """Points (N, 2), (y, x), by picture and class."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with JUDGE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["picture"], row["class"]), []).append((float(row["y"]), float(row["x"])))
    return {key: np.array(some) for key, some in found.items()}


def matched(cells: Points, truth: Points, radius: float) -> npt.NDArray[np.intp]:
    """Rows of ``cells`` that have a point of their own within the radius."""
    if not len(cells) or not len(truth):
        return np.zeros(0, np.intp)
    apart = np.linalg.norm(cells[:, None] - truth[None], axis=2)
    rows, columns = linear_sum_assignment(np.where(apart <= radius, apart, 1e6))
    return np.asarray(rows[apart[rows, columns] <= radius])


def positives(folder: Path, area: tuple[int, int, int, float]) -> Points:
    """Centres of positive cells in an area (px of the picture)."""
    table = wsiproc.open(folder).table(["class", "centroid_x", "centroid_y"])
    table = table[table["class"] == "Positive"]
    centres = table[["centroid_y", "centroid_x"]].to_numpy(float)
    low = np.array(area[:2])[::-1]
    return centres[((centres > low) & (centres < low + area[2])).all(axis=1)]


def score(folders: dict[str, Path]) -> str:
    """Recall, precision and counts over all areas."""
    true, hit, found, wrong = 0, 0, 0, 0
    marked = points()
    for picture, area in AREAS.items():
        cells, radius = positives(folders[picture], area), RADIUS_UM / area[3]
        truth = marked[picture, "positive"]
        right = matched(cells, truth, radius)
        rest = np.delete(cells, right, axis=0)
        true, hit = true + len(truth), hit + len(right)
        extra = len(rest) - len(matched(rest, marked[picture, "doubtful"], radius))
        found, wrong = found + len(right) + extra, wrong + extra
    return f"{hit / true:.3f} | {(found - wrong) / max(1, found):.3f} | {hit} of {true} | {wrong}"


def faded(path: Path, scratch: Path, share: float) -> Path:
    """The picture with a share of its optical density, which is counted from its lightest colour."""
    if share == 1:
        return path
    picture = np.asarray(Image.open(path).convert("RGB"), float)
    white = np.percentile(picture, 99.5, axis=(0, 1))
    target = scratch / f"{path.stem}.png"
    Image.fromarray(np.rint(white * (np.maximum(picture, 1) / white) ** share).clip(0, 255).astype(np.uint8)).save(
        target
    )
    return target


def main(data: Path, models: list[str], share: float) -> None:
    """Run the four pictures with each model, once; other cuts by reclassifying."""
    print("| model | cut | recall | precision | found | false |\n| --- | --- | --- | --- | --- | --- |")
    for model in models:
        with tempfile.TemporaryDirectory() as scratch:
            folders, cuts = {}, []
            for picture, area in AREAS.items():
                path = faded(data / "corpus/OS2_Ki67-IHC" / f"{picture}.jpg", Path(scratch), share)
                (done,) = wsiproc.run(path, Path(scratch), model=model, mpp=area[3], tissue="all", workers=1)
                if done.folder is None or done.run is None:
                    raise SystemExit(f"{path}: {done.error}")
                folders[picture] = done.folder
                cuts.append(done.run["immuno"]["positive_dab_od"][0])
            print(f"| {model} | found: {', '.join(f'{cut:g}' for cut in cuts)} | {score(folders)} |", flush=True)
            if model in CUTS:
                for folder in folders.values():
                    reclassify(folder, None, CUTS[model])
                print(f"| {model} | {CUTS[model]:g} | {score(folders)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="*", default=["classical", "default"])
    parser.add_argument("--fade", type=float, default=1.0)
    given = parser.parse_args()
    main(given.data, given.models, given.fade)
