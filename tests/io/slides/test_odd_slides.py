"""Valid slides that are odd: each is read as what it shows, or refused or warned of with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageCms, ImageOps

from tests.io.slides.odd_slides import (
    SAME_PIXELS,
    add_multiscale,
    cmyk,
    ome_metadata,
    smaller,
    with_alpha,
    write,
    write_pages,
    write_palette,
    write_zarr,
)
from tests.io.slides.slide_writers import MPP, Picture
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.errors import ResolutionError, SlideError, SlideKindError
from wsiproc.io.slides.open import describe, open_slide
from wsiproc.io.slides.readers.tiff import TiffLevel
from wsiproc.io.slides.resolution import MICROMETRES, mpp_warnings, resolve_mpp


@pytest.fixture(scope="module")
def small(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[:300, :400])


def pixels_of(path: Path, mpp: float | None = None) -> Picture:
    """All of a slide at its own resolution."""
    with open_slide(path, mpp) as slide:
        return slide.read(Box(0, 0, *slide.shape), slide.mpp)


def warnings_of(path: Path) -> str:
    """What ``info`` warns of."""
    with open_slide(path) as slide:
        facts = describe(slide)
    return "\n".join(str(text) for name, text in facts.items() if name.startswith("warning"))


@pytest.mark.parametrize("kind", SAME_PIXELS)
def test_the_same_picture_in_all_ways_of_storing_it(tmp_path: Path, small: Picture, kind: str) -> None:
    path = SAME_PIXELS[kind](tmp_path, small)
    with open_slide(path) as slide:
        assert slide.shape == small.shape[:2]
        assert slide.mpp == pytest.approx(MPP)
        found = slide.read(Box(0, 0, *slide.shape), slide.mpp)
        part = slide.read(Box(100, 30, 90, 150), slide.mpp)
    # Converting to YCbCr and back rounds twice.
    assert np.abs(found.astype(int) - small).max() <= (2 if "ycbcr" in kind else 0)
    assert np.array_equal(part, found[100:190, 30:180])


def test_a_palette_is_rgb(tmp_path: Path, small: Picture) -> None:
    path, shown = write_palette(tmp_path, small)
    assert np.array_equal(pixels_of(path), shown)


@pytest.mark.parametrize(("extra", "over"), [("unassalpha", "straight"), ("assocalpha", "premultiplied")])
def test_what_is_transparent_shows_white(tmp_path: Path, small: Picture, extra: str, over: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    opacity = alpha[..., None] / 255
    stored = small if over == "straight" else np.rint(small * opacity).astype(np.uint8)
    path = write(tmp_path / "a.tif", with_alpha(stored, alpha), extrasamples=(extra,))
    expected = small * opacity + 255 * (1 - opacity)
    assert np.abs(pixels_of(path) - expected).max() <= 1
    Image.fromarray(with_alpha(small, alpha)).save(tmp_path / "a.png")
    assert np.abs(pixels_of(tmp_path / "a.png", MPP) - expected).max() <= 1


def test_cmyk_is_converted(tmp_path: Path, small: Picture) -> None:
    inks = cmyk(small)
    inks[..., 3] = 51  # a fifth of black
    path = write(tmp_path / "a.tif", inks, photometric="separated")
    assert np.abs(pixels_of(path) - small * 0.8).max() <= 0.5
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(pixels_of(tmp_path / "a.jpg", MPP).astype(float) - small * 0.8).mean() < 6  # JPEG of noise


# --- samples of more than 8 bits -------------------------------------------------------------------------------------


def test_the_range_is_what_the_file_says(tmp_path: Path, small: Picture) -> None:
    """Dark pictures, whose largest value says nothing; each with a word of its true range."""
    dark = (small // 8).astype(np.uint16)
    deep = dark * 16 + 8
    tagged = write(tmp_path / "tag.tif", deep, extratags=[(281, 3, 3, (4095,) * 3, False)])
    ome = write(tmp_path / "a.ome.tif", deep, ome=True, metadata=ome_metadata("YXS", SignificantBits=12))
    for path in (tagged, ome):
        assert np.array_equal(pixels_of(path), dark)
        assert "bits" not in warnings_of(path)


def test_the_range_is_told_where_it_was_concluded(tmp_path: Path, small: Picture) -> None:
    path = write(tmp_path / "a.tif", small.astype(np.uint16) * 16 + 8)
    assert "its samples have 16 bits, of which 12 are in use" in warnings_of(path)
    assert not warnings_of(write(tmp_path / "b.tif", small.astype(np.uint16) * 257))


def test_the_range_is_one_for_all_levels_and_reads(tmp_path: Path, small: Picture) -> None:
    """A part without a bright pixel is scaled as the whole is."""
    deep = small.astype(np.uint16) * 16 + 8
    deep[:100] //= 4
    path = write(tmp_path / "a.tif", deep)
    whole = pixels_of(path)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(Box(0, 0, 90, 90), slide.mpp), whole[:90, :90])


@pytest.mark.parametrize("factor", [257, 16])
def test_a_png_of_16_bits(tmp_path: Path, small: Picture, factor: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(small.astype(np.uint16) * factor + (8 if factor == 16 else 0)))
    assert np.array_equal(pixels_of(path, MPP), small)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 255.0), (np.float64, 1000.0), (np.int16, 100.0), (np.uint32, 1.0), (np.int8, 0.4)]
)
@pytest.mark.parametrize("format_", ["tiff", "ome-tiff", "zarr"])
def test_other_types_are_refused_for_their_type(
    tmp_path: Path, small: Picture, dtype: type, scale: float, format_: str
) -> None:
    pixels: Any = (small / 255 * scale).astype(dtype)
    if format_ == "zarr":
        path = write_zarr(tmp_path / "a.zarr", pixels.transpose(2, 0, 1))
    else:
        more: dict[str, Any] = {"ome": True, "metadata": ome_metadata("YXS")} if format_ == "ome-tiff" else {}
        path = write(tmp_path / ("a.ome.tif" if more else "a.tif"), pixels, **more)
    with pytest.raises(SlideKindError, match=f"type {np.dtype(dtype).name}.*convert it") as caught:
        open_slide(path)
    assert "damaged" not in str(caught.value)


# --- levels, scenes, planes, channels --------------------------------------------------------------------------------


def test_levels_are_ordered_by_their_sizes(tmp_path: Path, small: Picture) -> None:
    path = write_pages(tmp_path / "a.tif", [(smaller(small, by), {}) for by in (4, 1, 2)])
    with open_slide(path) as slide:
        assert (slide.shape, slide.levels) == ((300, 400), (1.0, 2.0, 4.0))
        assert describe(slide)["level_order"] == "pages 1, 2, 0 of the file"
        assert np.array_equal(slide.read(Box(0, 0, 300, 400), MPP), small)
        assert np.array_equal(slide.read(Box(0, 0, 150, 200), MPP * 2), smaller(small, 2))


def test_levels_of_an_ome_zarr_too(tmp_path: Path, small: Picture) -> None:
    path = write_zarr(tmp_path / "a.zarr", smaller(small, 2).transpose(2, 0, 1))
    group = zarr.open_group(path)
    group.create_array("1", data=np.ascontiguousarray(small.transpose(2, 0, 1)), chunks=(3, 128, 128))
    multiscale: Any = group.attrs["multiscales"]
    multiscale[0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, 2 * MPP, 2 * MPP]
    scale = {"type": "scale", "scale": [1, MPP, MPP]}
    multiscale[0]["datasets"].append({"path": "1", "coordinateTransformations": [scale]})
    group.attrs["multiscales"] = multiscale
    with open_slide(path) as slide:
        assert (slide.shape, slide.mpp, slide.levels) == ((300, 400), MPP, (1.0, 2.0))
        assert np.array_equal(slide.read(Box(0, 0, 300, 400), MPP), small)


def test_pages_that_are_no_levels_stay_out(tmp_path: Path, small: Picture) -> None:
    other = np.zeros((200, 200, 3), np.uint8)
    pages: list[tuple[Picture, dict[str, Any]]] = [
        (other, {"description": "label"}),
        (small, {}),
        (smaller(small, 3), {"tile": None}),  # a thumbnail: in strips, where the scan has tiles
        (other[:100, :90], {"tile": None, "subfiletype": 9}),
        (smaller(small, 2), {"subfiletype": 1}),
    ]
    path = write_pages(tmp_path / "a.tif", pages)
    with open_slide(path) as slide:
        assert slide.levels == (1.0, 2.0)
        facts = describe(slide)
        assert facts["left_out"] == "page 0, 200 × 200 px; page 2, 133 × 100 px; page 3, 90 × 100 px"
        assert np.array_equal(slide.read(Box(0, 0, 300, 400), MPP), small)
    assert not warnings_of(path)


def test_another_scan_in_the_same_file_is_named(tmp_path: Path, small: Picture) -> None:
    path = write_pages(tmp_path / "a.tif", [(small, {}), (small[:200, :250], {}), (small, {})])
    warned = warnings_of(path)
    assert "another scene, page 1, 250 × 200 px, which is left out" in warned
    assert "2 pages of the same size" in warned
    assert np.array_equal(pixels_of(path), small)


@pytest.mark.parametrize(("axes", "what"), [("ZYXS", "3 focal planes; the middle one, 2,"), ("TYXS", "3 time points")])
def test_planes_of_an_ome_tiff(tmp_path: Path, small: Picture, axes: str, what: str) -> None:
    stack = np.stack([small // 2, small, 255 - small])
    path = write(tmp_path / "a.ome.tif", stack, ome=True, metadata=ome_metadata(axes))
    assert what in warnings_of(path)
    assert np.array_equal(pixels_of(path), small if axes[0] == "Z" else small // 2)


def test_planes_of_channels_in_pages(tmp_path: Path, small: Picture) -> None:
    stack = np.stack([small // 2, small, 255 - small]).transpose(0, 3, 1, 2)
    path = write(tmp_path / "a.ome.tif", stack, ome=True, photometric="minisblack", metadata=ome_metadata("ZCYX"))
    assert "3 focal planes" in warnings_of(path)
    assert np.array_equal(pixels_of(path), small)


@pytest.mark.parametrize("axes", ["zcyx", "tczyx"])
def test_planes_of_an_ome_zarr(tmp_path: Path, small: Picture, axes: str) -> None:
    channels = small.transpose(2, 0, 1)
    stack = np.stack([channels // 2, channels, 255 - channels])
    if axes == "tczyx":
        stack = np.stack([stack.transpose(1, 0, 2, 3), 0 * stack.transpose(1, 0, 2, 3)])
    path = write_zarr(tmp_path / "a.zarr", stack, axes)
    assert "3 focal planes; the middle one, 2, is used" in warnings_of(path)
    assert ("2 time points; the first one is used" in warnings_of(path)) == (axes == "tczyx")
    assert np.array_equal(pixels_of(path), small)


def write_scenes(path: Path, scenes: dict[str, Picture]) -> Path:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, pixels in scenes.items():
            tiff.write(pixels, photometric="rgb", tile=(128, 128), metadata=ome_metadata("YXS", Name=name))
    return path


def test_scenes_of_an_ome_tiff_are_named(tmp_path: Path, small: Picture) -> None:
    scenes = {"upper": small[:150], "lower": small[150:], "label image": small[:300, :300]}
    path = write_scenes(tmp_path / "a.ome.tif", scenes)
    warned = warnings_of(path)
    assert "another scene, 'lower', 400 × 150 px, which is left out" in warned
    assert "label" not in warned
    assert np.array_equal(pixels_of(path), small[:150])


def test_series_of_an_ome_zarr_are_named(tmp_path: Path, small: Picture) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    for name in ("0", "1"):
        add_multiscale(group.create_group(name), small.transpose(2, 0, 1), "cyx")
    assert "another image, series 1, scan, which is left out" in warnings_of(tmp_path / "a.zarr")
    assert np.array_equal(pixels_of(tmp_path / "a.zarr"), small)
    assert np.array_equal(pixels_of(tmp_path / "a.zarr" / "1"), small)


def test_plates_and_wells_are_refused_with_the_way_to_a_field(tmp_path: Path, small: Picture) -> None:
    plate = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}, {"path": "A/2"}]}
    well = plate.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}]}
    add_multiscale(well.create_group("0"), small.transpose(2, 0, 1), "cyx")
    with pytest.raises(SlideKindError, match=r"a plate of 2 wells \(A/1, A/2\).*p\.zarr/A/1/0"):
        open_slide(tmp_path / "p.zarr")
    with pytest.raises(SlideKindError, match=r"a well of 1 fields"):
        open_slide(tmp_path / "p.zarr" / "A" / "1")
    assert np.array_equal(pixels_of(tmp_path / "p.zarr" / "A" / "1" / "0"), small)


def test_fluorescence_is_refused(tmp_path: Path, small: Picture) -> None:
    channels = np.ascontiguousarray(small.transpose(2, 0, 1))
    lit = ome_metadata("CYX", Channel={"Name": ["DAPI", "FITC", "Cy3"], "EmissionWavelength": [450, 520, 570]})
    path = write(tmp_path / "a.ome.tif", channels, ome=True, photometric="minisblack", metadata=lit)
    with pytest.raises(SlideKindError, match="channels DAPI, FITC, Cy3"):
        open_slide(path)
    named = ome_metadata("CYX", Channel={"Name": ["Opal 520", "Hoechst 33342", "AF647"]})
    path = write(tmp_path / "c.ome.tif", channels, ome=True, photometric="minisblack", metadata=named)
    with pytest.raises(SlideKindError, match="channels Opal 520, Hoechst 33342, AF647"):
        open_slide(path)
    named = ome_metadata("CYX", Channel={"Name": ["Red", "Green", "Blue"]})
    path = write(tmp_path / "d.ome.tif", channels, ome=True, photometric="minisblack", metadata=named)
    assert np.array_equal(pixels_of(path), small)
    four = np.concatenate([channels, channels[:1]])
    path = write(tmp_path / "b.ome.tif", four, ome=True, photometric="minisblack", metadata=ome_metadata("CYX"))
    with pytest.raises(SlideKindError, match="4 channels of 1 samples each: fluorescence"):
        open_slide(path)
    colours = [
        {"label": name, "color": colour} for name, colour in zip("abc", ("0000FF", "00FF00", "FF0000"), strict=True)
    ]
    with pytest.raises(SlideKindError, match="displayed in 0000FF"):
        open_slide(write_zarr(tmp_path / "a.zarr", channels, omero={"channels": colours}))
    colours = [
        {"label": name, "color": colour} for name, colour in zip("RGB", ("FF0000", "00FF00", "0000FF"), strict=True)
    ]
    assert np.array_equal(pixels_of(write_zarr(tmp_path / "b.zarr", channels, omero={"channels": colours})), small)


# --- which way up, and colour profiles -------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_picture_is_read_the_way_up_that_it_is_shown(tmp_path: Path, small: Picture, tag: int) -> None:
    exif = Image.Exif()
    exif[274] = tag
    Image.fromarray(small).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    path = write(tmp_path / "a.tif", small, extratags=[(274, 3, 1, tag, False)])
    assert np.array_equal(pixels_of(tmp_path / "a.png", MPP), shown)
    assert np.array_equal(pixels_of(path), shown)
    with open_slide(path) as slide:
        h, w = slide.shape
        part = slide.read(Box(50, 20, 100, 130), slide.mpp)
        assert np.array_equal(part, shown[50:150, 20:150])
        grid = grid_shape((h, w), MPP, 1.3)
        whole = slide.read(Box(0, 0, *grid), 1.3)
        assert np.array_equal(slide.read(Box(11, 9, 40, 50), 1.3), whole[11:51, 9:59])
        assert ("orientation" in describe(slide)) == (tag != 1)


def test_a_colour_profile_is_noted(tmp_path: Path, small: Picture) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = write(tmp_path / "a.tif", small, iccprofile=profile)
    Image.fromarray(small).save(tmp_path / "a.png", icc_profile=profile)
    for file, mpp in ((path, None), (tmp_path / "a.png", MPP)):
        with open_slide(file, mpp) as slide:
            assert describe(slide)["icc_profile"] == "in the file; not applied"
        assert np.array_equal(pixels_of(file, mpp), small)


# --- handing over ----------------------------------------------------------------------------------------------------


def write_aperio(path: Path, small: Picture, **more: Any) -> Path:
    text = "Aperio Image Library v12\n400x300 [0,0 400x300] (128x128)|AppMag = 20|MPP = 0.5"
    return write_pages(path, [(small, {"description": text, **more})])


@pytest.mark.parametrize("compression", ["jpegxl", "webp", "lerc"])
def test_what_openslide_knows_and_cannot_decode_is_handed_over(
    tmp_path: Path, small: Picture, compression: str
) -> None:
    lossless: dict[str, Any] = {"compressionargs": {"lossless": True}} if compression in {"jpegxl", "webp"} else {}
    path = write_aperio(tmp_path / "a.svs", small, compression=compression, **lossless)
    with pytest.raises(SlideError, match="OpenSlide"), open_slide(path, reader="openslide") as slide:
        slide.read(Box(0, 0, 9, 9), MPP)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.objective) == (0.5, 20.0)
        assert np.array_equal(slide.read(Box(0, 0, 300, 400), MPP), small)
        assert "read by tifffile, since another reader failed. OpenSlide: " in slide.warnings[0]
        assert describe(slide)["reader"] == "tifffile"


def test_where_all_fail_each_is_heard(tmp_path: Path, small: Picture) -> None:
    path = write_aperio(tmp_path / "a.svs", small, compression="lerc")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        spans = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as file:
        for offset, size in spans:
            file.seek(offset)
            file.write(b"\xff" * size)
    with open_slide(path, reader="tifffile"):
        pass  # alone, it leaves it to the reading of each place
    with path.open("r+b") as file:
        file.truncate(spans[0][0] + 10)
    with pytest.raises(SlideError, match=r"a\.svs: no reader can read it\. OpenSlide: .*; tifffile: .*copy"):
        open_slide(path)


def test_a_damaged_place_does_not_change_the_reader(tmp_path: Path, small: Picture) -> None:
    path = write_aperio(tmp_path / "a.svs", small, compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        middle = page.dataoffsets[5], page.databytecounts[5]
    with path.open("r+b") as file:
        file.seek(middle[0])
        file.write(b"\xff" * middle[1])
    with open_slide(path) as slide:
        assert slide.format == "aperio"
        assert isinstance(slide.pyramid[0], TiffLevel)
        assert not slide.warnings


# --- pixel sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["micron", "\\u00B5m", "um", "mm", "cm", "inch", "nm"])
def test_imagejs_unit(tmp_path: Path, small: Picture, unit: str) -> None:
    um = MICROMETRES[unit.replace("\\u00B5", "µ")]
    path = tmp_path / "a.tif"
    # ImageJ writes px per unit as a fraction.
    given = {"unit": unit, "axes": "YXS"}
    tifffile.imwrite(path, small, imagej=True, resolution=(um / MPP, um / MPP), metadata=given)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(MPP, rel=1e-4)


LENGTHS = {
    "µm": 1, "nm": 1e-3, "Å": 1e-4, "pm": 1e-6, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6,
    "in": 25400, "thou": 25.4, "ft": 304_800, "yd": 914_400, "pt": 25400 / 72, "li": 25400 / 12,
}  # fmt: skip


@pytest.mark.parametrize(("unit", "um"), LENGTHS.items())
def test_every_length_of_ome(tmp_path: Path, small: Picture, unit: str, um: float) -> None:
    size = {f"PhysicalSize{axis}": MPP / um for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, small, ome=True, photometric="rgb", metadata={"axes": "YXS", **size})
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(MPP)


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_ome_units_that_are_no_length_say_nothing(tmp_path: Path, small: Picture, unit: str) -> None:
    size = {f"PhysicalSize{axis}": MPP for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", small, ome=True, photometric="rgb", metadata={"axes": "YXS", **size})
    with pytest.raises(ResolutionError, match="does not say its pixel size"):
        open_slide(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(("unit", "um"), [("angstrom", 1e-4), ("nanometer", 1e-3), ("inch", 25400), ("meter", 1e6)])
def test_units_of_ome_zarr(tmp_path: Path, small: Picture, unit: str, um: float) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    add_multiscale(group, small.transpose(2, 0, 1), "cyx", unit)
    multiscale: Any = group.attrs["multiscales"]
    multiscale[0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, MPP / um, MPP / um]
    group.attrs["multiscales"] = multiscale
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp == pytest.approx(MPP)


@pytest.mark.parametrize(("unit", "per"), [("CENTIMETER", 1e4), ("INCH", 25400)])
def test_resolution_units(tmp_path: Path, small: Picture, unit: str, per: float) -> None:
    path = write(tmp_path / "a.tif", small, resolution=(per / MPP, per / MPP), resolutionunit=unit)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(MPP)


@pytest.mark.parametrize(
    ("mpp", "objective", "words"),
    [
        (0.5, 20, ""),
        (0.25, 40, ""),
        (0.46, 20, ""),
        (0.17, 40, ""),
        (0.25, 20, "its pixel size, 0.25 µm, does not match its objective, 20x (about 0.5 is usual"),
        (0.5, 40, "its pixel size, 0.5 µm, does not match its objective, 40x"),
        (2.5, 40, "0.25 is likely"),
        (2.5, None, ""),
    ],
)
def test_objective_and_pixel_size_that_contradict(mpp: float, objective: float | None, words: str) -> None:
    found = mpp_warnings(mpp, objective)
    assert len(found) == bool(words)
    if words:
        assert words in found[0]
        assert "--mpp" in found[0]


def test_a_contradiction_is_told_of_a_real_file(tmp_path: Path, small: Picture) -> None:
    text = "Aperio Image Library v12\n400x300 [0,0 400x300] (128x128)|AppMag = 40|MPP = 2.5"
    path = write_pages(tmp_path / "a.svs", [(small, {"description": text})])
    assert "its pixel size, 2.5 µm, does not match its objective, 40x (0.25 is likely)" in warnings_of(path)


@pytest.mark.parametrize(
    ("mpp", "likely"),
    [(0.0274, "0.274"), (252.8, "0.2528"), (499.0, "0.499"), (352.78, None), (84.67, None), (28.97, None)],
)
def test_a_slipped_decimal_point_is_named(tmp_path: Path, mpp: float, likely: str | None) -> None:
    with pytest.raises(ResolutionError, match="--mpp") as caught:
        resolve_mpp(tmp_path, (mpp, mpp), None, None)
    assert ("likely" in str(caught.value)) == (likely is not None)
    assert likely is None or f"likely {likely}," in str(caught.value)


@pytest.mark.parametrize("width", [1, 2, 9])
def test_a_slide_narrower_than_a_nucleus(tmp_path: Path, small: Picture, width: int) -> None:
    path = write(tmp_path / "a.tif", np.ascontiguousarray(small[:, :width]), tile=(256, 256))
    with pytest.raises(SlideKindError, match=rf"{width} × 300 px of 0.5 µm: narrower than a nucleus"):
        open_slide(path)


def test_a_resolution_of_one_says_nothing(tmp_path: Path, small: Picture) -> None:
    path = write(tmp_path / "a.tif", small, resolution=(1, 1), resolutionunit="INCH")
    with pytest.raises(ResolutionError, match="does not say its pixel size"):
        open_slide(path)


def test_a_picture_of_several_frames(tmp_path: Path, small: Picture) -> None:
    frames = [Image.fromarray(each) for each in (small, 255 - small)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with open_slide(tmp_path / "a.png", MPP) as slide:
        assert "2 images; the first one is used" in slide.warnings[0]
