from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.small_networks import picture, shallow
from wsiproc.errors import ModelError
from wsiproc.models import load_model
from wsiproc.models.device import Device
from wsiproc.models.folder import ActivationConfig, ShallowNumbers, write_folder
from wsiproc.models.inference import predict
from wsiproc.models.networks.readout import Clusters, Readout, nucleus_probability, read_map
from wsiproc.models.networks.unet import ShallowResNet, SmallResNet

DARK, PALE = (1.0, 0.8, 0.8, 0.4), (0.0, 0.1, 0.1, 0.1)


def test_the_first_layers_are_those_of_the_whole_network() -> None:
    torch.manual_seed(0)
    whole, first = SmallResNet(8).eval(), ShallowResNet(8).eval()
    first.load_state_dict({k: v for k, v in whole.state_dict().items() if k in first.state_dict()})
    pictures = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        blocks = first.shallow(pictures)
        assert torch.equal(blocks[-1], whole.layer1(whole.stem(pictures)))
    assert [tuple(block.shape) for block in blocks] == [(1, 8, 16, 16)] * 2


def test_the_map_is_a_weighted_sum_brought_into_its_range() -> None:
    blocks = [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)]
    readout = Readout(((1.0, -2.0, 0.5), (0.25, 0.0, 3.0)), low=-1.5, high=2.0)
    found = read_map(blocks, readout, (16, 16))
    parts = [w * block[0, c] for block, row in zip(blocks, readout.weights, strict=True) for c, w in enumerate(row)]
    total = torch.stack(parts).sum(0)
    expected = ((total + 1.5) / 3.5).clamp(0, 1)
    assert torch.allclose(found[0, ::2, ::2], expected, atol=1e-6)
    between = (expected[:, :-1] + expected[:, 1:]) / 2
    assert torch.allclose(found[0, ::2, 1:-1:2], between, atol=1e-6)


def test_the_map_lies_where_the_picture_does() -> None:
    """A blob is symmetric in the map around its own centre: a shift of half a step would show."""
    network = ShallowResNet(1)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 4:
                weights.fill_(0.05)  # boxes, which are symmetric
    network.eval()
    for centre in (31, 32, 33, 34):
        pixels = torch.zeros(1, 3, 64, 64)
        pixels[:, :, centre - 4 : centre + 5, centre - 4 : centre + 5] = 1
        with torch.no_grad():
            found = read_map(network.shallow(pixels), Readout(((1.0,), (0.0,)), 0.0, 100.0), (64, 64))[0]
        place = (found.sum(1) * torch.arange(64)).sum() / found.sum()
        assert abs(float(place) - centre) < 0.1


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_a_pixel_is_a_nucleus_where_a_nucleus_centre_is_nearest(share: float, softness: float) -> None:
    clusters = Clusters((PALE, DARK, (0.5, 9.0, 9.0, 9.0)), nuclei=(1,), scale=(2.0, 1.0, 1.0, 0.0), softness=softness)
    features = torch.lerp(torch.tensor(PALE), torch.tensor(DARK), share)[None, :, None, None]
    found = float(nucleus_probability(features, clusters))
    apart = 4 * 1.0 + 0.49 + 0.49  # squared, scaled; the last feature has no say
    assert found == pytest.approx(1 / (1 + np.exp(-np.clip((2 * share - 1) * apart / softness, -80, 80))), abs=1e-4)


def test_any_nucleus_centre_will_do() -> None:
    clusters = Clusters((PALE, DARK, (0.0, 0.1, 0.3, 0.9)), nuclei=(1, 2), softness=0.01)
    features = torch.tensor([PALE, DARK, (0.0, 0.1, 0.3, 0.9)]).T[None, :, None]
    assert (nucleus_probability(features, clusters)[0, 0] > 0.5).tolist() == [False, True, True]


@pytest.mark.parametrize("nuclei", [(), (0, 1), (2,), (0, 5)])
def test_centres_of_one_kind_alone_are_refused(nuclei: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="some of the 2 centres"):
        Clusters((PALE, DARK), nuclei)


def test_a_readout_of_another_network_is_refused(tmp_path: Path, activation: Path) -> None:
    with pytest.raises(ValueError, match=r"rows of \[3, 3\] numbers; the network has 2 blocks of 8"):
        ActivationConfig(
            name="m",
            mpp=0.5,
            network=ShallowNumbers(width=8),
            readout=Readout(((1.0,) * 3,) * 2, 0, 1),
            clusters=Clusters((PALE, DARK), (1,)),
        )
    text = (activation / "model.toml").read_text()
    write_folder(tmp_path / "m", load_model(str(activation)).config, shallow(0).state_dict(), "")  # type: ignore[attr-defined]
    (tmp_path / "m/model.toml").write_text(text.replace("width = 8", "width = 9"))
    with pytest.raises(ModelError, match="2 blocks of 9 channels"):
        load_model(str(tmp_path / "m"))


def test_nothing_beyond_the_halo_matters(activation: Path) -> None:
    model = load_model(str(activation)).calibrate([picture()])
    side, halo = 256, model.halo
    original = picture(side=side)
    changed = np.random.default_rng(0).integers(0, 256, original.shape, dtype=np.uint8)
    inner = slice(96, 160)
    seen = slice(96 - halo, 160 + halo)
    changed[seen, seen] = original[seen, seen]
    maps = [predict(model, pixels[None], Device())[0][:, inner, inner] for pixels in (original, changed)]
    assert (maps[0] == maps[1]).all()
    assert maps[0][3].std() > 10, "there is a map to compare"
