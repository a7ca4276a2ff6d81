"""Folders that are slides: an OME-Zarr, or DICOM files.

A DICOM slide is a series: one or more files per level, plus label and overview.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

from wsiproc.errors import SlideError

_PIXELS, _ITEM, _UNDEFINED = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0", 0xFFFFFFFF


def is_zarr(path: Path) -> bool:
    """Whether a folder is the root of a zarr hierarchy."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))


def is_mirax_data(path: Path) -> bool:
    """Whether a folder has the pixels of a MIRAX slide, whose file lies next to it."""
    return (path / "Slidedat.ini").is_file()


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10, 7.1)."""
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_series(path: Path) -> str | None:
    """The SeriesInstanceUID, which the files of one slide share; None for other or damaged files."""
    if not is_dicom(path):
        return None
    import pydicom

    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(found.SeriesInstanceUID)
    except Exception:  # a damaged file may raise anything; the reader will report what is wrong
        return None


def series_in(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files directly in a folder by series, both sorted by name. They may have any suffix, or none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (series := dicom_series(path)) is not None:
            found.setdefault(series, []).append(path)
    return found


def series_files(path: Path) -> list[Path]:
    """All files of the slide to which the DICOM file ``path`` belongs, sorted by name."""
    series = dicom_series(path)
    return [path] if series is None else series_in(path.parent)[series]


def check_dicom(path: Path) -> None:
    """Raise ``SlideError`` if files next to a DICOM file would make OpenSlide block, or crash the process. It opens
    every file there, including pipes, and trusts the table of frame offsets.
    """
    for other in path.parent.iterdir():
        if other.exists() and not other.is_file() and not other.is_dir():
            raise SlideError(
                f"{path}: {other.name} next to it is a pipe, socket or device, on which a DICOM reader would block; "
                "move the DICOM files to a folder of their own"
            )
    for file in series_files(path):
        _check_frames(file)


def _check_frames(path: Path) -> None:
    """Raise ``SlideError`` if the offset table of compressed frames (PS3.5, A.4) is unsorted or points elsewhere."""
    import pydicom

    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            head = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
            frames = int(head.get("NumberOfFrames", 1))
            tag, length = struct.unpack("<4s4xI", stream.read(12))
            if tag != _PIXELS or length != _UNDEFINED:
                return
            tag, length = struct.unpack("<4sI", stream.read(8))
            start = stream.tell() + length
            table = struct.unpack(f"<{length // 4}I", stream.read(length // 4 * 4)) if length <= size else (size,)
            stream.seek(start)
            first = stream.read(4)
    except Exception:  # OpenSlide will report what is wrong
        return
    in_order = not table or (table[0] == 0 and all(a < b for a, b in itertools.pairwise(table)))
    if (
        tag != _ITEM
        or first != _ITEM
        or not in_order
        or (table and (len(table) != frames or start + table[-1] >= size))
    ):
        raise SlideError(f"{path}: its table of frame offsets is damaged: copy or export the slide again")
