from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.small_networks import INPUT, NUMBERS, fit_head, picture, unet
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.builtin.distilled import Distilled
from wsiproc.models.cells import CutRule
from wsiproc.models.device import Device
from wsiproc.models.folder import DistilledConfig, UNetNumbers, load_network, write_folder
from wsiproc.models.inference import predict
from wsiproc.models.networks.unet import SmallResNet, UNet, fuse_batch_norms
from wsiproc.models.staining import haematoxylin_alone, optical_density
from wsiproc.pipeline.planning.plan import run_identity, work_key
from wsiproc.pipeline.settings import Settings


def test_merged_batch_norms_change_no_logit() -> None:
    torch.manual_seed(0)
    pictures = torch.randn(2, 3, 64, 64)
    for network in (UNet((8, 16), 2), SmallResNet(8)):
        with torch.no_grad():
            network(torch.randn(4, 3, 64, 64))  # batch norms with something to merge
            before = network.eval()(pictures)
            merged = fuse_batch_norms(network)
            assert torch.allclose(merged(pictures), before, atol=1e-5)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in merged.modules())


def test_a_network_is_loaded_once_a_process_and_learns_no_more(distilled: Path) -> None:
    model = cast(Distilled, load_model(str(distilled)))
    load_network.cache_clear()
    for _ in range(3):
        predict(model, np.zeros((1, 64, 64, 3), np.uint8), Device())
    assert load_network.cache_info().misses == 1
    network = load_network(distilled, model.weights_sha256, "cpu")
    assert not network.training
    assert not any(weights.requires_grad for weights in network.parameters())


def test_loading_leaves_the_random_numbers_alone(distilled: Path) -> None:
    model = load_model(str(distilled))
    load_network.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    predict(model, np.zeros((1, 64, 64, 3), np.uint8), Device())
    assert torch.rand(1) == expected


def test_pale_and_dark_stain_are_brought_to_one_strength(distilled: Path) -> None:
    model = load_model(str(distilled))
    original = picture(seed=6)
    od = -np.log10(np.maximum(original, 1) / 243.0)
    maps, gains = [], []
    for strength in (0.8, 1.0, 1.25):
        stained = np.clip(243.0 * 10 ** (-od * strength), 0, 255).round().astype(np.uint8)
        calibrated = model.calibrate([stained])
        gains.append(cast(float, calibrated.calibration()["gain"]) * strength)
        maps.append(predict(calibrated, stained[None], Device())[0, 0] > 127)
    assert np.ptp(gains) < 0.05
    assert all((mask & maps[1]).sum() / (mask | maps[1]).sum() > 0.9 for mask in maps)
    weak = np.clip(243.0 * 10 ** (-od * 0.3), 0, 255).astype(np.uint8)
    assert model.calibrate([weak]).calibration()["gain"] == 1.5


def test_dab_is_a_stain_and_no_class_of_the_model(distilled: Path) -> None:
    tissue = picture(seed=7, stain="HDAB")
    model = load_model(str(distilled)).calibrate([tissue])
    assert model.classes == ("Nucleus",)
    assert [c.name for c in model.channels] == ["nucleus", "hematoxylin", "dab", "interior"]
    found = model.instances(predict(model, tissue[None], Device())[0])
    assert len(found.classes) > 20
    assert not found.classes.any()


@pytest.mark.parametrize("fold", [1, 2])
def test_with_dab_black_looks_like_dense_brown(tmp_path: Path, fold: int) -> None:
    """Nuclei full of DAB are denser than all that networks learned from; in H&E nothing changes."""
    numbers = UNetNumbers(widths=(8, 12), outputs=2, fold=fold)
    write_folder(tmp_path / "m", DistilledConfig(name="m", mpp=0.5, network=numbers), numbers.build().state_dict(), "")
    model = cast(Distilled, load_model(str(tmp_path / "m")))
    for kind, same in (("H-DAB", True), ("H&E", False)):
        stained = replace(model, stains=Stains(kind))  # type: ignore[arg-type]
        dense, black = (torch.full((1, 64, 64, 3), value, dtype=torch.uint8) for value in (5, 1))
        seen = [
            stained.network_sees(window, optical_density(window, stained.stains.white)) for window in (dense, black)
        ]
        assert torch.equal(*seen) is same


@given(
    haematoxylin=st.floats(0.02, 1.0),
    dab=st.floats(0, 2.0),
    vectors=st.sampled_from([STANDARD["H-DAB"], ((0.70, 0.64, 0.32), (0.32, 0.55, 0.77))]),
)
def test_dab_is_taken_away_and_haematoxylin_stays(haematoxylin: float, dab: float, vectors: Any) -> None:
    """Whatever the density: blue alone is kept, brown alone is nothing, and the DAB that is measured is all of it."""
    stains = Stains("H-DAB", vectors)
    blue, brown = (torch.tensor(vector / np.linalg.norm(vector)).float()[None, :, None, None] for vector in vectors)
    for od, kept in ((haematoxylin * blue, haematoxylin), (dab * brown, 0.0)):
        alone, shown = haematoxylin_alone(od, stains)
        torch.testing.assert_close(alone, kept * blue, atol=2e-3, rtol=0)
        torch.testing.assert_close(shown - alone, od - kept * blue, atol=2e-3, rtol=0)
    mixed = haematoxylin_alone(haematoxylin * blue + dab * brown, stains)[0]
    assert mixed.max() <= haematoxylin * blue.max() + 1e-3
    black = haematoxylin_alone(torch.full((1, 3, 1, 1), 0.8 + dab), stains)[0]
    assert black.max() == 0


def test_which_compartment_is_given_decides_what_nuclei_are_detected_in(distilled: Path) -> None:
    model = cast(Distilled, load_model(str(distilled)))
    nuclear = picture(seed=7, stain="HDAB")
    assert not model.calibrate([nuclear]).dab_outside_nuclei
    assert not model.for_compartment("nucleus").calibrate([nuclear]).dab_outside_nuclei
    given = model.for_compartment("membrane").calibrate([nuclear])
    assert given.dab_outside_nuclei
    assert given.calibration()["dab_outside_nuclei"] is True
    assert not model.for_compartment("membrane").calibrate([picture(seed=7, stain="HE")]).dab_outside_nuclei


def test_low_scores_are_left_out_beside_a_red_stain_only(tmp_path: Path) -> None:
    facts = DistilledConfig(name="m", mpp=0.5, network=NUMBERS, cut=CutRule(threshold=0.2, object=0.6))
    maps = np.zeros((4, 60, 60), np.uint8)
    maps[3], maps[0, 20:32, 20:32] = 255, 140
    brown = Distilled(facts, tmp_path, stains=Stains("H-DAB", STANDARD["H-DAB"]))
    assert len(brown.instances(maps).scores) == 1
    assert len(replace(brown, red_stain=True).instances(maps).scores) == 0


def test_cells_below_the_object_threshold_are_dropped_and_counted(tmp_path: Path) -> None:
    facts = DistilledConfig(name="m", mpp=0.5, network=NUMBERS, cut=CutRule(threshold=0.2, object=0.6))
    model = Distilled(facts, tmp_path)
    maps = np.zeros((4, 100, 150), np.uint8)
    maps[3] = 255
    for i, probability in enumerate((140, 250, 160, 30, 255)):
        maps[0, 20:32, 10 + 25 * i : 22 + 25 * i] = probability
    found = model.instances(maps)
    assert found.scores == pytest.approx([250 / 255, 160 / 255, 1], abs=1e-6)
    assert [found.labels[26, x] for x in (16, 41, 66, 91, 116)] == [0, 1, 2, 0, 3]
    assert found.dropped["score below 0.6"].tolist() == [[26, 16]]


def test_one_output_makes_no_interior(tmp_path: Path) -> None:
    numbers = UNetNumbers(widths=(8, 16), outputs=1)
    network = unet(0, numbers)
    fit_head(network)
    write_folder(
        tmp_path / "m", DistilledConfig(name="m", mpp=0.5, network=numbers, input=INPUT), network.state_dict(), ""
    )
    model = load_model(str(tmp_path / "m")).calibrate([picture()])
    maps = predict(model, picture()[None], Device())[0]
    assert len(maps) == len(model.channels) == 3
    assert len(model.instances(maps).classes) > 100


def test_other_weights_or_rules_make_another_key_and_another_place_does_not(distilled: Path, tmp_path: Path) -> None:
    def key(model: Model) -> str:
        return work_key(run_identity("slide", Settings(model="its path"), model, Device()))

    facts = cast(Distilled, load_model(str(distilled))).config
    state = unet(0).state_dict()
    keys = []
    for place, change, weights in (
        ("a", {}, state),
        ("b", {"description": "moved", "training": {"more": "text"}}, state),
        ("c", {"cut": CutRule(threshold=0.6)}, state),
        ("d", {}, unet(1).state_dict()),
    ):
        write_folder(tmp_path / place, DistilledConfig(**facts.__dict__ | change), weights, "")
        keys.append(key(load_model(str(tmp_path / place))))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
