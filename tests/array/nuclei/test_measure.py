import itertools

import numpy as np
import pytest
import shapely
from skimage.measure import regionprops

from tests.array.clumps import clumps
from wsiproc.array.nuclei.instances import SplitRule, split_clumps
from wsiproc.array.nuclei.measure import centroids, ellipse_axes, label_sums, mean_and_spread, perimeters_and_solidities
from wsiproc.array.nuclei.outline import trace


def test_measurements_agree_with_scikit_image() -> None:
    labels = split_clumps(clumps(3, (300, 300), 120), SplitRule(14, 6, 0.8, 1.0, 30)).labels
    maps = np.random.default_rng(0).integers(0, 256, (2, 300, 300), dtype=np.uint8)
    count = int(labels.max())
    sums = label_sums(labels, count, maps)
    major, minor = ellipse_axes(sums)
    mean, spread = mean_and_spread(sums, 1, 0.01)
    props = regionprops(labels, intensity_image=maps[1])
    assert len(props) == count > 40
    assert np.allclose(sums.areas, [p.area for p in props])
    assert np.allclose(centroids(sums) - 0.5, [p.centroid for p in props])
    assert np.allclose(major, [p.axis_major_length for p in props])
    assert np.allclose(minor, [p.axis_minor_length for p in props])
    assert np.allclose(mean, [p.intensity_mean / 100 for p in props])
    assert np.allclose(spread, [p.intensity_std / 100 for p in props])
    assert (sums.boxes == [[*p.bbox[:2], p.bbox[2] - p.bbox[0], p.bbox[3] - p.bbox[1]] for p in props]).all()


def test_perimeter_and_solidity_of_known_shapes() -> None:
    y, x = np.mgrid[:80, :240]
    labels = np.zeros((80, 240), np.int32)
    labels[(y - 40) ** 2 + (x - 40) ** 2 <= 30**2] = 1  # a disc
    labels[20:60, 90:150] = 2  # a rectangle
    labels[20:60, 180:220] = 3
    labels[20:40, 180:200] = 0  # an L
    perimeter, solidity = perimeters_and_solidities(trace(labels, np.array([1, 2, 3])))
    assert perimeter[0] == pytest.approx(2 * np.pi * 30, rel=0.02)
    assert perimeter[1] == pytest.approx(2 * (40 + 60), rel=0.06)
    assert solidity[0] > 0.975
    assert solidity[1] == pytest.approx(1.0, abs=1e-3)
    assert solidity[2] == pytest.approx(1200 / 1400, abs=0.01)


def test_lengths_and_hulls_are_those_of_geos() -> None:
    labels = split_clumps(clumps(5, (300, 300), 120), SplitRule(14, 6, 0.8, 1.0, 30)).labels
    labels[0, 0], labels[2:4, 0], labels[0, 2:9] = 9001, 9002, 9003  # a pixel, a column, a row
    numbers = np.unique(labels)[1:]
    rings = trace(labels, numbers.astype(np.int64))
    perimeters, solidities = perimeters_and_solidities(rings)
    assert len(numbers) > 40
    for i, (start, end) in enumerate(itertools.pairwise(rings.offsets)):
        corners = rings.vertices[start:end]
        steps = np.sign(np.roll(corners, -1, axis=0) - corners)
        cut = np.stack([corners + steps / 2, np.roll(corners, -1, axis=0) - steps / 2], axis=1).reshape(-1, 2)
        polygon = shapely.Polygon(cut)
        assert perimeters[i] == pytest.approx(0.948 * polygon.length, rel=1e-12)
        assert solidities[i] == pytest.approx(polygon.area / polygon.convex_hull.area, rel=1e-12)
