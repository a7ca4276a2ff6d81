"""Nuclei beside brown membranes and cytoplasm: detected in the haematoxylin alone, and as if DAB were nuclear.

    python benchmarks/beside_brown.py DATA [MODEL ...]

All images of DATA/corpus with CD20 (membranes) and synaptophysin (cytoplasm). ``judges/cd20_eas2.csv``: 67 clearly
visible blue nuclei in an area of two of them, set by eye on images magnified four times, without any cells drawn; pale,
vesicular and hidden ones are not marked, so only recall can be told. Cells and points are matched within 4 µm. *Brown*:
cells whose own mean density of DAB is above 0.4, pieces of membrane and cytoplasm, since no nucleus takes up these
antibodies.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from ki67_positives import matched

import wsiproc
from wsiproc.core.choices import Compartment

JUDGE = Path(__file__).parent / "judges/cd20_eas2.csv"
FOLDERS = ("EAS2-core_CD20-IHC", "duodenum-net_SYN-IHC")
TAKEN_AS: tuple[Compartment, ...] = ("nucleus", "cytoplasm")
MPP, RADIUS_UM, BROWN_OD = 0.263, 4.0, 0.4


def points() -> dict[str, npt.NDArray[np.float64]]:
    """Marked nuclei (N, 2), (y, x) in px, by image."""
    found: dict[str, list[tuple[float, float]]] = {}
    with JUDGE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["image"], []).append((float(row["y"]), float(row["x"])))
    return {name: np.array(some) for name, some in found.items()}


def score(images: list[Path], model: str, compartment: Compartment, scratch: Path) -> Iterator[str]:
    """Columns of a row: marked nuclei found; of each folder, all cells and brown ones."""
    marked, hit = points(), 0
    counts = {name: np.zeros(2, int) for name in FOLDERS}
    done = wsiproc.run(images, scratch, model=model, compartment=compartment, mpp=MPP, tissue="all", workers=1)
    by_name = {path.stem: path for path in images}
    for result in done:
        if result.folder is None:
            raise SystemExit(f"{result.slide}: {result.error}")
        path = by_name[result.folder.name]
        table = wsiproc.open(result.folder).table(["centroid_x", "centroid_y", "dab_od_mean"])
        counts[path.parent.name] += len(table), int((table["dab_od_mean"] > BROWN_OD).sum())
        truth = marked.get(path.name, np.zeros((0, 2)))
        hit += len(matched(table[["centroid_y", "centroid_x"]].to_numpy(float), truth, RADIUS_UM / MPP))
    yield f"{hit} of {sum(map(len, marked.values()))}"
    for cells, brown in counts.values():
        yield f"{cells:,}"
        yield f"{brown:,} ({brown / max(1, cells):.0%})"


def main(data: Path, models: list[str]) -> None:
    """A row for each model and way of detection."""
    images = [path for name in FOLDERS for path in sorted((data / "corpus" / name).glob("*.jpg"))]
    print("| model | DAB taken as | marked nuclei | CD20: cells | brown | synaptophysin: cells | brown |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for model in models:
        for compartment in TAKEN_AS:
            with tempfile.TemporaryDirectory() as scratch:
                columns = " | ".join(score(images, model, compartment, Path(scratch)))
            print(f"| {model} | {compartment} | {columns} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="*", default=["fast", "default"])
    given = parser.parse_args()
    main(given.data, given.models)
