"""Validates the directories of a TIFF before a C library trusts them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wsiproc.errors import SlideError
from wsiproc.io.slides.limits import MAX_SIDE_PX

# Bytes of a value of each type (TIFF 6.0 section 2, BigTIFF).
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NDPI = 65420  # a tag that makes the offsets of a classic TIFF have eight bytes
_Z_OFFSET = 65424  # of NDPI: distance of an image's focal plane from the middle one
_MOST_DIRECTORIES = 10_000
_MOST_TILE_PX = 1 << 28  # 1 GiB, decoded
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_WHOLE_NUMBERS = {3: "H", 4: "I", 9: "i", 16: "Q"}

Entry = tuple[int, int, int, bytes]
"""Tag, type, number of values, and the value itself or its offset."""


def check_directories(path: Path) -> None:
    """Raise ``SlideError`` if a directory claims more values, pixels or tiles than are possible. OpenSlide would
    allocate memory accordingly, and a failed allocation ends the whole process. Other damage is left to the readers.
    """
    size = path.stat().st_size
    for order, entries in _directories(path):
        _check_entries(path, entries, order, size)


def largest_image_side(path: Path) -> int:
    """The longest side of any image in a TIFF, px; 0 if its directories do not state it."""
    pages = (_whole_numbers(entries, order) for order, entries in _directories(path))
    return max((page.get(side, 0) for page in pages for side in (_WIDTH, _HEIGHT)), default=0)


def focal_planes(path: Path) -> int:
    """Number of focal planes of the largest image in an NDPI; 1 for any other TIFF. Each plane is an image of the same
    size with another z offset (https://openslide.org/formats/hamamatsu/).
    """
    planes: dict[tuple[int, int], set[int]] = {}
    for order, entries in _directories(path):
        page = _whole_numbers(entries, order)
        if _Z_OFFSET in page:
            planes.setdefault((page.get(_WIDTH, 0), page.get(_HEIGHT, 0)), set()).add(page[_Z_OFFSET])
    return len(planes[max(planes, key=lambda shape: shape[0] * shape[1])]) if planes else 1


def _directories(path: Path) -> Iterator[tuple[str, list[Entry]]]:
    """The byte order and the entries of each directory; meaningless for a file that is not a TIFF."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16).ljust(16, b"\0")
        order = "<" if head.startswith(b"II") else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        offset = int(struct.unpack_from(order + "Q", head, 8 if big else 4)[0])
        wide = big or _is_ndpi(file, order, offset, size)
        if not wide:
            offset = int(struct.unpack_from(order + "I", head, 4)[0])
        seen: set[int] = set()
        while 0 < offset < size and offset not in seen and len(seen) < _MOST_DIRECTORIES:
            seen.add(offset)
            entries, offset = _read_directory(file, order, offset, big, wide)
            yield order, entries


def _whole_numbers(entries: list[Entry], order: str) -> dict[int, int]:
    """The values of the tags that have a single integer."""
    return {
        tag: int(struct.unpack_from(order + _WHOLE_NUMBERS[kind], raw)[0])
        for tag, kind, count, raw in entries
        if count == 1 and kind in _WHOLE_NUMBERS and _TYPE_BYTES[kind] <= len(raw)
    }


def _check_entries(path: Path, entries: list[Entry], order: str, size: int) -> None:
    """Raise ``SlideError`` for entries that are impossible in a file of ``size`` bytes."""
    remedy = "the file is damaged: copy or export it again"
    numbers = _whole_numbers(entries, order)
    for tag, kind, count, _ in entries:
        if count * _TYPE_BYTES.get(kind, 1) > size:
            raise SlideError(
                f"{path}: tag {tag} of a TIFF directory is declared to have {count:,} values, but the whole file has "
                f"{size:,} bytes; {remedy}"
            )
    w, h = numbers.get(_WIDTH, 1), numbers.get(_HEIGHT, 1)
    if max(w, h) > MAX_SIDE_PX:
        raise SlideError(
            f"{path}: an image in it is declared to have {h} × {w} px; no slide is larger than {MAX_SIDE_PX:,} px on "
            f"a side; {remedy}"
        )
    tw, th = numbers.get(_TILE_WIDTH, 1), numbers.get(_TILE_HEIGHT, 1)
    if tw * th > _MOST_TILE_PX:
        raise SlideError(
            f"{path}: tiles in it are declared to have {th} × {tw} px, too many to decode at once; {remedy}"
        )
    tiles = -(-w // max(1, numbers.get(_TILE_WIDTH, w))) * -(-h // max(1, numbers.get(_TILE_HEIGHT, h)))
    if tiles > size:  # each has an entry of a few bytes in a list
        raise SlideError(f"{path}: {tiles:,} tiles are declared in a file of {size:,} bytes; {remedy}")


def _is_ndpi(file: BinaryIO, order: str, offset: int, size: int) -> bool:
    """Whether the directory at an 8-byte offset says that the file is Hamamatsu's."""
    return 0 < offset < size and any(
        entry[0] == _NDPI for entry in _read_directory(file, order, offset, False, True)[0]
    )


def _read_directory(file: BinaryIO, order: str, offset: int, big: bool, wide: bool) -> tuple[list[Entry], int]:
    """The entries at ``offset``, and the offset of the next directory; 0 at the end of the file."""
    file.seek(offset)
    number_form, entry_form = (order + "Q", order + "HHQ8s") if big else (order + "H", order + "HHI4s")
    number = file.read(struct.calcsize(number_form))
    if len(number) < struct.calcsize(number_form):
        return [], 0
    # Readers themselves detect a count that does not fit in the file.
    count, length = min(65_536, struct.unpack(number_form, number)[0]), struct.calcsize(entry_form)
    content = file.read(count * length)
    entries = list(struct.iter_unpack(entry_form, content[: len(content) // length * length]))
    link_form = order + ("Q" if wide else "I")
    link = file.read(struct.calcsize(link_form))
    return entries, int(struct.unpack(link_form, link)[0]) if len(link) == struct.calcsize(link_form) else 0
