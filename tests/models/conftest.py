"""Model folders whose networks were never trained: seeded weights, a head fitted by least squares to a true mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from wsiproc.array.stains import estimate_stains
from wsiproc.core.geometry import Box
from wsiproc.models.distilled import network_input
from wsiproc.models.folder import DistilledFacts, InputNumbers, UNetNumbers, write_folder
from wsiproc.models.networks import UNet
from wsiproc.models.staining import find_gain, optical_density, sample_pixels
from wsiproc.synthetic import Scene

MPP = 0.5
INPUT = InputNumbers(mean=(0.2, 0.25, 0.15), std=(0.2, 0.2, 0.1), od99=1.4)
NUMBERS = UNetNumbers(widths=(8, 16, 16), outputs=2)


def picture(seed: int = 3, side: int = 576, stain: str = "HE") -> npt.NDArray[np.uint8]:
    """Synthetic tissue (side, side, 3) at 0.5 µm a px."""
    scene = Scene((side, side), mpp=MPP, seed=seed, tissue_fraction=1.0, crowding=0.7, stain=stain)  # type: ignore[arg-type]
    return scene.render(Box(0, 0, side, side))


def unet(seed: int, numbers: UNetNumbers = NUMBERS) -> UNet:
    """A U-Net of seeded weights whose batch norms have seen something."""
    torch.manual_seed(seed)
    network = UNet(numbers.widths, numbers.outputs)
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    return network.eval()


def fit_head(network: UNet) -> None:
    """Solve the last layer, which is linear, for the true nuclei of a synthetic picture and their insides."""
    box = Box(0, 0, 512, 512)
    scene = Scene(box.shape, mpp=MPP, seed=1, tissue_fraction=1.0, crowding=0.7)
    pixels, labels = scene.render(box), scene.labels(box).astype(np.int64)
    white = estimate_stains(sample_pixels([pixels], MPP)).white
    gain = find_gain(sample_pixels([pixels], MPP), white, INPUT.od99)
    inside = labels > 0
    for axis in (0, 1):
        for step in (-1, 1):
            inside &= np.roll(labels, step, axis) == labels
    seen: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(network_input(optical_density(torch.tensor(pixels)[None], white), gain, INPUT))
        hook.remove()
        columns = seen[0][0].flatten(1).T
        columns = torch.cat([columns, torch.ones(len(columns), 1)], 1).double()
        wanted = torch.tensor(np.stack([labels > 0, inside][: len(network.head.weight)])).flatten(1).T
        found = torch.linalg.lstsq(columns, wanted.double() * 12 - 5).solution.float()
        network.head.weight[:] = found[:-1].T[..., None, None]
        network.head.bias[:] = found[-1]


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a distilled model that finds most synthetic nuclei."""
    network = unet(0)
    fit_head(network)
    folder = tmp_path_factory.mktemp("models") / "distilled"
    facts = DistilledFacts(name="distilled-test", mpp=MPP, network=NUMBERS, input=INPUT, training={"pictures": 1})
    write_folder(folder, facts, network.state_dict(), "# A model for tests\n")
    return folder
