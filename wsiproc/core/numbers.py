"""Summary numbers of a slide and of areas of it: one definition for every output. ``run.json``, report, cohort, viewer,
exports and the Python API all use this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import at_points
from wsiproc.core.immuno import h_score, positive_index
from wsiproc.core.types import BoolArray, Float64Array, Int64Array


@dataclass(frozen=True)
class AreaNumbers:
    """Numbers of an area: cells centred in it, in total and by class, and derived numbers. ``cells_per_mm2``: cells ÷
    area, None for an empty area; ``positive_index`` (0 to 1) and ``h_score`` (0 to 300): of these cells, None if the
    slide has none.
    """

    area_mm2: float
    cells: int
    classes: Mapping[str, int]
    cells_per_mm2: float | None
    positive_index: float | None
    h_score: float | None

    def measurements(self) -> dict[str, float]:
        """The numbers under the names shown in QuPath's table."""
        values: dict[str, float | None] = {
            "Area mm^2": round(self.area_mm2, 6),
            "Cells": self.cells,
            "Cells per mm^2": None if self.cells_per_mm2 is None else round(self.cells_per_mm2, 3),
            "Positive %": None if self.positive_index is None else round(100 * self.positive_index, 3),
            "H-score": None if self.h_score is None else round(self.h_score, 3),
            **{f"Cells: {name}": count for name, count in self.classes.items()},
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class SlideNumbers:
    """Summary numbers of a slide; fields are named as in ``run.json`` and the columns of ``cohort.csv``.

    ``cells``: all in the table. Some lie up to 40 µm beyond the tissue, whose edge is found on an overview;
    ``cells_in_tissue`` have their centre in it. ``tissue_mm2``: area of the tissue, with ``--roi`` within the region.
    ``cells_per_mm2``: cells in tissue ÷ tissue. ``positive_index`` (0 to 1) and ``h_score`` (0 to 300): of all cells.
    Unknown numbers are None.
    """

    cells: int
    cells_in_tissue: int | None
    tissue_mm2: float
    cells_per_mm2: float | None
    positive_index: float | None
    h_score: float | None


def mm2_text(area: float) -> str:
    """An area in mm² as text, with at least two significant digits: ``12.34``, ``0.65``, ``0.0065``."""
    return f"{area:,.2f}" if area >= 0.1 or area == 0 else f"{area:.2g}"


def per_mm2(cells: int, area_mm2: float) -> float | None:
    """Cells per mm²; None for an empty area."""
    return cells / area_mm2 if area_mm2 > 0 else None


@dataclass(frozen=True)
class ClassCounts:
    """Cells in all and by class, and by class those with their centre in tissue; None where these were not counted."""

    cells: int
    classes: Mapping[str, int]
    in_tissue: Mapping[str, int] | None


def slide_numbers(counts: ClassCounts, tissue_mm2: float, indexed: bool) -> SlideNumbers:
    """The numbers of a slide; no density for a run that did not count cells in tissue.

    ``indexed``: whether positive cells mean something: not where DAB lies in no compartment that is scored.
    """
    inside = None if counts.in_tissue is None else sum(counts.in_tissue.values())
    found = area_numbers(counts.classes, tissue_mm2, indexed)
    return SlideNumbers(
        cells=counts.cells,
        cells_in_tissue=inside,
        tissue_mm2=tissue_mm2,
        cells_per_mm2=None if inside is None else per_mm2(inside, tissue_mm2),
        positive_index=found.positive_index,
        h_score=found.h_score,
    )


def area_numbers(classes: Mapping[str, int], area_mm2: float, indexed: bool) -> AreaNumbers:
    """The numbers of an area with so many cells of each class; ``indexed``: as in ``slide_numbers``."""
    cells = sum(classes.values())
    return AreaNumbers(
        area_mm2=area_mm2,
        cells=cells,
        classes=dict(classes),
        cells_per_mm2=per_mm2(cells, area_mm2),
        positive_index=positive_index(classes) if indexed else None,
        h_score=h_score(classes) if indexed else None,
    )


@dataclass(frozen=True)
class CellCounts:
    """Cells by class, block by block: ``everywhere`` and ``in_tissue`` (classes,).

    ``tissue`` (h, w): the mask over the grid of ``extent`` (h, w) px.
    """

    tissue: BoolArray
    extent: tuple[int, int]
    everywhere: Int64Array
    in_tissue: Int64Array

    @classmethod
    def empty(cls, tissue: BoolArray, extent: tuple[int, int], classes: int) -> CellCounts:
        """No cells yet."""
        return cls(tissue, extent, np.zeros(classes, np.int64), np.zeros(classes, np.int64))

    def add(self, centres: Float64Array, classes: npt.NDArray[np.integer[Any]]) -> None:
        """Count cells with ``centres`` (N, 2), (y, x) in grid px, of ``classes`` (N,)."""
        class_count = len(self.everywhere)
        found = count_inside(self.tissue, self.extent, centres, classes, class_count)
        self.everywhere[:] += found.sum(axis=0)
        self.in_tissue[:] += found[1:].sum(axis=0)

    @property
    def total(self) -> int:
        """All cells."""
        return int(self.everywhere.sum())

    def of_classes(self, names: Sequence[str]) -> ClassCounts:
        """By the names of the classes."""
        return ClassCounts(
            cells=self.total,
            classes=dict(zip(names, self.everywhere.tolist(), strict=True)),
            in_tissue=dict(zip(names, self.in_tissue.tolist(), strict=True)),
        )


def count_inside(
    pieces: npt.NDArray[np.integer[Any]] | BoolArray,
    extent: tuple[int, int],
    centres: Float64Array,
    classes: npt.NDArray[np.integer[Any]],
    class_count: int,
) -> Int64Array:
    """Cells of each of ``class_count`` classes (columns) centred in each value of a label image (rows, from 0).

    ``pieces`` (h, w): a mask or labels over ``extent`` (h, w); ``centres`` (N, 2), (y, x) in px of the extent.
    """
    labels = at_points(pieces, extent, centres).astype(np.int64)
    rows = int(pieces.max(initial=0)) + 1
    return np.bincount(labels * class_count + classes, minlength=rows * class_count).reshape(rows, class_count)
