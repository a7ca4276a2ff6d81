"""Files from strangers: each is read, or refused in one sentence that names it and says what to do.

``benchmarks/fuzz.py`` tries thousands; here is one of each kind, as a user meets it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from tests.io.slides.slide_writers import MPP, Picture, pyramid, write_ome_tiff, write_ome_zarr, write_tiff
from wsiproc.core.geometry import Box
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.slides.open import describe, open_slide, read_overview, slide_name
from wsiproc.io.slides.readers.tiff import jpeg_size
from wsiproc.io.slides.readers.tiff_directories import check_directories

REMEDY = r"copy|export|convert|write|give|choose|give a slide|put the file itself"


def refused(path: Path, words: str) -> None:
    """The slide cannot be opened, and the message has its name, these words, and a remedy."""
    with pytest.raises(SlideError, match=words) as caught:
        open_slide(path)
    assert str(path) in str(caught.value)
    assert re.search(REMEDY, str(caught.value))


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def small(picture: Picture) -> Picture:
    return picture[:300, :400]


# --- OME-Zarr --------------------------------------------------------------------------------------------------------


class Payload:
    """A pickle of it writes a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def fill_with_code(array: Path, proof: Path) -> None:
    for chunk in array.iterdir():
        if not chunk.name.startswith("."):
            chunk.write_bytes(pickle.dumps(Payload(proof)))


# zarr takes the type of the array from the first of them, and decodes with both.
TWO_OBJECT_CODECS = {
    "dtype": "|O",
    "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}],
    "compressor": None,
    "fill_value": None,
}


@pytest.mark.parametrize(
    "declared",
    [
        {"filters": [{"id": "pickle"}], "compressor": None},
        {"filters": None, "compressor": {"id": "pickle"}},
        TWO_OBJECT_CODECS,
    ],
)
def test_chunks_that_are_code_are_never_run(
    tmp_path: Path, small: Picture, declared: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the library would run them."""
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [small], "0.4")
    edit_json(path / "0" / ".zarray", lambda d: d.update(declared))
    fill_with_code(path / "0", tmp_path / "executed")
    refused(path, "pickle")
    assert not (tmp_path / "executed").exists()


def test_the_library_would_run_them(tmp_path: Path, small: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the codecs are checked: zarr decodes with whatever the file asks for, and only newer numcodecs refuse."""
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [small], "0.4")
    edit_json(path / "0" / ".zarray", lambda d: d.update(TWO_OBJECT_CODECS))
    fill_with_code(path / "0", tmp_path / "executed")
    with contextlib.suppress(Exception):  # what comes back is no array, which zarr notices too late
        zarr.open_array(path / "0", mode="r")[:, :10, :10]
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("place", ["../other.zarr/0", "./0/../../other.zarr/0", "{folder}/other.zarr/0"])
def test_a_level_cannot_lie_outside_the_folder(tmp_path: Path, small: Picture, place: str) -> None:
    for name in ("a.zarr", "other.zarr"):
        write_ome_zarr(tmp_path / name, [small], "0.5")
    target = place.format(folder=tmp_path)
    edit_json(
        tmp_path / "a.zarr" / "zarr.json",
        lambda d: d["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path=target),
    )
    refused(tmp_path / "a.zarr", "not an OME-Zarr image")


@pytest.mark.parametrize("what", ["chunk", "level"])
def test_links_do_not_lead_out_of_an_ome_zarr(tmp_path: Path, small: Picture, what: str) -> None:
    for name in ("a.zarr", "other.zarr"):
        write_ome_zarr(tmp_path / name, [small], "0.5")
    parts = {"chunk": "0/c/0/0/0", "level": "0"}
    victim, target = (tmp_path / name / parts[what] for name in ("a.zarr", "other.zarr"))
    victim.rename(tmp_path / "aside")
    victim.symlink_to(target)
    if what == "level":
        refused(tmp_path / "a.zarr", "leads out of the folder")
        return
    with open_slide(tmp_path / "a.zarr") as slide:
        with pytest.raises(SlideReadError, match=r"a\.zarr: .*leads out of the folder.*cp -rL"):
            slide.read(Box(0, 0, 10, 10), MPP)
        before = slide.fingerprint()
        target.write_bytes(b"another secret")
        assert slide.fingerprint() == before, "nor is what lies outside hashed"


def test_links_within_an_ome_zarr_and_to_it_are_good(tmp_path: Path, small: Picture) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [small], "0.5")
    (tmp_path / "a.zarr" / "0").rename(tmp_path / "a.zarr" / "real")
    (tmp_path / "a.zarr" / "0").symlink_to("real")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    with open_slide(tmp_path / "link.zarr") as slide:
        assert np.array_equal(slide.read(Box(0, 0, *small.shape[:2]), MPP), small)


def test_pipes_and_devices_in_an_ome_zarr_are_not_waited_for(tmp_path: Path, small: Picture) -> None:
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [small], "0.5")
    chunks = [path / "0/c/0/0" / str(number) for number in (0, 1)]
    for chunk in chunks:
        chunk.unlink()
    os.mkfifo(chunks[0])
    chunks[1].symlink_to("/dev/zero")
    with open_slide(path) as slide:
        with pytest.raises(SlideReadError, match="pipe, socket or device"):
            slide.read(Box(0, 0, 10, 10), MPP)
        with pytest.raises(SlideReadError, match="leads out of the folder"):
            slide.read(Box(0, 130, 10, 10), MPP)
        assert np.array_equal(slide.read(Box(140, 10, 50, 50), MPP), small[140:190, 10:60])
    (path / "zarr.json").unlink()
    os.mkfifo(path / "zarr.json")
    refused(path, "a folder that is not a slide")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": [3, 0, 400]}, r"level 0 has 400 × 0 px, so it is empty"),
        ({"shape": [3, 300, 2**50]}, "no slide is larger"),
        ({"shape": [3, 10**6, 10**6]}, "an overview would have to read"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1]}}}, "1 × 1 px, too small"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 2**20, 2**20]}}}, "decoded whole"),
        ({"shape": [3, 300]}, "a.zarr"),
        ({"data_type": "int64"}, "int64"),
        ({"data_type": "float64"}, "a chunk is damaged"),
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "not an OME-Zarr image"),
        ({"codecs": None}, "not an OME-Zarr image"),
    ],
)
def test_array_metadata_that_cannot_be(tmp_path: Path, small: Picture, change: dict[str, object], words: str) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [small], "0.5")
    edit_json(tmp_path / "a.zarr" / "0" / "zarr.json", lambda d: d.update(change))
    refused(tmp_path / "a.zarr", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["datasets"].clear(), "no level"),
        (lambda m: m.update(axes=m["axes"][1:]), "its axes are 'yx'"),
        (lambda m: m.update(axes=[m["axes"][1]] * 3), "its axes are 'yyy'"),
        (lambda m: m["datasets"][0].update(path="nowhere"), "not an OME-Zarr image"),
        (lambda m: m["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 0, 0]), "a.zarr"),
        (lambda m: m.update(datasets={"a": 1}), "not an OME-Zarr image"),
    ],
)
def test_picture_metadata_that_cannot_be(
    tmp_path: Path, small: Picture, change: Callable[[Any], object], words: str
) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [small], "0.5")
    edit_json(tmp_path / "a.zarr" / "zarr.json", lambda d: change(d["attributes"]["ome"]["multiscales"][0]))
    refused(tmp_path / "a.zarr", words)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_chunk_far_larger_than_its_pixels_is_not_unpacked(tmp_path: Path, small: Picture, version: str) -> None:
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [small], version)
    chunk = path / "0" / ("0.1.1" if version == "0.4" else "c/0/1/1")
    chunk.write_bytes(bytes(2 * 3 * 128 * 128 + 2**16 + 1))
    with open_slide(path) as slide:
        with pytest.raises(SlideReadError, match=r"has 163,841 bytes, and no chunk of this array more than 163,840"):
            slide.read(Box(150, 150, 10, 10), MPP)
        assert np.array_equal(slide.read(Box(0, 0, 100, 100), MPP), small[:100, :100])


def test_metadata_nested_without_end(tmp_path: Path, small: Picture) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [small], "0.5")
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"a":' * 100_000)
    refused(tmp_path / "a.zarr", "not an OME-Zarr image")


def test_levels_of_two_pictures_are_no_pyramid(tmp_path: Path, picture: Picture) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [picture, picture[:100, :400]], "0.5")
    refused(tmp_path / "a.zarr", "level 1 has 400 × 100 px, level 0 903 × 701: not the same image")


# --- TIFF ------------------------------------------------------------------------------------------------------------


def patch(path: Path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(data)


def entry(path: Path, page: int, tag: str) -> tuple[int, int]:
    """Where an entry of a directory of a BigTIFF lies, and where the value in it."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page].aspage().tags[tag]
        return found.offset, found.offset + 12


@pytest.mark.parametrize("size", [1, 4, 8, 16, 100])
@pytest.mark.parametrize("write", [write_tiff, write_ome_tiff])
def test_a_header_cut_short(tmp_path: Path, small: Picture, write: Callable[..., None], size: int) -> None:
    path = tmp_path / "a.tif"
    write(path, [small])
    os.truncate(path, size)
    refused(path, r"a\.tif")


@pytest.mark.parametrize("write", [write_tiff, write_ome_tiff])
def test_a_file_cut_in_half_is_not_half_a_slide(tmp_path: Path, picture: Picture, write: Callable[..., None]) -> None:
    path = tmp_path / "a.tif"
    write(path, [picture])
    os.truncate(path, path.stat().st_size // 2)
    refused(path, "truncated|cannot read the file")


def test_a_loop_of_directories_ends(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, pyramid(picture))
    with tifffile.TiffFile(path) as tiff:
        last = tiff.pages[3].aspage()
        link = max(tag.offset for tag in last.tags) + 20
        patch(path, link, struct.pack("<Q", tiff.pages[1].aspage().offset))
    refused(path, "a loop of them")


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("ImageWidth", 0),
        ("ImageWidth", 2**31),
        ("TileWidth", 0),
        ("TileWidth", 2**31),
        ("TileWidth", 1),
        ("TileOffsets", 2**63),
        ("Compression", 4711),
        ("PhotometricInterpretation", 4711),
        ("SamplesPerPixel", 60000),
        ("BitsPerSample", 2**60),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "tifffile"])
def test_extreme_values_of_tags(tmp_path: Path, picture: Picture, tag: str, value: int, reader: str) -> None:
    """Refused, or each place that is lost says so; never another error."""
    path = tmp_path / "a.tif"
    write_tiff(path, pyramid(picture))
    patch(path, entry(path, 0, tag)[1], struct.pack("<Q", value))
    with pytest.raises(SlideError) as caught, open_slide(path, MPP, reader) as slide:  # type: ignore[arg-type]
        slide.read(Box(0, 0, *slide.shape), MPP)
    assert str(path) in str(caught.value)
    assert re.search(REMEDY, str(caught.value))


@pytest.mark.parametrize("count", [2**31 - 1, 2**37, 2**63])
@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_a_tag_of_more_values_than_the_file_has_bytes_does_not_end_the_process(
    tmp_path: Path, picture: Picture, count: int, reader: str
) -> None:
    """OpenSlide's allocator would: on any machine for the last two."""
    path = tmp_path / "a.tif"
    write_tiff(path, pyramid(picture))
    check_directories(path)
    patch(path, entry(path, 1, "TileByteCounts")[0] + 4, struct.pack("<Q", count))
    with pytest.raises(SlideError, match=rf"a\.tif: .*tag 325 .* {count:,} values, .*copy or export"):
        open_slide(path, reader=reader)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("ImageLength", 2**31 - 1, "2147483647 × 903 px; no slide is larger"),
        ("TileLength", 2**31 - 1, "2147483647 × 128 px, too many to decode at once"),
        ("TileLength", 0, "a.tif"),
    ],
)
@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_sizes_that_cannot_be_do_not_end_the_process(
    tmp_path: Path, picture: Picture, tag: str, value: int, words: str, reader: str
) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, pyramid(picture))
    patch(path, entry(path, 0, tag)[1], struct.pack("<Q", value))
    with pytest.raises(SlideError, match=words):
        open_slide(path, reader=reader)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "fluorescence_dapi.ndpi", "EAS2_HE1_20x.tif"])
def test_the_directories_of_real_slides_are_walked_to_their_end(real_slides: Path, name: str, tmp_path: Path) -> None:
    """The last entry of the last directory, spoiled, is found."""
    check_directories(real_slides / name)
    path = tmp_path / name
    path.write_bytes((real_slides / name).read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = max(tiff.pages[-1].aspage().tags, key=lambda tag: tag.offset)
        patch(path, tag.offset + 4, struct.pack("<I", 2**32 - 1))
    with pytest.raises(SlideError, match=f"tag {tag.code} .* 4,294,967,295 values"):
        check_directories(path)


def test_a_tile_that_claims_to_be_a_huge_jpeg_is_not_decoded(tmp_path: Path, picture: Picture) -> None:
    path = tmp_path / "a.tif"
    scale: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, photometric="rgb", compression="jpeg", tile=(128, 128), metadata=None, **scale)
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    start = path.read_bytes().index(b"\xff\xc0", offset, offset + size)
    patch(path, start + 5, struct.pack(">HH", 65535, 65535))
    with open_slide(path, reader="tifffile") as slide:
        with pytest.raises(SlideReadError, match=r"an image of 65535 × 65535 px in a tile of 128 × 128"):
            slide.read(Box(0, 0, 10, 10), MPP)
        assert slide.read(Box(200, 200, 10, 10), MPP).shape == (10, 10, 3)


def test_the_size_in_a_header_is_that_of_the_picture(picture: Picture) -> None:
    import imagecodecs

    for encode in (imagecodecs.jpeg8_encode, lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k")):
        assert jpeg_size(bytes(encode(np.ascontiguousarray(picture[:50, :70])))) == (50, 70)
    assert jpeg_size(b"\xff\xd8") is None
    assert jpeg_size(b"no picture") is None
    for byte in range(256):
        assert jpeg_size(b"\xff\xd8" + bytes([0xFF, byte]) * 40) is None or byte in range(0xC0, 0xD0)


def test_entities_in_ome_xml_are_not_expanded_for_ever(tmp_path: Path, small: Picture) -> None:
    levels = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "lol">{levels}]><OME>&a11;</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", small, photometric="rgb", description=bomb, metadata=None)
    with pytest.raises((SlideError, ValueError), match=r"a\.ome\.tif"):
        open_slide(tmp_path / "a.ome.tif")


# --- one damaged place -----------------------------------------------------------------------------------------------


def damage_tile(path: Path, page: int, index: int) -> None:
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page].aspage()
        offset, size = found.dataoffsets[index], found.databytecounts[index]
    patch(path, offset, b"\xff" * size)


@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_an_overview_has_all_but_the_damaged_place(tmp_path: Path, picture: Picture, reader: str) -> None:
    for name in ("good.tif", "bad.tif"):
        write_tiff(tmp_path / name, [picture])
    damage_tile(tmp_path / "bad.tif", 0, 9)  # rows 128 … 256, columns 128 … 256
    with open_slide(tmp_path / "good.tif") as good, open_slide(tmp_path / "bad.tif", reader=reader) as bad:  # type: ignore[arg-type]
        whole, seen = read_overview(good, finest_mpp=1.0), read_overview(bad, finest_mpp=1.0)
        assert whole.reason is None
        assert not whole.unread.any()
        assert seen.reason is not None
        assert "bad.tif" in seen.reason
        assert seen.unread[64:128, 64:128].all()
        assert seen.unread.sum() < 2 * 64 * 64
        assert np.array_equal(seen.pixels[~seen.unread], whole.pixels[~seen.unread])
        assert (seen.pixels[seen.unread] == 255).all()
        assert "damaged" not in describe(good)
        assert re.search(r"\d\.\d\d% of the overview; .*bad\.tif", str(describe(bad)["damaged"]))


def test_a_slide_of_damage_alone_has_no_overview(tmp_path: Path, small: Picture) -> None:
    write_tiff(tmp_path / "a.tif", [small])
    for index in range(12):
        damage_tile(tmp_path / "a.tif", 0, index)
    with open_slide(tmp_path / "a.tif") as slide, pytest.raises(SlideReadError, match=r"a\.tif.*damaged there"):
        read_overview(slide)


# --- names -----------------------------------------------------------------------------------------------------------

HOSTILE_NAMES = [
    "with space.tif", "it's.tif", 'say "so".tif', "🔬 µm.tif", "a..b.tif", "..tif", "-rf.tif", "[red]x[_red].tif",
    "<img src=x onerror=alert(1)>.tif", "a\nb.tif", "\x1b[31mred.tif", "100%s.tif", "$(touch x).tif", "~.tif",
    "con.tif", "\u202etxt.tif", os.fsdecode(b"\xff\xfe.tif"), "x" * 251 + ".tif",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_any_name_of_a_file_is_read_and_gives_a_folder_name(tmp_path: Path, small: Picture, name: str) -> None:
    write_tiff(tmp_path / "plain.tif", [small])
    path = tmp_path / name
    (tmp_path / "plain.tif").rename(path)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(Box(0, 0, 300, 400), MPP), small)
        found = slide.name
    assert found == slide_name(path)
    assert found.encode()  # UTF-8 can write it
    assert found.isprintable()
    assert not set(found) & set('<>:"/\\|?*')
    assert (tmp_path / "out" / found).resolve().parent == tmp_path / "out"
    assert found.lower() not in {"con", "", ".", ".."}
