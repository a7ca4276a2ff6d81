from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiproc.core.geometry import Box
from wsiproc.errors import SettingsError, WsiprocError
from wsiproc.synthetic import LOOKS, Scene, SyntheticTruth, read_scene, truth_labels, write_synthetic_slide

SHAPE = (1500, 1810)
SCENE = Scene(SHAPE, seed=5, crowding=0.9, stain="HDAB", debris=3)
FULL = Box(0, 0, *SHAPE)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> SyntheticTruth:
    path = tmp_path_factory.mktemp("synthetic") / "slide.tif"
    return write_synthetic_slide(path, SHAPE, seed=5, crowding=0.9, stain="HDAB", debris=3, labels=True)


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    return SCENE.labels(FULL)


boxes = st.builds(Box, st.integers(-50, 1500), st.integers(-50, 1800), st.integers(1, 300), st.integers(1, 300))


@settings(max_examples=40)
@given(boxes)
def test_labels_of_a_box_are_cut_out_of_the_whole(whole: np.ndarray, box: Box) -> None:
    padded = np.pad(whole, 400)
    np.testing.assert_array_equal(SCENE.labels(box), padded[box.y + 400 : box.y1 + 400, box.x + 400 : box.x1 + 400])


@settings(max_examples=10)
@given(st.integers(0, 1100), st.integers(0, 1400), st.integers(1, 200), st.integers(1, 200))
def test_pixels_of_a_box_are_cut_out_of_a_larger_one(y: int, x: int, h: int, w: int) -> None:
    large = SCENE.render(Box(y, x, 400, 400)).astype(int)
    # The slow fields are interpolated from a fixed lattice; only the blur may round differently.
    assert np.abs(large[37 : 37 + h, 51 : 51 + w] - SCENE.render(Box(y + 37, x + 51, h, w))).max() <= 1


def test_openslide_reads_size_resolution_and_levels(slide: SyntheticTruth) -> None:
    with openslide.OpenSlide(slide.path) as opened:
        assert opened.dimensions == SHAPE[::-1]
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-6)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(0.25, rel=1e-6)
        assert opened.level_dimensions == ((1810, 1500), (905, 750), (452, 375))
        assert opened.properties["openslide.level[1].tile-width"] == "256"


def test_the_file_shows_the_scene_at_every_level(slide: SyntheticTruth) -> None:
    drawn = SCENE.render(FULL).astype(float)
    with openslide.OpenSlide(slide.path) as opened:
        for level, (w, h) in enumerate(opened.level_dimensions):
            stored = np.asarray(opened.read_region((0, 0), level, (w, h)).convert("RGB")).astype(float)
            assert np.abs(stored - drawn[:h, :w]).mean() < 4  # JPEG
            drawn = drawn[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3))


def test_the_table_is_what_the_labels_show(slide: SyntheticTruth, whole: np.ndarray) -> None:
    table = pq.read_table(slide.table_path).to_pydict()
    ids = np.asarray(table["id"])
    assert sorted(ids) == list(np.unique(whole[whole > 0]))
    assert len(ids) == slide.cells == sum(slide.counts.values()) > 200
    np.testing.assert_array_equal(np.asarray(table["area_px"]), ndimage.sum_labels(whole > 0, whole, ids))
    centres = np.asarray(ndimage.center_of_mass(whole > 0, whole, ids)) + 0.5
    np.testing.assert_allclose(np.stack([table["centroid_y"], table["centroid_x"]], axis=1), centres, atol=1e-6)
    for name, y, x, h, w in zip(*(table[key] for key in ("id", "box_y", "box_x", "box_h", "box_w")), strict=True):
        inside = whole[y : y + h, x : x + w] == name
        assert inside.any(axis=0).all()
        assert inside[[0, -1]].any(axis=1).all()


def test_the_table_does_not_depend_on_how_the_slide_is_cut() -> None:
    parts = [SCENE.truth(Box(y, x, 333, 217)) for y in range(0, 1500, 333) for x in range(0, 1810, 217)]
    whole = SCENE.truth(FULL)
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    np.testing.assert_array_equal(ids[order], whole.ids)
    np.testing.assert_array_equal(np.concatenate([part.centroids for part in parts])[order], whole.centroids)


def test_label_image_and_scene_are_read_back(slide: SyntheticTruth, whole: np.ndarray) -> None:
    np.testing.assert_array_equal(tifffile.imread(slide.labels_path), whole)
    assert read_scene(slide.path) == read_scene(slide.table_path) == SCENE
    np.testing.assert_array_equal(truth_labels(slide.path, Box(700, 700, 90, 80)), whole[700:790, 700:780])


def test_classes_follow_the_positive_fraction(slide: SyntheticTruth) -> None:
    assert set(slide.counts) == {"Negative", "Positive"}
    assert slide.counts["Positive"] / slide.cells == pytest.approx(0.3, abs=0.1)
    scene = Scene((1024, 1024), stain="HE", tissue_fraction=1)
    assert scene.classes == ("Nucleus",)
    assert not scene.truth(Box(0, 0, 1024, 1024)).classes.any()


def test_positive_nuclei_are_brown_and_negative_ones_blue(whole: np.ndarray) -> None:
    scene = Scene(SHAPE, seed=5, crowding=0.9, stain="HDAB")
    rgb, truth = scene.render(FULL).astype(float), scene.truth(FULL)
    redness = ndimage.mean(rgb[..., 0] - rgb[..., 2], scene.labels(FULL), truth.ids)
    assert (redness[truth.classes == 1] > 0).all()
    assert (redness[truth.classes == 0] < 0).all()


def test_every_nucleus_is_mostly_visible_and_of_a_plausible_size() -> None:
    scene = Scene((4000, 4000), seed=1, crowding=1.0, tissue_fraction=1)
    truth = scene.truth(Box(0, 0, 4000, 4000))
    diameters_um = 2 * np.sqrt(truth.areas_px / np.pi) * 0.25
    assert len(truth) > 5000
    assert diameters_um.min() > 2
    assert diameters_um.max() < 12
    assert np.ptp(diameters_um) > 5


def test_crowding_makes_nuclei_touch() -> None:
    def touching(crowding: float) -> float:
        labels = Scene((2000, 2000), crowding=crowding, tissue_fraction=1).labels(Box(0, 0, 2000, 2000))
        grown = ndimage.maximum_filter(labels, 3)
        pairs = np.unique(labels[(labels > 0) & (grown != labels)])
        return len(pairs) / len(np.unique(labels))

    assert touching(0.0) < 0.1 < 0.3 < touching(1.0)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.7])
def test_tissue_covers_about_what_was_asked(fraction: float) -> None:
    scene = Scene((6000, 9000), seed=2, tissue_fraction=fraction)
    border = scene.world.border
    assert (border > 0).mean() == pytest.approx(fraction, abs=0.05)


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_glass_is_flat_and_has_the_colour_of_the_look(look: Any) -> None:
    scene = Scene((4000, 4000), look=look, tissue_fraction=0.05)
    corners = [Box(y, x, 64, 64) for y in (0, 3936) for x in (0, 3936)]
    empty = [box for box in corners if scene.is_background(box)]
    assert empty
    assert (scene.render(empty[0]) == scene.background).all()


def test_a_scene_of_another_recipe_is_refused() -> None:
    with pytest.raises(SettingsError, match="recipe 99"):
        Scene.from_json(SCENE.to_json().replace('"recipe": 1', '"recipe": 99'))


@pytest.mark.parametrize(
    ("name", "value"),
    [("shape", (10, 5000)), ("mpp", 0.0), ("tissue_fraction", 0.0), ("stain", "PAS"), ("look", "x"), ("crowding", 2)],
)
def test_impossible_arguments_are_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(WsiprocError, match=name):
        write_synthetic_slide(tmp_path / "a.tif", **{name: value})
    assert not list(tmp_path.iterdir())


def test_other_files_are_not_taken_for_synthetic_slides(tmp_path: Path) -> None:
    path = tmp_path / "other.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    with pytest.raises(SettingsError, match=r"other\.tif"):
        read_scene(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    code = (
        "import sys; from wsiproc.synthetic import write_synthetic_slide as write\n"
        "write(sys.argv[1], (20_000, 20_000), tissue_fraction=0.02, workers=2)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "big.tif"], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 450_000  # kB; the whole picture is 1200 MB
