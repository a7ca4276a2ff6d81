"""DAB in a ring around each nucleus: as counted pixel by pixel, and the same from every cut-out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label

from wsiproc.array.nuclei.measure import label_sums
from wsiproc.array.nuclei.ring import SECTORS, RingSums, ring_sums

MPP, REACH = 0.5, 4


def scene(seed: int, shape: tuple[int, int] = (90, 80)) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Labels of discs, some of which touch, and maps: probability, and a stain of noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(12):
        cy, cx, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 9)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 <= r**2
    maps = np.stack([mask * np.uint8(255), rng.integers(0, 255, shape, np.uint8)])
    return label(mask, connectivity=1).astype(np.int32), maps


def rings(labels: npt.NDArray[np.int32], maps: npt.NDArray[np.uint8]) -> RingSums:
    return ring_sums(labels, label_sums(labels, int(labels.max()), maps), (0, 0), maps[0], maps[1], MPP)


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_a_ring_is_what_is_near_its_nucleus_and_in_none(seed: int) -> None:
    labels, maps = scene(seed)
    found = rings(labels, maps)
    reach = np.argwhere(np.hypot(*np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]) <= REACH) - REACH
    for index in range(int(labels.max())):
        own = np.argwhere(labels == index + 1)
        near = np.unique((own[:, None] + reach[None]).reshape(-1, 2), axis=0)
        near = near[((near >= 0) & (near < labels.shape)).all(axis=1)]
        near = near[maps[0][tuple(near.T)] < 128]
        assert found.counts[index].sum() == len(near)
        assert found.values[index].sum() == maps[1][tuple(near.T)].sum()
        angles = np.arctan2(*(near - own.mean(axis=0)).T)
        spread = np.histogram(angles, SECTORS, (-np.pi, np.pi))[0]
        assert np.abs(found.counts[index] - spread).sum() <= 4  # those on a border between two sectors


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 30), st.integers(0, 30))
def test_no_cut_out_changes_a_ring(seed: int, top: int, left: int) -> None:
    labels, maps = scene(seed)
    whole = rings(labels, maps)
    part = labels[top:, left:]
    numbers = np.unique(part[part > 0])
    inside = [
        n for n in numbers
        if (np.argwhere(labels == n).min(axis=0) >= (top + REACH, left + REACH)).all()
    ]  # fmt: skip
    renumbered = np.searchsorted(numbers, part, side="left").astype(np.int32) + 1
    renumbered[part == 0] = 0
    cut = rings(np.ascontiguousarray(renumbered), np.ascontiguousarray(maps[:, top:, left:]))
    for n in inside:
        row = int(np.searchsorted(numbers, n))
        assert (cut.counts[row] == whole.counts[n - 1]).all()
        assert (cut.values[row] == whole.values[n - 1]).all()


def test_completeness_counts_stained_sectors() -> None:
    labels, maps = np.zeros((40, 40), np.int32), np.zeros((2, 40, 40), np.uint8)
    y, x = np.mgrid[:40, :40] - 20
    labels[y**2 + x**2 <= 36] = 1
    maps[0], maps[1] = (labels > 0) * 255, (x > 0) * 100
    half = rings(labels, maps)
    assert half.completeness(20)[0] == 0.5
    assert 40 < half.means()[0] < 60
    full = rings(labels, np.stack([maps[0], np.full((40, 40), 50, np.uint8)]))
    assert (full.completeness(20)[0], full.completeness(60)[0], full.means()[0]) == (1, 0, 50)


def test_a_nucleus_without_room_has_no_ring() -> None:
    labels = np.ones((10, 10), np.int32)
    maps = np.full((2, 10, 10), 255, np.uint8)
    found = rings(labels, maps)
    assert np.isnan(found.means()).all()
    assert np.isnan(found.completeness(10)).all()
