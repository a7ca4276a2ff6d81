from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.psm.shapes import BLUE, BROWN, PINK, Floats, ellipse
from wsiproc.core.types import BoolArray
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.folder import ActivationConfig, read_folder, write_folder
from wsiproc.models.networks.readout import Readout, nucleus_probability, pixel_features
from wsiproc.models.networks.unet import ShallowResNet
from wsiproc.psm.activation.direct import ACTIVATION_INPUT, activation_config, activation_pixels
from wsiproc.psm.activation.network import as_input
from wsiproc.psm.labels.targets import IGNORE

SIDE, MPP, WIDTH = 64, 0.5, 8
READOUT = Readout(((0.1,) * WIDTH, (0.2,) * WIDTH), 0.0, 1.0)

densities = hnp.arrays(np.float32, (4, 5, 3), elements=st.floats(0, 2.75, width=32))


# --- what the network sees -------------------------------------------------------------------------------------------


@given(densities)
def test_training_and_use_show_the_network_the_same(od: Floats) -> None:
    """Within half of a grey level: one reads pictures of 8 bits, the other optical density."""
    trained = as_input(activation_pixels(od)[None])
    used = network_input(torch.from_numpy(od).permute(2, 0, 1)[None], 1.0, ACTIVATION_INPUT)
    assert float((trained - used).abs().max()) <= 0.5 / 255 + 1e-5


@given(densities, densities)
def test_darker_tissue_is_brighter_and_never_turns_over(one: Floats, other: Floats) -> None:
    low, high = (activation_pixels(f(one, 3 * other)) for f in (np.minimum, np.maximum))
    assert low.dtype == np.uint8
    assert (low <= high).all()
    assert not activation_pixels(0 * one).any()


# --- the model -------------------------------------------------------------------------------------------------------

BLUE_ONES, BROWN_ONES, CLOUD = (ellipse(SIDE, place, 9) for place in ((16, 16), (16, 48), (48, 16)))


def tile(noise: float = 0.01) -> tuple[Floats, Floats]:
    """Map and optical density: blue and brown nuclei, and something as blue as a nucleus that is none."""
    rng = np.random.default_rng(0)
    od = np.broadcast_to(0.25 * PINK, (SIDE, SIDE, 3)).astype(np.float32).copy()
    od[BLUE_ONES], od[BROWN_ONES], od[CLOUD] = 0.6 * BLUE, 1.2 * BROWN, 0.6 * BLUE
    activation = np.where(BLUE_ONES | BROWN_ONES, 0.9, 0.2) + rng.normal(0, noise, (SIDE, SIDE))
    return activation.astype(np.float32), np.abs(od + rng.normal(0, noise, od.shape)).astype(np.float32)


def facts(nuclei: BoolArray, unsure: BoolArray | None = None, times: int = 1) -> ActivationConfig:
    """Of ``times`` equal tiles whose ``nuclei`` are believed."""
    activation, od = tile()
    accepted = nuclei.astype(np.uint8)
    if unsure is not None:
        accepted[unsure] = IGNORE
    return activation_config(
        READOUT, WIDTH, [activation] * times, [od] * times, [accepted] * times, MPP, "drawn psm", {"seed": 0}
    )


def found(model: ActivationConfig) -> BoolArray:
    """Nuclei of the tile by that model."""
    activation, od = (torch.from_numpy(x)[None] for x in tile())
    features = pixel_features(activation, od.permute(0, 3, 1, 2), 0.0)
    return nucleus_probability(features, model.clusters)[0].numpy() > 0.5


def test_blue_and_brown_nuclei_are_found_and_what_only_looks_like_one_is_not() -> None:
    nuclei = BLUE_ONES | BROWN_ONES
    assert np.mean(found(facts(nuclei)) == nuclei) > 0.98


@pytest.mark.parametrize("chosen", [BLUE_ONES, BROWN_ONES, CLOUD])
def test_what_was_believed_names_the_clusters(chosen: BoolArray) -> None:
    """Not a colour that somebody thought of."""
    assert np.mean(found(facts(chosen)) == chosen) > 0.98


def test_pixels_that_nobody_is_sure_of_name_nothing() -> None:
    nuclei = BLUE_ONES | BROWN_ONES
    half = np.broadcast_to(np.arange(SIDE) % 2 == 0, nuclei.shape)
    assert np.mean(found(facts(nuclei, unsure=half)) == nuclei) > 0.98
    assert np.mean(found(facts(nuclei | CLOUD, unsure=CLOUD & half)) == (nuclei | CLOUD)) > 0.98


def test_where_no_nucleus_was_believed_what_is_darkest_and_highest_on_the_map_is_one() -> None:
    """Never whichever cluster came first."""
    nobody, nuclei = np.zeros((SIDE, SIDE), bool), BLUE_ONES | BROWN_ONES
    for unsure in (None, nuclei, ~nobody):
        seen = found(facts(nobody, unsure))
        assert seen[nuclei].mean() > 0.3
        assert not seen[~nuclei].any()


def test_where_no_background_is_known_not_everything_is_a_nucleus() -> None:
    """Brown tissue all over: a believed pixel in each cluster, and all others ignored."""
    nuclei = BLUE_ONES | BROWN_ONES
    some = nuclei | (np.random.default_rng(1).random(nuclei.shape) < 0.05)
    assert not found(facts(some, unsure=~some)).all()


def test_equal_tissue_gives_an_equal_model_and_more_of_it_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    nuclei = BLUE_ONES | BROWN_ONES
    assert facts(nuclei) == facts(nuclei)
    monkeypatch.setattr("wsiproc.psm.activation.direct._SAMPLED_PX", 3000)
    assert np.mean(found(facts(nuclei, times=4)) == nuclei) > 0.98


def test_the_facts_make_a_model_folder(tmp_path: Path) -> None:
    model = facts(BLUE_ONES)
    assert (model.mpp, model.network.width, model.input, model.readout) == (MPP, WIDTH, ACTIVATION_INPUT, READOUT)
    written = write_folder(tmp_path / "psm", model, ShallowResNet(WIDTH).state_dict(), "# Card")
    assert read_folder(tmp_path / "psm") == written
    assert replace(written, weights_sha256="") == model
