"""Where the picture ends and the tissue does not: its cells are nearly those of the larger picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from PIL import Image

import wsiproc.pipeline.stages.infer
from tests.runs import assert_same_cells, run_one
from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.io.cells.parquet import read_cells, slide_polygons
from wsiproc.io.slides.open import Slide, open_slide
from wsiproc.synthetic import write_synthetic_slide

Polygons = npt.NDArray[np.object_]


def on_glass(slide: Slide, box: Box, mpp: float) -> UInt8Array:
    """What is read where a slide is not mirrored."""
    return slide.read(box, mpp)


def outlines(folder: Path | None) -> Polygons:
    """Outlines of a run, grid px."""
    assert folder is not None
    return slide_polygons(read_cells(folder / "cells.parquet")[1].rings, (1.0, 1.0))


def found_again(cells: Polygons, among: Polygons) -> float:
    """Mean over ``cells`` of the best IoU with one ``among`` others."""
    i, k = shapely.STRtree(among).query(cells)
    shared = shapely.area(shapely.intersection(cells[i], among[k]))
    ious = shared / (shapely.area(cells[i]) + shapely.area(among[k]) - shared)
    best = np.zeros(len(cells))
    np.maximum.at(best, i, ious)
    return float(best.mean())


@pytest.mark.parametrize(
    ("model", "larger", "gain"),
    [("fast", Box(175, 175, 1150, 1150), 0.005), ("classical", Box(0, 0, 2220, 2967), 0.0)],
)
def test_cells_at_the_edge_are_nearer_to_those_of_the_larger_picture(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, larger: Box, gain: float
) -> None:
    """A piece cut out of a real slide, or of a part of it; looked at are the cells up to 16 µm from its edges.

    The classical model takes its means over tissue alone, so glass misleads it less.
    """
    piece = Box(300 - larger.y, 300 - larger.x, 900, 900)
    with open_slide(data / "slides" / "CMU-1-Small-Region.svs") as opened:
        mpp = opened.mpp
        pixels = opened.read(larger, mpp)
    Image.fromarray(pixels).save(tmp_path / "larger.png")
    Image.fromarray(pixels[piece.slices]).save(tmp_path / "piece.png")
    run = {"model": model, "tissue": "all", "mpp": mpp}
    whole = outlines(run_one(tmp_path / "larger.png", tmp_path / "whole", **run).folder)
    mirrored = outlines(run_one(tmp_path / "piece.png", tmp_path / "mirrored", **run).folder)
    monkeypatch.setattr(wsiproc.pipeline.stages.infer, "read_mirrored", on_glass)
    glass = outlines(run_one(tmp_path / "piece.png", tmp_path / "glass", **run).folder)

    moved = shapely.transform(whole, lambda xy: xy - (piece.x, piece.y))
    frame = shapely.box(0, 0, piece.w, piece.h)
    near = moved[shapely.within(moved, frame) & ~shapely.within(moved, frame.buffer(-32))]
    assert len(near) > 50
    assert found_again(near, mirrored) > found_again(near, glass) + gain


def test_cells_at_a_mirrored_edge_do_not_depend_on_regions_and_lie_on_the_slide(tmp_path: Path) -> None:
    """Nuclei up to all four edges; neither side is a multiple of anything."""
    path = tmp_path / "odd.tif"
    write_synthetic_slide(path, (607, 733), mpp=0.5, seed=4, tissue_fraction=1.0, crowding=0.9)
    folders = [run_one(path, tmp_path / str(px), region=px, tissue="all").folder for px in (512, 1024)]
    first, other = (folder for folder in folders if folder is not None)
    assert_same_cells(first, other)
    centres = read_cells(first / "cells.parquet")[1].centroids
    assert (centres >= 0).all()
    assert (centres < (607, 733)).all()
    assert (np.minimum(centres, (607, 733) - centres) < 24).any(axis=1).sum() > 30


def test_where_the_edge_is_glass_the_cells_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "island.tif"
    write_synthetic_slide(path, (900, 900), mpp=0.5, seed=1, tissue_fraction=0.15)
    mirrored = run_one(path, tmp_path / "mirrored", tissue="all").folder
    monkeypatch.setattr(wsiproc.pipeline.stages.infer, "read_mirrored", on_glass)
    glass = run_one(path, tmp_path / "glass", tissue="all").folder
    assert mirrored is not None
    assert glass is not None
    assert_same_cells(mirrored, glass)
