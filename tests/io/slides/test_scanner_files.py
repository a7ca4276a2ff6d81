"""Slides as scanners write them, read by OpenSlide for real: MIRAX, DICOM, NDPI."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.io.slides.slide_writers import Picture, write_tiff
from wsiproc.core.geometry import Box
from wsiproc.errors import SlideError
from wsiproc.io.slides.fingerprint import slide_files
from wsiproc.io.slides.open import describe, open_slide
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic.scene import Scene

MPP, TILE = 0.5, 128
SHAPE = (512, 640)  # whole tiles on three levels


def _writers() -> ModuleType:
    """``benchmarks/scanners.py``, which the fuzzer uses too."""
    path = Path(__file__).parents[3] / "benchmarks" / "scanners.py"
    spec = importlib.util.spec_from_file_location("scanners", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scanners = _writers()


@pytest.fixture(scope="module")
def tissue() -> Picture:
    scene = Scene(SHAPE, MPP, seed=3, tissue_fraction=1.0)
    return np.ascontiguousarray(scene.render(Box(0, 0, *SHAPE)))


@pytest.fixture(scope="module")
def decoded(tissue: Picture) -> Picture:
    """The picture as JPEG tiles hold it."""
    shown = np.empty_like(tissue)
    for y in range(0, SHAPE[0], TILE):
        for x in range(0, SHAPE[1], TILE):
            part = scanners.encode(tissue[y : y + TILE, x : x + TILE], "JPEG")
            shown[y : y + TILE, x : x + TILE] = np.asarray(Image.open(io.BytesIO(part)))
    return shown


def pixels_of(path: Path) -> Picture:
    with open_slide(path) as slide:
        return slide.read(Box(0, 0, *slide.shape), slide.mpp)


def cells_of(path: Path, out: Path) -> bytes:
    settings = Settings(model="classical", executor="loop", device="cpu", region=512)
    (outcome,) = run_slides([path], out, settings)
    assert outcome.error is None
    (table,) = out.rglob("cells.parquet")
    return table.read_bytes()


# --- MIRAX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["none", "buffer", "stitching"])
def test_mirax_is_read_to_the_pixel(tmp_path: Path, tissue: Picture, positions: str) -> None:
    path = tmp_path / "a.mrxs"
    scanners.write_mrxs(path, tissue, kind="PNG", positions=positions)
    with open_slide(path) as slide:
        assert (slide.format, slide.shape, slide.mpp, slide.objective) == ("mirax", SHAPE, MPP, 20.0)
        assert slide.levels == (1.0, 2.0, 4.0)
        assert describe(slide)["left_out"] == "label"
        assert np.array_equal(slide.read(Box(0, 0, *SHAPE), MPP), tissue)
        half = cv2.resize(tissue, (SHAPE[1] // 2, SHAPE[0] // 2), interpolation=cv2.INTER_AREA)
        assert np.array_equal(slide.read(Box(0, 0, SHAPE[0] // 2, SHAPE[1] // 2), MPP * 2), half)


def test_cells_of_mirax_are_those_of_the_same_pixels_as_tiff(tmp_path: Path, tissue: Picture, decoded: Picture) -> None:
    (tmp_path / "mirax").mkdir()
    scanners.write_mrxs(tmp_path / "mirax" / "a.mrxs", tissue, levels=1)
    assert np.array_equal(pixels_of(tmp_path / "mirax" / "a.mrxs"), decoded)
    write_tiff(tmp_path / "a.tif", [decoded])
    found = cells_of(tmp_path / "mirax" / "a.mrxs", tmp_path / "one")
    assert found == cells_of(tmp_path / "a.tif", tmp_path / "other")
    assert len(found) > 10_000


@pytest.mark.parametrize("fill", [(255, 255, 255), (0, 0, 0), (240, 230, 220)])
def test_what_a_scanner_left_out_is_glass(tmp_path: Path, tissue: Picture, fill: tuple[int, int, int]) -> None:
    path = tmp_path / "a.mrxs"
    gone = {(0, 0), (0, 1), (1, 2), (3, 4)}
    scanners.write_mrxs(path, tissue, kind="PNG", positions="buffer", unscanned=gone, fill=fill)
    expected = tissue.copy()
    for row, col in gone:
        expected[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE] = fill if min(fill) else 255
    assert np.array_equal(pixels_of(path), expected)


def test_the_fingerprint_of_mirax_is_of_all_its_files(tmp_path: Path, tissue: Picture) -> None:
    path = tmp_path / "a.mrxs"
    scanners.write_mrxs(path, tissue)
    with open_slide(path) as slide:
        before = slide.fingerprint()
        with (tmp_path / "a" / "Data0000.dat").open("r+b") as file:
            file.write(b"x")
        assert slide.fingerprint() != before


def edit_ini(folder: Path, old: str, new: str) -> None:
    path = folder / "Slidedat.ini"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("IMAGENUMBER_X = 5", "IMAGENUMBER_X = 2000000000", "8,000,000,000 images"),
        ("HIER_0_COUNT = 3", "HIER_0_COUNT = 2000000000", "2,000,000,000 levels"),
        ("FILE_COUNT = 1", "FILE_COUNT = 2000000000", "2,000,000,000 data files"),
        ("DIGITIZER_WIDTH = 128", "DIGITIZER_WIDTH = 2000000000", "px in an image"),
        ("OVERLAP_X = 0", "OVERLAP_X = 128", "declared to overlap by 128"),
        ("OVERLAP_X = 0", "OVERLAP_X = nan", "declared to overlap by inf"),
        ("FILE_0 = Data0000.dat", "FILE_0 = ../other/Data0000.dat", "not the name of a file in a/"),
        ("INDEXFILE = Index.dat", "INDEXFILE = /dev/zero", "not the name of a file in a/"),
        ("IMAGE_CONCAT_FACTOR = 1", "IMAGE_CONCAT_FACTOR = 31", "halvings"),
        ("SLIDE_ID = 0", "SLIDE_ID = 1", "OpenSlide recognises the format and cannot read"),
    ],
)
def test_mirax_that_cannot_be(tmp_path: Path, tissue: Picture, old: str, new: str, words: str) -> None:
    path = tmp_path / "a.mrxs"
    scanners.write_mrxs(path, tissue, positions="buffer")
    edit_ini(tmp_path / "a", old, new)
    with pytest.raises(SlideError, match=words) as caught:
        open_slide(path)
    assert "copy" in str(caught.value)


def test_places_of_mirax_that_cannot_be(tmp_path: Path, tissue: Picture) -> None:
    path = tmp_path / "a.mrxs"
    scanners.write_mrxs(path, tissue, positions="buffer")
    data = tmp_path / "a" / "Data0000.dat"
    content = data.read_bytes()
    table = struct.pack("<bii", 0, 0, 0) + struct.pack("<bii", 0, TILE, 0)
    place = content.index(table) + 9
    data.write_bytes(content[:place] + struct.pack("<bii", 0, 2**30, 0) + content[place + 9 :])
    with pytest.raises(SlideError, match="image 1 is declared at x 1073741824"):
        open_slide(path)
    data.write_bytes(content[: place + 30])
    with pytest.raises(SlideError, match="positions of its images are declared as 180 bytes"):
        open_slide(path)


def test_a_pipe_in_a_mirax_slide_is_not_waited_for(tmp_path: Path, tissue: Picture) -> None:
    path = tmp_path / "a.mrxs"
    scanners.write_mrxs(path, tissue)
    (tmp_path / "a" / "Data0000.dat").unlink()
    os.mkfifo(tmp_path / "a" / "Data0000.dat")
    with pytest.raises(SlideError, match="is not a file"):
        open_slide(path)


# --- DICOM -----------------------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "a file a level": {},
    "sparse": {"sparse": True},
    "three files a level": {"files_a_level": 3},
    "without suffix": {"suffix": ""},
}


@pytest.mark.parametrize("way", WAYS)
def test_dicom_is_read_to_the_pixel_however_it_is_given(tmp_path: Path, tissue: Picture, way: str) -> None:
    files = scanners.write_dicom(tmp_path / "slide", tissue, **WAYS[way])
    seen = set()
    for path in (tmp_path / "slide", files[0], files[-1], next(f for f in files if "label" in f.name)):
        with open_slide(path) as slide:
            assert (slide.format, slide.shape, slide.mpp, slide.objective) == ("dicom", SHAPE, MPP, 20.0)
            assert slide.levels == (1.0, 2.0, 4.0)
            facts = describe(slide)
            assert set(str(facts["left_out"]).split(", ")) == {"label", "macro"}
            assert np.array_equal(slide.read(Box(0, 0, *SHAPE), MPP), tissue)
            seen.add((slide.fingerprint(), facts["file_bytes"]))
        assert slide_files(path) == sorted(files)
    assert len(seen) == 1


def test_cells_of_dicom_are_those_of_the_same_pixels_as_tiff(tmp_path: Path, tissue: Picture, decoded: Picture) -> None:
    scanners.write_dicom(tmp_path / "dicom" / "a", tissue, levels=1, files_a_level=2, compressed=True)
    write_tiff(tmp_path / "a.tif", [decoded])
    found = cells_of(tmp_path / "dicom" / "a", tmp_path / "one")
    assert found == cells_of(tmp_path / "a.tif", tmp_path / "other")


def test_another_slide_in_the_same_folder_is_named(tmp_path: Path, tissue: Picture) -> None:
    scanners.write_dicom(tmp_path / "a", tissue, series=1)
    for file in scanners.write_dicom(tmp_path / "b", 255 - tissue, series=2):
        shutil.copy(file, tmp_path / "a" / f"other {file.name}")
    with open_slide(tmp_path / "a") as slide:
        assert np.array_equal(slide.read(Box(0, 0, *SHAPE), MPP), tissue)
        assert "another slide (other label.dcm …), which is left out" in slide.warnings[0]
    assert np.array_equal(pixels_of(tmp_path / "a" / "other label.dcm"), 255 - tissue)


def test_a_part_that_is_missing_is_told(tmp_path: Path, tissue: Picture) -> None:
    files = scanners.write_dicom(tmp_path / "a", tissue, files_a_level=3)
    files[1].unlink()
    with pytest.raises(SlideError, match="Missing SOP instance 2/3 in concatenation"):
        open_slide(tmp_path / "a")


def test_a_pipe_beside_dicom_files_is_not_waited_for(tmp_path: Path, tissue: Picture) -> None:
    files = scanners.write_dicom(tmp_path / "a", tissue)
    os.mkfifo(tmp_path / "a" / "pipe")
    for path in (tmp_path / "a", files[0]):
        with pytest.raises(SlideError, match="is a pipe"):
            open_slide(path)


def test_a_folder_of_other_dicom_files_is_no_slide(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(SlideError, match="a folder that is not a slide"):
        open_slide(tmp_path)


# --- results beside the files of a slide -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mirax", "dicom"])
def test_results_beside_a_slide_of_several_files_get_a_folder_of_their_own(
    kind: str, tmp_path: Path, tissue: Picture
) -> None:
    """Their folder would have the name of the one with the slide's pixels."""
    home = tmp_path / "slides"
    home.mkdir()
    if kind == "mirax":
        scanners.write_mrxs(home / "a.mrxs", tissue, levels=1)
    else:
        scanners.write_dicom(home / "a", tissue, levels=1)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    slide = home / ("a.mrxs" if kind == "mirax" else "a")
    found = cells_of(slide, home)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nor is anything written into it"
    assert (home / "slides_a" / "cells.parquet").read_bytes() == found
    (again,) = run_slides([slide], home, Settings(model="classical", executor="loop", device="cpu", region=512))
    assert (again.status, again.folder) == ("already done", home / "slides_a")


# --- NDPI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [(0,), (0, 2000, -2000), (-2000, 0)])
def test_focal_planes_of_an_ndpi_are_told_and_the_middle_one_is_read(
    tmp_path: Path, tissue: Picture, planes: tuple[int, ...]
) -> None:
    scanners.write_ndpi(tmp_path / "a.ndpi", tissue, planes=planes)
    with open_slide(tmp_path / "a.ndpi") as slide:
        facts = describe(slide)
        found = slide.read(Box(0, 0, *slide.shape), slide.mpp).astype(int)
    told = f"it contains {len(planes)} focal planes; the middle one is used"
    assert facts.get("warning") == (told if len(planes) > 1 else None)
    assert facts["reader"] == "OpenSlide"
    assert np.abs(found - tissue[: found.shape[0], : found.shape[1]]).mean() < 10
