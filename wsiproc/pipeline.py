"""READ FIRST: the whole story of a slide, top to bottom: plan, infer, segment, merge, render, export.

A plan cuts the slide into regions. *Infer* writes each region's maps as one whole shard of a stitched picture.
*Segment* reads a region and a margin around it from that picture, so that both sides of every border see the same
nuclei, and keeps the cells whose centre lies inside. *Merge* sorts all cells along a Hilbert curve. *Render* and
*export* draw every output from that one table. Each stage leaves files; a stage whose files are there is not done
again, and ``run.json`` comes last.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiproc.array.hilbert import hilbert_index
from wsiproc.array.measure import LabelSums, centroids, label_sums, measure, measurement_names
from wsiproc.array.outline import fill, trace
from wsiproc.array.pyramid import level_count, level_shape
from wsiproc.core.cells import CellTable, Rings
from wsiproc.core.geometry import Box, Grid, Region
from wsiproc.core.kinds import CellKinds
from wsiproc.core.palette import RGB, class_colour
from wsiproc.errors import SlideReadError
from wsiproc.executors import Task, give_back_memory, worker_name
from wsiproc.io import ngff
from wsiproc.io.geojson import GeoJsonWriter, Piece, features_bytes
from wsiproc.io.parquet import CellWriter, read_part, write_part
from wsiproc.io.slides import Slide, SlideSource
from wsiproc.io.whole import remove_unfinished, write_json
from wsiproc.models.base import OD_STEP, Instances, Model
from wsiproc.projection import Frame, Mask, mask_at, needed_windows

if TYPE_CHECKING:
    from shapely import MultiPolygon

BLOCK = ngff.SHARD  # cells are merged, and labels drawn, by squares of this side (grid px)


@dataclass(frozen=True)
class Job:
    """What every task of a slide needs to know; small and picklable."""

    source: SlideSource
    folder: Path
    fingerprint: str
    frame: Frame
    model: Model
    step: int
    device: str
    batch: int
    roi: MultiPolygon | None
    kinds: CellKinds | None = None

    @property
    def classes(self) -> Mapping[str, RGB]:
        """Colours of the classes of cells by name: the kinds that were discovered, else the model's own classes."""
        if self.kinds is not None:
            return dict(zip(self.kinds.names, self.kinds.colours, strict=True))
        return {name: class_colour(name, index) for index, name in enumerate(self.model.classes)}

    @property
    def work(self) -> Path:
        """Files of unfinished work."""
        return self.folder / ".work"

    @property
    def maps(self) -> Path:
        """The stitched maps."""
        return self.folder / "maps.ome.zarr"

    @property
    def image(self) -> Path:
        """Overview image and labels."""
        return self.folder / "slide.ome.zarr"

    @property
    def cells(self) -> Path:
        """The cell table."""
        return self.folder / "cells.parquet"

    def part(self, region: Region) -> Path:
        """Cells of one region."""
        return self.work / f"{region.key}.part"


@lru_cache(maxsize=1)
def _slide(source: SlideSource) -> Slide:
    """The slide, opened once in each worker."""
    return source.open()


@lru_cache(maxsize=1)
def _search(path: Path, modified_ns: int) -> Mask:
    """The mask of where to look, read once in each worker; a changed file is read again."""
    mask: Mask = np.load(path)
    return mask


def search_mask(job: Job) -> Mask:
    """Where to look for cells: tissue and a narrow border around it, on the overview (h, w)."""
    path = job.work / "search.npy"
    return _search(path, path.stat().st_mtime_ns)


# --- infer -----------------------------------------------------------------------------------------------------------


def _one_thread() -> None:
    """Regions run side by side, a thread each; so no sum depends on how many cores there are either."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    give_back_memory()


def infer_region(job: Job, region: Region) -> dict[str, Any]:
    """Write the maps of one region; what was done, as plain values.

    A place that cannot be decoded costs its region, not the slide: the region's maps stay empty and ``failed`` says
    why.
    """
    marker = job.work / f"{region.key}.infer.json"
    if marker.exists():
        done: dict[str, Any] = json.loads(marker.read_text())
        return done | {"resumed": True}
    _one_thread()
    started = time.perf_counter()
    windows = needed_windows(search_mask(job), job.frame.grid, region.box, job.model.window, job.model.margin)
    maps = np.zeros((len(job.model.channels), *region.box.shape), np.uint8)
    result: dict[str, Any] = {"key": region.key, "worker": worker_name(), "windows": len(windows), "failed": None}
    try:
        result |= _predict_windows(job, region, windows, maps)
        ngff.write_pyramid(job.maps, region.box, maps, job.step)
    except SlideReadError as error:
        result["failed"] = str(error)
    result["seconds"] = time.perf_counter() - started
    if result["failed"] is None:  # else a run that goes on from here tries again
        write_json(marker, result)
    return result


def _predict_windows(job: Job, region: Region, windows: Sequence[Box], maps: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Fill ``maps`` (c, h, w) of the region, one row of windows at a time; seconds spent reading and predicting."""
    slide, halo = _slide(job.source), job.model.halo
    seconds = {"read_s": 0.0, "predict_s": 0.0}
    for top in sorted({w.y for w in windows}):
        row = [w for w in windows if w.y == top]
        strip = Box(top, row[0].x, job.model.window, row[-1].x - row[0].x + job.model.window).pad(halo)
        clock = time.perf_counter()
        pixels = slide.read(strip, job.model.mpp)
        seconds["read_s"] += time.perf_counter() - clock
        clock = time.perf_counter()
        for first in range(0, len(row), job.batch):
            some = row[first : first + job.batch]
            full = [Box(w.y, w.x, job.model.window, job.model.window) for w in some]
            inputs = np.stack([pixels[w.pad(halo).relative_to(strip).slices] for w in full])
            for window, output in zip(some, predict(job.model, inputs, job.device), strict=True):
                part = window.relative_to(region.box)
                maps[(slice(None), *part.slices)] = output[:, halo : halo + part.h, halo : halo + part.w]
        seconds["predict_s"] += time.perf_counter() - clock
    return seconds


def predict(model: Model, windows: npt.NDArray[np.uint8], device: str) -> npt.NDArray[np.uint8]:
    """Maps (b, c, h, w) of windows with halo (b, h, w, 3), on ``device``; networks run in half precision on a GPU."""
    import torch

    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=device == "cuda"):
        maps: npt.NDArray[np.uint8] = model.predict(torch.from_numpy(windows).to(device)).cpu().numpy()
    return maps


# --- segment ---------------------------------------------------------------------------------------------------------


def segment_region(job: Job, region: Region) -> dict[str, Any]:
    """Cut the cells of one region out of the stitched maps and write them as a part file; counts as plain values."""
    marker = job.work / f"{region.key}.segment.json"
    if marker.exists():
        done: dict[str, Any] = json.loads(marker.read_text())
        return done | {"resumed": True}
    _one_thread()
    started = time.perf_counter()
    around = region.box.pad(job.model.margin).clip(job.frame.grid)
    maps = ngff.read_box(job.maps, 0, around)
    found = job.model.instances(maps)
    sums = label_sums(found.labels, len(found.classes), maps)
    # Absolute places before anything is divided: then every cut-out rounds alike.
    shift = np.array([around.y, around.x, 0, 0])
    sums = dataclasses.replace(sums, boxes=sums.boxes + shift)
    centres = centroids(sums)
    here = _inside(region.box, centres)
    kept = here & _wanted(job, centres)
    cells = cell_table(job.model, found, sums, np.flatnonzero(kept), (around.y, around.x), job.frame.px_um2)
    if job.kinds is not None:
        cells = dataclasses.replace(cells, classes=job.kinds.nearest(cells.measurements))
    write_part(job.part(region), cells)
    dropped = {reason: _count_inside(region, around, places) for reason, places in found.dropped.items()}
    result = {
        "key": region.key,
        "worker": worker_name(),
        "cells": len(cells),
        "dropped": dropped | {"outside the tissue or region of interest": int(here.sum() - kept.sum())},
        "seconds": time.perf_counter() - started,
    }
    write_json(marker, result)
    return result


def _inside(box: Box, points: npt.NDArray[np.floating]) -> Mask:
    """Which ``points`` (N, 2), (y, x), lie in a box: the one rule of who owns a cell."""
    y, x = points.T
    inside: Mask = (y >= box.y) & (y < box.y1) & (x >= box.x) & (x < box.x1)
    return inside


def _count_inside(region: Region, around: Box, places: npt.NDArray[np.integer]) -> int:
    """How many ``places`` (K, 2) of the piece ``around`` a region lie in the region itself."""
    return int(_inside(region.box.relative_to(around), places.astype(float)).sum())


def _wanted(job: Job, centres: npt.NDArray[np.float64]) -> Mask:
    """Which centres (N, 2), grid px, lie where cells are looked for and in the region of interest."""
    looked_for = mask_at(search_mask(job), job.frame.grid, np.maximum(centres, 0))
    if job.roi is None:
        return looked_for
    import shapely

    y, x = (centres * job.frame.scale).T
    inside: Mask = shapely.contains_xy(job.roi, x, y)
    return looked_for & inside


def cell_table(
    model: Model,
    found: Instances,
    sums: LabelSums,
    rows: npt.NDArray[np.int64],
    corner: tuple[int, int],
    px_um2: float,
) -> CellTable:
    """The chosen rows as a table, measured; ``corner``: where the labels lie in the frame of the sums."""
    rings = trace(found.labels, rows + 1)
    rings = Rings(rings.offsets, rings.vertices + np.array(corner, np.int32))
    sums = LabelSums(*(getattr(sums, field.name)[rows] for field in dataclasses.fields(sums)))
    return CellTable(
        found.classes[rows],
        found.scores[rows],
        centroids(sums),
        sums.boxes.astype(np.int32),
        measure(sums, rings, px_um2, stain_channels(model), OD_STEP),
        rings,
    )


def stain_channels(model: Model) -> dict[str, int]:
    """Stains among the maps: name → channel."""
    return {channel.name: index for index, channel in enumerate(model.channels) if channel.stain}


# --- merge -----------------------------------------------------------------------------------------------------------


def merged_blocks(job: Job, regions: Sequence[Region]) -> Iterator[tuple[Region, CellTable]]:
    """All cells, block after block along a Hilbert curve, sorted along it within each block.

    A pure function of the set of cells: how they were cut into parts leaves no trace. Blocks are aligned squares of
    a power of two, so each is one stretch of the curve and the whole order needs no more memory than a block.
    """
    blocks = Grid(job.frame.grid, BLOCK)
    touched = sorted({block for region in regions for block in blocks.touching(region.box)})
    corners = np.array([(b.box.y, b.box.x) for b in touched], np.int64).reshape(-1, 2)
    by_place = {(r.row, r.col): r for r in regions}
    read = lru_cache(maxsize=4)(read_part)
    for index in np.argsort(hilbert_index(corners)):
        block = touched[index]
        parts = [
            by_place[r.row, r.col] for r in Grid(job.frame.grid, job.step).touching(block.box) if _has(by_place, r)
        ]
        tables = [read(job.part(r)) for r in parts]
        inside = [t.take(np.flatnonzero(_inside(block.box, t.centroids))) for t in tables]
        cells = CellTable.concat(inside)
        if len(cells):
            yield block, cells.take(_hilbert_order(cells))


def _has(by_place: dict[tuple[int, int], Region], region: Region) -> bool:
    return (region.row, region.col) in by_place


def _hilbert_order(cells: CellTable) -> npt.NDArray[np.int64]:
    """Rows by place of the centre on the curve; two centres in one pixel go by their outlines' first corner."""
    first = cells.rings.vertices[cells.rings.offsets[:-1]]
    order: npt.NDArray[np.int64] = np.lexsort(
        (first[:, 1], first[:, 0], hilbert_index(cells.centroids.astype(np.int64)))
    )
    return order


@dataclass(frozen=True)
class Block:
    """A merged square: its place, the id of its first cell, how many it has."""

    region: Region
    first_id: int
    count: int


def merge_cells(job: Job, regions: Sequence[Region]) -> Iterator[tuple[Block, CellTable]]:
    """Sort and number all cells; each block is kept in a file for those who draw it, and passed on to be counted."""
    first = 1
    for region, cells in merged_blocks(job, regions):
        write_part(_block_path(job, region), cells)
        yield Block(region, first, len(cells)), cells
        first += len(cells)


def _block_path(job: Job, region: Region) -> Path:
    return job.work / f"merged-{region.key}.part"


# --- render ----------------------------------------------------------------------------------------------------------


def create_outputs(job: Job, overview: npt.NDArray[np.uint8], overview_mpp: tuple[float, float], tissue: Mask) -> None:
    """Empty pyramids for maps and labels, and the overview and tissue pyramids, which are small, filled."""
    levels = level_count(job.frame.grid)
    channels = [(c.name, c.colour) for c in job.model.channels]
    ngff.create_image(job.maps, job.frame.grid, job.frame.mpp, levels, channels, shard=job.step)
    rgb = [("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255))]
    ngff.create_image(job.image, (overview.shape[0], overview.shape[1]), overview_mpp, levels, rgb)
    ngff.create_labels_group(job.image, ["tissue", "classes", "cells"])
    glass = {0: ("Glass", (0, 0, 0), 0), 1: ("Tissue", (86, 180, 233), 90)}
    ngff.create_labels(job.image, "tissue", (tissue.shape[0], tissue.shape[1]), overview_mpp, levels, "uint8", glass)
    classes = {0: ("Background", (0, 0, 0), 0)} | {
        value: (name, colour, 160) for value, (name, colour) in enumerate(job.classes.items(), start=1)
    }
    ngff.create_labels(job.image, "classes", job.frame.grid, job.frame.mpp, levels, "uint8", classes)
    ngff.create_labels(job.image, "cells", job.frame.grid, job.frame.mpp, levels, "uint32")
    for folder, pixels in (
        (job.image, overview.transpose(2, 0, 1)),
        (job.image / "labels/tissue", tissue.view(np.uint8)),
    ):
        shape = (pixels.shape[-2], pixels.shape[-1])
        ngff.write_pyramid(folder, Box(0, 0, *shape), pixels, BLOCK)
        for level in range(ngff.direct_levels(BLOCK), levels):
            ngff.halve_shard(folder, level, Box(0, 0, *level_shape(shape, level)))


def render_tasks(job: Job, infer: Sequence[Region], blocks: Sequence[Block]) -> list[Task]:
    """Everything that is drawn: label shards from the table, then the coarse levels of labels and maps."""
    by_place = {(block.region.row, block.region.col): block for block in blocks}
    shards = Grid(job.frame.grid, BLOCK)
    # A cell reaches over its block's border by less than its largest diameter.
    drawn = sorted({shard for block in blocks for shard in shards.touching(block.region.box.pad(job.model.margin))})
    tasks = []
    for shard in drawn:
        near = shards.touching(shard.box.pad(job.model.margin))
        sources = tuple(by_place[r.row, r.col] for r in near if (r.row, r.col) in by_place)
        tasks.append(Task(f"labels 0 {shard.key}", render_labels, (job, shard.box, sources)))
    tasks += _coarse_tasks("labels", (job.image / "labels/classes", job.image / "labels/cells"), job, BLOCK, drawn)
    return tasks + _coarse_tasks("maps", (job.maps,), job, job.step, infer)


def _coarse_tasks(name: str, folders: tuple[Path, ...], job: Job, shard: int, touched: Sequence[Region]) -> list[Task]:
    """Tasks for the levels that no shard of level 0 could fill, each after the shards that it is made of."""
    tasks: list[Task] = []
    filled = ngff.direct_levels(shard)
    below = [(f"{name} 0 {region.key}", region.box) for region in touched] if name == "labels" else []
    boxes = [region.box for region in touched]
    for level in range(filled, level_count(job.frame.grid)):
        # Boxes in the px of level 0 for the first of these levels, then in those of the level before.
        shrink = level if level == filled else 1
        grid = Grid(level_shape(job.frame.grid, level), ngff.SHARD)
        here = sorted({region for box in boxes for region in grid.touching(_shrunk(box, shrink))})
        new = []
        for region in here:
            after = tuple(key for key, box in below if _shrunk(box, shrink).intersect(region.box).area)
            new.append(Task(f"{name} {level} {region.key}", halve, (folders, level, region.box), after))
        tasks += new
        below = [(task.key, region.box) for task, region in zip(new, here, strict=True)]
        boxes = [region.box for region in here]
    return tasks


def _shrunk(box: Box, levels: int) -> Box:
    """The box at a level so much coarser."""
    y, x = box.y >> levels, box.x >> levels
    return Box(y, x, -(-box.y1 >> levels) - y, -(-box.x1 >> levels) - x)


def render_labels(job: Job, shard: Box, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Draw one shard of both label maps from the cells that may touch it."""
    give_back_memory()
    started = time.perf_counter()
    ids, kinds = np.zeros(shard.shape, np.uint32), np.zeros(shard.shape, np.uint8)
    for block in blocks:
        cells = read_part(_block_path(job, block.region))
        low, high = cells.boxes[:, :2], cells.boxes[:, :2] + cells.boxes[:, 2:]
        near = np.flatnonzero(((high > (shard.y, shard.x)) & (low < (shard.y1, shard.x1))).all(axis=1))
        numbers, cells = (block.first_id + near).astype(np.uint32), cells.take(near)
        fill(ids, cells.rings.offsets, cells.rings.vertices, numbers, shard.y, shard.x)
        fill(kinds, cells.rings.offsets, cells.rings.vertices, cells.classes + np.uint8(1), shard.y, shard.x)
    ngff.write_pyramid(job.image / "labels/cells", shard, ids, BLOCK)
    ngff.write_pyramid(job.image / "labels/classes", shard, kinds, BLOCK)
    return {"seconds": time.perf_counter() - started}


def halve(folders: Sequence[Path], level: int, shard: Box) -> dict[str, Any]:
    """Fill one shard of a level of some pyramids."""
    started = time.perf_counter()
    for folder in folders:
        ngff.halve_shard(folder, level, shard)
    return {"seconds": time.perf_counter() - started}


# --- export ----------------------------------------------------------------------------------------------------------


def export_tasks(job: Job, blocks: Sequence[Block]) -> list[Task]:
    """The cell table; and GeoJSON, each block formatted and compressed on its own, then all joined in order."""
    pieces = [Task(f"geojson {block.region.key}", format_geojson, (job, block)) for block in blocks]
    join = Task("geojson", join_geojson, (job, tuple(blocks)), tuple(task.key for task in pieces))
    return [Task("table", write_table, (job, tuple(blocks))), *pieces, join]


def write_table(job: Job, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Write ``cells.parquet``, a row group a block."""
    started = time.perf_counter()
    with CellWriter(
        job.cells, job.classes, measurement_names(list(stain_channels(job.model))), job.frame.scale
    ) as writer:
        for block in blocks:
            writer.write(read_part(_block_path(job, block.region)))
    return {"seconds": time.perf_counter() - started}


def format_geojson(job: Job, block: Block) -> dict[str, Any]:
    """One block as a compressed piece of ``cells.geojson.gz``."""
    started = time.perf_counter()
    facts = (job.fingerprint, list(job.classes), list(job.classes.values()), job.frame.scale)
    cells = read_part(_block_path(job, block.region))
    Piece.of(*features_bytes(cells, block.first_id, *facts)).save(_piece_path(job, block))
    return {"seconds": time.perf_counter() - started}


def join_geojson(job: Job, blocks: tuple[Block, ...]) -> dict[str, Any]:
    """Write ``cells.geojson.gz``; how many outlines QuPath would have refused."""
    started = time.perf_counter()
    with GeoJsonWriter(job.folder / "cells.geojson.gz") as writer:
        for block in blocks:
            writer.append(Piece.load(_piece_path(job, block)))
    return {"seconds": time.perf_counter() - started, "left_out": writer.dropped}


def _piece_path(job: Job, block: Block) -> Path:
    return job.work / f"geojson-{block.region.key}"


# --- tasks -----------------------------------------------------------------------------------------------------------


def cell_tasks(job: Job, infer: Sequence[Region], segment: Sequence[Region]) -> list[Task]:
    """Infer and segment, each segmentation right behind the last of the maps that it reads."""
    inferred = {r.key: place for place, r in enumerate(infer)}
    behind: dict[int, list[Task]] = {}
    for region in segment:
        near = Grid(job.frame.grid, job.step).touching(region.box.pad(job.model.margin))
        needs = [r.key for r in near if r.key in inferred]
        task = Task(f"segment {region.key}", segment_region, (job, region), tuple(f"infer {key}" for key in needs))
        behind.setdefault(max(inferred[key] for key in needs), []).append(task)
    tasks = []
    for place, region in enumerate(infer):
        tasks.append(Task(f"infer {region.key}", infer_region, (job, region), gpu=True))
        tasks += behind.get(place, [])
    return tasks


def finish(job: Job, run: dict[str, Any]) -> None:
    """``run.json`` by rename, the mark of completion; before it what killed workers left, then the scaffolding goes."""
    remove_unfinished(job.folder)
    write_json(job.folder / "run.json", run)
    shutil.rmtree(job.work)
