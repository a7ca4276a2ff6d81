"""The model folder: ``model.toml`` (configuration), ``weights.safetensors``, ``README.md`` (the model card).

Nothing in a folder is ever executed: the configuration is validated against the dataclasses below, weights are plain
numbers, and no key names a file. The configuration contains the hash of the weights, so the two cannot be mixed up
unnoticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tomli_w
from annotated_types import Ge, Gt, Le, Len
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.types import StringConstraints

from wsiproc.errors import ModelError, first_problem
from wsiproc.models.cells import CutRule, OutlineRule, ScoreRule, SplitLengths
from wsiproc.models.doubt import ColourRule, NeighbourRule
from wsiproc.models.networks.readout import Clusters, Readout

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
CONFIG_FILE, WEIGHTS, CARD = "model.toml", "weights.safetensors", "README.md"
_SHALLOW_BLOCKS = 2  # in layer1 of a ShallowResNet
_OPTIONAL = {
    "int8_peaks",  # without it a model is slower, but finds the same
    "cut.object_dab",
    "split.smallest_dab_um2",
    "split.merge_dab_um",
    "split.saddle_dab",
    "network.fold",  # absent in models of earlier versions
    "outline",
    "score",
    "neighbours",
    "colour",
}
_MOST_APART = 0.3  # deviation of int8 logits from float32, in standard deviations; 0.02 is usual
HINTS = 4  # input planes of a folded network besides colours, see wsiproc.models.builtin.hints
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
_Width = Annotated[int, Ge(1), Le(1024)]
_Three = tuple[float, float, float]
_Spread = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class UNetNumbers:
    """Parameters of a ``wsiproc.models.networks.unet.UNet``. ``outputs``: the nucleus, and its interior if there are 2.

    ``fold``: 2 for a network that takes 2 × 2 px as one, with hints, see ``wsiproc.models.builtin.hints``.
    """

    kind: Literal["unet"] = "unet"
    widths: Annotated[tuple[_Width, ...], Len(1, 8)] = (16, 32, 64, 96)
    outputs: Annotated[int, Ge(1), Le(2)] = 1
    fold: Annotated[int, Ge(1), Le(2)] = 1

    @property
    def stride(self) -> int:
        """Image sides must be multiples of it."""
        return self.fold << (len(self.widths) - 1)

    @property
    def inputs(self) -> int:
        """Input channels of the network."""
        return 3 if self.fold == 1 else 3 * self.fold**2 + HINTS

    def build(self) -> nn.Module:
        """The network, on torch's current device."""
        from wsiproc.models.networks.unet import UNet

        return UNet(self.widths, self.outputs, self.inputs, self.fold)


@dataclass(frozen=True)
class ShallowNumbers:
    """Parameters of a ``wsiproc.models.networks.unet.ShallowResNet``."""

    kind: Literal["shallow_resnet"] = "shallow_resnet"
    width: _Width = 16

    @property
    def stride(self) -> int:
        """Image sides must be multiples of it."""
        return 2

    def build(self) -> nn.Module:
        """The network, on torch's current device."""
        from wsiproc.models.networks.unet import ShallowResNet

        return ShallowResNet(self.width)


@dataclass(frozen=True)
class InputNumbers:
    """How pixels become the network's input: (√(optical density × the slide's gain) − ``mean``) ÷ ``std``.

    ``mean``, ``std``: red, green, blue. ``od99``: the 99th percentile, over tissue, of optical density summed over the
    channels, after the gain.
    """

    mean: _Three = (0.0, 0.0, 0.0)
    std: tuple[_Spread, _Spread, _Spread] = (1.0, 1.0, 1.0)
    od99: Annotated[float, Gt(0), Le(10)] = 1.2


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configuration of every model folder. ``training``: free-form, displayed and never used.

    ``weights_sha256`` is empty until the weights are written.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    kind: str
    name: _Name
    description: str = field(repr=False, default="")
    weights_sha256: _Sha256 = ""
    mpp: Annotated[float, Gt(0.05), Le(10)]
    window: Annotated[int, Ge(64), Le(8192)] = 512
    halo: Annotated[int, Ge(0), Le(1024)] = 32
    network: UNetNumbers | ShallowNumbers
    input: InputNumbers = InputNumbers()
    cut: CutRule = field(default_factory=CutRule)
    split: SplitLengths = field(default_factory=SplitLengths)
    training: dict[str, Any] = field(repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a window that the network cannot downsample often enough."""
        side = self.window + 2 * self.halo
        if side % self.network.stride:
            raise ValueError(f"window + 2 halo is {side} px; the network needs a multiple of {self.network.stride}")


@dataclass(frozen=True, kw_only=True)
class DistilledConfig(ModelConfig):
    """Configuration of a trained segmenter, see ``wsiproc.models.builtin.distilled``.

    ``int8_peaks``: see ``wsiproc.models.networks.int8``; the activation ranges; without them the network does not run
    in int8. ``outline``: how outlines are moved; without it they stay at the threshold of the probability. ``score``:
    how a cell is scored; without it, by its mean probability. ``neighbours``, ``colour``: which cells are dropped by
    what is around them, and by their colour; without them, none.
    """

    kind: Literal["distilled"] = "distilled"
    network: UNetNumbers = field(default_factory=UNetNumbers)
    outline: OutlineRule | None = None
    score: ScoreRule | None = None
    neighbours: NeighbourRule | None = None
    colour: ColourRule | None = None
    int8_peaks: tuple[Annotated[float, Gt(0), Le(1e6)], ...] = ()

    def __post_init__(self) -> None:
        """Reject activation ranges of another network."""
        super().__post_init__()
        layers = 4 * len(self.network.widths) - 2
        if self.int8_peaks and len(self.int8_peaks) != layers:
            raise ValueError(f"int8_peaks has {len(self.int8_peaks)} numbers; the network has {layers} ReLUs")


@dataclass(frozen=True, kw_only=True)
class ActivationConfig(ModelConfig):
    """Configuration of the direct engine, see ``wsiproc.models.builtin.activation``."""

    kind: Literal["activation"] = "activation"
    network: ShallowNumbers = field(default_factory=ShallowNumbers)
    readout: Readout
    clusters: Clusters

    def __post_init__(self) -> None:
        """Reject a readout of another network."""
        super().__post_init__()
        sizes = [len(row) for row in self.readout.weights]
        if sizes != [self.network.width] * _SHALLOW_BLOCKS:
            raise ValueError(
                f"readout.weights has rows of {sizes} numbers; the network has {_SHALLOW_BLOCKS} blocks of "
                f"{self.network.width} channels"
            )


CONFIGS: dict[str, type[ModelConfig]] = {"distilled": DistilledConfig, "activation": ActivationConfig}


def read_folder(folder: Path) -> ModelConfig:
    """The validated configuration of a model folder: format, kind, keys, types, ranges, hash of the weights.

    Raises ModelError, which names the file and the remedy.
    """
    path = _config_path(folder)
    try:
        table = tomllib.loads(_content(path).decode())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not a model folder: it has no {CONFIG_FILE}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    config = _check_config(path, table)
    weights_bytes(folder, config.weights_sha256)
    return config


def _config_path(folder: Path) -> Path:
    """The path of the configuration; raises ModelError if ``folder`` is not a folder."""
    if folder.is_file():
        kind = "a pickle, which could run any code" if folder.suffix in _PICKLES else "a file"
        raise ModelError(f"{folder} is {kind}; a model is a folder with {CONFIG_FILE} and {WEIGHTS}")
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    return folder / CONFIG_FILE


def _content(path: Path) -> bytes:
    """Read a file of a model folder; ``OSError`` also for a pipe or device, which could block or never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError("a pipe, socket or device instead of a file")
    return path.read_bytes()


def _check_config(path: Path, table: dict[str, Any]) -> ModelConfig:
    """Validate the configuration in a parsed ``model.toml``."""
    number, kind = table.pop("format", None), table.get("kind")
    if isinstance(number, int) and number > FORMAT:
        raise ModelError(f"{path} has format {number}; this wsiproc reads up to {FORMAT}. Upgrade wsiproc")
    if number != FORMAT:
        raise ModelError(f"{path}: format is {number!r}; it should be {FORMAT}")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ModelError(f"{path}: unknown kind {kind!r}; known are {', '.join(CONFIGS)}")
    if isinstance(table.get("cut"), dict):
        table["cut"].pop(
            "positive_dab_od", None
        )  # of earlier versions; which cells are positive is now decided by the run
    try:
        # Through JSON, in which strict validation accepts arrays as tuples.
        config: ModelConfig = TypeAdapter(CONFIGS[kind]).validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise ModelError(f"{path}: {first_problem(error.errors(include_url=False))}") from error
    missing = _missing(dataclasses.asdict(config) | {"training": {}}, table)
    if missing:
        raise ModelError(f"{path}: {', '.join(missing)} missing; every key needs a value")
    return config


def _missing(config: Mapping[str, Any], table: Mapping[str, Any], within: str = "") -> list[str]:
    """Names of keys missing in the table."""
    names = []
    for name, value in config.items():
        if within + name in _OPTIONAL:
            continue
        if name not in table:
            names.append(within + name)
        elif isinstance(value, dict):
            names += _missing(value, table[name], f"{within}{name}.")
    return names


def weights_bytes(folder: Path, sha256: str) -> bytes:
    """The content of the weights file, its hash verified."""
    path = folder / WEIGHTS
    try:
        content = _content(path)
    except FileNotFoundError as error:
        pickles = [p.name for p in sorted(folder.iterdir()) if p.suffix in _PICKLES]
        if pickles:
            hint = (
                f"{pickles[0]} is a pickle, which could run any code and is not read; save the weights as safetensors"
            )
        else:
            hint = "copy the whole model folder again"
        raise ModelError(f"{folder} has no {WEIGHTS}: {hint}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path} is not the file that {CONFIG_FILE} describes: its SHA-256 is {found}, expected "
            f"{sha256 or 'none'}. Copy the whole model folder again"
        )
    return content


@lru_cache(maxsize=4)
def load_network(folder: Path, sha256: str, device: str) -> nn.Module:
    """The network of a folder on ``device``, for inference only, loaded once per process. Raises ModelError."""
    import torch

    from wsiproc.models.networks.unet import fuse_batch_norms

    config = read_folder(folder)
    if config.weights_sha256 != sha256:
        raise ModelError(f"{folder} contains a different model than when the run began; start a new run")
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        network = config.network.build()
    load_weights(folder, config, network)
    fused = fuse_batch_norms(network.requires_grad_(False)).to(device)
    for weights in fused.parameters():
        if weights.ndim == 4:  # channels last: a quarter faster on a CPU, and preferred by tensor cores
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
    return fused


@lru_cache(maxsize=4)
def load_int8_network(folder: Path, sha256: str) -> nn.Module:
    """The network of a folder in int8, for CPUs, quantised once per process.

    Raises ModelError, also if this PyTorch computes something different: its operators for such layers are private.
    """
    import torch

    from wsiproc.models.networks.int8 import Int8UNet, difference
    from wsiproc.models.networks.unet import UNet

    network, config = load_network(folder, sha256, "cpu"), read_folder(folder)
    assert isinstance(network, UNet)
    assert isinstance(config, DistilledConfig)
    try:
        quantised = Int8UNet(network, config.int8_peaks)
        difference_std = difference(network, quantised)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ModelError(
            f"PyTorch {torch.__version__} cannot run {config.name!r} in int8 ({error}): use --precision float32, or a "
            "newer PyTorch"
        ) from error
    if difference_std > _MOST_APART:
        raise ModelError(
            f"{folder}: in int8 the network gives different results (logits off by {difference_std:.2f} standard "
            f"deviations, at most {_MOST_APART:g} expected). Use --precision float32; if it is your own model, its "
            "int8_peaks may be wrong"
        )
    return quantised


def load_weights(folder: Path, config: ModelConfig, network: nn.Module) -> None:
    """Load the weights of a folder into a network built on the meta device; names and shapes must match exactly."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / WEIGHTS
    try:
        tensors = load(weights_bytes(folder, config.weights_sha256))
    except SafetensorError as error:
        raise ModelError(
            f"{path} is damaged or not a safetensors file: {error}. Copy the model folder again"
        ) from error
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ModelError(f"{path}: {broken[0]} contains numbers that are not finite; train the model again")
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not fit the network that {CONFIG_FILE} describes: {reason}") from error


def write_folder(
    folder: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    card: str,
    images: Mapping[str, bytes] = MappingProxyType({}),
) -> ModelConfig:
    """Write a model folder atomically; returns the configuration with the hash of the weights.

    ``tensors``: the network's ``state_dict``; ``card``: Markdown; ``images``: files that the card shows, by name. An
    existing model folder is replaced. Raises ModelError like ``check_replaceable``.
    """
    from safetensors.torch import save

    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    config = dataclasses.replace(config, weights_sha256=hashlib.sha256(weights).hexdigest())
    check_replaceable(folder, config)
    new, old = (folder.with_name(f".{folder.name}.{part}-{os.getpid()}") for part in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / WEIGHTS).write_bytes(weights)
    (new / CONFIG_FILE).write_text(_config_text(config), encoding="utf-8")
    (new / CARD).write_text(card, encoding="utf-8")
    for name, content in images.items():
        (new / name).write_bytes(content)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
    return config


def check_replaceable(folder: Path, config: ModelConfig) -> None:
    """Raise ModelError, before any work is done, if ``write_folder`` would.

    That is for a folder with anything but a model in it, and for a configuration that ``read_folder`` would reject.
    """
    if not _replaceable(folder):
        raise ModelError(f"{folder} exists and contains something other than a model; choose another folder")
    _check_config(folder / CONFIG_FILE, tomllib.loads(_config_text(config)))


def _config_text(config: ModelConfig) -> str:
    table = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return tomli_w.dumps({"format": FORMAT, **table, "training": table.pop("training")})


def _replaceable(folder: Path) -> bool:
    """Whether only models would be lost: a model folder, possibly with others in it, an empty folder, or none."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    inside = list(folder.iterdir())
    return not inside or (
        (folder / CONFIG_FILE).is_file() and all(_replaceable(path) for path in inside if path.is_dir())
    )
