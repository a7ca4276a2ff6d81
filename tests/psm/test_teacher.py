"""What the finished network learns from: believed nuclei with good outlines, sure background, the doubtful left out."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from wsiproc.array.stains import Stains, estimate_stains
from wsiproc.core.geometry import Box
from wsiproc.models import load_model
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.models.folder import load_network
from wsiproc.models.staining import sample_pixels
from wsiproc.psm.distil import DISTIL_MPP, TEACHING_SPLIT, Tissue, _judged, _logistic, find_scores
from wsiproc.psm.labels.consensus import Agreed
from wsiproc.psm.labels.labelling import density
from wsiproc.psm.labels.restain import without_dab
from wsiproc.psm.labels.targets import IGNORE
from wsiproc.psm.teacher import Teacher, calibrated_classical, make_teacher_target, taught_example, teach
from wsiproc.psm.tiles import Tiles
from wsiproc.synthetic import Scene


@cache
def drawn() -> tuple[Tiles, np.ndarray]:
    """A crowded tile at full resolution and its true labels."""
    scene = Scene((512, 512), mpp=DISTIL_MPP, seed=3, tissue_fraction=1.0, crowding=0.6)
    box = Box(0, 0, *scene.shape)
    pixels, labels = scene.render(box), scene.labels(box)
    stains = estimate_stains(sample_pixels([pixels], DISTIL_MPP), "H&E")
    return Tiles("drawn", (pixels,), stains, 1.0), labels


@cache
def teacher() -> Teacher:
    model = load_model("fast")
    assert isinstance(model, Distilled)
    return Teacher(load_network(model.folder, model.weights_sha256, "cpu"), model.config.input)


def test_believed_nuclei_are_nuclei_and_background_is_none() -> None:
    tiles, truth = drawn()
    ((accepted, target),) = teach(
        tiles, teacher(), calibrated_classical(tiles, DISTIL_MPP), TEACHING_SPLIT, DISTIL_MPP, "cpu"
    )
    nuclei, background = target[..., 0] == 1, target[..., 0] == 0
    assert len(np.unique(accepted)) - 1 > 20
    np.testing.assert_array_equal(nuclei, accepted > 0)
    assert (truth[nuclei] > 0).mean() > 0.85
    assert (truth[background] == 0).mean() > 0.9
    assert 0 < (target[..., 0] == IGNORE).mean() < 0.3


def test_views_are_turned_back() -> None:
    """A network that gives its input back gives the tile back, however it was turned."""
    tiles, _ = drawn()
    od = density(tiles, 0)[:120, :88]

    class Red(type(teacher().net)):  # type: ignore[misc]
        fold = 1

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures[:, :2]

    plain = Teacher(Red((8,), 2), teacher().numbers)
    once, mean = (plain.logits(od, tiles, calibrated_classical(tiles, DISTIL_MPP), "cpu", views) for views in (1, 8))
    assert once.shape == (2, 120, 88)
    np.testing.assert_allclose(mean, once, atol=0.05)


def test_only_clear_winners_are_believed_and_what_nobody_sees_is_background() -> None:
    labels = np.zeros((80, 80), np.int32)
    labels[10:26, 10:26], labels[50:66, 50:66] = 1, 2
    agreed = Agreed(labels, np.array([0.9, 0.2]), np.array([0.9, 0.6]))
    nobody = np.full((80, 80), -5.0, np.float32)
    od = np.full((80, 80, 3), 0.05, np.float32)
    accepted, target = make_teacher_target(agreed, nobody, np.stack([nobody, nobody]), od, Stains(), DISTIL_MPP)
    assert set(np.unique(accepted)) == {0, 1}
    assert (target[12:24, 12:24, 0] == 1).all()
    assert (target[50:66, 50:66, 0] == IGNORE).all()
    assert target[40, 5, 0] == 0
    assert target[16, 8, 0] == 0  # beside a believed one


def test_dab_outside_of_nuclei_is_taken_away_and_is_background() -> None:
    stains = Stains("H-DAB", ((0.65, 0.70, 0.29), (0.27, 0.57, 0.78)))
    blue, brown = (np.array(vector) / np.linalg.norm(vector) for vector in stains.vectors)
    od = np.zeros((40, 40, 3), np.float32)
    od[:, :20], od[:, 20:] = 0.5 * blue, 0.8 * brown
    clear, covered = without_dab(od, stains)
    assert covered[:, 24:].all()
    assert not covered[:, :16].any()
    assert clear[:, 24:].max() == 0
    np.testing.assert_allclose(clear[5, 5] / np.linalg.norm(clear[5, 5]), blue, atol=0.02)


def test_scores_say_how_often_such_a_cell_is_believed() -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(1, 1, 20_000), rng.uniform(0, 1, 20_000), rng.uniform(0, 0.3, 20_000)])
    chance = 1 / (1 + np.exp(-(-2 + 1.5 * rows[:, 0] + 2 * rows[:, 1])))
    rule = _logistic(rows, rng.random(20_000) < chance)
    assert (rule.bias, rule.probability, rule.closed) == pytest.approx((-2, 1.5, 2), abs=0.15)
    scores = rule.scores((rows[:, 0], rows[:, 1], rows[:, 2]))
    assert np.abs(scores - chance).max() < 0.05


def test_scores_are_the_share_of_such_cells_that_are_believed() -> None:
    """Every third nucleus is taken back from what is believed, whatever it looks like."""
    tiles, _ = drawn()
    classical = calibrated_classical(tiles, DISTIL_MPP)
    ((accepted, target),) = teach(tiles, teacher(), classical, TEACHING_SPLIT, DISTIL_MPP, "cpu")
    numbers = np.unique(accepted)[1:]
    target[np.isin(accepted, numbers[::3])] = 0
    example = taught_example(tiles, 0, accepted, target, classical, DISTIL_MPP)
    tissue = Tissue(tiles, classical)
    rule = find_scores(teacher().net, teacher().numbers, [tissue], [example])
    features, true = _judged(teacher(), tissue, 0, target)
    assert 0.3 < true.mean() < 0.9
    assert rule.scores(tuple(features.T)).mean() == pytest.approx(true.mean(), abs=0.03)
