"""A model that learns from corrections: what was corrected changes, the rest stays; whole after any stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.io.slides.slide_writers import write_dicom_header
from tests.psm.corrections.corrected_slide import REVIEWED, annotation, cells_of, correct, drawn, outline, run_slide
from tests.psm.small_fit import stop_at
from wsiproc.cli.main import app
from wsiproc.core.geometry import Box
from wsiproc.errors import ModelError, OutputError, SettingsError
from wsiproc.models import load_model
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.psm.corrections import tuning, windows
from wsiproc.psm.corrections.tuning import STAGE, Lesson, TuneSettings, draw_lessons, training_steps, tune
from wsiproc.psm.corrections.windows import find_corrected, known_in, read_windows
from wsiproc.psm.labels.labelling import density
from wsiproc.psm.teacher import Teacher, calibrated_classical
from wsiproc.psm.tiles import Source, read_tiles
from wsiproc.psm.work import finished_network, work_folder

OD99 = 1.6


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "training_steps", lambda _: 6)
        patch.setattr(tuning, "_BATCH", 2)
        patch.setattr(tuning, "_OTHERS", 1)
        patch.setattr(tuning, "_CROP_PX", 64)
        patch.setattr(tuning, "_CHECKPOINT_STEPS", 2)
        patch.setattr(windows, "_MOST_OTHERS", 2)
        yield


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide in which all cells of an area were deleted."""
    found = run_slide(tmp_path_factory.mktemp("run"))
    kept = [cell for cell in cells_of(found) if not outline(cell).intersects(REVIEWED)]
    correct(found, [*kept, annotation(REVIEWED, "reviewed")])
    return found


@pytest.fixture(scope="module")
def tuned(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "model"
    found = tune(TuneSettings((output,), out))
    (corrected,) = find_corrected([output])
    assert (found.cells, found.slides) == (corrected.known_cells, 1)
    return out


def teacher(name: str) -> Teacher:
    model = load_model(name)
    assert isinstance(model, Distilled)
    return Teacher(finished_network(model), model.config.input)


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_folder_is_a_model_with_a_card_and_nothing_else_is_left(tuned: Path, output: Path) -> None:
    model, base = load_model(str(tuned)), load_model("default")
    assert isinstance(model, Distilled)
    assert isinstance(base, Distilled)
    assert [path.name for path in tuned.parent.iterdir()] == ["model"]
    assert model.config.network == base.config.network
    assert (model.config.score, model.config.neighbours) == (base.config.score, base.config.neighbours)
    assert len(model.config.int8_peaks) == len(base.config.int8_peaks)
    assert model.config.training["base"] == {"name": "default", "weights_sha256": base.weights_sha256}
    card = (tuned / "README.md").read_text(encoding="utf-8")
    (corrected,) = find_corrected([output])
    assert f"| {corrected.result.name} | {corrected.known_cells} |" in card
    assert {"examples.png", "curves.png"} <= {path.name for path in tuned.iterdir()}


def test_the_statistics_of_batch_norms_stay(tuned: Path) -> None:
    before = teacher("default").net.state_dict()
    after = load_file(tuned / "weights.safetensors")
    fixed = [name for name in after if "running" in name]
    assert fixed
    assert all(torch.equal(before[name], after[name]) for name in fixed)
    assert not all(torch.equal(before[name], after[name]) for name in after)


def test_a_run_accepts_it(tuned: Path, output: Path, tmp_path: Path) -> None:
    slide = find_corrected([output])[0].result.record.slide.path
    (outcome,) = run_slides(
        [Path(slide)], tmp_path, Settings(model=str(tuned), device="cpu", executor="loop", workers=1)
    )
    assert outcome.status == "done", outcome.error


@pytest.mark.parametrize("place", [".", "deep/er/model"])
def test_no_model_is_written_among_the_dicom_files_of_a_corrected_slide(
    place: str, output: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(output, tmp_path / "out" / "drawn"))
    case = tmp_path / "case"
    for number in range(2):
        write_dicom_header(case / f"{number}.dcm", "1.2")
    record = json.loads((copy / "run.json").read_text())
    record["slide"]["path"] = str(case)
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=f"it lies in {case}, whose files are those of a slide"):
        tune(TuneSettings((copy,), case / place))
    assert sorted(path.name for path in case.rglob("*")) == ["0.dcm", "1.dcm"]


def test_the_same_corrections_give_the_same_weights(tuned: Path, output: Path, tmp_path: Path) -> None:
    tune(TuneSettings((output,), tmp_path / "again"))
    tune(TuneSettings((output,), tmp_path / "other", seed=1))
    assert weights(tmp_path / "again") == weights(tuned) != weights(tmp_path / "other")


@pytest.mark.parametrize(("step", "resumes_at"), [(1, 1), (3, 3), (6, 5)])
def test_it_resumes_after_any_stop(step: int, resumes_at: int, tuned: Path, output: Path, tmp_path: Path) -> None:
    settings = TuneSettings((output,), tmp_path / "model")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(settings, stop_at(STAGE, step, interrupt))
    assert work_folder(settings.out).exists()
    assert not settings.out.exists()
    told: list[int] = []
    tune(settings, lambda stage, done, _: told.append(done) if stage == STAGE else None)
    assert told[0] == resumes_at
    assert weights(settings.out) == weights(tuned)


# --- what is learned -------------------------------------------------------------------------------------------------


def nuclear_share(model: str, output: Path) -> float:
    """Share of nuclear pixels in a place of the slide where nothing was corrected."""
    (corrected,) = find_corrected([output])
    tissue = read_tiles(Source(Path(corrected.result.record.slide.path)), 0.25, 4, OD99)
    box = Box(900, 300, 700, 700)
    assert not known_in(corrected, box)[1].any()
    with corrected.result.source().open() as slide:
        tiles = replace(tissue, pixels=(slide.read(box, 0.25),))
    classical = calibrated_classical(tissue, 0.25)
    logits = teacher(model).logits(density(tiles, 0), tiles, classical, "cpu", views=1)
    return float((logits[0] > 0).mean())


def test_more_cells_are_learned_from_for_longer_within_limits() -> None:
    assert [training_steps(cells) for cells in (1, 66, 100, 200, 10_000)] == [200, 200, 300, 600, 600]


@pytest.fixture
def longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "training_steps", lambda _: 30)
    monkeypatch.setattr(tuning, "_CROP_PX", 128)


@pytest.mark.usefixtures("longer")
def test_outlines_as_someone_draws_them_are_learned(output: Path, tmp_path: Path) -> None:
    """In one area all outlines were drawn 1.5 µm wider; elsewhere they become wider too."""
    copy = Path(shutil.copytree(output, tmp_path / "out" / "drawn"))
    cells = cells_of(copy)
    inside = [cell for cell in cells if outline(cell).intersects(REVIEWED)]
    wider = [drawn(outline(cell).buffer(3)) for cell in inside]
    correct(copy, [*(cell for cell in cells if cell not in inside), *wider, annotation(REVIEWED, "reviewed")])
    tune(TuneSettings((copy,), tmp_path / "model"))
    assert nuclear_share(str(tmp_path / "model"), copy) > 1.1 * nuclear_share("default", copy)


@pytest.mark.usefixtures("longer")
def test_a_few_deleted_cells_are_not_the_end_of_all_others(output: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(output, tmp_path / "out" / "drawn"))
    cells = cells_of(copy)
    few = [cell for cell in cells if outline(cell).intersects(REVIEWED)][:6]
    correct(copy, [cell for cell in cells if cell not in few])
    tune(TuneSettings((copy,), tmp_path / "model"))
    assert nuclear_share(str(tmp_path / "model"), copy) > 0.7 * nuclear_share("default", copy)


@pytest.fixture(scope="module")
def lessons(output: Path) -> list[Lesson]:
    read = read_windows(find_corrected([output]), OD99, lambda *_: None)
    return [tuning._lesson(window, teacher("default"), "cpu") for window in read]


def test_known_pixels_have_the_truth_as_target_and_others_what_the_model_said(lessons: list[Lesson]) -> None:
    for lesson in lessons:
        known = lesson.window.known
        np.testing.assert_array_equal(lesson.target[known][:, 0], lesson.window.labels[known] > 0)
        others = lesson.target[~known]
        assert ((others > 0) & (others < 1)).all()


def test_a_reviewed_pixel_weighs_more_than_another_unless_there_are_only_such() -> None:
    target, logits = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    reviewed = torch.zeros(1, 4, 4, dtype=torch.bool)
    reviewed[0, 0, 0] = True

    def loss_of(y: int, x: int, seen: torch.Tensor) -> float:
        wrong = logits.clone()
        wrong[0, :, y, x] = 5
        return float(tuning.lesson_loss(wrong, target, seen) - tuning.lesson_loss(logits, target, seen))

    assert loss_of(0, 0, reviewed) > 50 * loss_of(1, 1, reviewed) > 0
    for alike in (torch.zeros_like(reviewed), torch.ones_like(reviewed)):
        assert loss_of(0, 0, alike) == pytest.approx(loss_of(1, 1, alike))


def test_crops_are_drawn_around_known_pixels_but_for_those_of_other_places(lessons: list[Lesson]) -> None:
    """Known are, besides the reviewed area, the parts of deleted cells that stick out of it."""
    side = tuning._CROP_PX
    seen = []
    for seed in range(20):
        od, target, reviewed, hint_planes = draw_lessons(lessons, seed, 7)
        assert od.shape == (tuning._BATCH, 3, side, side)
        assert target.shape == (tuning._BATCH, 2, side, side)
        assert hint_planes.shape[2:] == (side // 2, side // 2)
        assert ((target >= 0) & (target <= 1)).all()
        assert torch.equal(od, draw_lessons(lessons, seed, 7)[0])
        seen.append(reviewed.flatten(1).any(1).tolist())
    assert not any(other for other, _ in seen)
    assert sum(taught for _, taught in seen) > 15


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["classical", "fast"])
def test_models_that_cannot_learn_are_refused(base: str, output: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{base} cannot be adapted; pass default"):
        tune(TuneSettings((output,), tmp_path / "model", base=base))
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_else_in_it_is_kept(output: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="contains something other than a model"):
        tune(TuneSettings((output,), tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_learned_from(output: Path, tuned: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["fit", "--corrections", str(output.parent), "-o", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    (corrected,) = find_corrected([output])
    assert f"corrected cells that it learned from: {corrected.known_cells} (slides: 1)" in done.output
    assert f"wsiproc run SLIDE --model {tmp_path / 'model'}" in done.output
    assert weights(tmp_path / "model") == weights(tuned)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["slide.svs"], "SLIDES"),
        (["--quick"], "--quick"),
        (["--mpp", "0.5"], "--mpp"),
        (["--config", "f.toml"], "--config"),
    ],
)
def test_what_has_no_meaning_with_corrections_is_refused(
    arguments: list[str], named: str, output: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["fit", *arguments, "--corrections", str(output), "-o", str(tmp_path / "model")])
    assert isinstance(done.exception, SettingsError)
    assert f"{named} cannot be combined with --corrections" in str(done.exception)
