"""Areas without nuclei: every cell found there is a false positive; these are counted per mm².

A list of areas is a TOML file of images, each with its µm/px, its role and the areas annotated on it; see
``benchmarks/no_nuclei.toml``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import shapely
from PIL import Image, ImageDraw

from wsiproc.core.choices import TissueChoice
from wsiproc.core.types import Float64Array, UInt8Array
from wsiproc.errors import SettingsError
from wsiproc.evaluate.compare import PREDICTION_RGB, TRUTH_RGB

ROLES = ("choosing", "reporting")
"""Whether an image may be used to choose settings and models, or only to report."""
GLASS = "glass"
_MARK_PX = 4


@dataclass(frozen=True)
class NucleusFreeArea:
    """An area: ``kind``, what it shows, such as *collagen*; ``shape`` (x, y), px of the image."""

    kind: str
    shape: shapely.Geometry


@dataclass(frozen=True)
class MarkedImage:
    """An image and its areas: ``file`` relative to the data folder, ``mpp`` µm/px, ``role`` one of ``ROLES``."""

    file: str
    mpp: float
    role: str
    areas: tuple[NucleusFreeArea, ...]


@dataclass(frozen=True)
class AreaMarks:
    """A list of areas. ``tissue``: how the run finds tissue; ``all`` where images are cut out of tissue."""

    tissue: TissueChoice
    images: tuple[MarkedImage, ...]


@dataclass(frozen=True)
class Tally:
    """Number of false cells, and the area searched."""

    cells: int = 0
    mm2: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.cells + other.cells, self.mm2 + other.mm2)

    @property
    def per_mm2(self) -> float:
        """False cells per mm²; 0 where there is no area."""
        return self.cells / self.mm2 if self.mm2 else 0.0


Tallies = Mapping[tuple[str, str], Tally]
"""Tallies of one or more images, by role and kind."""


def load_marks(path: Path) -> AreaMarks:
    """The list of areas in a TOML file; SettingsError, naming the entry, if it is invalid."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read a list of areas from {path}: {error}") from error
    images = []
    for number, entry in enumerate(values.get("picture", ()), start=1):
        try:
            images.append(_marked_image(entry))
        except (KeyError, TypeError, ValueError, AttributeError, shapely.errors.ShapelyError) as error:
            raise SettingsError(
                f"{path}: [[picture]] {number}: {error!r}; each needs file, mpp, role ({' or '.join(ROLES)}) and "
                "areas, each of which needs kind and rings of at least three [x, y]"
            ) from error
    if not images:
        raise SettingsError(f"{path}: no [[picture]] in it; see benchmarks/no_nuclei.toml for a list of areas")
    return AreaMarks(cast(TissueChoice, values.get("tissue", "all")), tuple(images))  # validated by a run's settings


def _marked_image(entry: dict[str, Any]) -> MarkedImage:
    if entry["role"] not in ROLES:
        raise ValueError(f"role is {entry['role']!r}")
    areas = tuple(NucleusFreeArea(str(area["kind"]), _shape(area)) for area in entry["areas"])
    return MarkedImage(str(entry["file"]), float(entry["mpp"]), str(entry["role"]), areas)


def _shape(area: dict[str, Any]) -> shapely.Geometry:
    """The interior of the rings without the discs (x, y, radius) to ignore."""
    rings = [shapely.Polygon(ring) for ring in area["rings"]]
    crossed = [ring for ring in rings if not ring.is_valid]
    if crossed or not rings:
        raise ValueError(f"a ring crosses itself: {crossed[0].wkt[:60]}" if crossed else "no rings")
    discs = [shapely.Point(x, y).buffer(radius) for x, y, radius in area.get("ignore", ())]
    return shapely.difference(shapely.union_all(rings), shapely.union_all(discs))


def count_false(yx: Float64Array, image: MarkedImage) -> dict[tuple[str, str], Tally]:
    """Tallies of the cells with centres ``yx`` (N, 2), in px of the image, by role and kind."""
    tallies: dict[tuple[str, str], Tally] = {}
    for area in image.areas:
        key = (image.role, area.kind)
        mm2 = area.shape.area * image.mpp**2 / 1e6
        inside = int(shapely.contains_xy(area.shape, yx[:, 1], yx[:, 0]).sum())
        tallies[key] = tallies.get(key, Tally()) + Tally(inside, mm2)
    return tallies


def total(tallies: Tallies) -> Tally:
    """The sum over all kinds and roles."""
    return sum(tallies.values(), Tally())


def area_image_columns(tallies: Tallies) -> dict[str, str | float]:
    """Role, false cells, area and density of one image by name."""
    (role,) = {role for role, _ in tallies}
    every = total(tallies)
    return {"role": role, "false": every.cells, "mm2": every.mm2, "false_per_mm2": every.per_mm2}


def area_dataset_columns(images: Sequence[Tallies]) -> dict[str, float]:
    """False cells per mm² by name: in all areas, in all but glass, the same for each role, and in each kind.

    Glass is the largest kind, and the easiest.
    """
    keys = sorted({key for tallies in images for key in tallies})
    merged = {key: sum((tallies.get(key, Tally()) for tallies in images), Tally()) for key in keys}
    columns = _densities("", merged)
    for role in ROLES:
        columns |= _densities(f"{role}_", {key: tally for key, tally in merged.items() if key[0] == role})
    return columns | {kind: tally.per_mm2 for kind, tally in by_kind(merged).items()}


def _densities(prefix: str, tallies: Tallies) -> dict[str, float]:
    """Density in all areas, and in all but glass; empty if there are no areas."""
    if not tallies:
        return {}
    but_glass = total({key: tally for key, tally in tallies.items() if key[1] != GLASS})
    return {f"{prefix}false_per_mm2": total(tallies).per_mm2, f"{prefix}but_glass": but_glass.per_mm2}


def by_kind(tallies: Tallies) -> dict[str, Tally]:
    """Tallies by kind, whatever the role."""
    kinds = sorted({kind for _, kind in tallies})
    return {kind: sum((tally for (_, k), tally in tallies.items() if k == kind), Tally()) for kind in kinds}


def describe_area(images: Sequence[MarkedImage]) -> str:
    """Total area of each kind and the number of its areas, as text: ``collagen 0.068 mm² (31)``."""
    no_cells = np.empty((0, 2))
    merged: dict[str, Tally] = {}
    for image in images:
        for kind, tally in by_kind(count_false(no_cells, image)).items():
            merged[kind] = merged.get(kind, Tally()) + tally
    numbers = {kind: sum(area.kind == kind for image in images for area in image.areas) for kind in merged}
    return ", ".join(f"{kind} {tally.mm2:.4f} mm² ({numbers[kind]})" for kind, tally in sorted(merged.items()))


def write_area_figure(path: Path, yx: Float64Array, image: MarkedImage, pixels: UInt8Array) -> None:
    """PNG of ``pixels`` (h, w, 3) with the outlines of the areas in blue and orange crosses on the false cells."""
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    for area in image.areas:
        for part in shapely.get_parts(area.shape):
            for ring in (part.exterior, *part.interiors):
                draw.line(list(ring.coords), fill=TRUTH_RGB, width=2)
        for y, x in yx[shapely.contains_xy(area.shape, yx[:, 1], yx[:, 0])]:
            for dy in (-_MARK_PX, _MARK_PX):
                draw.line((x - _MARK_PX, y - dy, x + _MARK_PX, y + dy), fill=PREDICTION_RGB, width=3)
    canvas.save(path)
