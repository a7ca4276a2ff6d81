"""Models on all judges: sets of labelled images, some used for choosing settings and some unseen.

    python benchmarks/judges.py DATA -m default -m my-model --reliability reliability.svg

DATA contains the sets in the folders of ``JUDGES``; missing ones are named and skipped. Each model, including
``classical``, is run once per image, as in ``wsiproc benchmark``. Printed in Markdown: one row per judge and model,
means over images; means per organ if a set names them; and the gain of each model over ``classical``, of which the
smallest counts. ``--overlays FOLDER`` keeps the worst images of each judge, magnified 2×: truth green, prediction
yellow, white where both agree. ``--reliability FILE`` plots, for judges whose truths are outlines, the share of true
cells for each score. ``--out`` keeps all results, which are then not computed again, even if the program has changed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from wsiproc.evaluate.benchmark import BASELINE, Benchmark, run_benchmarks
from wsiproc.evaluate.layouts import find_dataset
from wsiproc.evaluate.reliability import bins_of
from wsiproc.evaluate.tables import TableLine, markdown_table
from wsiproc.pipeline.settings import Settings

JUDGES = {
    "monuseg": "monuseg_train",
    "tnbc": "judges/tnbc",
    "nucls": "nucls/segmentation",
    "nucls-points": "nucls/detection",
    "brca-m2c": "judges/brca_m2c",
    "bcdata": "bcdata_dev",
}
"""Name of the set and its folder."""
COLUMNS = {
    "aji": "AJI", "pq": "PQ", "dice": "Dice", "f1": "F1", "detection_f1": "detection F1", "ki67_f1": "Ki-67 F1",
    "ki67_error": "Ki-67 error", "score_error": "score error", "score_error_centre": "by centre",
}  # fmt: skip
"""Scores that are shown, in this order."""
FEWEST_IN_BIN = 20
"""Shares of fewer cells say too little to be drawn."""


def scores(done: Benchmark, line: TableLine) -> dict[str, float]:
    """The scores of one line by the keys of ``COLUMNS``; which of them there are depends on what the truths are."""
    found = {key: float(line[key]) for key in COLUMNS if key in line}
    if done.dataset.kind == "points":
        f1 = found.pop("f1")
        found |= {"ki67_f1": f1} if done.dataset.classes else {"detection_f1": f1}
    return found


def headline(found: dict[str, float]) -> float:
    """The one score by which a judge compares models: AJI, else the F1 of the classes of Ki-67, else that of cells."""
    return next(found[key] for key in ("aji", "ki67_f1", "detection_f1") if key in found)


def judge_lines(benchmarks: Sequence[Benchmark]) -> list[TableLine]:
    """A line a judge and model."""
    lines: list[TableLine] = []
    for done in benchmarks:
        for line in done.lines:
            found = scores(done, line)
            shown = {name: f"{found[key]:.3f}" for key, name in COLUMNS.items() if key in found}
            empty = dict.fromkeys(COLUMNS.values(), "")
            head = {"judge": done.dataset.name, "role": done.dataset.role or "", "pictures": line["pictures"]}
            lines.append({**head, "model": line["model"], **empty, **shown})
    return lines


def organ_lines(benchmarks: Sequence[Benchmark]) -> list[TableLine]:
    """A line an organ and model, the organs of a judge together."""
    lines: list[TableLine] = []
    for done in benchmarks:
        for line in sorted(done.organs, key=lambda line: str(line["organ"])):
            found = scores(done, line)
            shown = {COLUMNS[key]: f"{value:.3f}" for key, value in found.items()}
            head = {name: line[name] for name in ("organ", "pictures", "model")}
            lines.append({"judge": done.dataset.name, **head, **shown})
    return lines


def gain_lines(benchmarks: Sequence[Benchmark]) -> list[TableLine]:
    """A line a model: its headline score less that of the baseline before each judge, the least, and means by role."""
    by_judge = {
        done.dataset.name: {str(line["model"]): headline(scores(done, line)) for line in done.lines}
        for done in benchmarks
    }
    roles = {done.dataset.name: done.dataset.role or "" for done in benchmarks}
    models = [str(line["model"]) for line in benchmarks[0].lines]
    lines: list[TableLine] = []
    for model in models:
        gains = {judge: found[model] - found[BASELINE] for judge, found in by_judge.items()}
        worst = min(gains, key=gains.__getitem__)
        means = {
            f"mean, {role}": f"{np.mean([gains[judge] for judge in gains if roles[judge] == role]):+.3f}"
            for role in dict.fromkeys(roles.values())
        }
        each = {judge: f"{gain:+.3f}" for judge, gain in gains.items()}
        if model != BASELINE:
            lines.append({"model": model, **each, **means, "least": f"{gains[worst]:+.3f} ({worst})"})
    return lines


def keep_overlays(benchmarks: dict[Path, Benchmark], folder: Path) -> None:
    """The worst pictures of each judge and model as ``FOLDER/<judge>/<model>/01_<picture>.png``, worst first."""
    for out, done in benchmarks.items():
        for line in done.lines:
            place = folder / done.dataset.name / str(line["model"])
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(out / str(line["model"]) / "figures", place)


def draw_reliability(benchmarks: Sequence[Benchmark], path: Path) -> None:
    """A panel a model: share of true cells over the score, a line a judge, by overlap and by centre."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "judges", "svg.fonttype": "none"}
    outlined = [done for done in benchmarks if done.judged]
    models = list(outlined[0].judged)
    figure, panels = plt.subplots(1, len(models), figsize=(4.2 * len(models), 4.4), sharey=True, squeeze=False)
    for panel, model in zip(panels[0], models, strict=True):
        panel.plot((0, 1), (0, 1), color="0.75", linewidth=1)
        for number, done in enumerate(outlined):
            bins = [each for each in bins_of(done.judged[model]) if each.cells >= FEWEST_IN_BIN]
            scores = [each.score for each in bins]
            colour = f"C{number}"
            panel.plot(scores, [each.overlap for each in bins], "o-", color=colour, label=done.dataset.name)
            panel.plot(scores, [each.centre for each in bins], "o:", color=colour, markerfacecolor="white")
        panel.set(title=model, xlabel="score", xlim=(0, 1), ylim=(0, 1))
    panels[0][0].set_ylabel("share of cells that are true")
    panels[0][0].legend(title="full: IoU > 0.5\ndotted: centre in a nucleus", loc="upper left", frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def report(benchmarks: Sequence[Benchmark]) -> str:
    """All tables with what one must know to read them."""
    radii = ", ".join(f"{d.dataset.name} {d.dataset.radius_um:g} µm" for d in benchmarks if d.dataset.kind == "points")
    parts = [
        markdown_table(judge_lines(benchmarks)),
        "AJI, PQ, Dice and F1 (IoU > 0.5): means over pictures. Detection and Ki-67 F1: of the counts of all pictures, "
        "the latter the mean of positive and negative; Ki-67 error: mean absolute error of the index. Farthest match "
        f"of points: {radii or 'none'}. Score error: expected calibration error of the cells' scores, true at IoU > "
        "0.5; by centre: true where the centre lies in a true nucleus. *Unseen* pictures chose and taught nothing.\n",
    ]
    organs = organ_lines(benchmarks)
    if organs:
        parts.append(markdown_table(organs))
    gains = gain_lines(benchmarks)
    if gains:
        parts += [f"Better than `{BASELINE}` by (AJI, detection F1, Ki-67 F1):\n", markdown_table(gains)]
    parts += [f"Failed: {failure}\n" for done in benchmarks for failure in done.failures]
    return "\n".join(parts)


def main(data: Path, models: Sequence[str], given: argparse.Namespace) -> None:
    """Run, score and print."""
    names = given.judge or list(JUDGES)
    missing = [name for name in names if not (data / JUDGES[name]).is_dir()]
    for name in missing:
        print(f"Left out: {name}, there is no {data / JUDGES[name]}\n")
    figures = given.worst if given.overlays else 0
    settings = Settings(workers=given.workers, device="cpu")
    with nullcontext(given.out) if given.out else tempfile.TemporaryDirectory() as out:
        places = {Path(out) / name: find_dataset(name, data / JUDGES[name]) for name in names if name not in missing}
        done = run_benchmarks(places, models, settings, figures=figures, timed=False)
        print(report(done))
        if given.reliability:
            draw_reliability(done, given.reliability)
        if given.overlays:
            keep_overlays(dict(zip(places, done, strict=True)), given.overlays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-m", "--model", action="append", help=f"name or folder, any number; {BASELINE} is always run")
    parser.add_argument("-j", "--judge", action="append", choices=JUDGES, help="any number; all without it")
    parser.add_argument("-w", "--workers", type=int, default=2, help="pictures at a time")
    parser.add_argument("-o", "--out", type=Path, help="keep all results here")
    parser.add_argument("--overlays", type=Path, help="keep the worst pictures of each judge and model here")
    parser.add_argument("--reliability", type=Path, help="draw the share of true cells over the score here (SVG, PNG)")
    parser.add_argument("--worst", type=int, default=3, help="how many of them")
    arguments = parser.parse_args()
    main(arguments.data, arguments.model or ["default"], arguments)
