"""Validates the tables of a MIRAX slide (.mrxs) before a C library trusts them. OpenSlide allocates memory, loops and
opens files as Slidedat.ini and Index.dat say; a failed allocation ends the whole process. Other damage is left to
OpenSlide. The layout: https://openslide.org/formats/mirax/
"""

from __future__ import annotations

import configparser
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from wsiproc.errors import SlideError

_DAMAGED = "the slide is damaged: copy all of its folder again"
_MOST_INI_BYTES = 1 << 20
_MOST_IMAGES, _MOST_IMAGE_PX, _MOST_LEVELS, _MOST_FILES = 1 << 22, 1 << 26, 24, 1 << 16
# A camera position deviates from the regular grid by less than this many images.
_MOST_DRIFT = 256
_POSITION_BYTES = 9
_POSITIONS = ("VIMSLIDE_POSITION_BUFFER", "StitchingIntensityLayer")

Sections = Mapping[str, Mapping[str, str]]


def check_mirax(path: Path) -> None:
    """Raise ``SlideError`` if the tables of the slide at ``path`` are impossible or point outside its folder."""
    folder = path.with_suffix("")
    if not folder.is_dir():
        raise SlideError(
            f"{path}: a MIRAX slide, whose pixels are in the folder {folder.name}; that is not beside the file: copy "
            "it too"
        )
    sections = _read_ini(folder / "Slidedat.ini")
    if sections is None:
        return
    general, hierarchy = sections.get("GENERAL", {}), sections.get("HIERARCHICAL", {})
    across, down = _int(general, "IMAGENUMBER_X"), _int(general, "IMAGENUMBER_Y")
    divisions = max(1, _int(general, "CameraImageDivisionsPerSide") or 1)
    levels, files = _int(hierarchy, "HIER_0_COUNT"), _int(sections.get("DATAFILE", {}), "FILE_COUNT")
    _limit(path, "images", max(across, 0) * max(down, 0), _MOST_IMAGES)
    _limit(path, "images in a row or column", max(across, down), _MOST_IMAGES)
    _limit(path, "divisions of an image", divisions, max(across, down, 1))
    _limit(path, "levels", levels, _MOST_LEVELS)
    _limit(path, "data files", files, _MOST_FILES)
    names = [sections.get("DATAFILE", {}).get(f"FILE_{number}", "") for number in range(max(files, 0))]
    for name in (*names, hierarchy.get("INDEXFILE", "")):
        _check_file(path, folder, name)
    shared = 0
    for level in range(levels):
        section = sections.get(hierarchy.get(f"HIER_0_VAL_{level}_SECTION", ""), {})
        w, h = _int(section, "DIGITIZER_WIDTH"), _int(section, "DIGITIZER_HEIGHT")
        _limit(path, "px in an image", max(w, 0) * max(h, 0), _MOST_IMAGE_PX)
        for overlap, side in (("OVERLAP_X", w), ("OVERLAP_Y", h)):
            value = _float(section, overlap)
            if not abs(value) < max(1, side):
                raise SlideError(f"{path}: images of {side} px are declared to overlap by {value:g}; {_DAMAGED}")
        shared += _int(section, "IMAGE_CONCAT_FACTOR")
        _limit(path, "halvings", shared, _MOST_LEVELS)
        if level == 0 and levels > 0 and min(across, down, w, h) > 0:
            grid = (across // divisions, down // divisions)
            field = (w * divisions - _float(section, "OVERLAP_X"), h * divisions - _float(section, "OVERLAP_Y"))
            _check_positions(path, folder, sections, names, grid, (field[0], field[1]), 2 ** max(0, shared))


def _read_ini(path: Path) -> Sections | None:
    """The sections of Slidedat.ini; None if OpenSlide will report what is wrong with it."""
    parser = configparser.RawConfigParser(
        strict=False, delimiters=("=",), comment_prefixes=("#",), default_section="\0"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        if not path.is_file() or path.stat().st_size > _MOST_INI_BYTES:
            return {} if path.exists() and not path.is_file() else None
        parser.read_string(path.read_text("utf-8-sig", "surrogateescape"))
    except (OSError, ValueError, configparser.Error):
        return None
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _int(section: Mapping[str, str], key: str) -> int:
    """An integer; 0 if there is none, which OpenSlide itself rejects."""
    try:
        return int(section.get(key, "0").strip())
    except ValueError:
        return 0


def _float(section: Mapping[str, str], key: str) -> float:
    try:
        value = float(section.get(key, "0").strip())
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else math.inf


def _limit(path: Path, what: str, found: int, most: int) -> None:
    if found > most:
        raise SlideError(f"{path}: it declares {found:,} {what}, more than the possible {most:,}; {_DAMAGED}")


def _check_file(path: Path, folder: Path, name: str) -> None:
    """Raise ``SlideError`` for a name that points outside the folder, and for anything but a file."""
    if Path(name).name != name.strip() or name.strip() in {"", ".", ".."} or "\\" in name or "\0" in name:
        raise SlideError(
            f"{path}: a data file is declared as {name!r}, which is not the name of a file in {folder.name}/; "
            f"{_DAMAGED}"
        )
    file = folder / name.strip()
    if file.exists() and not file.is_file():
        raise SlideError(f"{path}: {file.name} in its folder is not a file (but a folder, pipe or device); {_DAMAGED}")


def _check_positions(
    path: Path, folder: Path, sections: Sections, names: list[str], grid: tuple[int, int],
    field: tuple[float, float], concat: int,
) -> None:  # fmt: skip
    """Raise ``SlideError`` if camera positions are so far off that OpenSlide would search indefinitely."""
    record = _position_record(path, folder, sections)
    if record is None:
        return
    packed, offset, size, number = record
    if not 0 <= number < len(names):
        return
    file = folder / names[number].strip()
    length = file.stat().st_size if file.is_file() else 0
    if offset < 0 or size < 0 or offset + size > length:
        raise SlideError(
            f"{path}: the positions of its images are declared as {size:,} bytes at {offset:,} of {file.name}, which "
            f"has {length:,}; {_DAMAGED}"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(size)
    count = grid[0] * grid[1]
    if packed:
        try:
            content = zlib.decompressobj().decompress(content, count * _POSITION_BYTES)
        except zlib.error:
            return
    for index, (_, x, y) in enumerate(struct.iter_unpack("<bii", content[: len(content) // 9 * 9])):
        row, col = divmod(index, max(1, grid[0]))
        drift = max(abs(x * concat - col * field[0]) / field[0], abs(y * concat - row * field[1]) / field[1])
        if (x, y) != (0, 0) and drift > _MOST_DRIFT:
            raise SlideError(f"{path}: image {index} is declared at x {x}, y {y}, far from its neighbours; {_DAMAGED}")


def _position_record(path: Path, folder: Path, sections: Sections) -> tuple[bool, int, int, int] | None:
    """The table of positions: whether it is compressed, offset, bytes and file number; None if there is none."""
    hierarchy = sections.get("HIERARCHICAL", {})
    number, found = 0, None
    for index in range(min(_int(hierarchy, "NONHIER_COUNT"), _MOST_FILES)):
        name = hierarchy.get(f"NONHIER_{index}_NAME", "").strip()
        if name in _POSITIONS and (found is None or name == _POSITIONS[0]):
            found = (name == _POSITIONS[1], number)
        number += _int(hierarchy, f"NONHIER_{index}_COUNT")
    index_file = folder / hierarchy.get("INDEXFILE", "").strip()
    if found is None or not index_file.is_file():
        return None
    content = index_file.read_bytes()
    root = len("01.02") + len(sections.get("GENERAL", {}).get("SLIDE_ID", "").strip()) + 4
    try:
        (table,) = struct.unpack_from("<i", content, root)
        (head,) = struct.unpack_from("<i", content, table + 4 * found[1])
        (page,) = struct.unpack_from("<i", content, head + 4)
        offset, size, file = struct.unpack_from("<3i", content, page + 16)
    except struct.error:
        return None
    return found[0], offset, size, file
