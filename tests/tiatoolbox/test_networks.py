"""TIAToolbox's networks as models; runs in an environment with the extra ``wsiproc[tiatoolbox]``.

Trained weights are not to be had here: seeded ones, with last layers that are solved for true nuclei.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models.small_networks import solve
from tests.runs import assert_same_cells, run_one
from tests.tiatoolbox.drawn import MPP, maps_of, matched, tissue, ways
from wsiproc.core.geometry import Box
from wsiproc.errors import ModelError
from wsiproc.io.cells.parquet import read_cells
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.device import Device
from wsiproc.models.inference import predict
from wsiproc.models.tiatoolbox.pretrained import PRETRAINED
from wsiproc.synthetic import write_synthetic_slide

pytestmark = pytest.mark.tiatoolbox
pytest.importorskip("tiatoolbox")

PANNUKE = PRETRAINED["hovernet_fast-pannuke"]
SEEN, CENTRE = PANNUKE.sees, slice(46, -46)  # HoVer-Net fills 164 of 256 px


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def settled(network: Any, pixels: torch.Tensor) -> Any:
    """A network of random weights whose batch norms know what they get of ``pixels``."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(pixels)
    return network.eval()


@pytest.fixture(scope="module")
def hovernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a HoVer-Net that finds some synthetic nuclei, all of the second type."""
    torch.manual_seed(0)
    squares = [tissue(SEEN, seed) for seed in (11, 12, 13)]
    pixels = torch.tensor(np.stack([rendered for rendered, _ in squares])).permute(0, 3, 1, 2).float()
    network = settled(PANNUKE.build(), pixels)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        branch.u0.conv.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0]}))
        for name, branch in network.decoder.items()
    ]
    with torch.no_grad():
        network(pixels)
        for hook in hooks:
            hook.remove()
        true = [labels for _, labels in squares]
        inside = torch.tensor(np.hstack([labels[CENTRE, CENTRE] > 0 for labels in true]))[None] * 6.0 - 3
        away = torch.tensor(np.concatenate([ways(labels)[:, CENTRE, CENTRE] for labels in true], axis=2))
        for name, wanted in (("np", torch.cat([-inside, inside])), ("hv", away)):
            layer = network.decoder[name].u0.conv
            found = solve(torch.cat(list(seen[name]), dim=2), wanted)
            layer.weight[:], layer.bias[:] = found[:-1].T[..., None, None], found[-1]
        network.decoder["tp"].u0.conv.bias[2] = 20.0
    path = tmp_path_factory.mktemp("weights") / "hovernet.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def model(hovernet: Path) -> Model:
    rendered, _ = tissue(300, seed=3)
    return load_model(f"tiatoolbox:hovernet_fast-pannuke={hovernet}").calibrate([rendered])


def test_the_facts_are_those_of_tiatoolbox() -> None:
    from tiatoolbox.models.architecture import PRETRAINED_INFO

    for name, facts in PRETRAINED.items():
        theirs = PRETRAINED_INFO[name]
        what, how = theirs["architecture"]["kwargs"], theirs["ioconfig"]["kwargs"]
        assert how["input_resolutions"] == [{"units": "mpp", "resolution": MPP}]
        assert how["patch_input_shape"] == [facts.sees] * 2
        assert how["patch_output_shape"][0] >= facts.window
        types = what.get("nuc_type_dict") or {0: "Background"}
        assert tuple(types[i] for i in range(1, len(types))) == facts.types
        assert what.get("mode", "micronet").split("_")[0] in name


def test_maps_are_what_tiatoolbox_infers(model: Model, hovernet: Path) -> None:
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    rendered, labels = tissue(SEEN, seed=11)
    windows = rendered[None]
    maps = predict(model, windows, Device())
    assert maps.shape == (1, len(model.channels), SEEN, SEEN)
    assert [channel.name for channel in model.channels][3:5] == ["horizontal", "vertical"]
    theirs = HoVerNet(num_types=6, mode="fast")
    theirs.load_weights_from_file(hovernet)
    nucleus, hover, types = theirs.infer_batch(theirs, torch.tensor(windows), device="cpu")
    middle = maps[0, :, CENTRE, CENTRE].astype(float)
    assert np.abs(middle[0] / 255 - nucleus[0, ..., 0]).max() < 0.6 / 255
    expected = np.clip(hover[0].transpose(2, 0, 1), -1, 1)
    assert np.abs(middle[3:5] / 127.5 - 1 - expected).max() < 0.6 / 127.5
    assert (types == 2).all()
    assert (middle[5:].argmax(axis=0) == 1).all()
    assert len(matched(labels, model.instances(maps[0]).labels)) > 3
    assert pickle.loads(pickle.dumps(model)) == model


def test_windows_in_a_batch_and_alone_give_the_same_bytes(model: Model) -> None:
    rendered, _ = tissue(SEEN + 20, seed=6)
    windows = np.stack([rendered[:SEEN, :SEEN], rendered[20:, 20:]])
    both = predict(model, windows, Device())
    assert (both == np.concatenate([predict(model, window[None], Device()) for window in windows])).all()
    assert (both[0] != both[1]).any()


def test_the_nuclei_are_those_of_tiatoolbox(model: Model) -> None:
    """On perfect maps of crowded nuclei, and on rough ones, which are stretched differently there."""
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    for seed, noise in ((1, 0.0), (2, 0.2)):
        _, labels = tissue(600, seed)
        maps = maps_of(labels, np.zeros(labels.max() + 1, np.int64), len(PANNUKE.types), noise)
        theirs = HoVerNet._proc_np_hv(maps[0, ..., None] / 255.0, maps[3:5].transpose(1, 2, 0) / 127.5 - 1)
        ours = model.instances(maps).labels
        assert theirs.max() > 100
        assert len(matched(theirs.astype(np.int32), ours)) > 0.97 * theirs.max()
        assert abs(int(ours.max()) - int(theirs.max())) < 0.03 * theirs.max()


def test_cutting_changes_no_cell(hovernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "wsiproc.pipeline.stages.seams.FEWEST_SITES", 0
    )  # the certificate would predict all windows some times more
    path = tmp_path / "small.tif"
    write_synthetic_slide(path, (120, 600), mpp=MPP, seed=8, tissue_fraction=1.0, crowding=0.8)
    name = f"tiatoolbox:hovernet_fast-pannuke={hovernet}"
    common = {"model": name, "tissue": "all", "executor": "loop"}
    whole = run_one(path, tmp_path / "whole", region=1024, **common).folder
    cut = run_one(path, tmp_path / "cut", region=512, **common).folder
    assert whole is not None
    assert cut is not None
    assert_same_cells(whole, cut)
    cells = read_cells(whole / "cells.parquet")[1]
    assert len(cells) > 10
    assert set(cells.classes) == {1}
    run = json.loads((whole / "run.json").read_text())
    assert run["model"]["weights_sha256"] == load_model(name).weights_sha256
    assert run["precision"] == "float32"  # on every CPU: one of its layers can compute in nothing else there
    assert list(run["classes"]) == list(PANNUKE.types)


def test_the_original_without_types_is_what_tiatoolbox_infers(tmp_path: Path) -> None:
    """It fills 80 of 270 px, of which the window has 64."""
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    facts = PRETRAINED["hovernet_original-kumar"]
    torch.manual_seed(2)
    rendered, _ = tissue(facts.sees, seed=5)
    network = settled(facts.build(), torch.tensor(rendered)[None].permute(0, 3, 1, 2).float())
    torch.save(network.state_dict(), tmp_path / "w.pth")
    maps = predict(load_model(f"tiatoolbox:hovernet_original-kumar={tmp_path / 'w.pth'}"), rendered[None], Device())
    assert maps.shape == (1, 5, facts.sees, facts.sees)
    nucleus, hover = HoVerNet.infer_batch(network, torch.tensor(rendered)[None], device="cpu")
    middle = maps[0, :, 95:-95, 95:-95].astype(float)
    assert np.abs(middle[0] / 255 - nucleus[0, ..., 0]).max() < 0.6 / 255
    assert np.abs(middle[3:] / 127.5 - 1 - np.clip(hover[0].transpose(2, 0, 1), -1, 1)).max() < 0.6 / 127.5
    assert nucleus.std() > 0.01


def test_micro_net_is_what_tiatoolbox_infers(tmp_path: Path) -> None:
    from tiatoolbox.models.architecture.micronet import MicroNet

    facts = PRETRAINED["micronet-consep"]
    torch.manual_seed(1)
    rendered, _ = tissue(facts.sees, seed=5)
    network = settled(facts.build(), torch.tensor(standard(rendered))[None])
    network.layer["out"][1].weight.data *= 30  # else all is about one half
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = load_model(f"tiatoolbox:micronet-consep={tmp_path / 'w.pth'}").calibrate([rendered])
    maps = predict(model, rendered[None], Device())
    assert maps.shape == (1, 3, facts.sees, facts.sees)
    theirs = MicroNet()
    theirs.load_weights_from_file(tmp_path / "w.pth")
    # The slide is one patch here, so that its level and spread are those of the patch.
    patch = torch.tensor(MicroNet.preproc(rendered))[None]
    (expected,) = theirs.infer_batch(theirs, patch, device="cpu")
    window = Box(0, 0, facts.sees, facts.sees).pad(-facts.halo).slices
    assert np.abs(maps[0, 0][window] / 255 - expected[0, ..., 1][window]).max() < 0.01
    assert maps[0, 0][window].std() > 1


def standard(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A picture (3, h, w) of mean 0 and deviation 1."""
    values = pixels.transpose(2, 0, 1) / np.float32(255)
    return (values - values.mean()) / values.std()


def test_files_that_hold_something_else_are_refused_by_name(hovernet: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(hovernet.read_bytes()[:100_000])
    code = tmp_path / "code.pth"
    torch.save({"layer": Path("a path is no number")}, code)
    refused = ((damaged, r"damaged\.pth is not a weights file"), (code, r"code\.pth is not a weights file"))
    for file, said in (
        *refused,
        (hovernet, r"hovernet\.pth does not contain the weights of hovernet_fast-monusac: .*tp"),
    ):
        model = load_model(f"tiatoolbox:hovernet_fast-monusac={file}")
        with pytest.raises(ModelError, match=said):
            predict(model, np.zeros((1, SEEN, SEEN, 3), np.uint8), Device())
