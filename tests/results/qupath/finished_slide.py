"""Folders of finished slides with drawn cells: as a run leaves them, as far as QuPath is concerned."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.records import run_facts, scoring
from wsiproc.array.nuclei.measure import centroids, label_sums, measure, measurement_names
from wsiproc.array.nuclei.outline import trace
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.geometry import Box, Grid
from wsiproc.core.palette import class_colour
from wsiproc.io.cells.parquet import CellWriter
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, features_bytes
from wsiproc.io.ome_zarr import image as ngff

CLASSES = {name: class_colour(name, index) for index, name in enumerate(("Negative", "Positive"))}
IMMUNO = scoring(compartment_from="recognised in samples")
"""What a run says of a slide with DAB in its nuclei."""
STAINS = {"hematoxylin": 1, "dab": 2}
PITCH = 40


def draw_cells(shape: tuple[int, int], seed: int = 0) -> tuple[CellTable, np.ndarray]:
    """An ellipse in each square of 40 px of a picture (h, w), measured in random maps (3, h, w), which come with it."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 256, (3, *shape), np.uint8)
    rows, cols = shape[0] // PITCH, shape[1] // PITCH
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside = (y // PITCH < rows) & (x // PITCH < cols)
    index = np.where(inside, (y // PITCH) * cols + x // PITCH, 0)
    count = rows * cols
    angle, a, b = rng.random(count) * np.pi, rng.uniform(7, 15, count), rng.uniform(5, 9, count)
    dy, dx = y % PITCH - PITCH / 2, x % PITCH - PITCH / 2
    u = dx * np.cos(angle)[index] + dy * np.sin(angle)[index]
    v = dy * np.cos(angle)[index] - dx * np.sin(angle)[index]
    labels = np.where(inside & ((u / a[index]) ** 2 + (v / b[index]) ** 2 < 1), index + 1, 0).astype(np.int32)
    sums, rings = label_sums(labels, count, maps), trace(labels, np.arange(1, count + 1))
    scores = (sums.values[:, 0] / sums.areas / 255).astype(np.float32)
    kinds = (rng.random(count) < 0.3).astype(np.uint8)
    values = measure(sums, rings, 0.25, STAINS, 0.01)
    return CellTable(kinds, scores, centroids(sums), sums.boxes.astype(np.int32), values, rings), maps


def scattered(centres: np.ndarray) -> CellTable:
    """Squares of 4 px around centres (N, 2), (y, x), grid px."""
    low = centres.astype(np.int32) - 2
    corners = np.array([[0, 0], [0, 4], [4, 4], [4, 0]], np.int32)
    n = len(low)
    columns = {name: np.ones(n, np.float32) for name in measurement_names(list(STAINS))}
    columns["area_um2"] = np.arange(n, dtype=np.float32)
    rings = Rings(4 * np.arange(n + 1), (low[:, None] + corners).reshape(-1, 2))
    boxes = np.column_stack([low, np.full((n, 2), 4, np.int32)]).astype(np.int32)
    return CellTable(np.zeros(n, np.uint8), np.ones(n, np.float32), low.astype(np.float64) + 2.0, boxes, columns, rings)


def finished(
    folder: Path,
    cells: CellTable,
    grid: tuple[int, int],
    scale: float,
    *,
    block: int = 512,
    name: str = "s",
    names: Sequence[str] = ("Negative", "Positive"),
    immuno: Mapping[str, Any] | None = None,
) -> Path:
    """The folder of a slide with these cells in row groups of ``block`` px; scale: level-0 px per grid px.

    ``names``: of the classes; ``immuno``: what ``run.json`` says of how cells were scored.
    """
    folder.mkdir(parents=True)
    colours = {each: class_colour(each, index) for index, each in enumerate(names)}
    slide = (round(grid[0] * scale), round(grid[1] * scale))
    both = (slide[0] / grid[0], slide[1] / grid[1])
    place = np.array([Grid(grid, block).cols, 1]) @ (cells.centroids // block).astype(int).T
    with (
        CellWriter(folder / "cells.parquet", colours, list(cells.measurements), both) as table,
        GeoJsonWriter(folder / "cells.geojson.gz") as features,
    ):
        for each in np.unique(place):
            some = cells.take(np.flatnonzero(place == each))
            first = table.write(some)
            features.append(Piece.of(*features_bytes(some, first, name, list(colours), list(colours.values()), both)))
    counts = np.bincount(cells.classes, minlength=len(names)).tolist()
    run = run_facts(
        slide={"name": name, "shape": slide, "mpp": 0.5 / scale, "fingerprint": name},
        grid={"shape": grid, "mpp": [0.5, 0.5], "scale": both},
        counts={"cells": len(cells), "classes": dict(zip(names, counts, strict=True))},
        immuno=None if immuno is None else dict(immuno),
    )
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def write_maps(folder: Path, maps: np.ndarray) -> None:
    """The stitched maps of a slide."""
    channels = [(name, (255, 0, 0)) for name in ("nucleus", *STAINS)]
    shape = (maps.shape[1], maps.shape[2])
    ngff.create_image(folder / "maps.ome.zarr", shape, (0.5, 0.5), 1, channels)
    ngff.write_pyramid(folder / "maps.ome.zarr", Box(0, 0, *shape), maps, ngff.SHARD)


def features(path: Path) -> list[dict[str, Any]]:
    """Features of a GeoJSON file, read with nothing of the package."""
    return list(json.loads(gzip.decompress(path.read_bytes()))["features"])


def save(path: Path, objects: list[dict[str, Any]]) -> Path:
    """Features as QuPath saves them by its menu: all in one line."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": objects}))
    return path
