"""What cannot be read says so: what, which file, which numbers, what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from PIL import Image

from tests.io.slides.slide_writers import MPP, SHAPE, write_ome_tiff, write_ome_zarr, write_tiff
from wsiproc.core.geometry import Box
from wsiproc.errors import MissingExtraError, ResolutionError, SettingsError, SlideError, SlideKindError, SlideReadError
from wsiproc.io.slides import limits
from wsiproc.io.slides.open import open_slide

Picture = npt.NDArray[np.uint8]


def refused(path: Path, *words: str, mpp: float | None = None) -> None:
    """Opening fails with a message that names the file and has these words."""
    with pytest.raises(SlideError) as caught:
        open_slide(path, mpp)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.svs", "no such file")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    refused(tmp_path / "empty.svs", "0 bytes")


@pytest.mark.parametrize("content", [b"just text\n", bytes(range(256)) * 40, b"II*\0garbage", b"\x89PNG\r\n\x1a\nrest"])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "garbage.tif").write_bytes(content)
    refused(tmp_path / "garbage.tif", "copy or export it again")


def test_folder_that_is_no_slide(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    refused(tmp_path, "a folder that is not a slide")


def test_folder_with_zarr_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    refused(tmp_path, "not an OME-Zarr image")


def test_broken_link(tmp_path: Path) -> None:
    (tmp_path / "link.svs").symlink_to(tmp_path / "gone.svs")
    refused(tmp_path / "link.svs", "gone.svs")


def test_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a.svs").symlink_to(tmp_path / "b.svs")
    (tmp_path / "b.svs").symlink_to(tmp_path / "a.svs")
    refused(tmp_path / "a.svs")


def test_name_too_long(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300))


def test_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 108 bytes only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.svs")
        refused(Path("s.svs"), "neither a file nor a folder")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.svs").write_bytes(b"x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may open everything
    refused(tmp_path / "a.svs", "Permission denied")


def test_missing_mpp_names_the_remedy(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(ResolutionError, match=r"a\.png.*--mpp"):
        open_slide(tmp_path / "a.png")


def test_missing_mpp_tells_the_objective(tmp_path: Path, picture: Picture) -> None:
    from wsiproc.io.slides.resolution import resolve_mpp

    with pytest.raises(ResolutionError, match=r"objective is 20x, for which many scanners have about 0\.5"):
        resolve_mpp(tmp_path, None, None, 20.0)


@pytest.mark.parametrize("mpp", [0.0, -1.0, 0.01, 28.97, float("nan"), float("inf")])
def test_absurd_mpp(tmp_path: Path, picture: Picture, mpp: float) -> None:
    write_tiff(tmp_path / "a.tif", [picture])
    with pytest.raises(ResolutionError, match=r"a\.tif.*0\.05 to 5 µm/px"):
        open_slide(tmp_path / "a.tif", mpp)


def test_a_printing_resolution_is_no_pixel_size(tmp_path: Path, picture: Picture) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", resolution=(72, 72), resolutionunit="INCH")
    with pytest.raises(ResolutionError, match=r"352\.8 µm/px, far too coarse for cells"):
        open_slide(tmp_path / "a.tif")


def test_pixels_that_are_not_square(tmp_path: Path, picture: Picture) -> None:
    write_tiff(tmp_path / "a.tif", [picture])
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", resolution=(2e4, 1e4), resolutionunit="CENTIMETER")
    with pytest.raises(ResolutionError, match=r"1 µm high, 0\.5 µm wide"):
        open_slide(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert slide.mpp == 0.5


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((64, 64, 3), np.int16), "int16"),
        (np.zeros((64, 64, 3), np.uint32), "uint32"),
        (np.zeros((5, 64, 64), np.uint8), "RGB"),
        (np.full((64, 64, 3), 255, np.float32), r"float32, 255 … 255"),
    ],
)
def test_tiff_that_is_no_rgb_picture(tmp_path: Path, array: npt.NDArray[np.generic], words: str) -> None:
    is_rgb = array.shape[-1] == 3
    axes = {"axes": "YXS" if is_rgb else "CYX"}
    photometric = "rgb" if is_rgb else "minisblack"
    tifffile.imwrite(tmp_path / "a.ome.tif", array, photometric=photometric, metadata=axes)
    refused(tmp_path / "a.ome.tif", words)


def test_deep_png(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "8 bits")


def test_zarr_of_two_channels(tmp_path: Path, picture: Picture) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [picture[..., :2]], "0.5", axes="yxc")
    refused(tmp_path / "a.zarr", "3 channels")


def test_picture_too_large_to_decode_whole(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_WHOLE_BYTES", 1000)
    Image.fromarray(picture).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "GiB", "tiled", mpp=0.5)


def test_unknown_reader(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="auto, openslide"):
        open_slide(tmp_path, reader="magic")  # type: ignore[arg-type]


def test_missing_tiatoolbox(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiff(tmp_path / "a.tif", [picture])
    monkeypatch.setitem(__import__("sys").modules, "tiatoolbox", None)
    monkeypatch.setitem(__import__("sys").modules, "tiatoolbox.wsicore.wsireader", None)
    with pytest.raises(MissingExtraError, match=r"wsiproc\[tiatoolbox\]"):
        open_slide(tmp_path / "a.tif", reader="tiatoolbox")


def damage(path: Path, offset: int, size: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * size)


@pytest.mark.parametrize("write", [write_tiff, write_ome_tiff])
def test_a_damaged_tile_is_named_and_the_rest_still_read(tmp_path: Path, picture: Picture, write: object) -> None:
    path = tmp_path / "a.ome.tif"
    write(path, [picture])  # type: ignore[operator]
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        damage(path, page.dataoffsets[9], page.databytecounts[9])
    with open_slide(path) as slide:
        with pytest.raises(SlideReadError, match=r"a\.ome\.tif.*tile 9 of the level of 903 × 701"):
            slide.read(Box(0, 0, *SHAPE), MPP)
        assert np.array_equal(slide.read(Box(0, 0, 100, 100), MPP), picture[:100, :100])


def test_openslide_goes_on_after_a_damaged_tile(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, [picture])
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        damage(path, page.dataoffsets[9], page.databytecounts[9])
    with open_slide(path, reader="openslide") as slide:
        with pytest.raises(SlideReadError, match=r"a\.tif.*level 0.*x 0, y 0"):
            slide.read(Box(0, 0, *SHAPE), MPP)
        assert np.array_equal(slide.read(Box(0, 0, 100, 100), MPP), picture[:100, :100])


def refused_by_openslide(path: Path) -> None:
    with pytest.raises(SlideError, match="OpenSlide recognises the format and cannot read"):
        open_slide(path, reader="openslide")


def test_a_file_cut_short(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture, photometric="rgb", tile=(128, 128))
    os.truncate(path, path.stat().st_size - 5000)
    refused_by_openslide(path)
    with open_slide(path, MPP) as slide, pytest.raises(SlideReadError, match="the file ends"):
        slide.read(Box(600, 800, 100, 100), MPP)


def test_a_png_cut_short(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    os.truncate(tmp_path / "a.png", 50_000)
    with pytest.raises(SlideReadError, match=r"a\.png: cannot decode"):
        open_slide(tmp_path / "a.png", MPP).read(Box(0, 0, 9, 9), MPP)


def test_a_damaged_chunk(tmp_path: Path, picture: Picture) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [picture], "0.5")
    chunk = tmp_path / "a.zarr" / "0" / "c" / "0" / "1" / "2"
    chunk.write_bytes(b"nonsense")
    with open_slide(tmp_path / "a.zarr") as slide, pytest.raises(SlideReadError, match="x 260, y 130"):
        slide.read(Box(130, 260, 9, 9), MPP)


@pytest.mark.parametrize(
    ("filename", "error", "words"),
    [
        ("negative/broken_histolab.svs", SlideError, "not a slide"),
        ("negative/dicom_pathml_small_unsupported_by_openslide.dcm", SlideError, "recognises the format"),
        ("overview_only.dcm", ResolutionError, "28.97 µm/px, far too coarse for cells"),
        ("no_mpp_jpeg2000.svs", ResolutionError, "--mpp"),
    ],
)
def test_real_files_that_are_refused(real_slides: Path, filename: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        open_slide(real_slides / filename)
    assert filename in str(caught.value)


OTHER_FILES = {
    "slide.svs.gz": (b"\x1f\x8b\x08\0more", "compressed by gzip; unpack it"),
    "slide.ome.zarr.zip": (b"PK\x03\x04more", "a ZIP archive .*; unpack it"),
    "slides.tar": (b"a.svs".ljust(257, b"\0") + b"ustar\0", "a tar archive; unpack it"),
    "a.svs": (b"version https://git-lfs.github.com/spec/v1\n", "a placeholder of Git LFS.*git lfs pull"),
    "b.svs": (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page.*download the slide again"),
    "c.ndpi": (bytes(100_000), "nothing but zeros.*download the slide again"),
    "d.isyntax": (b'<DataObject ObjectType="DPUfsImport">', "an iSyntax slide of Philips.*export it as OME-TIFF"),
    "e.kfb": (b"KFB\0" + bytes(range(200)), "a KFB slide.*export it as OME-TIFF"),
    "f.ims": (b"\x89HDF\r\n\x1a\n" + bytes(200), "an HDF5 file"),
    "g.pdf": (b"%PDF-1.7\n", "a PDF document"),
    "h.jxl": (b"\xff\x0a\xfa\x13", "a JPEG XL image outside of a TIFF.*convert it"),
    "i.heic": (b"\0\0\0\x18ftypheic" + bytes(90), "a HEIC image.*convert it"),
    "j.companion.ome": (b'<?xml version="1.0"?><OME xmlns="x">', "the metadata .* of a slide; pass the TIFF"),
    "k.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a slide that wsiproc can read"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_well_known_files_of_other_kinds_are_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    content, words = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlideError, match=words):
        open_slide(tmp_path / name, 0.5)


def test_a_slide_whose_pixels_are_elsewhere_is_not_taken_for_its_overview(tmp_path: Path, picture: Picture) -> None:
    tifffile.imwrite(tmp_path / "scan.vsi", picture, photometric="rgb")
    with pytest.raises(SlideKindError, match=r"the scan of this Olympus slide is in .*_scan_, .*export it"):
        open_slide(tmp_path / "scan.vsi", 0.5)
    (tmp_path / "alone.mrxs").write_bytes(b"\xff\xd8\xff\xe0JFIF")
    with pytest.raises(SlideError, match="pixels are in the folder alone; that is not beside the file: copy it too"):
        open_slide(tmp_path / "alone.mrxs")


def test_zarr_that_is_no_ome_zarr_of_a_known_version(tmp_path: Path, picture: Picture) -> None:
    for version in (2, 3):
        zarr.create_array(tmp_path / f"bare{version}.zarr", data=picture, zarr_format=version)
        with pytest.raises(SlideError, match="a bare zarr array"):
            open_slide(tmp_path / f"bare{version}.zarr")
    group = zarr.open_group(tmp_path / "group.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=picture)
    with pytest.raises(SlideError, match=r"a zarr folder \(0\) without the metadata 'multiscales'"):
        open_slide(tmp_path / "group.zarr")
    for old in ({"version": "0.1"}, {"version": "0.3", "axes": ["y", "x", "c"]}):
        group.attrs["multiscales"] = [{**old, "datasets": [{"path": "0"}]}]
        with pytest.raises(SlideError, match=f"OME-Zarr {old['version']}; wsiproc reads 0.4 and 0.5: convert it"):
            open_slide(tmp_path / "group.zarr")
