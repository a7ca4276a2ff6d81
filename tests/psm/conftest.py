"""Synthetic tissue with known nuclei, and small networks whose batch norms have seen some of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.psm.drawn_tissue import Drawn, tissue
from wsiproc.models.networks.unet import SmallResNet
from wsiproc.psm.activation.network import as_input


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Equal weights are promised for one number of threads; short trainings differ much by how sums are cut up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    return tissue()


@pytest.fixture(scope="session")
def seen(drawn: Drawn) -> torch.Tensor:
    """The picture as a network's input, (1, 3, h, w)."""
    return as_input(drawn[0][None])


@pytest.fixture(scope="session")
def small(seen: torch.Tensor) -> SmallResNet:
    """An untrained network, in evaluation mode."""
    torch.manual_seed(0)
    net = SmallResNet(8)
    with torch.no_grad():
        for _ in range(20):
            net(seen)
    return net.eval()
