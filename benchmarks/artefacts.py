"""Cells that a run finds in what is not tissue: pen, fill, stripes, coverslip edges, bubbles, dust, smears.

    python benchmarks/artefacts.py slides/EAS2_HE1_20x.tif slides/EAS2_CD20_ihc_20x.tif     # of ../shared/data
    python benchmarks/artefacts.py … --searched       # no cells, takes a minute: only where they would be searched for

A piece of each real slide that is mostly background gets every type of artefact drawn over it, one type per copy, and
all copies go through the real command. The artefacts are rendered by light absorption: ink by the density of its
colours, of uneven thickness and with a fading edge; so tissue is visible through them as far as they transmit light.
*Beside*: on background, where every cell is false. *Over*: on tissue, counted only where no nucleus is visible through
the artefact, so that every cell is false.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from wsiproc.array.tissue import find_tissue, grow, left_out_masks
from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import SlideSource, open_slide, read_overview
from wsiproc.models import load_model
from wsiproc.pipeline.planning.survey import survey_slide
from wsiproc.synthetic.tiff import Encoder, write_tiff_pyramid

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Plane = npt.NDArray[np.float32]

MPP, SIDE = 0.5, 2200
# Corners (y, x) of the pieces in px of MPP, found once by the rule of ``piece_of``: a new version must not move them.
CORNERS = {"EAS2_HE1_20x": (1581, 9629), "EAS2_CD20_ihc_20x": (1671, 2946)}
JPEG_QUALITY = 85
TISSUE_BORDER_UM = 30.0  # nearer to tissue, a cell may be real
LOST_EDGE_UM = 6.0  # a cell beside an artefact may have its centre so far inside
OPAQUE = 1.0  # density (ln) of ink in red and green, which is what nuclei take, beyond which none is seen under it
INKS = {
    "blue": (20, 60, 200), "dark blue": (25, 30, 110), "light blue": (60, 160, 230), "green": (30, 160, 40),
    "dark green": (10, 90, 60), "red": (200, 30, 40), "pink": (240, 60, 140), "purple": (110, 40, 150),
    "orange": (240, 110, 20), "brown": (120, 70, 30), "yellow": (245, 225, 40), "black": (25, 25, 30),
}  # fmt: skip
FILLS = {"black": (0, 0, 0), "grey": (128, 128, 128), "blue": (40, 90, 200), "white": (255, 255, 255)}


@dataclass(frozen=True)
class Drawn:
    """A picture with an artefact: where that ``is`` (h, w), and where nothing is seen through it."""

    pixels: Picture
    is_there: Mask
    is_opaque: Mask


Draw = Callable[[Picture, np.random.Generator], Drawn]


def strokes(random: np.random.Generator) -> dict[str, Plane]:
    """Coverage (h, w) of 0 … 1: a wavy stroke of 250 µm across all, two lines of 40 µm, and dots of 150 µm."""
    shapes = {name: np.zeros((SIDE, SIDE), np.uint8) for name in ("stroke", "line", "dots")}
    x = np.arange(-50, SIDE + 50, 10)
    for name, width, across in (("stroke", 500, 0.5), ("line", 80, 0.12), ("line", 80, 0.9)):
        y = SIDE * across + 150 * np.sin(x / 400 + random.uniform(0, 6))
        points = np.stack([x, y], axis=1).round().astype(np.int32)
        swapped = points[:, ::-1] if name == "line" else points
        cv2.polylines(shapes[name], [swapped], False, 255, width, cv2.LINE_AA)
    for y0, x0 in random.integers(200, SIDE - 200, (6, 2)).tolist():
        cv2.circle(shapes["dots"], (x0, y0), 150, 255, -1, cv2.LINE_AA)
    return {name: np.asarray(cv2.GaussianBlur(s, (0, 0), 6), np.float32) / 255 for name, s in shapes.items()}


def ink(colour: tuple[int, int, int]) -> Draw:
    """A pen of this colour: its light is lost by its thickness, which varies along and across."""

    def draw(pixels: Picture, random: np.random.Generator) -> Drawn:
        cover = np.maximum.reduce(list(strokes(random).values()))
        uneven = cv2.resize(random.normal(0, 1, (SIDE // 60, SIDE // 60)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        thickness = cover * (1.1 + 0.15 * uneven.astype(np.float32))
        density = -np.log(np.maximum(np.array(colour, np.float32), 4) / 255)
        lost = np.maximum(thickness, 0)[..., None] * density
        return Drawn(as_bytes(pixels * np.exp(-lost)), cover > 0.2, lost[..., :2].min(axis=-1) > OPAQUE)

    return draw


def fill(colour: tuple[int, int, int]) -> Draw:
    """Squares and a border of one colour, as of what was masked or not scanned."""

    def draw(pixels: Picture, random: np.random.Generator) -> Drawn:
        there = np.zeros(pixels.shape[:2], np.bool_)
        there[:, : SIDE // 8] = there[: SIDE // 10] = True
        for y, x in random.integers(0, SIDE - 400, (8, 2)).tolist():
            there[y : y + 400, x : x + 300] = True
        painted = pixels.copy()
        painted[there] = colour
        return Drawn(painted, there, there)

    return draw


def lost_lines(pixels: Picture, random: np.random.Generator) -> Drawn:
    """Lines that the scanner lost: black, 10 to 60 px wide."""
    there = np.zeros(pixels.shape[:2], np.bool_)
    for y in range(150, SIDE - 100, 300):
        there[y : y + int(random.integers(10, 60))] = True
    painted = pixels.copy()
    painted[there] = 0
    return Drawn(painted, there, there)


def stripes(strength: float) -> Draw:
    """Stripes of the scanner: columns of another brightness, a little tinted, with steps at their borders."""

    def draw(pixels: Picture, random: np.random.Generator) -> Drawn:
        light = np.ones((1, SIDE, 3), np.float32)
        for x in range(0, SIDE, 240):
            light[:, x : x + 120] -= strength * (random.uniform(0.6, 1.0) + random.uniform(-0.08, 0.08, 3))
        return Drawn(as_bytes(pixels * light), np.broadcast_to(light[0, :, 0] < 1, pixels.shape[:2]), none(pixels))

    return draw


def cover_glass(pixels: Picture, random: np.random.Generator) -> Drawn:
    """Edges of a cover-glass: a dark line of 15 µm with a bright one beside it, and a shade on one side."""
    density = np.zeros((SIDE, SIDE), np.float32)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    for place, slope in ((0.15, 0.04), (0.55, -0.06), (0.85, 0.02)):
        away = y - SIDE * place - slope * x
        density += 1.2 * np.exp(-((away / 15) ** 2)) - 0.15 * np.exp(-(((away - 30) / 12) ** 2))
        density += 0.12 * np.exp(-np.maximum(away, 0) / 250) * (away > 0)
    shade = np.exp(-density)[..., None] * np.array([0.99, 1.0, 0.98], np.float32)
    return Drawn(as_bytes(pixels * shade), np.abs(density) > 0.05, none(pixels))


def bubbles(pixels: Picture, random: np.random.Generator) -> Drawn:
    """Air under the cover-glass: dark rims with a bright inner edge, of 10 to 400 µm, the small ones in swarms."""
    density = np.zeros((SIDE, SIDE), np.float32)
    there = np.zeros((SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    large = [(*random.integers(0, SIDE, 2).tolist(), radius) for radius in (400, 300, 200, 120, 120, 80)]
    swarm = random.integers(200, SIDE - 200, (5, 2))
    small = [(*(swarm[i % 5] + random.normal(0, 120, 2)).tolist(), random.uniform(10, 40)) for i in range(120)]
    for cy, cx, radius in large + small:
        away = np.hypot(y - cy, x - cx)
        rim = max(3.0, radius / 12)
        density += 1.6 * np.exp(-(((away - radius) / rim) ** 2)) - 0.2 * np.exp(
            -(((away - radius + 2.5 * rim) / rim) ** 2)
        )
        cv2.circle(there, (round(cx), round(cy)), round(radius + 2 * rim), 1, -1)
    return Drawn(as_bytes(pixels * np.exp(-np.maximum(density, -0.1))[..., None]), there > 0, none(pixels))


def dust(pixels: Picture, random: np.random.Generator) -> Drawn:
    """Dark grains of 3 to 25 µm, brown and grey, and fibres."""
    light = np.full((SIDE, SIDE, 3), 255, np.uint8)
    there = np.zeros((SIDE, SIDE), np.uint8)
    for cy, cx in random.integers(0, SIDE, (150, 2)).tolist():
        axes = tuple(random.integers(3, 25, 2).tolist())
        colour = tuple((random.uniform(20, 160) + random.uniform(-15, 15, 3)).clip(0, 255).tolist())
        cv2.ellipse(light, (cx, cy), axes, float(random.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        cv2.circle(there, (cx, cy), max(axes) + 8, 1, -1)
    for _ in range(12):
        points = (random.integers(0, SIDE, 2) + np.cumsum(random.normal(0, 25, (40, 2)), axis=0)).astype(np.int32)
        cv2.polylines(light, [points], False, (90, 95, 120), 8, cv2.LINE_AA)
        cv2.polylines(there, [points], False, 1, 30)
    softened = cv2.GaussianBlur(light, (0, 0), 1.5).astype(np.float32) / 255
    return Drawn(as_bytes(pixels * softened), there > 0, none(pixels))


def smears(pixels: Picture, random: np.random.Generator) -> Drawn:
    """Crushed and dragged chromatin: bundles of streaks in the colour of haematoxylin, sharp and blurred, in a haze."""
    density = np.zeros((SIDE, SIDE), np.float32)
    there = np.zeros((SIDE, SIDE), np.uint8)
    for cy, cx in random.integers(0, SIDE, (9, 2)).tolist():
        angle, blur = random.uniform(0, np.pi), float(random.choice([0.8, 3.0, 8.0]))
        along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
        bundle = np.zeros((SIDE, SIDE), np.float32)
        for _ in range(40):
            start = (cy, cx) + random.normal(0, 100, 1) * along + random.normal(0, 35, 1) * across
            bent = random.normal(0, 0.05) * across + along
            steps = random.uniform(40, 200) * np.linspace(0, 1, 12)[:, None] * bent + random.normal(0, 2, (12, 2))
            points = np.rint(start + steps)[:, ::-1].astype(np.int32)
            streak = np.zeros((SIDE, SIDE), np.uint8)
            cv2.polylines(streak, [points], False, 255, int(random.integers(2, 9)), cv2.LINE_AA)
            bundle = np.maximum(bundle, streak.astype(np.float32) / 255 * random.uniform(0.3, 1.0))
        bundle = np.asarray(cv2.GaussianBlur(bundle, (0, 0), blur), np.float32)
        haze = np.asarray(cv2.GaussianBlur((bundle > 0.1).astype(np.float32), (0, 0), 20), np.float32)
        density += 1.3 * bundle + 0.15 * haze
        there |= ((bundle > 0.05) | (haze > 0.2)).astype(np.uint8)
    lost = density[..., None] * np.array([0.8, 1.0, 0.4], np.float32)
    return Drawn(as_bytes(pixels * np.exp(-lost)), there > 0, none(pixels))


KINDS: dict[str, Draw] = {
    **{f"pen, {name}": ink(colour) for name, colour in INKS.items()},
    **{f"fill, {name}": fill(colour) for name, colour in FILLS.items()},
    "lost lines": lost_lines,
    "stripes, faint": stripes(0.04),
    "stripes, strong": stripes(0.25),
    "cover-glass edges": cover_glass,
    "bubbles": bubbles,
    "dust": dust,
    "smears": smears,
}


def none(pixels: Picture) -> Mask:
    return np.zeros(pixels.shape[:2], np.bool_)


def as_bytes(values: npt.NDArray[Any]) -> Picture:
    """Rounded and clipped."""
    return np.asarray(np.rint(values).clip(0, 255), np.uint8)


def piece_of(slide: Path) -> tuple[Picture, Mask]:
    """The piece (h, w, 3) of a slide that is most nearly a quarter tissue; where tissue and its border are."""
    with open_slide(slide) as opened:
        seen = read_overview(opened, max_px=1500)
        mpp = sum(seen.mpp) / 2
        side = round(SIDE * MPP / mpp)
        share = cv2.blur(find_tissue(seen.pixels, mpp).astype(np.float32), (side, side))
        inside = share[side // 2 : -side // 2, side // 2 : -side // 2]
        found = np.unravel_index(np.abs(inside - 0.25).argmin(), inside.shape)
        y, x = CORNERS.get(slide.stem, [round(px * mpp / MPP) for px in found])
        pixels = opened.read(Box(y, x, SIDE, SIDE), MPP)
    small = cv2.resize(pixels, (SIDE // 8, SIDE // 8), interpolation=cv2.INTER_AREA)
    tissue = grow(find_tissue(np.asarray(small, np.uint8), 8 * MPP), TISSUE_BORDER_UM / 8 / MPP)
    return pixels, np.asarray(cv2.resize(tissue.astype(np.uint8), (SIDE, SIDE)) > 0)


@dataclass
class Row:
    """Areas in mm² and cells, beside tissue and over it."""

    beside_mm2: float = 0.0
    beside: int = 0
    over_mm2: float = 0.0
    over: int = 0

    def add(self, cells: npt.NDArray[Any], drawn: Drawn, tissue: Mask) -> None:
        """Count cells (N, 2), (y, x) px, of one picture."""
        inside = drawn.is_there & ~grow(~drawn.is_there, LOST_EDGE_UM / MPP)
        opaque = drawn.is_opaque & ~grow(~drawn.is_opaque, LOST_EDGE_UM / MPP)
        rows, cols = (np.clip(cells[:, axis].astype(int), 0, SIDE - 1) for axis in (0, 1))
        for name, area in (("beside", inside & ~tissue), ("over", opaque & tissue)):
            setattr(self, f"{name}_mm2", getattr(self, f"{name}_mm2") + float(area.sum()) * (MPP / 1000) ** 2)
            setattr(self, name, getattr(self, name) + int(area[rows, cols].sum()))

    def told(self, as_share: bool) -> str:
        """Cells of a table; ``as_share``: of px that were counted."""
        parts = ((self.beside, self.beside_mm2), (self.over, self.over_mm2))
        if as_share:
            return " | ".join(f"{px * (MPP / 1000) ** 2 / mm2:.1%}" if mm2 > 0.01 else "–" for px, mm2 in parts)
        return " | ".join(f"{count} in {mm2:.2f}: {count / mm2:.0f}" if mm2 > 0.01 else "–" for count, mm2 in parts)


def write(path: Path, pixels: Picture) -> None:
    """A tiled JPEG pyramid, as scanners write."""
    padded = np.pad(pixels, ((0, 512), (0, 8192), (0, 0)), mode="edge")
    encoder = Encoder((255, 255, 255), JPEG_QUALITY)
    write_tiff_pyramid(path, (SIDE, SIDE), MPP, lambda box: padded[box.slices], encoder, "drawn", 1)


def main() -> None:
    """Draw, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the slides that are drawn and their results")
    parser.add_argument("--searched", action="store_true", help="only the share that is searched for cells, no cells")
    given = parser.parse_args()
    bases = {slide.stem: piece_of(slide) for slide in given.slides}
    what = "share searched" if given.searched else "cells in mm²: per mm²"
    print(f"| artefact | beside: {what} | over tissue | was taken for, mm² |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        home = given.keep or Path(folder)
        for kind in given.only:
            drawn = draw_all(kind, bases, home)
            row, taken = searched(drawn, home) if given.searched else counted(drawn, home, given.model)
            print(f"| {kind} | {row.told(given.searched)} | {taken} |", flush=True)


def draw_all(kind: str, bases: dict[str, tuple[Picture, Mask]], home: Path) -> dict[str, tuple[Drawn, Mask]]:
    """A kind of artefact over each piece, as slides in ``home`` by their names; with where tissue is."""
    home.mkdir(parents=True, exist_ok=True)
    found = {}
    for stem, (pixels, tissue) in bases.items():
        name = f"{kind} {stem}".replace(",", "").replace(" ", "_")
        drawn = KINDS[kind](pixels, np.random.default_rng(list(KINDS).index(kind)))
        write(home / f"{name}.tif", drawn.pixels)
        found[name] = drawn, tissue
    return found


def counted(drawn: dict[str, tuple[Drawn, Mask]], home: Path, model: str) -> tuple[Row, str]:
    """Cells in artefacts after a run, and what these were taken for in all slides."""
    paths = [str(home / f"{name}.tif") for name in drawn]
    command = [sys.executable, "-m", "wsiproc.cli.main", "run", "-q", "--model", model, "-o", str(home / "out"), *paths]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    row, taken = Row(), Counter[str]()
    for name, (picture, tissue) in drawn.items():
        table = pq.read_table(home / "out" / name / "cells.parquet", columns=["centroid_y", "centroid_x"])
        row.add(np.stack([table[axis].to_numpy() for axis in table.column_names], axis=1), picture, tissue)
        run = json.loads((home / "out" / name / "run.json").read_text(encoding="utf-8"))
        taken.update(run["left_out_mm2"])
    return row, listed(taken)


def searched(drawn: dict[str, tuple[Drawn, Mask]], home: Path) -> tuple[Row, str]:
    """The same with every px that is searched for cells in place of a cell."""
    row, taken = Row(), Counter[str]()
    for name, (picture, tissue) in drawn.items():
        seen = survey_slide(SlideSource(home / f"{name}.tif"), load_model("classical"), "auto", None)
        mask = np.asarray(cv2.resize(seen.search.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST))
        row.add(np.argwhere(mask), picture, tissue)
        px_mm2 = seen.overview_mpp[0] * seen.overview_mpp[1] / 1e6
        taken.update({what: float(area.sum()) * px_mm2 for what, area in left_out_masks(seen.seen).items()})
    return row, listed(taken)


def listed(taken: Counter[str]) -> str:
    """Areas by what they were taken for."""
    return ", ".join(f"{what} {mm2:.2f}" for what, mm2 in taken.items() if mm2 > 0.005)


if __name__ == "__main__":
    main()
