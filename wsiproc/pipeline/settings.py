"""What a user can set, in one frozen value; unpacked once, in ``plan``."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsiproc.core.immuno import COMPARTMENTS, checked_cuts
from wsiproc.core.paths import absolute, did_you_mean
from wsiproc.core.phenotypes import FEWEST_PHENOTYPES, MOST_PHENOTYPES
from wsiproc.errors import SettingsError

CHOICES = {
    "reader": ("auto", "openslide", "tifffile", "tiatoolbox"),
    "tissue": ("auto", "all", "tiatoolbox:otsu", "tiatoolbox:morphological"),
    "stain_norm": (
        "none",
        "tiatoolbox:reinhard",
        "tiatoolbox:macenko",
        "tiatoolbox:vahadane",
        "tiatoolbox:ruifrok",
    ),
    "stain": ("auto", "he", "hdab"),
    "compartment": ("auto", *COMPARTMENTS),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "float32", "bfloat16", "float16", "int8"),
    "executor": ("auto", "dask", "processes", "threads", "loop"),
}
_MOST_WORKERS = 1024


@dataclass(frozen=True)
class Settings:
    """Choices for a run. Each can stand in a TOML file under its own name; the command line wins over the file."""

    model: str = "default"
    """``default``, ``fast``, ``psm``, ``classical``, the path of a model folder, or ``tiatoolbox:NAME=WEIGHTS``."""
    mpp: float | None = None
    """µm per pixel of the slide, where the file does not say it or says it wrongly."""
    reader: Literal["auto", "openslide", "tifffile", "tiatoolbox"] = "auto"
    """Library that opens the slide."""
    tissue: str = "auto"
    """How tissue is found: ``auto``, ``all``, ``tiatoolbox:otsu`` or ``tiatoolbox:morphological``."""
    stain: str = "auto"
    """Stain of the slide: ``he``, ``hdab`` (haematoxylin and DAB), or ``auto``, which tells it by its colours."""
    compartment: str = "auto"
    """Where DAB makes a cell positive: ``nucleus``, ``membrane``, ``cytoplasm``, or ``auto``, where it lies."""
    positive_dab: float | tuple[float, ...] | None = None
    """Optical density of DAB above which a cell is positive, or three, for weak, moderate and strong; None finds it."""
    min_score: float | None = None
    """Cells with a lower score, from 0 to 1, are left out; None takes the model's own limit."""
    stain_norm: str = "none"
    """What brings the slide's stain to another before the model sees it: ``none``, or one of TIAToolbox's methods,
    which ``=`` and the path of a picture of the wanted stain may follow."""
    roi: Path | None = None
    """GeoJSON with areas to work in, as QuPath exports annotations."""
    classes: int | Path | None = None
    """Number of kinds of cells to find, or the ``classes.toml`` that holds them; None keeps the model's own classes."""
    region: int = 2048
    """Side of a region, the unit of work, in px at the model's resolution; a multiple of the model's window."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    precision: str = "auto"
    """What networks compute in: ``auto``, as few bits as the device is fast at, or ``float32``, ``bfloat16``,
    ``float16`` (GPUs) or ``int8`` (CPUs)."""
    batch: int | None = None
    """Windows a GPU predicts at a time; None chooses by free memory."""
    executor: str = "auto"
    """``auto``, ``dask``, ``processes``, ``threads`` or ``loop``."""
    workers: int | None = None
    """Worker processes; None takes one a core."""
    scheduler: str | None = None
    """Address of an existing Dask scheduler, as ``tcp://host:8786``."""
    memory_gb: float | None = None
    """Memory that all processes together may use; None takes what is free."""

    read_timeout_s: float = 300.0
    """Seconds after which a read counts as stuck, and is tried again elsewhere."""
    strict: bool = False
    """Whether a region that cannot be read stops its slide, instead of being left out and reported."""

    force: bool = False
    """Whether a slide that looks unsuitable, as one without colour, is worked on with a warning instead of refused."""

    def __post_init__(self) -> None:
        """Refuse values that no slide could make sense of."""
        if self.mpp is not None and not (math.isfinite(self.mpp) and self.mpp > 0):
            raise SettingsError(f"mpp is {self.mpp:g}, not a positive number; give the µm per pixel of the slide")
        if self.region < 1:
            raise SettingsError(f"region is {self.region} px; it must be a positive multiple of the model's window")
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"workers is {self.workers}; at least 1 is needed")
        if self.workers is not None and self.workers > _MOST_WORKERS:
            raise SettingsError(
                f"workers is {self.workers}; one machine can start {_MOST_WORKERS} at most: leave it out for one a "
                "core, or name a cluster with --scheduler"
            )
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise SettingsError(f"memory_gb is {self.memory_gb:g}; it must be more than 0 GB")
        if self.batch is not None and self.batch < 1:
            raise SettingsError(f"batch is {self.batch}; at least 1 is needed")
        if not self.read_timeout_s > 0:
            raise SettingsError(f"read_timeout_s is {self.read_timeout_s}; it must be more than 0 seconds")
        if isinstance(self.classes, int) and not FEWEST_PHENOTYPES <= self.classes <= MOST_PHENOTYPES:
            raise SettingsError(
                f"classes is {self.classes}; give {FEWEST_PHENOTYPES} to {MOST_PHENOTYPES} kinds of cells to find, or "
                "the path of a classes.toml"
            )
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise SettingsError(f"min_score is {self.min_score:g}; scores go from 0 to 1")
        if self.cuts is not None:
            checked_cuts(self.cuts)
        for name, choices in CHOICES.items():
            chosen = getattr(self, name)
            if chosen not in choices and not (name == "stain_norm" and chosen.partition("=")[0] in choices[1:]):
                raise SettingsError(f"{name} is {chosen!r}; choose one of {', '.join(choices)}")

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """``positive_dab`` as one or three numbers."""
        given = self.positive_dab
        return given if given is None or isinstance(given, tuple) else (float(given),)


_PATHS = ("roi", "classes")


def load_settings(path: Path) -> dict[str, Any]:
    """Settings written in a TOML file, checked for unknown names and wrong types."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: settings cannot be read: {error.strerror}{did_you_mean(path)}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: settings cannot be read: {error}") from error
    return _checked(values, f"{path}: ")


def settings_by_name(values: Mapping[str, Any]) -> Settings:
    """Settings given in Python: paths may be text, and None takes the default.

    Raises ``SettingsError`` for unknown names, wrong types and values that make no sense.
    """
    given = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in values.items() if v is not None}
    return Settings(**_checked(given))


def _checked(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Values with their paths as such; ``SettingsError`` for unknown names and wrong types."""
    known = {field.name: str(field.type) for field in dataclasses.fields(Settings)}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{where}unknown setting {name!r}; known are {', '.join(known)}")
        if not _fits(value, known[name]):
            raise SettingsError(f"{where}{name} = {value!r} should be of type {known[name]}")
    return {name: _converted(name, value) for name, value in values.items()}


def _converted(name: str, value: Any) -> Any:
    """A TOML value as the setting holds it."""
    if isinstance(value, list):
        return tuple(value)
    return absolute(value) if name in _PATHS and isinstance(value, str) else value


def _fits(value: object, kind: str) -> bool:
    """Whether a TOML value suits an annotation such as ``int | None``."""
    if kind.startswith("Literal"):
        return isinstance(value, str)
    if isinstance(value, list | tuple):
        return "tuple" in kind and all(type(each) in (int, float) for each in value)
    accepted: dict[str, tuple[type, ...]] = {"str": (str,), "Path": (str,), "int": (int,), "float": (int, float)}
    if isinstance(value, bool):
        return kind == "bool"
    return any(isinstance(value, accepted[name]) for name in kind.split(" | ") if name in accepted)
