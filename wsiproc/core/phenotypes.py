"""Phenotypes discovered by clustering cells: names, colours and typical cells of a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsiproc.core.palette import RGB
from wsiproc.core.types import Float32Array, Float64Array, FloatArray, UInt8Array

FEWEST_PHENOTYPES, MOST_PHENOTYPES = 2, 12


def by_ratio(feature: str) -> bool:
    """Whether a measurement is compared by ratio: twice an area is as far from it as half the area."""
    return feature.endswith("_um2")


def comparable(feature: str, values: FloatArray) -> Float64Array:
    """Values (N,) of a measurement, as natural logarithms if compared by ratio. Their tail is long, and a few unsplit
    clumps would otherwise form a phenotype of their own.
    """
    if not by_ratio(feature):
        return values.astype(np.float64)
    # Value by value: numpy's vectorised logarithm may round differently at different positions of an array.
    return np.array([math.log(value) for value in values.tolist()], np.float64)


@dataclass(frozen=True)
class Phenotypes:
    """K phenotypes, which replace a model's own classes.

    ``names``, ``colours``: K each; ``features``: F names of measurements; ``scale``: F numbers by which differences (of
    logarithms, where ``by_ratio``) are divided before they are compared; ``centres``: K rows of F, the typical cell of
    each phenotype in the measurements' own units. ``model``, ``mpp``, ``weights_sha256``: the model in whose cells they
    were found; measurements on another model's outlines are not comparable. Their values are part of the identity of a
    run.
    """

    names: tuple[str, ...]
    colours: tuple[RGB, ...]
    features: tuple[str, ...]
    scale: tuple[float, ...]
    centres: tuple[tuple[float, ...], ...]
    model: str
    mpp: float
    weights_sha256: str | None

    def nearest(self, measurements: Mapping[str, Float32Array]) -> UInt8Array:
        """Index of the phenotype with the centre nearest to each cell, the first of equally near ones: (N,) uint8.

        ``measurements``: name → (N,), all features among them. A cell's phenotype depends only on its own numbers: they
        are added feature by feature, since the rounding of a matrix product depends on the number of rows.
        """
        squares = np.zeros((len(measurements[self.features[0]]), len(self.centres)))
        for name, scale, centres in zip(self.features, self.scale, np.array(self.centres).T, strict=True):
            apart = comparable(name, measurements[name])[:, None] - comparable(name, centres)
            squares += (apart / scale) ** 2
        phenotypes: UInt8Array = squares.argmin(axis=1).astype(np.uint8)
        return phenotypes

    def as_dict(self) -> dict[str, object]:
        """The phenotypes of a run, for ``run.json``; plain Python values."""
        typical = {
            name: dict(zip(self.features, centre, strict=True))
            for name, centre in zip(self.names, self.centres, strict=True)
        }
        return {"scale": dict(zip(self.features, self.scale, strict=True)), "centres": typical}
