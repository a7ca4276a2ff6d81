"""Benchmark datasets in every form, written from synthetic scenes whose truth is known."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsiproc.array.nuclei.outline import trace
from wsiproc.core.geometry import Box
from wsiproc.synthetic import Scene

SIDE = 400
Labels = npt.NDArray[np.uint16]


def scene(seed: int, stain: str = "HE") -> Scene:
    """100 × 100 µm of tissue."""
    return Scene((SIDE, SIDE), tissue_fraction=1, seed=seed, stain=stain)  # type: ignore[arg-type]


def picture(seed: int, stain: str = "HE") -> Image.Image:
    return Image.fromarray(scene(seed, stain).render(Box(0, 0, SIDE, SIDE)))


def true_labels(seed: int, stain: str = "HE") -> Labels:
    """(400, 400) uint16, numbered without gaps."""
    drawn = scene(seed, stain).labels(Box(0, 0, SIDE, SIDE))
    return np.unique(drawn, return_inverse=True)[1].reshape(drawn.shape).astype(np.uint16)


def write_masks(folder: Path, names: Iterable[str]) -> None:
    """``images/`` and ``labels/`` of scenes 0, 1, …"""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for seed, name in enumerate(names):
        picture(seed).save(folder / "images" / f"{name}.png")
        Image.fromarray(true_labels(seed)).save(folder / "labels" / f"{name}.png")


def write_points(path: Path, points: Iterable[tuple[float, float, str]]) -> None:
    """CSV of (y, x, class)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("x", "y", "class"), *((x, y, kind) for y, x, kind in points)])


def write_aperio(path: Path, labels: Labels) -> None:
    """The outlines of ``labels`` as ImageScope writes regions, in one layer beside an empty one."""
    rings = trace(labels.astype(np.int32), np.arange(1, labels.max() + 1))
    regions = ""
    for number in range(len(rings)):
        corners = "".join(f"<Vertex X={quoteattr(f'{x}.0')} Y={quoteattr(f'{y}.0')} Z='0'/>" for y, x in rings[number])
        regions += f"<Region Id='{number + 1}'><Attributes/><Vertices>{corners}</Vertices></Region>\n"
    path.write_text(
        f"<?xml version='1.0'?><Annotations MicronsPerPixel='0.25'><Annotation Id='1'><Regions>{regions}</Regions>"
        "</Annotation><Annotation Id='2'><Regions><RegionAttributeHeaders/></Regions></Annotation></Annotations>"
    )
