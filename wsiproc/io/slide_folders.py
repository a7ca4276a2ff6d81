"""Folders that are slides: an OME-Zarr, or DICOM files.

A DICOM slide is a series: a file or several for each level, and label and overview.
"""

from __future__ import annotations

from pathlib import Path

from wsiproc.errors import SlideError


def is_zarr(path: Path) -> bool:
    """Whether a folder is the root of a zarr hierarchy."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zarray"))


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10, 7.1)."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_series(path: Path) -> str | None:
    """What the files of one slide have in common, the SeriesInstanceUID; None for other files and damaged ones."""
    if not is_dicom(path):
        return None
    import pydicom

    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(found.SeriesInstanceUID)
    except Exception:  # of a damaged file anything may come; the reader will say what is wrong with it
        return None


def series_in(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files right in a folder by their series, both sorted by name. They may have any suffix, or none."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if (series := dicom_series(path)) is not None:
            found.setdefault(series, []).append(path)
    return found


def series_files(path: Path) -> list[Path]:
    """All files of the slide to which the DICOM file ``path`` belongs, sorted by name."""
    series = dicom_series(path)
    return [path] if series is None else series_in(path.parent)[series]


def check_folder(folder: Path) -> None:
    """Raise ``SlideError`` where a pipe or device lies beside DICOM files: OpenSlide opens all that is there."""
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise SlideError(
                f"{folder}: {path.name} in it is a pipe, socket or device, for which a reader of DICOM would wait; "
                "move the DICOM files to a folder of their own"
            )
