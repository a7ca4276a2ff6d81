"""What a report sums up over all cells of a slide, block by block: counts, density, histograms of measurements."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wsiproc.core.cells import CellTable
from wsiproc.core.numbers import CellCounts
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array

_DENSITY_BINS = 400  # along the longer side
_FINEST_BIN_UM = 50.0  # some 12 cells in dense tissue; finer bins would show noise
_FINE_BINS = 8192
_SHOWN_BINS = 36


@dataclass(frozen=True)
class Histogram:
    """Counts of a measurement a class, on a range that doubles when a value lies outside.

    ``counts``: (classes, 8192) int64 over [−2^exponent, 2^exponent). Doubling adds neighbouring bins, so the result
    does not depend on the order of the values. ``unfit``: how many values were not finite.
    """

    counts: Int64Array
    exponent: int = -10
    unfit: int = 0

    def add(self, classes: UInt8Array, values: Float32Array) -> Histogram:
        """With the values (N,) of cells of ``classes`` (N,)."""
        finite = np.isfinite(values)
        known, kinds = values[finite].astype(np.float64), classes[finite].astype(np.int64)
        # frexp: |v| = m·2^e with m < 1, so 2^e is the power of two above |v|
        exponent = max(self.exponent, int(np.frexp(np.abs(known).max(initial=0.0))[1]))
        wide = self._widened(exponent)
        half = _FINE_BINS // 2  # added to whole numbers only: a value just below zero would be rounded to it
        bins = np.floor(known / 2.0**exponent * half).astype(np.int64) + half
        new = np.bincount(kinds * _FINE_BINS + bins, minlength=wide.size).reshape(wide.shape)
        return Histogram(wide + new, exponent, self.unfit + int((~finite).sum()))

    def _widened(self, exponent: int) -> Int64Array:
        """Counts on the range of a larger exponent."""
        counts, quarter = self.counts, _FINE_BINS // 4
        for _ in range(min(exponent - self.exponent, _FINE_BINS.bit_length())):
            halved = counts.reshape(len(counts), -1, 2).sum(axis=2)
            counts = np.pad(halved, ((0, 0), (quarter, quarter)))
        return counts

    def shown(self) -> tuple[Float64Array, Int64Array, int]:
        """Edges, counts (classes, bins) in some 36 bins, and how many cells lie outside.

        All values are shown, or the middle 99.6 % where a few far ones would squeeze the rest.
        """
        total = self.counts.sum(axis=0)
        reached = np.cumsum(total)
        low, high = np.searchsorted(reached, [0.002 * reached[-1], 0.998 * reached[-1]])
        first, last = np.flatnonzero(total)[[0, -1]]
        if last - first < 1.6 * (high - low + 1):
            low, high = first, last
        step = max(1, -(-(int(high) - int(low) + 1) // _SHOWN_BINS))
        start = int(low) // step * step
        stop = min(_FINE_BINS, start + -(-(int(high) + 1 - start) // step) * step)
        stop -= (stop - start) % step
        counts = self.counts[:, start:stop].reshape(len(self.counts), -1, step).sum(axis=2)
        edges = (np.arange(start, stop + 1, step) / (_FINE_BINS // 2) - 1) * 2.0**self.exponent
        return edges, counts, int(total.sum() - counts.sum())


@dataclass(frozen=True)
class ReportCells:
    """Sums over all cells of a slide, block by block; the size depends on neither cells nor slide.

    ``density``: (h, w) cells in each bin of ``bin_px`` grid px; ``counts``: by class, in all and in tissue;
    ``histograms``: column name → ``Histogram``, scores as ``score``.
    """

    bin_px: float
    density: Int64Array
    counts: CellCounts
    histograms: dict[str, Histogram] = field(default_factory=dict)

    @classmethod
    def empty(cls, shape: tuple[int, int], mpp: float, classes: int, tissue: BoolArray) -> ReportCells:
        """No cells yet, of a grid of ``shape`` (h, w) px with ``mpp`` µm/px; ``tissue`` (h, w): a mask over it."""
        bin_px = max(_FINEST_BIN_UM / mpp, max(shape) / _DENSITY_BINS)
        h, w = (max(1, int(np.ceil(px / bin_px))) for px in shape)
        return cls(bin_px, np.zeros((h, w), np.int64), CellCounts.empty(tissue, shape, classes))

    def add(self, cells: CellTable) -> None:
        """Count a block of cells."""
        h, w = self.density.shape
        y, x = np.clip((cells.centroids // self.bin_px).astype(np.int64), 0, [h - 1, w - 1]).T
        self.density[:] += np.bincount(y * w + x, minlength=h * w).reshape(h, w)
        self.counts.add(cells.centroids, cells.classes)
        classes = len(self.counts.everywhere)
        for name, values in {"score": cells.scores, **cells.measurements}.items():
            old = self.histograms.get(name) or Histogram(np.zeros((classes, _FINE_BINS), np.int64))
            self.histograms[name] = old.add(cells.classes, values)
