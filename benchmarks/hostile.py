"""Small intact slides of each format, and thousands of ways to corrupt them, for ``fuzz.py``, ``corrupt_batch.py``."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import scanners
import tifffile
import zarr

from wsiproc.core.geometry import Box
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.synthetic.scene import Scene
from wsiproc.synthetic.slide import write_synthetic_slide

Picture = npt.NDArray[np.uint8]

MPP = 0.5
SHAPE = (420, 520)
OUTSIDE = "outside"
"""Folder beside the mutated file that nothing may read or write: a picture of one colour, and a text."""
OUTSIDE_RGB = (3, 201, 77)
_PER_CM = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
_EXTREMES = (0, 1, 2, 7, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**64 - 1)


# --- seeds -----------------------------------------------------------------------------------------------------------


@cache
def tissue(shape: tuple[int, int] = SHAPE, seed: int = 3) -> Picture:
    """A picture full of nuclei."""
    scene = Scene(shape, MPP, seed=seed, tissue_fraction=1.0)
    return np.ascontiguousarray(scene.render(Box(0, 0, *shape)))


def _levels(picture: Picture, count: int) -> list[Picture]:
    levels = [picture]
    for _ in range(count - 1):
        h, w = levels[-1].shape[:2]
        levels.append(np.asarray(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA), np.uint8))
    return levels


def write_svs(path: Path, picture: Picture, compression: str = "jpeg", levels: int = 3, tile: int = 128) -> None:
    """What OpenSlide takes for an Aperio slide: tiled pages that each say so."""
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(_levels(picture, levels)):
            h, w = level.shape[:2]
            text = f"Aperio Image Library v12\n{w}x{h} [0,0 {w}x{h}] ({tile}x{tile})|AppMag = 20|MPP = {MPP}"
            tiff.write(
                level, tile=(tile, tile), photometric="rgb", compression=compression, description=text, metadata=None,
                subfiletype=int(number > 0),
            )  # fmt: skip


def write_tiff(path: Path, picture: Picture, compression: str | None = "deflate") -> None:
    """A tiled pyramid with its levels as reduced pages."""
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(_levels(picture, 3)):
            tiff.write(
                level, tile=(128, 128), photometric="rgb", compression=compression, subfiletype=int(number > 0),
                metadata=None, **_PER_CM,
            )  # fmt: skip


def write_ome_tiff(path: Path, picture: Picture, planar: bool = False) -> None:
    """An OME-TIFF with its pyramid in SubIFDs; ``planar``: a page for each channel."""
    metadata = {"axes": "CYX" if planar else "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
        for number, level in enumerate(_levels(picture, 3)):
            tiff.write(
                level.transpose(2, 0, 1) if planar else level,
                tile=(128, 128),
                photometric="minisblack" if planar else "rgb",
                compression="deflate",
                metadata=metadata if number == 0 else None,
                subifds=2 if number == 0 else None,
                subfiletype=int(number > 0),
            )


def write_zarr(path: Path, picture: Picture, version: str, compressors: Any = "auto", axes: str = "cyx") -> None:
    """An OME-Zarr 0.4 (zarr v2) or 0.5 (zarr v3)."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for number, level in enumerate(_levels(picture, 3)):
        array = np.ascontiguousarray(level.transpose(["yxc".index(axis) for axis in axes]))
        chunks = tuple(3 if axis == "c" else 128 for axis in axes)
        group.create_array(str(number), data=array, chunks=chunks, compressors=compressors)
        scale = [1.0 if axis == "c" else MPP * 2**number for axis in axes]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"c": {"type": "channel"}}
    spaces = [{"name": axis, **kinds.get(axis, {"type": "space", "unit": "micrometer"})} for axis in axes]
    multiscale: dict[str, Any] = {"axes": spaces, "datasets": datasets, "name": "seed"}
    if version == "0.4":
        group.attrs["multiscales"] = [{**multiscale, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}


def write_sharded_zarr(path: Path, picture: Picture) -> None:
    """As wsiproc itself writes its overview."""
    rgb = [("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255))]
    shape = (picture.shape[0], picture.shape[1])
    ngff.create_image(path, shape, (MPP, MPP), 3, rgb)  # type: ignore[arg-type]
    ngff.write_pyramid(path, Box(0, 0, *shape), picture.transpose(2, 0, 1), ngff.SHARD)


def _write_jpeg2000(path: Path, picture: Picture) -> None:
    """An Aperio slide of JPEG 2000 tiles."""
    write_svs(path, picture, "aperio_jp2000_rgb")


SEEDS: dict[str, dict[str, Callable[[Path, Picture], None]]] = {
    "svs": {
        "jpeg.svs": write_svs,
        "jpeg2000.svs": _write_jpeg2000,
        "one level.svs": lambda path, picture: write_svs(path, picture, levels=1, tile=256),
    },
    "ndpi": {
        "three levels.ndpi": scanners.write_ndpi,
        "one level.ndpi": lambda p, picture: scanners.write_ndpi(p, picture, 1),
    },
    "tiff": {
        "deflate.tif": write_tiff,
        "lzw.tif": lambda path, picture: write_tiff(path, picture, "lzw"),
        "raw.tif": lambda path, picture: write_tiff(path, picture[:300, :400], None),
        "pyramid.ome.tif": write_ome_tiff,
        "channels.ome.tif": lambda path, picture: write_ome_tiff(path, picture, planar=True),
        "strips.tif": lambda path, picture: tifffile.imwrite(
            path, picture, photometric="rgb", rowsperstrip=40, compression="zstd", **_PER_CM
        ),
        "synthetic.tif": lambda path, picture: _synthetic(path),
    },
    "ome-zarr": {
        "v4.ome.zarr": lambda path, picture: write_zarr(path, picture, "0.4"),
        "v5.ome.zarr": lambda path, picture: write_zarr(path, picture, "0.5", axes="yxc"),
        "gzip.ome.zarr": lambda path, picture: write_zarr(path, picture, "0.5", zarr.codecs.GzipCodec()),
        "sharded.ome.zarr": write_sharded_zarr,
    },
    "mrxs": {
        "jpeg.mrxs": scanners.write_mrxs,
        "placed.mrxs": lambda p, picture: scanners.write_mrxs(p, picture, positions="buffer", unscanned={(1, 1)}),
        "stitched.mrxs": lambda p, picture: scanners.write_mrxs(p, picture, kind="PNG", positions="stitching"),
    },
    "dicom": {
        "jpeg": lambda p, picture: _in_folder(p, picture, compressed=True),
        "raw": lambda p, picture: _in_folder(p, picture, levels=2, sparse=True),
        "concatenated": lambda p, picture: _in_folder(p, picture, files_a_level=2, compressed=True),
    },
}


def _in_folder(path: Path, picture: Picture, **more: Any) -> None:
    scanners.write_dicom(path, picture, **more)


def _synthetic(path: Path) -> None:
    write_synthetic_slide(path, SHAPE, mpp=MPP, tissue_fraction=1.0, workers=1)
    path.with_name(f"{path.stem}.truth.parquet").unlink()


def write_seeds(reader: str, folder: Path, real: Path | None) -> list[Path]:
    """Good slides of a reader in ``folder``; with ``real``, the small slides in that folder as well."""
    folder.mkdir(parents=True)
    for name, write in SEEDS[reader].items():
        write(folder / name, tissue())
    if real is not None:
        for path in sorted(real.glob("*.ome.zarr" if reader == "ome-zarr" else f"*.{reader[:3]}*")):
            size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) or path.stat().st_size
            if size < 5_000_000:
                copy(path, folder / f"real {path.name}")
    return sorted(folder / name for name in SEEDS[reader]) + sorted(folder.glob("real *"))


def copy(source: Path, target: Path) -> None:
    """A writable copy of a file or folder."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for path in (target, *target.rglob("*")):
            path.chmod(0o755)
    else:
        shutil.copyfile(source, target)
        if source.suffix == ".mrxs":
            copy(source.with_suffix(""), target.with_suffix(""))


def write_outside(folder: Path) -> None:
    """What lies outside: zarrs of one colour, a text."""
    folder.mkdir()
    colour = np.empty((256, 256, 3), np.uint8)
    colour[:] = OUTSIDE_RGB
    write_zarr(folder / "v4.ome.zarr", colour, "0.4")
    write_zarr(folder / "v5.ome.zarr", colour, "0.5", axes="yxc")
    (folder / "secret.txt").write_text("what nobody should see\n" * 1000)


# --- mutations of files ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Where directory entries, tiles and texts of a TIFF lie, as (offset, bytes); and the links between directories."""

    entries: tuple[tuple[int, int], ...]
    tiles: tuple[tuple[int, int], ...]
    texts: tuple[tuple[int, int], ...]
    links: tuple[int, ...]


@cache
def layout(path: Path) -> Layout:
    """The parts of a good TIFF."""
    entries, tiles, texts, links = [], [], [], [4]
    with tifffile.TiffFile(path) as tiff:
        wide = 20 if tiff.tiff.is_bigtiff else 12
        pages = [*tiff.pages, *(sub for page in tiff.pages for sub in page.aspage().pages or ())]
        for each in pages:
            page = each.aspage()
            offsets = [(tag.offset, wide) for tag in page.tags]
            entries += offsets
            links.append(max(offset for offset, _ in offsets) + wide)
            tiles += [pair for pair in zip(page.dataoffsets, page.databytecounts, strict=True) if pair[1]]
            texts += [(tag.valueoffset, tag.count) for tag in page.tags if tag.dtype == 2 and tag.count > 8]
    return Layout(tuple(entries), tuple(tiles), tuple(texts), tuple(links))


def spoil_file(path: Path, seed: Path, rng: Random) -> str:
    """Mutate the copy ``path`` of the TIFF ``seed`` in place; what was done, in words."""
    data = bytearray(path.read_bytes())
    ways = [_truncate, _flip, _edit_entries, _edit_entries, _edit_entries, _edit_tiles, _edit_tiles, _edit_text,
            _edit_links, _move]  # fmt: skip
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        way = rng.choice(ways)
        done.append(f"{way.__name__.strip('_')} {way(data, layout(seed), rng)}")
    path.write_bytes(data)
    return "; ".join(done)


def _truncate(data: bytearray, parts: Layout, rng: Random) -> str:
    size = rng.choice((0, 1, 4, 8, 15, 16, 100, rng.randrange(len(data) + 1), int(len(data) * rng.random())))
    del data[size:]
    return f"to {size}"


def _flip(data: bytearray, parts: Layout, rng: Random) -> str:
    """Bits anywhere, or among the directories, where each matters."""
    count = rng.choice((1, 3, 10, 100))
    first, last = 0, len(data)
    if rng.random() < 0.6:
        offset, size = rng.choice(parts.entries)
        first, last = max(0, offset - 20 * size), min(len(data), offset + 20 * size)
    if first >= last:
        return "nothing"
    for _ in range(count):
        data[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
    return f"{count} bits in {first}-{last}"


def _edit_entries(data: bytearray, parts: Layout, rng: Random) -> str:
    """A field of a directory entry (tag, type, count, value) gets an extreme value."""
    offset, size = rng.choice(parts.entries)
    wide = "<Q" if size == 20 else "<I"
    field, form = rng.choice(((0, "<H"), (2, "<H"), (4, wide), (size - struct.calcsize(wide), wide), (size - 4, wide)))
    limit = 1 << (8 * struct.calcsize(form))
    value = rng.choice((rng.choice(_EXTREMES), rng.randrange(limit), rng.randrange(len(data) + 2))) % limit
    data[offset + field : offset + field + struct.calcsize(form)] = struct.pack(form, value)
    return f"at {offset + field} to {value}"


def _edit_tiles(data: bytearray, parts: Layout, rng: Random) -> str:
    """Bytes of tiles: noise, zeros, another tile, or a JPEG that claims to be huge."""
    for _ in range(rng.choice((1, 2, 10, len(parts.tiles)))):
        offset, size = rng.choice(parts.tiles)
        start = offset + rng.randrange(size)
        end = min(offset + size, start + rng.choice((1, 16, size)))
        way = rng.randrange(4)
        header = data.find(b"\xff\xc0", offset, offset + size)
        if way == 0 and header > 0:
            sides = [rng.choice((0, 1, 0xFFFF, 0x8000, rng.randrange(65536))) for _ in "hw"]
            data[header + 5 : header + 9] = struct.pack(">HH", *sides)
        elif way == 1:
            other, length = rng.choice(parts.tiles)
            data[start:end] = (data[other : other + length] + bytes(end - start))[: end - start]
        else:
            data[start:end] = rng.randbytes(end - start) if way == 2 else bytes(end - start)
    return "noise, zeros, others"


def _edit_text(data: bytearray, parts: Layout, rng: Random) -> str:
    """Digits and words of descriptions: pixel sizes, OME-XML."""
    if not parts.texts:
        return _flip(data, parts, rng)
    offset, size = rng.choice(parts.texts)
    way = rng.randrange(3)
    if way == 0:
        for place in range(offset, min(offset + size, len(data))):
            if data[place : place + 1].isdigit() and rng.random() < 0.5:
                data[place] = rng.choice(b"0123456789-.eE")
    elif way == 1:
        start = offset + rng.randrange(size)
        data[start : start + 8] = rng.choice((b"\xff\xfe\0\0\xd8\0\0\0", b"%s%n%s%n", b"]]>&lol;", bytes(8)))
    else:
        start = offset + rng.randrange(size)
        del data[start : start + 40]
    return f"at {offset}"


def _edit_links(data: bytearray, parts: Layout, rng: Random) -> str:
    """The place of the next directory: a loop, nowhere, the middle of a tile."""
    link = rng.choice(parts.links)
    target = rng.choice((0, 8, rng.randrange(len(data) + 9), *[offset - 2 for offset, _ in parts.entries[:40:8]]))
    data[link : link + 4] = struct.pack("<I", max(0, target))
    return f"at {link} to {target}"


def _move(data: bytearray, parts: Layout, rng: Random) -> str:
    """A stretch is cut out, or doubled."""
    start, size = rng.randrange(len(data) + 1), rng.choice((1, 2, 64, 4096))
    if rng.random() < 0.5:
        del data[start : start + size]
    else:
        data[start:start] = data[start : start + size]
    return f"{size} bytes at {start}"


# --- mutations of folders --------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 2**31, 2**40, 2**63, 1e308, -1e-300, "", "0", "..", "/", "\0", "x" * 5000, "🔬",
    "../../outside/v4.ome.zarr/0", "../outside/v5.ome.zarr/0", "./0/../../outside", [], [[]], {}, [0], [-1, -1, -1],
    [2**40] * 3, [1, 1, 1], [3, 2**31, 2**31], [0, 0, 0], {"id": "pickle"}, [{"id": "pickle"}],
    [{"name": "numcodecs.pickle"}],
)  # fmt: skip


class _Payload:
    """A pickle of it writes a file where it is opened: proof that code was run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def spoil_folder(path: Path, outside: Path, rng: Random) -> str:
    """Mutate an OME-Zarr in place; what was done, in words."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        way = rng.choice((_edit_json, _edit_json, _edit_json, _aim_json, _aim_json, _spoil_one, _spoil_one, _replace))
        done.append(f"{way.__name__.strip('_')} {way(path, outside, rng)}")
    return "; ".join(done)


def _files(path: Path, metadata: bool | None = None) -> list[Path]:
    """Regular files; ``metadata``: only those that are JSON, or only those that are not."""
    names = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
    files = sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink())
    return [each for each in files if metadata is None or (each.name in names) == metadata]


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Keys that lead to each value of a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in items for found in ((*place, key), *_places(part, (*place, key)))]


def _edit(file: Path, change: Callable[[Any], object]) -> bool:
    """Change a JSON file; whether that could be done."""
    try:
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False
    return True


def _edit_json(path: Path, outside: Path, rng: Random) -> str:
    """A value of a JSON file becomes extreme, or goes."""
    files = _files(path, metadata=True)
    if not files:
        return "nothing"
    file = rng.choice(files)
    said = "nothing"

    def change(document: Any) -> None:
        nonlocal said
        place = rng.choice(_places(document))
        value = rng.choice((*_VALUES, str(outside / "v5.ome.zarr" / "0")))
        for key in place[:-1]:
            document = document[key]
        if rng.random() < 0.15:
            del document[place[-1]]
            said = f"{file.name} {place} gone"
        else:
            document[place[-1]] = value
            said = f"{file.name} {place} = {str(value)[:40]!r}"

    _edit(file, change)
    return said


def _aim_json(path: Path, outside: Path, rng: Random) -> str:
    """The edits that an attacker would try first."""
    files = _files(path, metadata=True)
    arrays = [file for file in files if file.name == ".zarray" or (file.name == "zarr.json" and file.parent != path)]
    roots = [file for file in files if file.parent == path]
    way = rng.randrange(6)
    if way == 0 and roots:
        target = rng.choice(("../outside/v5.ome.zarr/0", "../outside/v4.ome.zarr/0", str(outside / "v5.ome.zarr/0")))
        file = rng.choice(roots)
        _edit(file, lambda d: _datasets(d)[0].update(path=target))
        return f"dataset path {target}"
    if not arrays:
        return "nothing"
    file = rng.choice(arrays)
    if way == 1:
        shape = rng.choice(([3, 2**40, 2**40], [3, 0, 0], [3, 2**20, 2**20], [3, 620, 2**50], [3, 1, 1]))
        _edit(file, lambda d: d.update(shape=shape))
        return f"{file.parent.name} shape {shape}"
    if way == 2:
        chunks = rng.choice(([1, 1, 1], [3, 2**40, 2**40], [3, 2**16, 2**16], [3, 0, 0], [3, 1, 2**20]))
        _edit(file, lambda d: d.update(chunks=chunks))
        _edit(file, lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=chunks))
        return f"{file.parent.name} chunks {chunks}"
    if way in (3, 4):
        codec = {"id": "pickle", "protocol": 5}
        change = {"compressor": codec} if way == 3 else {"filters": [codec], "compressor": None}
        if rng.random() < 0.3:
            change |= {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, codec]}
        _edit(file, lambda d: d.update(change))
        for chunk in _files(file.parent, metadata=False):
            chunk.write_bytes(pickle.dumps(_Payload()))
        return f"{file.parent.name} pickle"
    types = ("|O", "<U9", "<M8[ns]", "|V3", "<f8", "string", "bytes", "variable_length_utf8", "uint64", "r24")
    name = rng.choice(types)
    _edit(file, lambda d: d.update({"dtype" if "dtype" in d else "data_type": name}))
    return f"{file.parent.name} type {name}"


def _datasets(document: Any) -> Any:
    attributes = document.get("attributes", document)
    return attributes.get("ome", attributes)["multiscales"][0]["datasets"]


def _spoil_one(path: Path, outside: Path, rng: Random) -> str:
    """One file is cut short, flipped, emptied, lost, or filled with a bomb."""
    files = _files(path)
    if not files:
        return "nothing"
    file = rng.choice(_files(path, metadata=rng.random() < 0.5) or files)
    data = bytearray(file.read_bytes())
    way = rng.choice(("cut", "flip", "empty", "lose", "noise", "bomb", "nest"))
    if way == "lose":
        file.unlink()
        return f"{way} {file.relative_to(path)}"
    if way == "cut":
        del data[rng.randrange(len(data) + 1) :]
    elif way == "flip" and data:
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif way == "bomb":
        data = bytearray(_bomb())
    elif way == "nest":
        data = bytearray(b'{"a":' * 100_000)
    else:
        data = bytearray(rng.randbytes(len(data)) if way == "noise" else b"")
    file.write_bytes(data)
    return f"{way} {file.relative_to(path)}"


@cache
def _bomb() -> bytes:
    """A small file that unpacks to a large one."""
    return bytes(imagecodecs.gzip_encode(bytes(300_000_000), level=1))


def _replace(path: Path, outside: Path, rng: Random) -> str:
    """A file or folder becomes a link, a pipe or a folder."""
    inside = sorted(path.rglob("*"))
    if not inside:
        return "nothing"
    victim = rng.choice(inside)
    if victim.is_dir() and not victim.is_symlink():
        shutil.rmtree(victim)
    else:
        victim.unlink()
    way = rng.choice(("outside", "secret", "device", "pipe", "folder", "loop", "dangling", "chunk"))
    if way == "pipe":
        os.mkfifo(victim)
    elif way == "folder":
        victim.mkdir()
    else:
        chunks = sorted(p for p in (outside / "v4.ome.zarr" / "0").rglob("*") if p.is_file() and p.name[0] != ".")
        zarrs = {0: outside / "v4.ome.zarr" / "0", 1: outside / "v5.ome.zarr" / "0"}
        targets = {
            "outside": zarrs[rng.randrange(2)],
            "secret": outside / "secret.txt",
            "device": Path("/dev/zero"),
            "loop": victim,
            "dangling": outside / "none",
            "chunk": chunks[0],
        }
        victim.symlink_to(targets[way])
    return f"{victim.relative_to(path)} {way}"


# --- mutations of slides of several files ----------------------------------------------------------------------------


def spoil_parts(folder: Path, outside: Path, rng: Random) -> str:
    """Mutate files of a MIRAX or DICOM slide, among them its tables; what was done, in words."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
        if not files:
            break
        tables = [path for path in files if path.name in {"Slidedat.ini", "Index.dat"}]
        path = rng.choice(tables if tables and rng.random() < 0.7 else files)
        way = rng.choice((_part_bytes, _part_bytes, _part_numbers, _part_numbers, _part_numbers, _part_as_a_whole))
        if path.suffix == ".ini" and rng.random() < 0.8:
            way = _part_text
        done.append(f"{path.name}: {way(path, outside, rng)}")
    return "; ".join(done)


def _part_bytes(path: Path, outside: Path, rng: Random) -> str:
    """Cut short, or bits flipped, near the start or anywhere."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.3 or not data:
        return _write(path, data[: int(len(data) * rng.random())], "truncated")
    last = len(data) if rng.random() < 0.4 else min(len(data), 2000)
    count = rng.choice((1, 3, 10, 100))
    for _ in range(count):
        data[rng.randrange(last)] ^= 1 << rng.randrange(8)
    return _write(path, data, f"{count} bits in the first {last} bytes")


def _part_numbers(path: Path, outside: Path, rng: Random) -> str:
    """A number of 2 or 4 bytes at an even place, near the start or anywhere, gets an extreme value."""
    data = bytearray(path.read_bytes())
    if len(data) < 16:
        return "nothing"
    form = rng.choice(("<I", "<I", "<H"))
    limit = 1 << (8 * struct.calcsize(form))
    first = 45 if path.name == "Index.dat" else 0  # after the id, everything is numbers of 4 bytes
    last = len(data) if rng.random() < 0.4 or first else min(len(data), 2000)
    place = first % 4 + rng.randrange(max(1, (last - first - 4) // 4)) * 4 + first // 4 * 4
    place = min(place, len(data) - 4)
    value = rng.choice((rng.choice(_EXTREMES), rng.randrange(limit), rng.randrange(len(data) + 2))) % limit
    data[place : place + struct.calcsize(form)] = struct.pack(form, value)
    return _write(path, data, f"{value} at {place}")


def _part_text(path: Path, outside: Path, rng: Random) -> str:
    """A value of Slidedat.ini becomes an extreme, another line's, the name of a file outside, or nothing."""
    lines = path.read_text("utf-8", "surrogateescape").splitlines()
    if not lines:
        return "nothing"
    number = rng.randrange(len(lines))
    key, _, value = lines[number].partition("=")
    other = rng.choice(lines).partition("=")[2]
    away = rng.choice((f"../{outside.name}/secret.txt", str(outside), "..", ".", ""))
    extremes = (*map(str, _EXTREMES), "-1", "0.5", "1e308", "-1e308", "nan", "inf", "x" * 10_000, "\N{NO-BREAK SPACE}1")
    lines[number] = rng.choice(
        (f"{key}= {rng.choice(extremes)}", f"{key}={other}", f"{key}= {away}", "", value, "[GENERAL]")
    )
    path.write_text("\n".join(lines), "utf-8", "surrogateescape")
    return f"line {number}: {lines[number][:60]}"


def _part_as_a_whole(path: Path, outside: Path, rng: Random) -> str:
    """Gone, empty, a copy of another, a pipe, a folder, a link to itself or to nowhere."""
    way = rng.randrange(7)
    others = [each for each in sorted(path.parent.iterdir()) if each.is_file()]
    content = rng.choice(others).read_bytes()
    path.unlink()
    if way == 1:
        path.touch()
    elif way == 2:
        path.write_bytes(content)
    elif way == 3:
        os.mkfifo(path)
    elif way == 4:
        path.mkdir()
    elif way > 4:
        path.symlink_to(path.name if way == 5 else "/nowhere")
    return ("gone", "empty", "another", "pipe", "folder", "link to itself", "link to nowhere")[way]


def _write(path: Path, data: bytes, done: str) -> str:
    path.write_bytes(data)
    return done
