"""A good output passes every check; each way of breaking one is found."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zarr

from tests.records import record
from wsiproc.array.nuclei.outline import trace
from wsiproc.array.pyramid import level_shape
from wsiproc.core.cells import CellTable
from wsiproc.core.geometry import Box
from wsiproc.core.palette import class_colour
from wsiproc.io.cells.parquet import CellWriter
from wsiproc.io.geojson.write import GeoJsonWriter, Piece, features_bytes
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.results.validate import check_output

CLASSES = ["Positive", "Negative"]
COLOURS = {name: class_colour(name, index) for index, name in enumerate(CLASSES)}
SLIDE, GRID, OVERVIEW, LEVELS = (1203, 801), (601, 401), (151, 101), 2
MPP = 0.25
SCALE = (SLIDE[0] / GRID[0], SLIDE[1] / GRID[1])

Breaks = Callable[[Path], None]


def mpp_of(shape: tuple[int, int]) -> tuple[float, float]:
    return SLIDE[0] * MPP / shape[0], SLIDE[1] * MPP / shape[1]


def draw_labels() -> np.ndarray:
    """24 discs with notches, far from each other; ids from 1."""
    labels = np.zeros(GRID, np.int32)
    yy, xx = np.mgrid[:17, :17]
    disc = (yy - 8) ** 2 + (xx - 8) ** 2 <= 60
    disc[8:, 8] = False
    disc[:8, :3] = False
    for number in range(24):
        y, x = 40 + 90 * (number // 4), 30 + 95 * (number % 4)
        labels[y : y + 17, x : x + 17][disc] = number + 1
    return labels


def make_cells(labels: np.ndarray) -> CellTable:
    count = int(labels.max())
    places = [np.argwhere(labels == number) for number in range(1, count + 1)]
    areas = np.array([len(place) for place in places])
    return CellTable(
        (np.arange(count) % 2).astype(np.uint8),
        np.linspace(0.3, 1, count, dtype=np.float32),
        np.array([place.mean(0) + 0.5 for place in places]),
        np.array([[*place.min(0), *(np.ptp(place, axis=0) + 1)] for place in places], np.int32),
        {"area_um2": (areas * np.prod(SCALE) * MPP**2).astype(np.float32)},
        trace(labels, np.arange(1, count + 1)),
    )


def fill(folder: Path, pixels: np.ndarray) -> None:
    shape = pixels.shape[-2:]
    ngff.write_pyramid(folder, Box(0, 0, *shape), pixels, ngff.SHARD)
    for level in range(ngff.direct_levels(ngff.SHARD), LEVELS):
        ngff.downsample_shard(folder, level, Box(0, 0, *level_shape(shape, level)))


def write_zarr(folder: Path, labels: np.ndarray, cells: CellTable) -> None:
    image, maps, rng = folder / "slide.ome.zarr", folder / "maps.ome.zarr", np.random.default_rng(0)
    channels = [(name, (255, 0, 0)) for name in "RGB"]
    ngff.create_image(image, OVERVIEW, mpp_of(OVERVIEW), LEVELS, channels)
    ngff.create_image(maps, GRID, mpp_of(GRID), LEVELS, channels[:2])
    ngff.create_labels_group(image, ["tissue", "classes", "cells"])
    glass = {0: ("Glass", (0, 0, 0), 0), 1: ("Tissue", (1, 2, 3), 90)}
    ngff.create_labels(image, "tissue", OVERVIEW, mpp_of(OVERVIEW), LEVELS, "uint8", glass)
    kinds = {0: ("Background", (0, 0, 0), 0)} | {i: (n, COLOURS[n], 160) for i, n in enumerate(CLASSES, start=1)}
    ngff.create_labels(image, "classes", GRID, mpp_of(GRID), LEVELS, "uint8", kinds)
    ngff.create_labels(image, "cells", GRID, mpp_of(GRID), LEVELS, "uint32")
    fill(image, rng.integers(0, 256, (3, *OVERVIEW), np.uint8))
    fill(maps, rng.integers(0, 256, (2, *GRID), np.uint8))
    fill(image / "labels/tissue", np.ones(OVERVIEW, np.uint8))
    fill(image / "labels/classes", np.concatenate([[0], cells.classes + 1]).astype(np.uint8)[labels])
    fill(image / "labels/cells", labels.astype(np.uint32))


FAILED = {"key": "r0001c0000", "box": [0, 0, 512, 512], "reason": "cannot decode"}


def facts_of(cells: CellTable) -> dict[str, Any]:
    counts = dict(zip(CLASSES, np.bincount(cells.classes, minlength=2).tolist(), strict=True))
    run = record(
        slide={"shape": SLIDE, "mpp": MPP},
        classes={name: list(colour) for name, colour in COLOURS.items()},
        grid={"shape": GRID, "mpp": mpp_of(GRID), "scale": SCALE},
        regions={"step": 512, "total": 2, "tissue": 2, "failed": [], "boxes": [[0, 0, 512, 401]]},
        counts={"cells": len(cells), "classes": counts, "in_tissue": counts, "dropped": {"small": 3}},
        tissue_mm2=SLIDE[0] * SLIDE[1] * MPP**2 / 1e6,  # all of it
    )
    return run.with_numbers().as_dict()


@pytest.fixture(scope="session")
def good_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "slide"
    folder.mkdir()
    labels = draw_labels()
    cells = make_cells(labels)
    write_zarr(folder, labels, cells)
    halves = [cells.take(np.arange(10)), cells.take(np.arange(10, 24))]
    with (
        CellWriter(folder / "cells.parquet", COLOURS, ["area_um2"], SCALE) as table,
        GeoJsonWriter(folder / "cells.geojson.gz") as features,
    ):
        for half in halves:
            text = features_bytes(half, table.write(half), "f", CLASSES, list(COLOURS.values()), SCALE)
            features.append(Piece.of(*text))
    (folder / "run.json").write_text(json.dumps(facts_of(cells)))
    (folder / "report.html").write_text("<!doctype html><html></html>")
    return folder


@pytest.fixture
def output(good_output: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_output, tmp_path / "slide"))


def problems(folder: Path) -> list[str]:
    return [f"{f.level} | {f.what}: {f.detail}" for f in check_output(folder) if f.level != "ok"]


def test_a_good_output_has_nothing_but_oks(good_output: Path) -> None:
    findings = check_output(good_output)
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert len({finding.what for finding in findings}) == len(findings) == 13


def edit_json(name: str, change: Callable[[Any], Any]) -> Breaks:
    def breaks(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return breaks


def run(change: Callable[[Any], Any]) -> Breaks:
    return edit_json("run.json", change)


def ome(group: str, change: Callable[[Any], Any]) -> Breaks:
    return edit_json(f"{group}/zarr.json", lambda value: change(value["attributes"]["ome"]))


def level(group: str, number: int, change: Callable[[Any], Any]) -> Breaks:
    """Change the coordinate transformations of one level."""
    return ome(group, lambda value: change(value["multiscales"][0]["datasets"][number]["coordinateTransformations"]))


def pixels(group: str, number: int, box: Box, value: int) -> Breaks:
    def breaks(folder: Path) -> None:
        array = zarr.open_array(folder / group / str(number), mode="r+")
        array[(..., *box.slices)] = value

    return breaks


def table(change: Callable[[pa.Table], pa.Table]) -> Breaks:
    def breaks(folder: Path) -> None:
        path = folder / "cells.parquet"
        facts = {key: value for key, value in pq.read_metadata(path).metadata.items() if key != b"ARROW:schema"}
        pq.write_table(change(pq.read_table(path).replace_schema_metadata(facts)), path)

    return breaks


def column(name: str, change: Callable[[Any], Any]) -> Breaks:
    def with_column(cells: pa.Table) -> pa.Table:
        place = cells.schema.get_field_index(name)
        return cells.set_column(place, cells.schema.field(name), change(cells[name]))

    return table(with_column)


def geojson(old: bytes, new: bytes, times: int = 1) -> Breaks:
    def breaks(folder: Path) -> None:
        path = folder / "cells.geojson.gz"
        text = gzip.decompress(path.read_bytes())
        assert old in text
        path.write_bytes(gzip.compress(text.replace(old, new, times)))

    return breaks


def remove(name: str) -> Breaks:
    def breaks(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return breaks


def drop_second_feature(folder: Path) -> None:
    path = folder / "cells.geojson.gz"
    lines = gzip.decompress(path.read_bytes()).split(b"\n")
    path.write_bytes(gzip.compress(b"\n".join(lines[:2] + lines[3:])))


CELLS, KINDS, IMAGE = "slide.ome.zarr/labels/cells", "slide.ome.zarr/labels/classes", "slide.ome.zarr"
FIRST_CELL = Box(48, 33, 2, 2)  # inside cell 1
LAST = {"label-value": 2, "rgba": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        (remove("run.json"), "run.json: missing"),
        (run(lambda r: r.pop("versions")), "`versions` is missing"),
        (run(lambda r: r["grid"].update(shape=None)), "`grid.shape` is missing or of the wrong type"),
        (run(lambda r: r["counts"].update(cells=25)), "add up to 24, not to 25"),
        (run(lambda r: r["counts"].update(classes={"A": 24})), "the classes are"),
        (run(lambda r: r["grid"].update(scale=[2.0, 2.0])), "slide extent ÷ grid extent"),
        (run(lambda r: r["counts"].update(cells=24, classes={"Positive": 11, "Negative": 13})), "run.json says"),
        (run(lambda r: r["counts"]["in_tissue"].update(Positive=11)), "`numbers` are"),
        (run(lambda r: r["counts"]["in_tissue"].update(Positive=11)), "their centre in labels/tissue are"),
        (run(lambda r: r["numbers"].update(cells_per_mm2=1.0)), "the counts and the tissue come to"),
        (run(lambda r: r.update(tissue_mm2=0.05)), "mm², run.json says 0.05"),
        (run(lambda r: r["slide"].update(mpp=0.5)), "`area_um2` of cell 1"),
        (run(lambda r: r["slide"].update(mpp=0.2501)), "level 0: scale is"),
        (run(lambda r: r["regions"]["failed"].append(FAILED)), "warning | to know: 1 regions"),
        (run(lambda r: r["warnings"].append("pale stain")), "warning | to know: pale stain"),
        (lambda folder: (folder / "x.tmp").touch(), "x.tmp is left over"),
        (remove("report.html"), "report.html: missing"),
        (lambda folder: (folder / "report.html").write_text("<html>"), "report.html: truncated"),
        (remove("cells.parquet"), "cells.parquet: cannot be checked"),
        (table(lambda cells: cells.drop(["score"])), "columns are missing: score"),
        (table(lambda cells: cells.slice(0, 23)), "23 rows, run.json counts 24"),
        (table(lambda cells: cells.replace_schema_metadata({})), "no GeoParquet metadata"),
        (
            table(
                lambda cells: cells.replace_schema_metadata(
                    {**cells.schema.metadata, b"geo": cells.schema.metadata[b"geo"].replace(b'"crs": null, ', b"")}
                )
            ),
            "must be null",
        ),
        (column("id", lambda ids: pc.add(ids, pa.scalar(1, pa.uint32()))), "not consecutive"),
        (column("area_um2", lambda values: pc.multiply(values, pa.scalar(4, pa.float32()))), "`area_um2` of cell 1"),
        (column("bbox", lambda boxes: pa.array(boxes.to_pylist()[::-1], boxes.type)), "`bbox` is not the bounds"),
        (column("class", lambda kinds: kinds.take([*range(1, 24), 0])), "labels = cells.parquet"),
        (column("geometry", lambda shapes: shapes.take([1, 0, *range(2, 24)])), "cell 1 lies elsewhere"),
        (remove("cells.geojson.gz"), "cells.geojson.gz follows QuPath's rules: cannot"),
        (geojson(b'"detection"', b'"Detection"'), "QuPath makes it an annotation"),
        (geojson(b'"Cell ID":3,', b'"Cell ID":4,'), "cell 4 is there twice"),
        (geojson(b'"Cell ID":3,', b'"Cell ID":99,'), "cell 99 is not in cells.parquet"),
        (geojson(b'"name":"Positive"', b'"name":"Negative"'), "cell 1 is Negative, in cells.parquet Positive"),
        (drop_second_feature, "1 cells are missing (run.json says 0), the first is [2]"),
        (remove(IMAGE), "slide.ome.zarr: missing"),
        (remove("maps.ome.zarr"), "maps.ome.zarr: missing"),
        (remove(f"{IMAGE}/labels/tissue"), "labels/tissue: missing"),
        (remove(f"{IMAGE}/1"), "yaozarrs"),
        (ome(IMAGE, lambda o: o["multiscales"][0].pop("axes")), "ome-zarr-models"),
        (ome(f"{IMAGE}/labels", lambda o: o["labels"].append("nuclei")), "labels: "),
        (ome(IMAGE, lambda o: o.update(version="0.4")), "ome.version is '0.4'"),
        (ome(IMAGE, lambda o: o["multiscales"][0]["axes"][1].update(unit="um")), "not 'micrometer'"),
        (ome(IMAGE, lambda o: o["omero"]["channels"].pop()), "omero lists 2 channels"),
        (ome(IMAGE, lambda o: o["omero"]["channels"][0]["window"].pop("start")), "needs `color` and `window`"),
        (ome(CELLS, lambda o: o["multiscales"][0]["datasets"].pop()), "1 levels, the image has 2"),
        (ome(CELLS, lambda o: o["image-label"].update(colors=[LAST])), "viewers"),
        (ome(KINDS, lambda o: o["image-label"]["colors"].pop()), "both need the same values"),
        (edit_json(f"{CELLS}/1/zarr.json", lambda a: a.update(dimension_names=["x", "y"])), "dimension_names"),
        (level(CELLS, 0, lambda steps: steps[0].update(scale=[0.5, 0.5])), "level 0: scale is [0.5, 0.5]"),
        (level(CELLS, 1, lambda steps: steps[1].update(translation=[0.0, 0.0])), "level 1: translation is"),
        (level(CELLS, 1, lambda steps: steps.pop()), "level 1: transformations ['scale'], not"),
        (pixels(CELLS, 0, FIRST_CELL, 25), "holds the id 25, cells.parquet ends at 24"),
        (pixels(CELLS, 0, FIRST_CELL, 0), "1 cells have another size than their outline: cell 1"),
        (pixels(CELLS, 1, Box(0, 0, 301, 201), 1), "level 1 is not level 0 halved"),
        (pixels(KINDS, 0, FIRST_CELL, 2), "4 pixels of labels/classes"),
        (pixels("maps.ome.zarr", 1, Box(0, 0, 301, 201), 9), "level 1 is not level 0 halved"),
    ],
)
def test_what_is_broken_is_found(output: Path, breaks: Breaks, expected: str) -> None:
    breaks(output)
    found = problems(output)
    assert any(expected in problem for problem in found), found


def test_labels_of_another_size_or_type_are_found(output: Path) -> None:
    shutil.rmtree(output / CELLS)
    ngff.create_labels(output / IMAGE, "cells", (600, 401), mpp_of((600, 401)), LEVELS, "uint8")
    found = "\n".join(problems(output))
    assert "level 0 is (600, 401) px, the grid is (601, 401)" in found
    assert "data type uint8, not uint32" in found


def test_cells_counted_as_not_in_the_geojson_may_be_missing_there(output: Path) -> None:
    drop_second_feature(output)
    run(lambda facts: facts["counts"].update(not_in_geojson=1))(output)
    assert problems(output) == []


def test_a_thousand_problems_are_told_as_twenty(output: Path) -> None:
    geojson(b'"detection"', b'"Detection"', times=-1)(output)
    rules = [f for f in check_output(output) if "QuPath's rules" in f.what]
    assert len(rules) == 21
