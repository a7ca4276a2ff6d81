"""One tool of ``peers.py``, in a process and an environment of its own; prints its measurements as a line of JSON.

    python benchmarks/peer_tools.py stardist square.npy 2
    python benchmarks/peer_tools.py scikit-image slide.svs 2

A network is given a square of tissue (h, w, 3) that was read and rescaled beforehand, and is built with random weights:
the time of its layers does not depend on them. Only the network is timed, called in tiles as its own package calls it,
after a first call that does not count. Post-processing of the network's maps is left out, since maps of random weights
have no nuclei: its time is a lower bound. Imports are local: each environment has its own tool's packages, not wsiproc.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Timed = tuple[float, int]
"""Seconds, and the px of the square that they were spent on."""


def timed(call: Callable[[UInt8Array], Any], square: UInt8Array, first_px: int) -> Timed:
    """Time of ``call`` on the whole square, after one on a corner of ``first_px`` that pays for loading."""
    call(square[:first_px, :first_px])
    started = time.perf_counter()
    call(square)
    return time.perf_counter() - started, square.shape[0] * square.shape[1]


def tiled(call: Callable[[UInt8Array], Any], square: UInt8Array, sees: int, keeps: int, batch: int) -> Timed:
    """Time of ``call`` on batches of tiles of ``sees`` px, of which ``keeps`` px are kept: only these count as done."""
    starts = range(0, square.shape[0] - sees + 1, keeps)
    patches = np.stack([square[y : y + sees, x : x + sees] for y in starts for x in starts])
    call(patches[:1])
    started = time.perf_counter()
    for first in range(0, len(patches), batch):
        call(patches[first : first + batch])
    return time.perf_counter() - started, len(patches) * keeps**2


def tiatoolbox(square: UInt8Array, threads: int) -> Timed:
    """HoVer-Net fast with PanNuke's six types, by the call of NucleusInstanceSegmentor: 256 px seen, 164 px kept."""
    import torch
    from tiatoolbox.models.architecture.hovernet import HoVerNet

    torch.set_num_threads(threads)
    network = HoVerNet(num_types=6, mode="fast").eval()

    def infer(patches: UInt8Array) -> None:
        network.infer_batch(network, torch.from_numpy(patches), device="cpu")

    return tiled(infer, square, 256, 164, batch=8)


def stardist(square: UInt8Array, threads: int) -> Timed:
    """The network of ``2D_versatile_he``: 32 rays on a grid of 2 px."""
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    from stardist.models import Config2D, StarDist2D

    model = StarDist2D(Config2D(n_rays=32, grid=(2, 2), n_channel_in=3), name=None, basedir=None)
    count = max(1, square.shape[0] // 1024)

    def infer(picture: UInt8Array) -> None:
        model.predict(picture.astype(np.float32) / 255, n_tiles=(count, count, 1), show_tile_progress=False)

    return timed(infer, square, 256)


def cellpose(square: UInt8Array, threads: int) -> Timed:
    """The residual U-Net of versions 1 to 3, with the size of ``nuclei``: 17 px across, 224 px tiles."""
    import torch
    from cellpose.models import CellposeModel

    torch.set_num_threads(threads)
    model = CellposeModel(gpu=False, pretrained_model=False, diam_mean=17.0)
    return timed(lambda picture: model.eval(picture, channels=[0, 0], diameter=17.0, compute_masks=False), square, 256)


def cellpose_sam(square: UInt8Array, threads: int) -> Timed:
    """The vision transformer of version 4, 256 px tiles. Its class reads weights from a file, so it is given one."""
    import torch
    from cellpose.models import CellposeModel
    from cellpose.vit import CPSAM

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random"
        torch.save(CPSAM().state_dict(), weights)
        model = CellposeModel(gpu=False, pretrained_model=str(weights), use_bfloat16=False)
    return timed(lambda picture: model.eval(picture, batch_size=1, compute_masks=False), square, 128)


def instanseg(square: UInt8Array, threads: int) -> Timed:
    """The U-Net of its training script's defaults, on 512 px tiles that overlap by 80, as its class does."""
    import torch
    from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet

    torch.set_num_threads(threads)
    network = InstanSeg_UNet(in_channels=3, layers=[256, 128, 64, 32], out_channels=[[2, 2, 1]], norm="BATCH").eval()

    def infer(patches: UInt8Array) -> None:
        with torch.inference_mode():
            network(torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255)

    return tiled(infer, square, 512, 432, batch=1)


# --- the classical pipeline ------------------------------------------------------------------------------------------

BLOCK_PX, OVERLAP_PX = 1024, 32
SIGMA_PX = 1.5  # at 0.25 µm/px


def scikit_image(path: str, threads: int) -> int:
    """Number of nuclei: scikit-image over dask arrays, to labels in Zarr and a table in CSV beside each other.

    Haematoxylin of ``rgb2hed``, one Otsu threshold, small objects dropped and holes filled, distance watershed with
    ``map_overlap``, ``regionprops_table`` block by block. Blocks that are glass in a thumbnail are left out. Nuclei on
    borders of blocks come out as two, which is what the form costs.
    """
    import dask
    import dask.array as da
    import openslide
    import pandas
    from skimage.measure import regionprops_table

    slide = openslide.OpenSlide(path)
    scale = 0.25 / float(slide.properties["openslide.mpp-x"])
    full = blocks_of(slide)
    level = otsu_of(slide, full, scale)

    def read(block_info: Any) -> UInt8Array:
        (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
        if not full[y0 // BLOCK_PX, x0 // BLOCK_PX]:
            return np.full((y1 - y0, x1 - x0, 3), 255, np.uint8)
        return np.asarray(slide.read_region((x0, y0), 0, (x1 - x0, y1 - y0)))[..., :3]

    def number(labels: npt.NDArray[np.int64], block_id: tuple[int, int]) -> npt.NDArray[np.int64]:
        first = (block_id[0] * full.shape[1] + block_id[1]) * BLOCK_PX**2
        return np.where(labels > 0, labels + first, 0)

    width, height = slide.dimensions
    chunks = da.core.normalize_chunks((BLOCK_PX, BLOCK_PX, 3), (height, width, 3))
    rgb = da.map_blocks(read, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    haematoxylin = rgb.map_blocks(stain, drop_axis=2, dtype=np.float32)
    depth = {0: OVERLAP_PX, 1: OVERLAP_PX}
    found = da.map_overlap(
        nuclei, haematoxylin, depth=depth, boundary="reflect", dtype=np.int64, level=level, scale=scale
    )
    names = ("label", "area", "centroid", "eccentricity", "solidity", "bbox")
    with dask.config.set(scheduler="threads", num_workers=threads), tempfile.TemporaryDirectory() as folder:
        found.map_blocks(number, dtype=np.int64).to_zarr(f"{folder}/labels.zarr")
        labels = da.from_zarr(f"{folder}/labels.zarr")
        props = [dask.delayed(regionprops_table)(block, properties=names) for block in labels.to_delayed().ravel()]
        table = pandas.concat([pandas.DataFrame(part) for part in dask.compute(*props)])
        table.to_csv(f"{folder}/nuclei.csv", index=False)
    return len(table)


def blocks_of(slide: Any) -> npt.NDArray[np.bool_]:
    """Which blocks have tissue, by the saturation of a thumbnail and Otsu."""
    from skimage.color import rgb2hsv
    from skimage.filters import threshold_otsu

    width, height = slide.dimensions
    small = rgb2hsv(np.asarray(slide.get_thumbnail((1024, 1024))))[..., 1]
    tissue = small > threshold_otsu(small)
    ys = np.arange(0, height, BLOCK_PX) * tissue.shape[0] // height
    xs = np.arange(0, width, BLOCK_PX) * tissue.shape[1] // width
    inside: npt.NDArray[np.int64] = np.add.reduceat(np.add.reduceat(tissue.astype(np.int64), ys, 0), xs, 1)
    return inside > 0


def otsu_of(slide: Any, full: npt.NDArray[np.bool_], scale: float) -> float:
    """Otsu's threshold of the smoothed haematoxylin in at most eight blocks with tissue."""
    from skimage.filters import gaussian, threshold_otsu

    places = np.argwhere(full)
    some = places[:: max(1, len(places) // 8)]
    boxes = [((int(x) * BLOCK_PX, int(y) * BLOCK_PX), 0, (BLOCK_PX, BLOCK_PX)) for y, x in some]
    # Beyond the slide's edge pixels have no opacity, and count as glass.
    parts = [np.asarray(slide.read_region(*box)) for box in boxes]
    values = [gaussian(stain(part[..., :3]), SIGMA_PX * scale)[part[..., 3] > 0] for part in parts]
    return float(threshold_otsu(np.concatenate(values)))


def stain(rgb: UInt8Array) -> npt.NDArray[np.float32]:
    """Amount of haematoxylin."""
    from skimage.color import rgb2hed

    return np.asarray(rgb2hed(rgb)[..., 0], np.float32)


def nuclei(haematoxylin: npt.NDArray[np.float32], level: float, scale: float) -> npt.NDArray[np.int64]:
    """Labels of a block; ``scale`` is 1 at 0.25 µm/px."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian
    from skimage.morphology import remove_small_holes, remove_small_objects
    from skimage.segmentation import watershed

    mask = gaussian(haematoxylin, SIGMA_PX * scale) > level
    if not mask.any():
        return np.zeros(mask.shape, np.int64)
    mask = remove_small_objects(remove_small_holes(mask, max_size=int(200 * scale**2)), max_size=int(100 * scale**2))
    distance = gaussian(ndimage.distance_transform_edt(mask), 2 * scale)
    peaks = peak_local_max(distance, min_distance=max(1, round(6 * scale)), labels=mask.astype(int))
    markers = np.zeros(mask.shape, np.int64)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-distance, markers, mask=mask), np.int64)


NETWORKS = {
    "tiatoolbox": ("tiatoolbox", tiatoolbox),
    "stardist": ("stardist", stardist),
    "cellpose": ("cellpose", cellpose),
    "cellpose-sam": ("cellpose", cellpose_sam),
    "instanseg": ("instanseg-torch", instanseg),
}


def main(tool: str, data: str, threads: int) -> dict[str, Any]:
    """What the tool took; ``missing`` where its package, in the version that has this network, is not there."""
    package, run = NETWORKS.get(tool, ("scikit-image", None))
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return {"missing": f"no {package}"}
    if package == "cellpose" and (int(version.split(".")[0]) >= 4) != (tool == "cellpose-sam"):
        return {"missing": f"this is Cellpose {version}"}
    if run is None:
        return {"version": version, "cells": scikit_image(data, threads)}
    seconds, px = run(np.load(data), threads)
    return {"version": version, "seconds": seconds, "px": px}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
