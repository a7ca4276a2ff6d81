"""ImageScope's outlines as pixels: no half pixel is lost on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.evaluate.layouts import load_truth

SHAPE = (60, 70)


def write_rings(path: Path, rings: list[np.ndarray]) -> None:
    """Rings (V, 2) of (x, y) as ImageScope writes them, with six decimals."""
    regions = "".join(
        "<Region><Vertices>" + "".join(f'<Vertex X="{x:f}" Y="{y:f}"/>' for x, y in ring) + "</Vertices></Region>"
        for ring in rings
    )
    path.write_text(f"<Annotations><Annotation><Regions>{regions}</Regions></Annotation></Annotations>")


def star(x: float, y: float, radii: list[float]) -> np.ndarray:
    """A polygon (V, 2) around (x, y)."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([x + np.cos(angles) * radii, y + np.sin(angles) * radii], axis=1)


@given(x=st.floats(25, 45), y=st.floats(25, 35), radii=st.lists(st.floats(3, 24), min_size=3, max_size=24))
def test_a_pixel_is_inside_when_its_centre_is(
    tmp_path_factory: pytest.TempPathFactory, x: float, y: float, radii: list[float]
) -> None:
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    ring = star(x, y, radii).round(6)
    write_rings(path, [ring])
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    polygon, centres = shapely.Polygon(ring), shapely.points(cols + 0.5, rows + 0.5)
    decided = shapely.distance(polygon.exterior, centres) > 1e-6  # on the line either answer is right
    inside = shapely.contains(polygon, centres)
    assert ((load_truth(path, SHAPE) == 1) == inside)[decided].all()


@pytest.mark.parametrize(("x", "y"), [(30, 30), (30.5, 30.5), (31.3, 28.9), (29.75, 33.25)])
def test_centre_and_area_are_those_that_were_drawn(tmp_path: Path, x: float, y: float) -> None:
    """A disc; drawn half a pixel off, its centre would be too."""
    write_rings(tmp_path / "a.xml", [star(x, y, [15.0] * 200)])
    labels = load_truth(tmp_path / "a.xml", SHAPE)
    rows, cols = np.nonzero(labels)
    assert labels.sum() == pytest.approx(np.pi * 15**2, rel=0.02)
    assert (cols.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((x, y), abs=0.05)


def test_integers_are_corners_of_pixels(tmp_path: Path) -> None:
    write_rings(tmp_path / "a.xml", [np.array([(4, 2), (9, 2), (9, 5), (4, 5)])])
    expected = np.zeros(SHAPE)
    expected[2:5, 4:9] = 1
    np.testing.assert_array_equal(load_truth(tmp_path / "a.xml", SHAPE), expected)
