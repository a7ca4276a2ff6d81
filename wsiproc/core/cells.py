"""The cell table: one row per cell, the single source of all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsiproc.core.geometry import Box
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, Int64Array, IntpArray, UInt8Array


@dataclass(frozen=True)
class Rings:
    """One closed outline per cell, as pixel corners (grid frame).

    ``vertices``: (V, 2) int32, (y, x), the first corner of a ring not repeated at its end; ``offsets``: (N + 1,) int64,
    ring *i* is ``vertices[offsets[i]:offsets[i + 1]]``. Edges are horizontal or vertical, so filling a ring gives
    exactly the pixels that it was traced from.
    """

    offsets: Int64Array
    vertices: Int32Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Int32Array:
        return self.vertices[self.offsets[index] : self.offsets[index + 1]]

    def take(self, index: Int64Array) -> Rings:
        """The rings at ``index``, in that order."""
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        starts = np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return Rings(offsets, self.vertices[starts + np.arange(offsets[-1])])

    @classmethod
    def concat(cls, parts: Sequence[Rings]) -> Rings:
        """All rings of ``parts``, one after the other."""
        lengths = [np.diff(part.offsets) for part in parts]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([*lengths, np.zeros(0, np.int64)]))])
        vertices = [part.vertices for part in parts] or [np.zeros((0, 2), np.int32)]
        return cls(offsets.astype(np.int64), np.concatenate(vertices))


def touching(boxes: Int32Array, box: Box) -> IntpArray:
    """Rows of ``boxes`` (N, 4), (y, x, h, w), that share a pixel with ``box``."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return np.flatnonzero(((high > (box.y, box.x)) & (low < (box.y1, box.x1))).all(axis=1))


@dataclass(frozen=True)
class DrawnCells:
    """The columns needed to draw cells: ``classes`` (N,), ``boxes`` (N, 4) and ``rings`` as in CellTable."""

    classes: UInt8Array
    boxes: Int32Array
    rings: Rings

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: Int64Array) -> DrawnCells:
        """The rows at ``index``, in that order."""
        return DrawnCells(self.classes[index], self.boxes[index], self.rings.take(index))

    @classmethod
    def concat(cls, parts: Sequence[DrawnCells]) -> DrawnCells:
        """All rows of ``parts`` (at least one), one part after the other."""
        classes, boxes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("classes", "boxes"))
        return cls(classes, boxes, Rings.concat([part.rings for part in parts]))


@dataclass(frozen=True)
class CellTable:
    """Cells as columns of equal length (grid frame, px).

    ``classes``: (N,) uint8, index into the model's class names; ``scores``: (N,) float32 in [0, 1];
    ``centroids``: (N, 2) float64, (y, x), mean of the pixel centres; ``boxes``: (N, 4) int32, (y, x, h, w);
    ``measurements``: name → (N,) float32, units in the names.
    """

    classes: UInt8Array
    scores: Float32Array
    centroids: Float64Array
    boxes: Int32Array
    measurements: dict[str, Float32Array]
    rings: Rings

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: Int64Array) -> CellTable:
        """The rows at ``index``, in that order."""
        return CellTable(
            self.classes[index],
            self.scores[index],
            self.centroids[index],
            self.boxes[index],
            {name: column[index] for name, column in self.measurements.items()},
            self.rings.take(index),
        )

    def touching(self, box: Box) -> IntpArray:
        """Rows of cells whose box shares a pixel with ``box``."""
        return touching(self.boxes, box)

    @classmethod
    def concat(cls, parts: Sequence[CellTable]) -> CellTable:
        """All rows of ``parts`` (at least one), one part after the other."""
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.centroids for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            {name: np.concatenate([part.measurements[name] for part in parts]) for name in parts[0].measurements},
            Rings.concat([part.rings for part in parts]),
        )
