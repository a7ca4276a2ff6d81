"""Odd files that all show the same tissue, each with what a run should make of it: for ``first_contact.py``.

The tissue is synthetic (``wsiproc.synthetic``), so the files may be shared freely. If a file is lossless, its cells are
those of the reference, to the pixel; with lossy compression, nearly as many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image

from wsiproc.synthetic import write_synthetic_slide

MPP = 0.5
SIDE = 640
PER_CM = (1e4 / MPP,) * 2
TILED: dict[str, Any] = {"tile": (256, 256)}
Pixels = npt.NDArray[Any]
Make = Callable[[Path, Pixels], None]


def in_unit(size: float, unit: str) -> dict[str, Any]:
    """A pixel size as OME-XML has it."""
    return {f"PhysicalSize{axis}{what}": value for axis in "XY" for what, value in (("", size), ("Unit", unit))}


UM = in_unit(MPP, "µm")


@dataclass(frozen=True)
class Odd:
    """A file: its name, what makes it, and what is right.

    ``cells``: how far from the reference the count may be, as a share; None where it is refused or has another count.
    ``said``: words of the refusal, or of a warning where there are cells. ``count``: bounds where there is no
    reference. ``options`` of the run.
    """

    name: str
    make: Make
    cells: float | None = 0.0
    said: str = ""
    count: tuple[int, int] | None = None
    options: tuple[str, ...] = ()


def tissue(folder: Path) -> Pixels:
    """The pixels (h, w, 3) that all files show."""
    path = folder / "drawn.tif"
    write_synthetic_slide(path, (SIDE, SIDE), mpp=MPP, seed=7, tissue_fraction=0.6)
    with tifffile.TiffFile(path) as file:
        pixels: Pixels = file.pages[0].asarray()
    return pixels


def write(path: Path, pixels: Pixels, **more: Any) -> None:
    """A TIFF with its pixel size, tiled unless asked otherwise."""
    options = {"photometric": "rgb", "resolution": PER_CM, "resolutionunit": "CENTIMETER", "metadata": None} | TILED
    tifffile.imwrite(path, pixels, **options | more)


def tiff(**more: Any) -> Make:
    """What writes the tissue with these options."""
    return lambda path, pixels: write(path, pixels, **more)


def ome(axes: str, change: Callable[[Pixels], Pixels] = lambda p: p, size: dict[str, Any] = UM, **more: Any) -> Make:
    """What writes it as OME-TIFF."""

    def make(path: Path, pixels: Pixels) -> None:
        options = {"photometric": "rgb", "metadata": {"axes": axes, **size}} | TILED | more
        tifffile.imwrite(path, change(pixels), ome=True, **options)

    return make


def shrunk(pixels: Pixels, by: int) -> Pixels:
    side = len(pixels) // by
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def levels(order: tuple[int, ...], sub: bool = False) -> Make:
    """A pyramid whose levels, shrunk by so much, come in this order; or in SubIFDs of the first."""

    def make(path: Path, pixels: Pixels) -> None:
        with tifffile.TiffWriter(path) as file:
            for place, by in enumerate(order):
                resolution = {"resolution": (PER_CM[0] / by,) * 2, "resolutionunit": "CENTIMETER"}
                below = {"subifds": len(order) - 1} if sub and place == 0 else {}
                kind = {"subfiletype": 1} if place and by > order[0] else {}
                file.write(shrunk(pixels, by), photometric="rgb", metadata=None, **TILED, **resolution, **below, **kind)

    return make


def ngff(version: int, change: Callable[[Pixels], Pixels] = lambda p: p, unit: str = "micrometer") -> Make:
    """An OME-Zarr 0.4 (zarr 2) or 0.5 (zarr 3)."""

    def make(path: Path, pixels: Pixels) -> None:
        data = change(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        names = "tczyx"[-data.ndim :] if data.ndim > 3 else "cyx"
        group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
        chunks = (*[1] * (data.ndim - 2), 256, 256)
        group.create_array("0", shape=data.shape, chunks=chunks, dtype=data.dtype)[...] = data
        size = MPP * {"micrometer": 1, "nanometer": 1e3, "angstrom": 1e4}[unit]
        axes = [{"name": n, "type": "space", "unit": unit} if n in "zyx" else {"name": n} for n in names]
        axes = [axis | ({"type": "channel"} if axis["name"] == "c" else {}) for axis in axes]
        axes = [axis | ({"type": "time"} if axis["name"] == "t" else {}) for axis in axes]
        scale = [{"type": "scale", "scale": [size if n in "yx" else 1.0 for n in names]}]
        scales: dict[str, Any] = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        if version == 2:
            group.attrs["multiscales"] = [{"version": "0.4", **scales}]
        else:
            group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}

    return make


def picture(kind: str, **more: Any) -> Make:
    """A PNG, JPEG or BMP with its resolution."""
    return lambda path, pixels: Image.fromarray(pixels).save(path, kind, dpi=(25_400 / MPP,) * 2, **more)


def flat(colour: float, sigma: float = 0.0) -> Make:
    """No tissue: one grey level, with noise."""

    def make(path: Path, pixels: Pixels) -> None:
        noise = np.random.default_rng(0).normal(colour, sigma, pixels.shape) if sigma else np.full(pixels.shape, colour)
        write(path, np.clip(noise, 0, 255).astype(np.uint8))

    return make


def pen(path: Path, pixels: Pixels) -> None:
    """Lines of a pen on glass."""
    drawn = np.full_like(pixels, 245)
    cv2.line(drawn, (60, 60), (560, 500), (20, 60, 200), 40)
    cv2.circle(drawn, (200, 440), 60, (30, 160, 40), 20)
    write(path, drawn)


def black_glass(path: Path, pixels: Pixels) -> None:
    """A masked export: all that is glass is black."""
    masked = pixels.copy()
    masked[pixels.min(axis=2) > 225] = 0
    write(path, masked)


def black_canvas(path: Path, pixels: Pixels) -> None:
    """The scan in the middle of a canvas that was never scanned."""
    canvas = np.zeros((3 * SIDE, 3 * SIDE, 3), np.uint8)
    canvas[SIDE : 2 * SIDE, SIDE : 2 * SIDE] = pixels
    write(path, canvas)


def eosin_only(path: Path, pixels: Pixels) -> None:
    """Tissue in which no nucleus is."""
    drawn = np.full((900, 900, 3), 243.0)
    drawn[150:750, 150:750] = (225, 150, 190)
    noisy = drawn + np.random.default_rng(0).normal(0, 3, drawn.shape)
    write(path, np.clip(noisy, 0, 255).astype(np.uint8))


def two_scenes(path: Path, pixels: Pixels) -> None:
    """Two pictures in one file."""
    with tifffile.TiffWriter(path, ome=True) as file:
        for number, part in enumerate((pixels, pixels[::-1])):
            metadata = {"axes": "YXS", "Name": f"scene {number}", **UM}
            file.write(part, photometric="rgb", metadata=metadata, **TILED)


def imagej(path: Path, pixels: Pixels) -> None:
    size = {"resolution": (1 / MPP,) * 2, "metadata": {"unit": "micron", "axes": "YXS"}}
    tifffile.imwrite(path, pixels, imagej=True, **size)  # type: ignore[arg-type]


def cut(path: Path, pixels: Pixels) -> None:
    write(path, pixels)
    os.truncate(path, path.stat().st_size // 3)


def content(data: bytes) -> Make:
    return lambda path, pixels: path.write_bytes(data) and None


def link(path: Path, pixels: Pixels) -> None:
    path.symlink_to(path.with_name("gone.svs"))


def empty_folder(path: Path, pixels: Pixels) -> None:
    path.mkdir()


def pipe(path: Path, pixels: Pixels) -> None:
    os.mkfifo(path)


def transparent_margin(path: Path, pixels: Pixels) -> None:
    """Black that is transparent around the tissue, as exports of rotated regions have."""
    wide = np.zeros((SIDE + 200, SIDE + 200, 4), np.uint8)
    wide[100:-100, 100:-100, :3], wide[100:-100, 100:-100, 3] = pixels, 255
    write(path, wide, extrasamples=["unassalpha"])


def grey_pages(count: int) -> Make:
    """Channels as pages."""

    def make(path: Path, pixels: Pixels) -> None:
        with tifffile.TiffWriter(path) as file:
            size = {"resolution": PER_CM, "resolutionunit": "CENTIMETER"}
            for number in range(count):
                plane = np.ascontiguousarray(pixels[..., number % 3])
                file.write(plane, photometric="minisblack", metadata=None, **TILED, **size)

    return make


def dyes(path: Path, pixels: Pixels) -> None:
    """Three channels whose names alone say that they are fluorescence."""
    options = {"photometric": "minisblack", "metadata": {"axes": "CYX", "Channel": {"Name": ["DAPI", "FITC", "Cy5"]}}}
    options["metadata"] |= UM  # type: ignore[operator]
    tifffile.imwrite(path, pixels.transpose(2, 0, 1), ome=True, **options, **TILED)  # type: ignore[arg-type]


def bare_zarr(path: Path, pixels: Pixels) -> None:
    zarr.create_array(path, data=pixels, chunks=(256, 256, 3))


def old_zarr(path: Path, pixels: Pixels) -> None:
    """OME-Zarr 0.3, whose axes are letters."""
    ngff(2)(path, pixels)
    group = zarr.open_group(path)
    group.attrs["multiscales"] = [{"version": "0.3", "axes": list("cyx"), "datasets": [{"path": "0"}]}]


def extra_page(path: Path, pixels: Pixels) -> None:
    """A label and a macro picture behind the slide, as scanners put them."""
    with tifffile.TiffWriter(path) as file:
        size = {"resolution": PER_CM, "resolutionunit": "CENTIMETER"}
        file.write(pixels, photometric="rgb", metadata=None, **TILED, **size)
        for shape in ((120, 90, 3), (150, 400, 3)):
            file.write(np.full(shape, 200, np.uint8), photometric="rgb", metadata=None, subfiletype=1)


TIFFS = [
    Odd("00_reference.tif", tiff()),
    *(Odd(f"10_{c}.tif", tiff(compression=c)) for c in ("deflate", "lzw", "zstd", "packbits", "lzma", "lerc")),
    Odd("11_predictor.tif", tiff(compression="deflate", predictor=2)),
    Odd("11_jpeg.tif", tiff(compression="jpeg", compressionargs={"level": 95}), 0.1),
    Odd("11_webp.tif", tiff(compression="webp"), 0.1),
    Odd("11_jpeg2000.tif", tiff(compression="jpeg2000"), 0.1),
    Odd("11_jpegxl.tif", tiff(compression="jpegxl"), 0.1),
    Odd("12_strips.tif", tiff(tile=None, rowsperstrip=16)),
    Odd("12_one_strip.tif", tiff(tile=None, rowsperstrip=SIDE)),
    Odd("12_planes_apart.tif", lambda path, p: write(path, p.transpose(2, 0, 1), planarconfig="separate")),
    Odd("12_big_tiff.tif", tiff(bigtiff=True)),
    Odd("12_big_endian.tif", tiff(byteorder=">")),
    Odd("12_odd_tiles.tif", tiff(tile=(240, 272))),
    Odd("12_large_tiles.tif", tiff(tile=(1024, 1024))),
    Odd(
        "13_alpha.tif",
        lambda path, p: write(path, np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]), extrasamples=["unassalpha"]),
    ),
    Odd("13_palette.tif", lambda path, p: Image.fromarray(p).quantize(256).save(path, dpi=(25_400 / MPP,) * 2), 0.25),
    Odd("14_pyramid.tif", levels((1, 2, 4))),
    Odd("14_small_level_first.tif", levels((4, 1, 2))),
    Odd("14_sub_pyramid.tif", levels((1, 2, 4), sub=True)),
    Odd("14_label_and_macro.tif", extra_page),
    Odd("15_inches.tif", tiff(resolution=(25_400 / MPP,) * 2, resolutionunit="INCH")),
    Odd("15_no_size.tif", tiff(resolution=None, resolutionunit=None), None, "does not say its pixel size"),
    Odd("15_printing_size.tif", tiff(resolution=(72, 72), resolutionunit="INCH"), None, "far too coarse"),
    Odd("15_not_square.tif", tiff(resolution=(20_000, 10_000)), None, "not square"),
    Odd("16_sixteen_bit.tif", lambda path, p: write(path, p.astype(np.uint16) * 257)),
    Odd("16_twelve_in_sixteen.tif", lambda path, p: write(path, p.astype(np.uint16) * 16 + 8), 0.05),
    Odd("16_float.tif", lambda path, p: write(path, (p / 255).astype(np.float32)), 0.05),
    Odd(
        "17_grey.tif",
        lambda path, p: write(path, cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), photometric="minisblack"),
        None,
        "no colour",
    ),
    Odd("18_imagej.tif", imagej),
    Odd("19_subsampled.tif", tiff(compression="jpeg", compressionargs={"level": 95}, subsampling=(2, 2)), 0.1),
    Odd("19_gap_in_pyramid.tif", levels((1, 8))),
    Odd("19_thirds.tif", levels((1, 3, 5))),
    Odd("19_transparent_margin.tif", transparent_margin, 0.1),
    Odd("19_three_grey_pages.tif", grey_pages(3)),
    Odd("19_four_grey_pages.tif", grey_pages(4), None, "no colour"),
    Odd("19_unit_none.tif", tiff(resolutionunit="NONE"), None, "does not say its pixel size"),
    Odd("19_int16.tif", lambda path, p: write(path, p.astype(np.int16) * 128), None, "type int16"),
    Odd("19_one_bit.tif", lambda path, p: write(path, p[..., 0] > 180, photometric="minisblack"), None, "bool"),
]
OMES = [
    Odd("20_plain.ome.tif", ome("YXS")),
    Odd("20_nanometres.ome.tif", ome("YXS", size=in_unit(500, "nm"))),
    Odd("20_angstrom.ome.tif", ome("YXS", size=in_unit(5000, "Å"))),
    Odd("20_focal_planes.ome.tif", ome("ZYXS", lambda p: np.stack([p] * 3)), 0.0, "plane"),
    Odd("20_channels_first.ome.tif", ome("CYX", lambda p: p.transpose(2, 0, 1), photometric="minisblack")),
    Odd("20_two_scenes.ome.tif", two_scenes, 0.0, "scene"),
    Odd("21_zarr_04.ome.zarr", ngff(2)),
    Odd("21_zarr_05.ome.zarr", ngff(3)),
    Odd("21_sixteen_bit.ome.zarr", ngff(2, lambda p: p.astype(np.uint16) * 257)),
    Odd("21_angstrom.ome.zarr", ngff(2, unit="angstrom")),
    Odd("21_five_axes.ome.zarr", ngff(3, lambda p: p[None, :, None])),
    Odd("22_time.ome.tif", ome("TYXS", lambda p: np.stack([p] * 2)), 0.0, "time point"),
    Odd("22_dyes.ome.tif", dyes, None, "fluorescence"),
    Odd("22_bare.zarr", bare_zarr, None, "bare zarr array"),
    Odd("22_version_03.ome.zarr", old_zarr, None, "OME-Zarr 0.3; wsiproc reads 0.4 and 0.5"),
]  # fmt: skip
PICTURES = [
    Odd("30_picture.png", picture("PNG"), None, "does not say its pixel size"),
    Odd("30_picture.jpg", picture("JPEG", quality=95, subsampling=0), None, "does not say its pixel size"),
    Odd("30_bare.png", lambda path, p: Image.fromarray(p).save(path), options=("--mpp", str(MPP))),
    Odd("31_slide.svs", lambda path, p: Image.fromarray(p).save(path, "PNG"), options=("--mpp", str(MPP))),
    Odd("31_no_ending", tiff()),
]
CONTENTS = [
    Odd("40_black_around_tissue.tif", black_glass, 0.1),
    Odd("40_black_canvas.tif", black_canvas, 0.1),
    Odd("41_pen_only.tif", pen, None, "no tissue"),
    Odd("41_white.tif", flat(255), None, "no tissue"),
    Odd("41_glass.tif", flat(240, 2), None, "no tissue"),
    Odd("41_black.tif", flat(0), None, "no colour"),
    Odd("42_no_nuclei.tif", eosin_only, None, "", (0, 5)),
    Odd("43_one_pixel_wide.tif", lambda path, p: write(path, p[:, 300:301], tile=None), None, "1"),
    Odd("43_five_pixels.tif", lambda path, p: write(path, p[300:305, 300:305], tile=None), None, "5"),
]
BROKEN = [
    Odd("50_cut_short.tif", cut, None, "truncated"),
    Odd("50_empty.svs", content(b""), None, "empty"),
    Odd("50_web_page.tif", content(b"<html>502 Bad Gateway</html>"), None, "not a slide"),
    Odd("50_noise.ndpi", content(bytes(range(1, 256)) * 9), None, "not a slide"),
    Odd("50_link_to_nothing.svs", link, None, "does not exist"),
    Odd("50_empty_folder.svs", empty_folder, None, "folder"),
    Odd("51_zipped.ome.zarr.zip", content(b"PK\x03\x04" + bytes(200)), None, "unpack it"),
    Odd("51_zipped.svs.gz", content(b"\x1f\x8b\x08" + bytes(200)), None, "unpack it"),
    Odd("51_zeros.svs", content(bytes(200_000)), None, "nothing but zeros"),
    Odd("51_pointer.svs", content(b"version https://git-lfs.github.com/spec/v1\n"), None, "git lfs pull"),
    Odd("51_philips.isyntax", content(b'<DataObject ObjectType="DPUfsImport">'), None, "export it as OME-TIFF"),
    Odd("51_alone.mrxs", content(b"\xff\xd8\xff\xe0JFIF"), None, "not beside the file"),
    Odd("51_overview.vsi", tiff(tile=None), None, "Olympus"),
    Odd("51_imaris.ims", content(b"\x89HDF\r\n\x1a\n" + bytes(200)), None, "HDF5"),
    Odd("50_pipe.tif", pipe, None, "pipe"),
]
_ODD_NAMES = (
    "60_two words", "60_é", "60_e\u0301x", "60_ж 漢字", "60_🔬", "60_#1", "60_50%", "60_a%20b", "60_[x]", "60_who?",
    "60_a'b\"c", "60_" + "x" * 180, "60_$HOME", "60_a;b&c", "60_dot.", "-rf", "con",
    "60_a\nb", ".60_hidden", os.fsdecode(b"60_\xff"), "case 1/HE", "case 2/HE",
)  # fmt: skip
NAMES = [Odd(f"{name}.tif", tiff()) for name in _ODD_NAMES]
ALL = [*TIFFS, *OMES, *PICTURES, *CONTENTS, *BROKEN, *NAMES]


def make_all(folder: Path, odd: list[Odd]) -> None:
    """All files, and a region of interest with NaN in it, as QuPath writes them."""
    pixels = tissue(folder.parent)
    for each in odd:
        path = folder / each.name
        path.parent.mkdir(parents=True, exist_ok=True)
        each.make(path, pixels)
    ring = [[100, 100], [500, 100], [500, 500], [100, 500], [100, 100]]
    drawn = {"objectType": "annotation", "measurements": {"Positive %": float("nan")}}
    area = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": drawn}
    (folder.parent / "roi.geojson").write_text(json.dumps(area))
