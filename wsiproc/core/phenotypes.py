"""Kinds of cells that were discovered in the cells themselves: the names, colours and typical cells of a cohort."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wsiproc.core.palette import RGB
from wsiproc.core.types import Float32Array, Float64Array, FloatArray, UInt8Array

FEWEST_PHENOTYPES, MOST_PHENOTYPES = 2, 12


def by_ratio(feature: str) -> bool:
    """Whether a measurement is compared by ratio: twice an area is as far from it as half of it."""
    return feature.endswith("_um2")


def comparable(feature: str, values: FloatArray) -> Float64Array:
    """Values (N,) of a measurement, those that are compared by ratio as natural logarithms.

    Their tail is long, and a few clumps that were not split would else make a kind of their own.
    """
    if not by_ratio(feature):
        return values.astype(np.float64)
    # Value by value: numpy's vectorised logarithm need not round alike at every place of an array.
    return np.array([math.log(value) for value in values.tolist()], np.float64)


@dataclass(frozen=True)
class Phenotypes:
    """K kinds of cells, which take the place of a model's own classes.

    ``names``, ``colours``: K each; ``features``: F names of measurements; ``scale``: F numbers by which differences (of
    logarithms, where ``by_ratio``) are divided before they are compared; ``centres``: K rows of F, the typical cell of
    each kind in the measurements' own units. ``model``, ``mpp``, ``weights_sha256``: whose cells they were found in;
    measurements of another model's outlines mean something else. Its ``repr`` is part of the key by which work is told
    from other work.
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
        """Index of the kind whose centre is nearest to each cell; of equally near ones the first: (N,) uint8.

        ``measurements``: name → (N,), all features among them. A cell's kind depends on its own numbers alone: they
        are added feature by feature, since a matrix product rounds by the number of rows.
        """
        squares = np.zeros((len(measurements[self.features[0]]), len(self.centres)))
        for name, scale, centres in zip(self.features, self.scale, np.array(self.centres).T, strict=True):
            apart = comparable(name, measurements[name])[:, None] - comparable(name, centres)
            squares += (apart / scale) ** 2
        phenotypes: UInt8Array = squares.argmin(axis=1).astype(np.uint8)
        return phenotypes

    def facts(self) -> dict[str, object]:
        """What a run has used, for ``run.json``; plain Python values."""
        typical = {
            name: dict(zip(self.features, centre, strict=True))
            for name, centre in zip(self.names, self.centres, strict=True)
        }
        return {"scale": dict(zip(self.features, self.scale, strict=True)), "centres": typical}
