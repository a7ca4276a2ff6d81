"""What every model promises to the pipeline, whatever it is made of."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.array.clumps import clumps
from tests.models.small_networks import picture
from wsiproc.array.nuclei.measure import centroids, label_sums
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.device import Device
from wsiproc.models.inference import predict
from wsiproc.pipeline.planning.plan import run_identity, work_key
from wsiproc.pipeline.settings import Settings

KINDS = ("classical", "distilled", "activation")
Maps = npt.NDArray[np.uint8]


@pytest.fixture(scope="session", params=KINDS)
def opened(request: pytest.FixtureRequest) -> Model:
    """A model before it has seen a slide."""
    return load_model("classical" if request.param == "classical" else str(request.getfixturevalue(request.param)))


@pytest.fixture(scope="session")
def model(opened: Model) -> Model:
    """The model, calibrated on an H&E slide."""
    return opened.calibrate([picture(seed=3), picture(seed=4)])


@pytest.fixture(scope="session")
def windows(model: Model) -> Maps:
    """Three windows with their halo, cut out of one picture."""
    side = model.window + 2 * model.halo
    whole = picture(seed=5, side=side + 200)
    return np.stack([whole[y : y + side, x : x + side] for y, x in ((0, 0), (200, 100), (90, 200))])


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_model_states_its_facts(model: Model) -> None:
    assert 0 < model.mpp < 5
    assert model.window >= model.window_multiple > 0 <= model.halo
    assert model.margin > 0
    assert 0 <= model.memory_bytes < 1e10
    assert len(set(model.classes)) == len(model.classes) > 0
    assert [channel.name for channel in model.channels[:3]] == ["nucleus", "hematoxylin", "eosin"]
    assert [channel.stain for channel in model.channels[:3]] == [False, True, True]
    assert json.loads(json.dumps(model.calibration())) == model.calibration()


def test_a_model_travels(model: Model) -> None:
    content = pickle.dumps(model)
    assert len(content) < 20_000
    assert pickle.loads(content) == model
    assert repr(pickle.loads(content)) == repr(model)


def test_calibration_changes_a_copy_and_is_repeatable(opened: Model) -> None:
    before = repr(opened)
    samples = [picture(seed=3), picture(seed=4)]
    assert opened.calibrate(samples) == opened.calibrate(samples) != opened
    assert repr(opened) == before


def test_samples_without_tissue_are_no_reason_to_fail(opened: Model) -> None:
    glass = opened.calibrate([np.full((64, 64, 3), 243, np.uint8)])
    assert glass.calibration()["textbook_vectors"] is True
    side = opened.window + 2 * opened.halo
    assert predict(glass, np.full((1, side, side, 3), 243, np.uint8), Device()).shape[0] == 1


def test_maps_have_a_plane_a_channel_and_are_repeatable(model: Model, windows: Maps) -> None:
    given_windows = windows.copy()
    maps = predict(model, windows, Device())
    assert maps.shape == (3, len(model.channels), *windows.shape[1:3])
    assert maps.dtype == np.uint8
    assert (windows == given_windows).all()
    assert (maps == predict(model, windows, Device())).all()


def test_a_window_in_a_batch_and_alone_gives_the_same_bytes(model: Model, windows: Maps) -> None:
    alone = np.concatenate([predict(model, window[None], Device()) for window in windows])
    assert (predict(model, windows, Device()) == alone).all()


def test_a_window_may_be_cut_to_whole_grains(model: Model, windows: Maps) -> None:
    """What is left of it says the same, but for what lies farther away than the halo and still counts a little."""
    assert model.window % model.window_multiple == 0
    halo, h, w = model.halo, model.window_multiple, 3 * model.window_multiple
    whole = predict(model, windows[:1], Device())[:, :, halo : halo + h, halo : halo + w].astype(int)
    cut = predict(model, windows[:1, : h + 2 * halo, : w + 2 * halo], Device())[:, :, halo : halo + h, halo : halo + w]
    apart = np.abs(whole - cut)
    assert apart[:, [channel.stain for channel in model.channels]].max() == 0
    assert apart.max() <= (1 if model.weights_sha256 is None else 64)
    assert np.percentile(apart, 99) <= 3


@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_the_last_digit_at_most(model: Model, windows: Maps) -> None:
    """Libraries add in another order then; the pipeline gives each region one thread, so that no run can tell."""
    maps = []
    for number in (1, 2):
        torch.set_num_threads(number)
        maps.append(predict(model, windows[:1], Device()).astype(int))
    assert np.abs(maps[0] - maps[1]).max() <= 1


def test_cells_are_found_and_described(model: Model, windows: Maps) -> None:
    halo = model.halo
    found = model.instances(predict(model, windows[:1], Device())[0, :, halo:-halo, halo:-halo].copy())
    count = len(found.classes)
    assert count > 100
    assert found.labels.shape == (model.window, model.window)
    assert found.labels.dtype == np.int32
    assert set(np.unique(found.labels)) == set(range(count + 1))
    assert found.classes.dtype == np.uint8
    assert set(found.classes) <= set(range(len(model.classes)))
    assert found.scores.dtype == np.float32
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert all(places.ndim == 2 and places.shape[1] == 2 for places in found.dropped.values())


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(100, 3900), st.integers(0, 60), st.integers(0, 60))
def test_nothing_beyond_the_margin_matters(model: Model, seed: int, count: int, y: int, x: int) -> None:
    """A region of 180 px and its margin, cut out or set into quite another slide: the same cells with all they have."""
    maps, other = (random_maps(len(model.channels), s, n) for s, n in ((seed, count), (seed + 1, 4000 - count)))
    m, side = model.margin, 180 + 2 * model.margin
    around, inner = np.s_[:, y : y + side, x : x + side], np.s_[m:-m, m:-m]
    other[around] = maps[around]
    whole, elsewhere, alone = (model.instances(some) for some in (maps, other, maps[around].copy()))
    for found, labels in ((elsewhere, elsewhere.labels[around[1:]][inner]), (alone, alone.labels[inner])):
        expected = whole.labels[around[1:]][inner]
        assert ((expected > 0) == (labels > 0)).all()
        pairs = np.unique(np.stack([expected, labels])[:, expected > 0], axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
        mine, theirs = pairs[:, _owned(whole.labels, maps, pairs[0], (y + m, x + m), 180)] - 1
        assert (whole.classes[mine] == found.classes[theirs]).all()
        assert (whole.scores[mine] == found.scores[theirs]).all()


def _owned(
    labels: npt.NDArray[np.int32], maps: Maps, some: npt.NDArray[np.int32], corner: tuple[int, int], side: int
) -> npt.NDArray[np.bool_]:
    """Which of ``some`` labels have their centre in a square."""
    centres = centroids(label_sums(labels, int(labels.max()), maps))[some - 1] - corner
    return np.all((centres >= 0) & (centres < side), axis=1)


def random_maps(channels: int, seed: int, count: int) -> Maps:
    """Maps (c, 640, 640) of random clumps with small holes and specks; the other planes are noise of some size."""
    rng = np.random.default_rng(seed)
    maps = np.repeat(np.repeat(rng.integers(0, 256, (channels, 160, 160), np.uint8), 4, axis=1), 4, axis=2)
    maps[0] = np.where(clumps(seed, (640, 640), count), 200, 30)
    maps[0] ^= (rng.random((640, 640)) < 0.01).astype(np.uint8) * 255
    return maps


def test_unfinished_work_of_other_weights_is_not_continued(opened: Model) -> None:
    def key(model: Any) -> str:
        return work_key(run_identity("slide", Settings(), model, Device()))

    assert key(opened) == key(pickle.loads(pickle.dumps(opened)))
    if opened.weights_sha256 is not None:
        assert opened.weights_sha256 in repr(opened)


def test_names_of_classes_and_fields_decide_nothing() -> None:
    """So that code may be renamed while results of earlier runs are still recognised."""

    def key(fields: str, cut: float) -> str:
        @dataclass(frozen=True)
        class Rule:
            threshold: float

        model: Any = make_dataclass("Renamed", [(fields, Rule), ("name", str)])(Rule(cut), "drawn")
        return work_key(run_identity("slide", Settings(), model, Device()))

    assert key("old_name", 0.5) == key("new_name", 0.5) != key("new_name", 0.6)
