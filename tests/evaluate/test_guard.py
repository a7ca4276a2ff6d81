"""The bundled default model against the classical one, on pictures that neither was made with: no benchmark, a guard.

A few crops say little about how good a model is, but enough to notice that a new one is worse than no learning at all.
``benchmarks/judges.py`` asks whole sets.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiproc.evaluate.benchmark import BASELINE, run_benchmarks
from wsiproc.evaluate.layouts import find_dataset
from wsiproc.pipeline.settings import Settings

CROPS = Path(__file__).parent / "judges"
HEADLINES = {"tnbc": "aji", "nucls": "aji", "brca-m2c": "f1"}
"""The score by which each set compares models."""
LEAST_MEAN_GAIN = 0.05
"""What ``default`` is ahead by at least, in the mean over the sets."""
MOST_BEHIND = 0.0
"""What it is behind by at most on any one set."""


@pytest.fixture(scope="module")
def gains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By how much ``default`` is ahead of the baseline on each set, in full precision, which all machines share."""
    out = tmp_path_factory.mktemp("judges")
    sets = {out / name: find_dataset(name, CROPS / name) for name in HEADLINES}
    settings = Settings(device="cpu", precision="float32", workers=1)
    benchmarks = run_benchmarks(sets, ["default"], settings, figures=0, timed=False)
    assert not [failure for done in benchmarks for failure in done.failures]
    found = {}
    for done in benchmarks:
        name = done.dataset.name
        scores = {str(line["model"]): float(line[HEADLINES[name]]) for line in done.lines}
        found[name] = scores["default"] - scores[BASELINE]
        print(f"{name}: default {scores['default']:.3f}, {BASELINE} {scores[BASELINE]:.3f}, {found[name]:+.3f}")
    return found


@pytest.mark.parametrize("name", HEADLINES)
def test_the_default_model_falls_behind_the_classical_one_on_no_set(gains: dict[str, float], name: str) -> None:
    assert gains[name] >= -MOST_BEHIND, gains


def test_the_default_model_is_ahead_of_the_classical_one_in_the_mean(gains: dict[str, float]) -> None:
    assert sum(gains.values()) / len(gains) >= LEAST_MEAN_GAIN, gains


def test_the_pictures_are_small_and_their_licences_named() -> None:
    files = [path for path in CROPS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.5e6
    told = (CROPS / "README.md").read_text(encoding="utf-8")
    for licence in ("CC BY 4.0", "CC0", "BSD 3-Clause"):
        assert licence in told
    assert {path.parts[-3] for path in files if path.suffix in {".jpg", ".png", ".csv"}} == set(HEADLINES)
