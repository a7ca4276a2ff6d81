"""Networks that were never trained: seeded weights, a head fitted by least squares to a true mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from wsiproc.array.stains import estimate_stains
from wsiproc.core.geometry import Box
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.folder import InputNumbers, UNetNumbers
from wsiproc.models.networks.readout import Clusters, Readout, pixel_features, read_map
from wsiproc.models.networks.unet import ShallowResNet, UNet
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


def shallow(seed: int) -> ShallowResNet:
    """The first layers of an activation network, as ``unet``."""
    torch.manual_seed(seed)
    network = ShallowResNet(8)
    with torch.no_grad():
        network.shallow(torch.randn(4, 3, 64, 64))
    return network.eval()


def true_tissue() -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """Optical density × gain (1, 3, 512, 512) of synthetic tissue, and the true labels (512, 512)."""
    box = Box(0, 0, 512, 512)
    scene = Scene(box.shape, mpp=MPP, seed=1, tissue_fraction=1.0, crowding=0.7)
    pixels = scene.render(box)
    sampled = sample_pixels([pixels], MPP)
    stains = estimate_stains(sampled)
    gain = find_gain(sampled, stains, INPUT.od99)
    return optical_density(torch.tensor(pixels)[None], stains.white) * gain, scene.labels(box).astype(np.int64)


def solve(features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Least squares of ``wanted`` (k, h, w) by features (c, h, w) and a constant: (c + 1, k)."""
    columns = torch.cat([features, torch.ones(1, *features.shape[1:])]).flatten(1).T.double()
    return torch.linalg.lstsq(columns, wanted.flatten(1).T.double()).solution.float()


def fit_head(network: UNet) -> None:
    """Solve the last layer, which is linear, for the true nuclei of a synthetic picture and their insides."""
    od, labels = true_tissue()
    inside = labels > 0
    for axis in (0, 1):
        for step in (-1, 1):
            inside &= np.roll(labels, step, axis) == labels
    wanted = torch.tensor(np.stack([labels > 0, inside][: len(network.head.weight)]))
    seen: list[torch.Tensor] = []
    hook = network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(network_input(od, 1.0, INPUT))
        hook.remove()
        found = solve(seen[0][0], wanted * 12 - 5)
        network.head.weight[:] = found[:-1].T[..., None, None]
        assert network.head.bias is not None
        network.head.bias[:] = found[-1]


def fit_readout(network: ShallowResNet) -> tuple[Readout, Clusters]:
    """Channel weights solved for the true nuclei, and centres of nuclei, stroma and pale tissue."""
    od, labels = true_tissue()
    with torch.no_grad():
        blocks = network.shallow(network_input(od, 1.0, INPUT))
        nuclei = torch.tensor(labels > 0)
        found = solve(torch.cat(blocks, 1)[0], nuclei[None, ::2, ::2].float())[:-1, 0]
        sums = torch.einsum("chw,c->hw", torch.cat(blocks, 1)[0], found)
        low, high = (round(float(sums.quantile(q)), 6) for q in (0.02, 0.98))
        width = len(found) // 2
        readout = Readout((tuple(found[:width].tolist()), tuple(found[width:].tolist())), low, high)
        features = pixel_features(read_map(blocks, readout, (512, 512)), od, 1.0)[0]
    pale = od.sum(1)[0] < od.sum(1)[0][~nuclei].median()
    groups = (nuclei, ~nuclei & ~pale, ~nuclei & pale)
    centres = tuple(tuple(features[:, group].mean(1).tolist()) for group in groups)
    return readout, Clusters(centres, nuclei=(0,))
