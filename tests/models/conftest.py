"""Model folders whose networks were never trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.small_networks import INPUT, MPP, NUMBERS, fit_head, fit_readout, shallow, unet
from wsiproc.models.folder import ActivationConfig, DistilledConfig, ShallowNumbers, write_folder


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a distilled model that finds most synthetic nuclei."""
    network = unet(0)
    fit_head(network)
    folder = tmp_path_factory.mktemp("models") / "distilled"
    facts = DistilledConfig(name="distilled-test", mpp=MPP, network=NUMBERS, input=INPUT, training={"pictures": 1})
    write_folder(folder, facts, network.state_dict(), "# A model for tests\n")
    return folder


@pytest.fixture(scope="session")
def activation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a direct engine that finds most synthetic nuclei."""
    network = shallow(0)
    readout, clusters = fit_readout(network)
    folder = tmp_path_factory.mktemp("models") / "activation"
    facts = ActivationConfig(
        name="activation-test",
        mpp=MPP,
        network=ShallowNumbers(width=8),
        input=INPUT,
        readout=readout,
        clusters=clusters,
    )
    write_folder(folder, facts, network.state_dict(), "# A model for tests\n")
    return folder
