"""A cheap content hash of a slide, which may be hundreds of gigabytes or a folder of a million files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from wsiproc.io.slides.folders import is_dicom, is_zarr, series_files, series_in

_BLOCK_BYTES = 64 * 1024
# Blocks sampled in total: enough that no two scans agree, read in milliseconds even from a network disk.
_BLOCKS = 16


def slide_files(path: Path) -> list[Path]:
    """All files that belong to the slide at ``path``: itself, or those in its folder, sorted by name.

    For DICOM, these are the files of the series, given by any of them or by their folder; they may be links, as in some
    archives. Links in an OME-Zarr are not followed.
    """
    if path.is_dir():
        if not is_zarr(path) and (series := series_in(path)):
            return next(iter(series.values()))
        return sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    if is_dicom(path):
        return series_files(path)
    data_folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and data_folder.is_dir():  # MIRAX keeps its pixels in a folder next to the file
        return [path, *slide_files(data_folder)]
    return [path]


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) of the sizes of the slide's files and of 64 kB blocks sampled from them.

    Independent of the location, name and date of the slide. For a folder, the relative names of its files count too,
    except for DICOM.
    """
    files = slide_files(path)
    sizes = [file.stat().st_size for file in files]
    digest = hashlib.sha256()
    base = path if path.is_dir() else path.with_suffix("")
    for file, size in zip(files, sizes, strict=True):
        label = "" if file == path or is_dicom(file) else os.fspath(file.relative_to(base))
        digest.update(f"{label}\0{size}\0".encode("utf-8", "surrogateescape"))
    chosen = sorted({index * (len(files) - 1) // max(1, _BLOCKS - 1) for index in range(_BLOCKS)}) if files else []
    for index in chosen:
        _hash_blocks(digest, files[index], sizes[index], max(2, _BLOCKS // len(chosen)))
    return digest.hexdigest()


def _hash_blocks(digest: hashlib._Hash, file: Path, size: int, blocks: int) -> None:
    """Hash ``blocks`` evenly spaced blocks of a file, including the first and the last."""
    last = max(0, size - _BLOCK_BYTES)
    with file.open("rb") as stream:
        for offset in sorted({last * index // (blocks - 1) for index in range(blocks)}):
            stream.seek(offset)
            digest.update(stream.read(_BLOCK_BYTES))
