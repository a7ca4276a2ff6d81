"""``classes.toml``: discovered phenotypes of cells, in a file that people edit."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from annotated_types import Gt, Len
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.types import StringConstraints

from wsiproc.core.palette import RGB, css_colour
from wsiproc.core.phenotypes import FEWEST_PHENOTYPES, MOST_PHENOTYPES, Phenotypes, by_ratio
from wsiproc.errors import SettingsError, first_problem
from wsiproc.io.atomic import atomic_file

_BACKGROUND = "Background"  # what labels/classes calls the value 0

_Name = Annotated[str, StringConstraints(pattern=r"^\S(.{0,62}\S)?$")]
_Colour = Annotated[str, StringConstraints(pattern="^#[0-9A-Fa-f]{6}$")]
_Scale = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class _Model:
    name: str
    mpp: float
    weights_sha256: str


@dataclass(frozen=True)
class _Kind:
    name: _Name
    colour: _Colour
    centre: dict[str, float]


@dataclass(frozen=True)
class _File:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1]
    model: _Model
    scale: Annotated[dict[str, _Scale], Len(1)]
    kind: Annotated[list[_Kind], Len(FEWEST_PHENOTYPES, MOST_PHENOTYPES)]

    def __post_init__(self) -> None:
        """Reject phenotypes that cannot be distinguished or compared."""
        names = [kind.name for kind in self.kind]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one phenotype is called {twice[0]!r}; give each its own name")
        if _BACKGROUND in names:
            raise ValueError(
                f"a phenotype cannot be called {_BACKGROUND!r}, which is the name of value 0 in the label image"
            )
        for kind in self.kind:
            if kind.centre.keys() != self.scale.keys():
                raise ValueError(
                    f"the centre of {kind.name!r} has {', '.join(kind.centre)}; it must have the same as [scale]: "
                    f"{', '.join(self.scale)}"
                )
            for name, value in kind.centre.items():
                if by_ratio(name) and value <= 0:
                    raise ValueError(f"the centre of {kind.name!r} has {name} = {value:g}; an area must be above 0")


def write_phenotypes(path: Path, phenotypes: Phenotypes, found_in: str) -> None:
    """Write the file atomically. ``found_in`` says, for readers, which cells the phenotypes were found in."""
    head = {
        "format": 1,
        "model": {"name": phenotypes.model, "mpp": phenotypes.mpp, "weights_sha256": phenotypes.weights_sha256 or ""},
        "scale": dict(zip(phenotypes.features, phenotypes.scale, strict=True)),
    }
    text = (
        f"# Kinds of cells, found by wsiproc in {found_in}. Change names and colours as you like; runs with\n"
        f"# `--classes {path.name}` use them. A cell is of the kind whose centre is nearest, the difference in each\n"
        f"# measurement, of logarithms for areas, divided by its scale.\n\n{tomli_w.dumps(head)}"
    )
    for name, colour, centre in zip(phenotypes.names, phenotypes.colours, phenotypes.centres, strict=True):
        text += f"\n[[kind]]\n{tomli_w.dumps({'name': name, 'colour': css_colour(colour)})}"
        text += f"\n[kind.centre]\n{tomli_w.dumps(dict(zip(phenotypes.features, centre, strict=True)))}"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_phenotypes(path: Path) -> Phenotypes:
    """The phenotypes in a file, validated since users edit it; SettingsError names the file and the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"cannot read phenotypes from {path}: {reason}") from error
    try:
        # Through JSON, so that TOML's dates and times become strings, which are not numbers.
        file = TypeAdapter(_File).validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        problem = first_problem(error.errors(include_url=False))
        raise SettingsError(
            f"{path}: {problem}. Only names and colours may be changed; leave the rest as `wsiproc run --classes` "
            "wrote it"
        ) from error
    return _kinds(file)


def _kinds(file: Any) -> Phenotypes:
    features = tuple(file.scale)
    return Phenotypes(
        names=tuple(kind.name for kind in file.kind),
        colours=tuple(_rgb(kind.colour) for kind in file.kind),
        features=features,
        scale=tuple(file.scale.values()),
        centres=tuple(tuple(kind.centre[name] for name in features) for kind in file.kind),
        model=file.model.name,
        mpp=file.model.mpp,
        weights_sha256=file.model.weights_sha256 or None,
    )


def _rgb(colour: str) -> RGB:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
