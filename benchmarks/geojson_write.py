"""CPU time to format and compress cells as GeoJSON: ``python benchmarks/geojson_write.py [cells]``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wsiproc.core.cells import CellTable, Rings
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, features_bytes

BLOCK = 10_000
STEPS = 12  # stairs a quarter: 4 × 12 + 4 = 52 corners an outline


def staircase_cells(count: int, rng: np.random.Generator) -> CellTable:
    """Cells with outlines like those of traced discs: a staircase of unit edges, around random places."""
    stairs = np.repeat(np.arange(STEPS + 1), 2)
    quarter = np.stack([stairs[1:], stairs[:-1]], axis=1)  # right, down, right, …
    y, x = quarter[:, 0] - STEPS, quarter[:, 1] + 1
    ring = np.concatenate([np.stack(pair, 1) for pair in ((y, x), (x, -y), (-y, -x), (-x, y))])[::2]
    centres = rng.integers(50, 50_000, (count, 1, 2))
    vertices = (ring[None] + centres).astype(np.int32)
    names = [
        *("area_um2", "perimeter_um", "solidity", "eccentricity", "major_axis_um", "minor_axis_um"),
        *("hematoxylin_od_mean", "hematoxylin_od_std", "dab_od_mean", "dab_od_std"),
    ]
    return CellTable(
        rng.integers(0, 2, count).astype(np.uint8),
        rng.random(count, np.float32),
        centres[:, 0].astype(np.float64),
        np.concatenate([vertices.min(1), np.ptp(vertices, axis=1)], axis=1),
        {name: rng.gamma(4, 10, count).astype(np.float32) for name in names},
        Rings(np.arange(count + 1, dtype=np.int64) * len(ring), vertices.reshape(-1, 2)),
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    blocks = [staircase_cells(BLOCK, np.random.default_rng(seed)) for seed in range(4)]
    for scale in ((1.0, 1.0), (2.0003, 1.9998)):
        facts = ("fingerprint", ["Positive", "Negative"], [(213, 94, 0), (0, 114, 178)], scale)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells.geojson.gz"
            formatting, text_bytes, start = 0.0, 0, time.process_time()
            with GeoJsonWriter(path) as writer:
                for index in range(count // BLOCK):
                    begin = time.process_time()
                    text, dropped = features_bytes(blocks[index % 4], index * BLOCK + 1, *facts)
                    formatting += time.process_time() - begin
                    text_bytes += len(text)
                    writer.append(Piece.of(text, dropped))
            total = time.process_time() - start
            print(
                f"scale {scale}: {count} cells of {len(blocks[0].rings[0])} corners, {total:.1f} s of CPU "
                f"({formatting:.1f} s formatting), {total / count * 1e6:.1f} s per million, "
                f"{text_bytes / count:.0f} bytes a cell, {path.stat().st_size / count:.0f} compressed, "
                f"{writer.dropped} dropped"
            )


if __name__ == "__main__":
    main()
