"""How good each model is, and what it costs: AJI against seconds per Mpx.

    python benchmarks/quality_per_second.py FOLDER [--limit 3] [--model default] [--model my-model]

FOLDER contains MoNuSeg, as ``wsiproc benchmark monuseg FOLDER`` reads it. The images are run and scored by that
command's own code, in one process on one core; scores are means over images. *network*: the time of the model's
``predict`` on a window, without reading and cells, as ``wsiproc benchmark`` reports it. *whole*: wall time of the runs,
reading, cells and all files included, per pixel. Mpx are 10⁶ px of 0.25 µm. A model is *beaten by* those whose AJI is
at least as high in less whole time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from PIL import Image

from wsiproc.evaluate.benchmark import BASELINE, run_benchmark
from wsiproc.evaluate.layouts import Dataset, find_dataset
from wsiproc.evaluate.tables import TableLine, markdown_table
from wsiproc.pipeline.settings import Settings

REFERENCE_MPP = 0.25


def megapixels(dataset: Dataset, mpp: float) -> dict[str, float]:
    """10⁶ px of 0.25 µm in each picture."""
    sizes = {}
    for picture in dataset.images:
        with Image.open(picture.image) as image:
            sizes[picture.name] = image.width * image.height * (mpp / REFERENCE_MPP) ** 2 / 1e6
    return sizes


def model_line(scores: TableLine, pictures: list[TableLine], sizes: dict[str, float]) -> TableLine:
    """A model's row: its AJI and what it costs."""
    whole = sum(float(each["seconds"]) for each in pictures) / sum(sizes[str(each["picture"])] for each in pictures)
    network = float(scores["s_per_Mpx_1_thread"])
    return {
        "model": scores["model"],
        "pictures": scores["pictures"],
        "AJI": f"{scores['aji']:.3f}",
        "PQ": f"{scores['pq']:.3f}",
        "network s per Mpx": f"{network:.3f}",
        "whole s per Mpx": f"{whole:.2f}",
    }


def with_verdicts(lines: list[TableLine]) -> list[TableLine]:
    """By time, each with its cost against the first and the faster models that are as good."""
    ordered = sorted(lines, key=lambda each: float(each["whole s per Mpx"]))
    first = float(ordered[0]["whole s per Mpx"])
    rows: list[TableLine] = []
    for place, each in enumerate(ordered):
        better = [other["model"] for other in ordered[:place] if float(other["AJI"]) >= float(each["AJI"])]
        ratio = float(each["whole s per Mpx"]) / first
        rows.append({**each, "× time": f"{ratio:.2f}", "beaten by": ", ".join(map(str, better)) or "none"})
    return rows


def main(folder: Path, models: list[str], limit: int | None) -> None:
    """Run, score and print."""
    if hasattr(os, "sched_setaffinity"):  # libraries with threads of their own then share the core
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    dataset = find_dataset("monuseg", folder, limit)
    assert dataset.mpp is not None
    sizes = megapixels(dataset, dataset.mpp)
    first = find_dataset("monuseg", folder, 1)
    settings = Settings(device="cpu", workers=1)
    with tempfile.TemporaryDirectory() as out:
        # The first picture of a process pays for what is compiled and loaded once.
        run_benchmark(first, models, Path(out) / "first", settings)
        done = run_benchmark(dataset, models, Path(out) / "scores", settings)
    for failure in done.failures:
        print(f"failed: {failure}")
    lines = []
    for scores in done.lines:
        mine = [each for each in done.images if each["model"] == scores["model"]]
        if mine:
            lines.append(model_line(scores, mine, sizes))
    print(f"{len(dataset.images)} pictures, {sum(sizes.values()):.1f} Mpx, one core\n")
    print(markdown_table(with_verdicts(lines)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--model", action="append", help=f"name or folder, any number of times; {BASELINE} is always run"
    )
    parser.add_argument("--limit", type=int, default=None, help="the first so many pictures only")
    given = parser.parse_args()
    main(given.folder, given.model or ["default", "psm"], given.limit)
