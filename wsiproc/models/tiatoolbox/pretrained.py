"""TIAToolbox's nucleus instance segmentation models: their parameters, and their weights from a file that the user
names. Parameters are those of its ``pretrained_model.yaml`` (version 2.1). Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiproc.core.extras import load
from wsiproc.core.paths import absolute
from wsiproc.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "tiatoolbox:"
_SOURCE = "https://huggingface.co/TIACentre/TIAToolbox_pretrained_weights"
PRETRAINED_MPP = 0.25
"""µm/px at which all of these were trained."""


@dataclass(frozen=True)
class Pretrained:
    """One of the models. ``sees``: side of its square input, px; ``window``: side of the part whose output is used.

    The network's output is larger than the window, which must divide a region; its input always has the training size.
    ``memory_bytes``: of TIAToolbox with its imports, the weights, and activations for one window, as measured.
    ``types``: its classes of nuclei, without background; empty for a model that only finds them.
    """

    name: str
    sees: int
    window: int
    types: tuple[str, ...] = ()
    memory_bytes: int = 1_000_000_000

    @property
    def halo(self) -> int:
        """Px of context around a window."""
        return (self.sees - self.window) // 2

    def build(self) -> nn.Module:
        """The network with random weights."""
        if self.name.startswith("micronet"):
            micronet: nn.Module = load("models.architecture.micronet").MicroNet(num_output_channels=2)
            return micronet
        mode = "fast" if "_fast" in self.name else "original"
        types = len(self.types) + 1 if self.types else None
        hovernet: nn.Module = load("models.architecture.hovernet").HoVerNet(num_types=types, mode=mode)
        return hovernet


PRETRAINED = {
    spec.name: spec
    for spec in (
        Pretrained(
            "hovernet_fast-pannuke",
            256,
            128,
            ("Neoplastic", "Inflammatory", "Connective", "Dead", "Non-Neoplastic Epithelial"),
        ),
        Pretrained("hovernet_fast-monusac", 256, 128, ("Epithelial", "Lymphocyte", "Macrophage", "Neutrophil")),
        Pretrained(
            "hovernet_original-consep", 270, 64, ("Epithelial", "Inflammatory", "Spindle-Shaped", "Miscellaneous")
        ),
        Pretrained("hovernet_original-kumar", 270, 64),
        Pretrained("micronet-consep", 252, 128, memory_bytes=1_600_000_000),
    )
}


def find_weights(model: str) -> tuple[Pretrained, Path, str]:
    """Parameters, weights file and its SHA-256, of ``tiatoolbox:NAME=FILE``. Raises ModelError for an unknown name and
    for missing weights.
    """
    name, _, file = model.removeprefix(PREFIX).partition("=")
    spec = PRETRAINED.get(name)
    if spec is None:
        raise ModelError(f"TIAToolbox has no nucleus model {name!r}; known are {', '.join(PRETRAINED)}")
    advice = (
        f"download {name}.pth manually from {_SOURCE} (it has the licence of its training data), and pass it as "
        f"{PREFIX}{name}=/path/to/{name}.pth"
    )
    if not file:
        raise ModelError(f"{model}: its weights are not part of wsiproc and are never downloaded: {advice}")
    path = absolute(file)
    try:
        if not path.is_file():
            raise OSError("no such file")
        state = path.stat()
        return spec, path, _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ModelError(
            f"{path}: the weights of {name} cannot be read: {error.strerror or error}; {advice}"
        ) from error


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hash of a file, cached since it is needed several times per slide."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2)
def load_pretrained(spec: Pretrained, weights: Path, sha256: str, device: str) -> nn.Module:
    """The network with its weights on ``device``, for inference only, loaded once per process. Raises ModelError."""
    import torch

    with torch.device("meta"):  # no memory for weights that are replaced at once
        network = spec.build()
    try:
        network.load_state_dict(_read(weights, sha256), strict=True, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])[:300]  # of a line for each layer
        raise ModelError(
            f"{weights} does not contain the weights of {spec.name}: {said}; is it {spec.name}.pth of {_SOURCE}?"
        ) from error
    # Not TIAToolbox's own ``to``, which distributes the network over all visible GPUs.
    return torch.nn.Module.to(network.eval().requires_grad_(False), device)


def _read(weights: Path, sha256: str) -> dict[str, Any]:
    """The content of a weights file. Nothing in it is executed: only numbers are unpickled."""
    import torch

    try:
        state = weights.stat()
        found_sha256 = _sha256(weights, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ModelError(f"{weights}: the weights cannot be read: {error.strerror}") from error
    if found_sha256 != sha256:
        raise ModelError(f"{weights} contains different weights than when the run began; start a new run")
    try:
        found: dict[str, Any] = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives and rejected pickles raise errors of many kinds
        raise ModelError(
            f"{weights} is not a weights file that can be read safely: {type(error).__name__}; download it again from "
            f"{_SOURCE}"
        ) from error
    return found
