"""A fit from a slide to a model that runs: whole after any stop, the same by the same seed, refused before the work."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.psm.small_fit import shrink, small, stop_at
from wsiproc.errors import ModelError, PlanError, SlideError
from wsiproc.models import load_model
from wsiproc.models.builtin.activation import Activation
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.psm import fit as fitting
from wsiproc.psm.fit import FitSettings, fit, quick_settings
from wsiproc.psm.tiles import Source
from wsiproc.psm.work import OnStage, read_curve
from wsiproc.synthetic import write_synthetic_slide

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch.setattr)
        yield


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """H&E of 200 µm a side, crowded with nuclei."""
    path = tmp_path_factory.mktemp("slides") / "drawn.tif"
    write_synthetic_slide(path, (400, 400), mpp=0.5, seed=1, tissue_fraction=0.9, crowding=0.7)
    return path


@dataclass(frozen=True)
class Fitted:
    """The folder of a fit that nothing disturbed, and a copy of the work folder as it was at the last step."""

    folder: Path
    work: Path


@pytest.fixture(scope="module")
def undisturbed(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    settings = small(slide, tmp_path_factory.mktemp("undisturbed") / "model")
    work = tmp_path_factory.mktemp("work") / "copy"

    def keep() -> None:
        shutil.copytree(settings.work, work)

    fit(settings, stop_at("student 2", 5, keep))
    return Fitted(settings.out, work)


@pytest.fixture(scope="module")
def fitted(undisturbed: Fitted) -> Path:
    return undisturbed.folder


@pytest.fixture(scope="module")
def other_seed(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seed 1") / "model"
    fit(small(slide, out, seed=1))
    return out


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a model folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt() -> None:
    raise KeyboardInterrupt


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_folder_is_a_model_with_its_direct_engine_and_a_card(fitted: Path) -> None:
    model, direct = load_model(str(fitted)), load_model(str(fitted / "psm"))
    assert isinstance(model, Distilled)
    assert isinstance(direct, Activation)
    assert (model.name, direct.name, model.mpp, direct.mpp) == ("model", "model psm", 0.25, 0.5)
    assert (model.config.network.widths, model.config.network.fold) == ((8, 16), 2)
    assert model.config.score is not None
    assert len(model.config.int8_peaks) == 6
    assert model.config.training["sources"] == [{"name": "drawn.tif"}]
    assert model.config.training["rounds"] == [15, 15]
    assert "drawn.tif" in (fitted / "README.md").read_text(encoding="utf-8")
    assert {"examples.png", "curves.png"} <= set(files(fitted))


def test_nothing_else_is_left(fitted: Path) -> None:
    assert [path.name for path in fitted.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("part", ["", "psm"])
def test_a_run_accepts_it(part: str, slide: Path, fitted: Path, tmp_path: Path) -> None:
    settings = Settings(model=str(fitted / part), device="cpu", executor="loop", workers=1)
    (outcome,) = run_slides([slide], tmp_path, settings)
    assert outcome.status == "done", outcome.error
    assert outcome.run is not None
    assert outcome.run["model"]["weights_sha256"] == load_model(str(fitted / part)).weights_sha256


def test_a_model_is_learned_and_not_made_up(undisturbed: Fitted) -> None:
    """The loss falls, and nuclei were believed from the first round on."""
    curve = read_curve(undisturbed.work / "curve.csv")
    assert {stage: max(steps) for stage, steps in curve.items()} == {
        "activation network": 10, "round 1": 15, "round 2": 15, "student": 15, "student 2": 5,
    }  # fmt: skip
    assert 0 < curve["round 2"][15] < curve["round 1"][10]
    labels = np.load(undisturbed.work / "pseudo-labels-drawn.tif.npz")
    assert len(accepted(labels)) == 4
    assert min(accepted(labels)) > 10


def accepted(labels: Mapping[str, np.ndarray]) -> list[int]:
    """How many nuclei were believed in each tile, of what a stage kept."""
    return [len(np.unique(labels[name])) - 1 for name in labels if name.startswith("labels")]


# --- the same again --------------------------------------------------------------------------------------------------

TRAININGS = {"activation network", "round 1", "round 2", "student", "student 2"}
STOPS = (
    (("reading tissue", 1), ("activation network", 1)),
    (("activation network", 7), ("activation network", 1)),
    (("round 1", 1), ("round 1", 1)),
    (("round 1", 13), ("round 1", 11)),
    (("round 2", 3), ("round 2", 1)),
    (("round 2", 15), ("round 2", 11)),
    (("student", 2), ("student", 1)),
    (("student", 14), ("student", 11)),
    (("student 2", 1), ("student 2", 1)),
    (("student 2", 3), ("student 2", 1)),
)
"""Where a fit is stopped, and the step of a training with which it then goes on."""


def first_step(settings: FitSettings, stop: OnStage = lambda *_: None) -> tuple[str, int] | None:
    """The first step of a training in a fit, which ``stop`` may interrupt."""
    told: list[tuple[str, int]] = []

    def on_progress(stage: str, step: int, total: int) -> None:
        if stage in TRAININGS:
            told.append((stage, step))
        stop(stage, step, total)

    with suppress(KeyboardInterrupt):
        fit(settings, on_progress)
    return told[0] if told else None


def test_a_fit_stopped_again_and_again_ends_with_the_same_bytes(slide: Path, fitted: Path, tmp_path: Path) -> None:
    settings, wanted = small(slide, tmp_path / "model"), None
    for (stage, step), goes_on_with in STOPS:
        assert first_step(settings, stop_at(stage, step, interrupt)) == wanted
        assert not settings.out.exists()
        wanted = goes_on_with
    assert first_step(settings) == wanted
    assert files(settings.out) == files(fitted)
    assert not settings.work.exists()


def test_a_killed_fit_goes_on_and_ends_with_the_same_bytes(slide: Path, fitted: Path, tmp_path: Path) -> None:
    settings = small(slide, tmp_path / "model")
    command = [sys.executable, "-m", "tests.psm.small_fit", str(slide), str(settings.out), "student", "8"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=280, check=False)
    assert done.returncode == -signal.SIGKILL
    assert first_step(settings) == ("student", 6)
    assert files(settings.out) == files(fitted)


def test_a_changed_recipe_starts_anew(slide: Path, other_seed: Path, tmp_path: Path) -> None:
    begun = small(slide, tmp_path / "model")
    with pytest.raises(KeyboardInterrupt):
        fit(begun, stop_at("round 2", 6, interrupt))
    fit(small(slide, tmp_path / "model", seed=1))
    assert files(tmp_path / "model") == files(other_seed)


def test_a_changed_slide_starts_anew(tmp_path: Path) -> None:
    slide = tmp_path / "drawn.tif"
    for seed in (1, 2):
        write_synthetic_slide(slide, (256, 256), mpp=0.5, seed=seed, tissue_fraction=1.0)
        # Stopped past the activation network, which would be kept for the same slide.
        settings = small(slide, tmp_path / "model")
        assert first_step(settings, stop_at("pseudo-labelling", 4, interrupt)) == ("activation network", 1)
        assert (settings.work / "activation.safetensors").exists()
        assert not settings.out.exists()


def test_another_seed_gives_another_model(fitted: Path, other_seed: Path) -> None:
    one, other = (load_file(folder / "weights.safetensors") for folder in (fitted, other_seed))
    assert one.keys() == other.keys()
    assert all(not torch.equal(one[name], other[name]) for name in one if name.endswith("0.weight"))


def test_a_model_is_replaced_by_a_second_fit(slide: Path, fitted: Path, other_seed: Path, tmp_path: Path) -> None:
    shutil.copytree(other_seed, tmp_path / "model")
    fit(small(slide, tmp_path / "model"))
    assert files(tmp_path / "model") == files(fitted)


def test_objectives_with_parts_of_their_own_are_kept_over_a_stop(slide: Path, tmp_path: Path) -> None:
    """The readout is calibrated with them, after the stop as before."""
    folders = []
    for stop in (False, True):
        settings = small(
            slide, tmp_path / str(stop) / "model", objective="simsiam", activation_steps=2, rounds=(1,), student=(1,)
        )
        if stop:
            with pytest.raises(KeyboardInterrupt):
                fit(settings, stop_at("round 1", 1, interrupt))
        fit(settings)
        folders.append(files(settings.out))
    assert folders[0] == folders[1]


# --- begin with a model ----------------------------------------------------------------------------------------------


def test_a_fit_from_a_model_begins_with_its_weights_and_widths(
    slide: Path, fitted: Path, other_seed: Path, tmp_path: Path
) -> None:
    """One step of a rate that is still rising changes a weight by less than a thousandth."""
    adapted = fit(small(slide, tmp_path / "adapted", base=str(fitted), student=(1,), widths=(16, 32, 64, 96)))
    assert adapted.network.widths == (8, 16)
    assert adapted.training["base"] == {"name": "model", "weights_sha256": load_model(str(fitted)).weights_sha256}
    base, near, far = (
        load_file(folder / "weights.safetensors") for folder in (fitted, tmp_path / "adapted", other_seed)
    )
    weights = [name for name in base if name.endswith(".weight") and base[name].ndim == 4]
    assert max(float((base[name] - near[name]).abs().max()) for name in weights) < 1e-3
    assert min(float((base[name] - far[name]).abs().max()) for name in weights) > 1e-2


def test_models_that_cannot_be_adapted_are_refused_at_once(slide: Path, fitted: Path, tmp_path: Path) -> None:
    for base in ("classical", str(fitted / "psm")):
        with pytest.raises(ModelError, match="cannot be adapted; pass default, or a model written by `wsiproc fit`"):
            fit(small(slide, tmp_path / "model", base=base))
    with pytest.raises(ModelError, match="unknown model 'gone'"):
        fit(small(slide, tmp_path / "model", base="gone"))
    with pytest.raises(ModelError, match="choose another output folder"):
        fit(small(slide, fitted, base=str(fitted)))
    assert not list(tmp_path.iterdir())


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_else_is_refused_before_the_work(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="contains something other than a model"):
        fit(small(slide, tmp_path / "notes"))
    assert [path.name for path in tmp_path.rglob("*")] == ["notes", "thesis.txt"]


def test_a_name_that_no_model_can_have_is_refused_before_the_work(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="name"):
        fit(small(slide, tmp_path / "größe"))
    assert not list(tmp_path.iterdir())


def picture(folder: Path, pixels: np.ndarray) -> tuple[Source, ...]:
    folder.mkdir()
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "picture.png")
    return (Source(folder, 0.5),)


def test_tissue_with_no_nuclei_is_said_before_anything_learns_from_it(slide: Path, tmp_path: Path) -> None:
    pink = np.random.default_rng(0).normal((230, 160, 190), 3, (256, 256, 3))
    sources = picture(tmp_path / "pink", pink.clip(0, 255))
    with pytest.raises(PlanError, match="pink: no nuclei to start from"):
        fit(small(slide, tmp_path / "model", sources=sources))


def test_fluorescence_is_refused(slide: Path, tmp_path: Path) -> None:
    dark = np.zeros((256, 256, 3))
    dark[::16, ::16] = 255
    dark[:64, :64, 2] = 200
    with pytest.raises(SlideError, match="looks like fluorescence"):
        fit(small(slide, tmp_path / "model", sources=picture(tmp_path / "dapi", dark)))


def test_a_real_fluorescence_slide_is_refused(slide: Path, data: Path, tmp_path: Path) -> None:
    sources = (Source(data / "slides" / "fluorescence_dapi.ndpi"),)
    with pytest.raises(SlideError, match=r"fluorescence_dapi\.ndpi looks like fluorescence"):
        fit(small(slide, tmp_path / "model", sources=sources))


def test_quick_is_less_of_everything(slide: Path) -> None:
    full = fitting.FitSettings((Source(slide),), Path("model"))
    quick = quick_settings(full)
    assert sum(quick.rounds) < sum(full.rounds) / 3
    assert quick.student[0] < full.student[0] / 3
    assert (quick.activation_steps, quick.tiles) < (full.activation_steps, full.tiles)
    assert quick.widths == full.widths


def test_a_model_to_begin_with_is_the_teacher(slide: Path, tmp_path: Path) -> None:
    """Nothing is learned before it: it finds nuclei in the tissue, and these teach."""
    settings = small(slide, tmp_path / "model", base="fast", student=(1,))
    stages: list[str] = []

    def on_progress(stage: str, step: int, total: int) -> None:
        stages.append(stage)
        stop_at("student", 1, interrupt)(stage, step, total)

    with pytest.raises(KeyboardInterrupt):
        fit(settings, on_progress)
    assert sorted(set(stages)) == ["labelling by the teacher", "reading tissue in full", "student"]
    found = accepted(np.load(settings.work / "taught-1" / "drawn.tif.npz"))
    assert min(found) > 2  # in each tile of 48 µm
    assert sum(found) > 30
