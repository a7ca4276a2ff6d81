import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import ome_zarr_models
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiproc.array.pyramid import downsample_mode
from wsiproc.core.geometry import Box, Grid
from wsiproc.io.ome_zarr import image as ngff

SHAPE, MPP, LEVELS = (5000, 2100), (0.5, 0.5003), 6


def label_image(folder: Path) -> Path:
    """An image with labels that fill two shards in full."""
    image = folder / "slide.ome.zarr"
    ngff.create_image(image, (500, 210), (5.0, 5.003), LEVELS, [("Red", (255, 0, 0)), ("Green", (0, 255, 0))])
    ngff.create_labels_group(image, ["classes", "cells"])
    values = {0: ("Background", (0, 0, 0), 0), 1: ("Nucleus", (0, 158, 115), 160)}
    ngff.create_labels(image, "classes", SHAPE, MPP, LEVELS, "uint8", values)
    ngff.create_labels(image, "cells", SHAPE, MPP, LEVELS, "uint32")
    return image


def test_two_validators_accept_images_and_labels(tmp_path: Path) -> None:
    image = label_image(tmp_path)
    for folder in (image, image / "labels/classes", image / "labels/cells"):
        ome_zarr_models.open_ome_zarr(zarr.open_group(folder, mode="r"))
        yaozarrs.validate_zarr_store(str(folder))


def test_another_library_reads_the_same_pixels(tmp_path: Path) -> None:
    image = label_image(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 2**31, SHAPE, dtype=np.uint32)
    for shard in Grid(SHAPE, ngff.SHARD):
        ngff.write_pyramid(image / "labels/cells", shard.box, pixels[shard.box.slices], ngff.SHARD)
    assert (np.asarray(zarr.open_array(image / "labels/cells/0", mode="r")) == pixels).all()
    assert (ngff.read_box(image / "labels/cells", 0, Box(4000, 100, 200, 300)) == pixels[4000:4200, 100:400]).all()
    assert len([p for p in (image / "labels/cells/0/c").rglob("*") if p.is_file()]) == 2


def test_levels_are_halved_as_a_whole(tmp_path: Path) -> None:
    image = label_image(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)
    folder = image / "labels/classes"
    for shard in Grid(SHAPE, ngff.SHARD):
        ngff.write_pyramid(folder, shard.box, pixels[shard.box.slices], ngff.SHARD)
    for level, (h, w) in enumerate(ngff.level_shapes(folder)):
        if level >= ngff.direct_levels(ngff.SHARD):
            ngff.downsample_shard(folder, level, Box(0, 0, h, w))
        pixels = downsample_mode(pixels) if level else pixels
        assert (ngff.read_box(folder, level, Box(0, 0, h, w)) == pixels).all()


def test_shards_halve_as_long_as_they_hold_whole_chunks() -> None:
    assert [ngff.shard_at(level, 4096) for level in range(6)] == [4096, 2048, 1024, 512, 4096, 4096]
    assert [ngff.shard_at(level, 3072) for level in range(3)] == [3072, 1536, 4096]
    assert [ngff.shard_at(level, 1536) for level in range(2)] == [1536, 4096]
    assert [ngff.shard_at(level, 512) for level in range(2)] == [512, 4096]


def test_every_level_lies_where_its_pixels_came_from(tmp_path: Path) -> None:
    image = label_image(tmp_path)
    ome = json.loads((image / "labels/cells/zarr.json").read_text())["attributes"]["ome"]
    multiscale = ome["multiscales"][0]
    assert [axis["unit"] for axis in multiscale["axes"]] == ["micrometer", "micrometer"]
    for level, dataset in enumerate(multiscale["datasets"]):
        scale, moved = dataset["coordinateTransformations"]
        assert scale["scale"] == [m * 2**level for m in MPP]
        # The first pixel's centre: half a pixel of its level from the slide's corner.
        assert np.allclose(moved["translation"], [m * 2**level / 2 for m in MPP])


SIDE = st.integers(1, 1400)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 1500), SIDE, SIDE, st.sampled_from([512, 1536, 2048, 4096]))
def test_the_part_that_is_not_zero_makes_the_bytes_of_the_whole(y: int, x: int, h: int, w: int, shard: int) -> None:
    """On the last shards of a picture whose sides are odd, too."""
    shape = (3001, 2103)
    region = next(r.box for r in Grid(shape, shard) if r.box.contains(min(y, 3000), min(x, 2102)))
    filled = Box(y, x, h, w).intersect(region)
    part = ngff.part_to_write(filled, region, shard)
    assert part.intersect(filled) == filled
    assert part.intersect(region) == part
    pixels = np.zeros((2, *region.shape), np.uint8)
    inside = filled.relative_to(region)
    pixels[(slice(None), *inside.slices)] = np.random.default_rng(y).integers(0, 256, (2, *inside.shape), np.uint8)
    files = []
    for box in (region, part):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "maps.ome.zarr"
            ngff.create_image(folder, shape, MPP, 5, [("Red", (255, 0, 0)), ("Green", (0, 255, 0))], shard)
            ngff.write_pyramid(folder, box, pixels[(slice(None), *box.relative_to(region).slices)], shard)
            files.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert files[0] == files[1]


def test_glass_leaves_no_file(tmp_path: Path) -> None:
    image = label_image(tmp_path)
    ngff.write_pyramid(image / "labels/cells", Box(0, 0, 4096, 2100), np.zeros((4096, 2100), np.uint32), ngff.SHARD)
    assert not (image / "labels/cells/0/c").exists()


def test_threads_may_write_the_first_metadata_of_a_process_at_the_same_time() -> None:
    """ome-zarr-models' modules import each other: unless one thread imports them all, another finds them half done."""
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from wsiproc.io.ome_zarr import metadata
sys.setswitchinterval(1e-6)
works = [lambda: metadata.image_metadata("a", (0.5, 0.5), 1, []), lambda: metadata.labels_metadata(["a"])] * 2
with ThreadPoolExecutor(len(works)) as pool:
    for future in [pool.submit(work) for work in works]:
        future.result()
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
