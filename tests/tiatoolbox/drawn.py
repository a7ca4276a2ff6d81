"""Nuclei of which everything is known, as maps and as what a network could be taught."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiproc.core.geometry import Box
from wsiproc.synthetic import Scene

MPP = 0.25


def tissue(side: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Crowded synthetic tissue (side, side, 3) at 0.25 µm/px, and its true labels (side, side)."""
    box = Box(0, 0, side, side)
    scene = Scene(box.shape, mpp=MPP, seed=seed, tissue_fraction=1.0, crowding=0.8)
    return scene.render(box), scene.labels(box).astype(np.int32)


def ways(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """What HoVer-Net learns (Graham et al. 2019): each pixel's way to its nucleus' middle, in [-1, 1]: (2, h, w)."""
    found = np.zeros((2, *labels.shape), np.float32)
    for label, place in enumerate(ndimage.find_objects(labels), 1):
        if place is None:
            continue
        inside = labels[place] == label
        for plane, at in zip(found, reversed(np.nonzero(inside)), strict=True):
            way = (at - np.rint(at.mean())).astype(np.float32)
            for side in (way < 0, way > 0):
                way[side] /= np.abs(way[side]).max(initial=1)
            plane[place][inside] = way
    return found


def maps_of(
    labels: npt.NDArray[np.int32], types: npt.NDArray[np.int64], count: int, noise: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Maps (5 + count, h, w) uint8 of a perfect HoVer-Net; ``types`` (N + 1,): type of each label, 0…count - 1.

    ``noise``: deviation of what is added to the ways, smooth over a few pixels.
    """
    rng = np.random.default_rng(0)
    rough = ndimage.gaussian_filter(rng.normal(size=(2, *labels.shape)), (0, 1, 1)) * noise
    hover = np.clip(ways(labels) + rough, -1, 1) * 127.5 + 127.5
    nucleus = ndimage.gaussian_filter((labels > 0).astype(np.float32), 1) * 255
    stains = np.full((2, *labels.shape), 40.0)
    evidence = [np.where((labels > 0) & (types[labels] == kind), 200, 20) for kind in range(count)]
    return np.rint([nucleus, *stains, *hover, *evidence]).astype(np.uint8)


def matched(some: npt.NDArray[np.int32], others: npt.NDArray[np.int32]) -> dict[int, int]:
    """Labels of ``some`` → those of ``others`` with which more than half of their union is in common."""
    areas, theirs = np.bincount(some.ravel()), np.bincount(others.ravel())
    both = np.unique(np.stack([some, others])[:, (some > 0) & (others > 0)], axis=1, return_counts=True)
    (mine, his), common = both
    same = common > 0.5 * (areas[mine] + theirs[his] - common)
    return dict(zip(mine[same].tolist(), his[same].tolist(), strict=True))
