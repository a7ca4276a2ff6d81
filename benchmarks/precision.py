"""What lower precision costs and saves: the same slide in float32 and in the precision that this machine chooses.

    python benchmarks/precision.py slide.svs [more.svs] [--model default]

Each cell of the float32 run is matched in the other one, by the overlap of outlines (intersection over union).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

import wsiproc
from wsiproc.results.profile import NETWORK

AT_LEAST = 0.5, 0.9, 0.99


def overlaps(
    some: npt.NDArray[np.object_], others: npt.NDArray[np.object_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """For each of ``some`` polygons the largest intersection over union with one of the others, and which that is."""
    first, second = shapely.STRtree(others).query(some, predicate="intersects")
    common = shapely.area(shapely.intersection(some[first], others[second]))
    shares = common / (shapely.area(some[first]) + shapely.area(others[second]) - common)
    order = np.argsort(shares)  # the largest is written last
    best, which = np.zeros(len(some)), np.zeros(len(some), np.int64)
    best[first[order]], which[first[order]] = shares[order], second[order]
    return best, which


def main(slides: list[Path], model: str) -> None:
    """Run each slide twice, and print a row for each."""
    print("| slide | precision | cells | network s a worker | found again at IoU > 0.5, 0.9, 0.99 | of another class |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        for slide in slides:
            cells = []
            for precision in ("float32", "auto"):
                out = Path(scratch) / precision
                (outcome,) = wsiproc.run(slide, out, model=model, precision=precision, device="cpu", overwrite=True)
                run = json.loads((outcome.folder / "run.json").read_text())
                cells.append(wsiproc.open(outcome.folder).cells())
                seconds = run["profile"]["busy_s"][NETWORK] / run["profile"]["workers"]
                row = f"| {slide.name} | {run['precision']} | {len(cells[-1]):,} | {seconds:.1f} |"
                if precision == "auto":
                    best, which = overlaps(*(table.geometry.to_numpy() for table in cells))
                    names = [table["class"].astype(str).to_numpy() for table in cells]
                    met = best > AT_LEAST[0]
                    other = np.mean(names[0][met] != names[1][which[met]])
                    shares = ", ".join(f"{np.mean(best > least):.2%}" for least in AT_LEAST)
                    row += f" {shares} | {other:.2%} |"
                print(row if precision == "auto" else f"{row} | |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args()
    main(arguments.slides, arguments.model)
