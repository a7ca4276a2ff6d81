"""The user's settings, as one frozen value; unpacked once, in ``plan``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, AllowInfNan, BeforeValidator, ConfigDict, StringConstraints, ValidationError
from pydantic.dataclasses import dataclass

from wsiproc.core.choices import (
    CompartmentChoice,
    DeviceChoice,
    Executor,
    PrecisionChoice,
    Reader,
    StainChoice,
    StainNormChoice,
    TissueChoice,
)
from wsiproc.core.immuno import checked_cuts
from wsiproc.core.paths import absolute, read_settings_file
from wsiproc.core.phenotypes import FEWEST_PHENOTYPES, MOST_PHENOTYPES
from wsiproc.errors import SettingsError

_MOST_WORKERS = 1024
_REMEDIES = {
    "mpp": ", not a positive number; give the µm per pixel of the slide",
    "min_score": "; scores go from 0 to 1",
    "classes": f"; give a number of phenotypes (clusters of cells) to find, {FEWEST_PHENOTYPES} to {MOST_PHENOTYPES}, "
    "or the path of a classes.toml",
    "region": " px; it must be a positive multiple of the model's window",
    "batch": "; at least 1 is needed",
    "workers": "; at least 1 is needed",
    "memory_gb": "; it must be more than 0 GB",
    "read_timeout_s": "; it must be more than 0 seconds",
}
"""What follows the name and the value of an out-of-bounds setting in the error message."""


def _text(given: object) -> object:
    """A path as text."""
    return os.fspath(given) if isinstance(given, PathLike) else given


def _absolute(given: object) -> object:
    """A path made absolute; in a settings file it is relative to the working directory, not to the file."""
    return absolute(given) if isinstance(given, str | PathLike) else given


def _tuple(given: object) -> object:
    """A TOML array as a value that can be hashed."""
    return tuple(given) if isinstance(given, list) else given


def _rising(given: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """One threshold, or three that rise."""
    checked_cuts(given if isinstance(given, tuple) else (given,))
    return given


def _startable(workers: int) -> int:
    """No more processes than one machine can start."""
    if workers > _MOST_WORKERS:
        raise ValueError(
            f"workers is {workers}; one machine can start {_MOST_WORKERS} at most: leave it out for one per core, or "
            "name a cluster with --scheduler"
        )
    return workers


_AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
_Cuts = Annotated[float | tuple[float, ...], BeforeValidator(_tuple), AfterValidator(_rising)]
_WithImage = Annotated[str, StringConstraints(pattern=f"^({'|'.join(get_args(StainNormChoice)[1:])})=")]

_Class = TypeVar("_Class", bound=type)


def _refusing_in_words(settings: _Class) -> _Class:
    """Make the class raise SettingsError where pydantic raises ValidationError."""
    check = vars(settings)["__init__"]

    @functools.wraps(check)
    def checked(self: object, /, **values: Any) -> None:
        try:
            check(self, **values)
        except ValidationError as error:
            raise SettingsError(_in_words(error)) from error

    settings.__init__ = checked  # type: ignore[misc]
    return settings


@_refusing_in_words
@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, extra="forbid"))
class Settings:
    """Choices for a run. Each can stand in a TOML file under its own name; the command line wins over the file.

    Raises SettingsError for unknown names, wrong types and values that make no sense.
    """

    model: Annotated[str, BeforeValidator(_text)] = "default"
    """``default``, ``fast``, ``psm``, ``classical``, the path of a model folder, or ``tiatoolbox:NAME=WEIGHTS``."""
    mpp: Annotated[float, Gt(0), AllowInfNan(False)] | None = None
    """µm per pixel of the slide, where the file does not say it or says it wrongly."""
    reader: Reader = "auto"
    """Library that reads the slide."""
    tissue: TissueChoice = "auto"
    """Tissue detection: the package's own (``auto``), none (``all``), or a tissue mask of TIAToolbox."""
    stain: StainChoice = "auto"
    """Stain of the slide: ``he``, ``hdab`` (haematoxylin and DAB), or ``auto``, which detects it by its colours."""
    compartment: CompartmentChoice = "auto"
    """Where DAB makes a cell positive: in its nucleus, membrane or cytoplasm, or ``auto``, which detects where it is.
    """
    positive_dab: _Cuts | None = None
    """Optical density of DAB above which a cell is positive, or three, for weak, moderate and strong; None estimates
    it."""
    min_score: Annotated[float, Ge(0), Le(1)] | None = None
    """Cells with a lower score, from 0 to 1, are left out; None takes the model's own limit."""
    stain_norm: StainNormChoice | _WithImage = "none"
    """Stain normalization before inference: ``none``, or one of TIAToolbox's methods, optionally followed by ``=`` and
    the path of an image of the target stain."""
    roi: _AbsolutePath | None = None
    """Regions of interest: GeoJSON, as QuPath exports annotations."""
    classes: Annotated[int, Ge(FEWEST_PHENOTYPES), Le(MOST_PHENOTYPES)] | _AbsolutePath | None = None
    """Number of phenotypes (clusters of cells) to find, or the ``classes.toml`` that holds them; None keeps the model's
    own classes."""
    region: Annotated[int, Ge(1)] = 2048
    """Side of a region (a processing tile, the unit of work) in px at the model's resolution; a multiple of the model's
    window."""
    device: DeviceChoice = "auto"
    """Device for inference; ``auto`` takes CUDA where PyTorch finds it."""
    precision: PrecisionChoice = "auto"
    """Data type for inference; ``auto`` takes the lowest precision that is fast on the device. ``float16`` is for GPUs,
    ``int8`` for CPUs."""
    batch: Annotated[int, Ge(1)] | None = None
    """Batch size on a GPU, in windows; None chooses by free memory."""
    executor: Executor = "auto"
    """What runs the tasks; ``loop`` is this process alone, for a debugger."""
    workers: Annotated[int, Ge(1), AfterValidator(_startable)] | None = None
    """Number of worker processes; None takes one per core."""
    scheduler: str | None = None
    """Address of an existing Dask scheduler, as ``tcp://host:8786``."""
    memory_gb: Annotated[float, Gt(0)] | None = None
    """Memory limit of all processes together, in GB; None takes what is free."""

    read_timeout_s: Annotated[float, Gt(0)] = 300.0
    """Timeout of a read in seconds, after which it is retried elsewhere."""
    strict: bool = False
    """Whether a region that cannot be read stops its slide, instead of being left out and reported."""

    force: bool = False
    """Whether a slide that looks unsuitable, such as one without colour, is run with a warning instead of refused."""

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """``positive_dab`` as one or three numbers."""
        given = self.positive_dab
        return given if given is None or isinstance(given, tuple) else (given,)


class SettingsArguments(TypedDict, total=False):
    """``Settings`` as Python code may give them by name: paths may be text, and None takes the default."""

    model: str | PathLike[str] | None
    mpp: float | None
    reader: Reader | None
    tissue: TissueChoice | None
    stain: StainChoice | None
    compartment: CompartmentChoice | None
    positive_dab: float | list[float] | tuple[float, ...] | None
    min_score: float | None
    stain_norm: StainNormChoice | str | None
    roi: str | PathLike[str] | None
    classes: int | str | PathLike[str] | None
    region: int | None
    device: DeviceChoice | None
    precision: PrecisionChoice | None
    batch: int | None
    executor: Executor | None
    workers: int | None
    scheduler: str | None
    memory_gb: float | None
    read_timeout_s: float | None
    strict: bool | None
    force: bool | None


def load_settings(path: Path) -> dict[str, Any]:
    """Validated settings from a TOML file; errors name the file."""
    values = read_settings_file(path)
    try:
        settings = Settings(**values)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    return {name: getattr(settings, name) for name in values}


def settings_by_name(values: Mapping[str, Any]) -> Settings:
    """Settings given in Python: paths may be text, numbers NumPy's, and None takes the default. Raises as
    ``Settings``.
    """
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in values.items()}
    return Settings(**{name: value for name, value in plain.items() if value is not None})


_BOUNDS = ("greater_than", "greater_than_equal", "less_than_equal", "finite_number")


def _in_words(error: ValidationError) -> str:
    """What pydantic found wrong with the first setting that it reports, and what to do about it.

    For a union, it reports an error for each member; a value out of bounds at least has the right type.
    """
    found = error.errors(include_url=False)
    name = str(found[0]["loc"][0])
    mine = [problem for problem in found if problem["loc"][0] == name]
    specific = (*_BOUNDS, "value_error", "literal_error")
    problem = next((problem for problem in mine if problem["type"] in specific), mine[0])
    kind, value = problem["type"], problem["input"]
    if kind == "unexpected_keyword_argument":
        known = (field.name for field in dataclasses.fields(Settings))
        return f"unknown setting {name!r}; known are {', '.join(known)}"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "literal_error":
        return f"{name} is {value!r}; choose one of {', '.join(_choices(name))}"
    if kind in _BOUNDS:
        shown = f"{value:g}" if isinstance(value, float) else value
        return f"{name} is {shown}{_REMEDIES[name]}"
    return f"{name} = {value!r} should be of type {_type(name)}"


def _choices(name: str) -> tuple[str, ...]:
    """The values that the setting ``name`` may have."""
    hint = get_type_hints(Settings)[name]
    return get_args(hint if get_origin(hint) is Literal else get_args(hint)[0])


def _type(name: str) -> str:
    """The type of a setting as it is written: ``int | Path | None``."""
    hint = get_type_hints(Settings)[name]
    members = (hint,) if isinstance(hint, type) else get_args(hint)
    return " | ".join("None" if m is NoneType else m.__name__ if isinstance(m, type) else str(m) for m in members)
