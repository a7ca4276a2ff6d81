"""Select the reader of a file by its content, not its name; if one fails, the next is tried. OpenSlide knows its
formats best; if a file is a plain tiled TIFF inside (Aperio), the same tiles are decoded directly, faster and without
interpolation. TIFFs without a vendor, whose pages have no reliable order, are read by tifffile. If a reader recognises
a file but cannot read it, when opening or when sampling each level, the next one is tried; if all fail, one error
reports the reasons of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsiproc.core.choices import Reader
from wsiproc.core.geometry import Box
from wsiproc.errors import SlideError, SlideKindError, SlideReadError, SlideTimeoutError
from wsiproc.io.slides.folders import check_dicom, is_dicom, is_zarr, series_in
from wsiproc.io.slides.pixels.resample import PyramidLevel
from wsiproc.io.slides.pyramid import SlideMetadata
from wsiproc.io.slides.readers.other_files import EXPORT, pixels_elsewhere, what_it_is

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Their tiles lie on a regular grid, so they can be decoded without OpenSlide.
_PLAIN_TIFF_FORMATS = {"aperio", "generic-tiff"}
_SAMPLE_PX = 64


@dataclass(frozen=True)
class Opened:
    """What a format's ``reader`` opened."""

    levels: Sequence[PyramidLevel]
    metadata: SlideMetadata
    reader: str
    close: Callable[[], None] | None = None


Attempt = Callable[[], Opened | None]
"""Opens the file, or returns None if this reader does not know its format; else raises ``SlideError``."""


def first_bytes(path: Path) -> bytes:
    """The first bytes of the file."""
    with path.open("rb") as stream:
        return stream.read(8)


def open_file(path: Path, reader: Reader) -> Opened:
    """Open ``path`` with the right reader. Raises ``SlideError``, with the reason of each, if none can read it."""
    if reader == "tiatoolbox":
        from wsiproc.io.slides.readers.tiatoolbox import open_tiatoolbox

        levels, metadata = open_tiatoolbox(path)
        return Opened(levels, metadata, "TIA Toolbox")
    opened = _open_folder(path) if path.is_dir() else _first_that_reads(path, _attempts(path, reader))
    if opened is None:
        known = what_it_is(path)
        if known is not None:
            raise SlideError(f"{path}: not a slide that wsiproc can read: it is {known[0]}; {known[1]}")
        raise SlideError(
            f"{path}: not a slide that wsiproc can read (it starts with {first_bytes(path)!r}); it reads the formats "
            "of OpenSlide (SVS, NDPI, MRXS, SCN, DICOM, tiled TIFF …), OME-TIFF, OME-Zarr, TIFF, PNG and JPEG. If "
            "the file is supposed to be one of these, it is damaged: copy or export it again"
        )
    return opened


def _attempts(path: Path, reader: Reader) -> dict[str, Attempt]:
    """The readers that may know a file, by name, best first."""
    openslide: dict[str, Attempt] = {"OpenSlide": lambda: _open_with_openslide(path, fast=reader == "auto")}
    if (elsewhere := pixels_elsewhere(path)) is not None:
        raise SlideKindError(f"{path}: {elsewhere}, which is not read; {EXPORT}")
    tiff: dict[str, Attempt] = {"tifffile": lambda: _open_tiff(path, whole=reader == "auto")}
    if reader != "auto":
        return openslide if reader == "openslide" else tiff
    if not first_bytes(path).startswith(_TIFF_STARTS):
        # What Pillow sees in a scanner's file is not the slide: for MIRAX it is the image of label and glass.
        return openslide if _is_of_scanner(path) else {"Pillow": lambda: _open_image(path)}
    # OpenSlide would see only level 0 of a pyramid in SubIFDs.
    return {**tiff, **openslide} if _is_ome_tiff(path) or _is_of_no_vendor(path) else {**openslide, **tiff}


def _first_that_reads(path: Path, attempts: dict[str, Attempt]) -> Opened | None:
    """Open with the first reader that can also read a sample of each level; None if none knows the file."""
    failures: dict[str, SlideError] = {}
    waiting = list(attempts)
    for name in attempts:
        waiting.remove(name)
        opened: Opened | None = None
        try:
            opened = attempts[name]()
            if opened is None:
                continue
            if waiting:  # otherwise there is no other reader, and a partly readable slide is better than none
                _require_samples(opened.levels)
            return _with_reasons(path, opened, name, failures)
        except (SlideKindError, SlideTimeoutError):
            _close(opened)
            raise
        except SlideError as error:
            _close(opened)
            failures[name] = error
    if len({str(error) for error in failures.values()}) > 1:
        first = next(iter(failures.values()))
        raise SlideError(f"{path}: no reader can read it. {_all_reasons(path, failures)}") from first
    if failures:
        raise next(iter(failures.values()))
    return None


def _close(opened: Opened | None) -> None:
    if opened is not None and opened.close is not None:
        opened.close()


def _with_reasons(path: Path, opened: Opened, name: str, failures: dict[str, SlideError]) -> Opened:
    """What was opened, with a warning if another reader failed before."""
    if not failures:
        return opened
    warning = f"read by {name}, since another reader failed. {_all_reasons(path, failures)}"
    return replace(opened, metadata=replace(opened.metadata, warnings=(warning, *opened.metadata.warnings)))


def _all_reasons(path: Path, failures: dict[str, SlideError]) -> str:
    return "; ".join(f"{name}: {str(error).removeprefix(f'{path}: ')}" for name, error in failures.items())


def _require_samples(levels: Sequence[PyramidLevel]) -> None:
    """Raise ``SlideReadError`` if nothing can be decoded anywhere in a level; isolated damage is acceptable."""
    for level in levels:
        h, w = (min(_SAMPLE_PX, side) for side in level.shape)
        error: SlideReadError | None = None
        for part in (2, 4, 8, 1.5, 1.1):
            y, x = (int((side - of) / part) for side, of in zip(level.shape, (h, w), strict=True))
            try:
                level.read(Box(y, x, h, w))
                break
            except SlideTimeoutError:
                raise
            except SlideReadError as failure:
                error = failure
        else:
            assert error is not None
            raise error


def _open_folder(path: Path) -> Opened:
    """An OME-Zarr, or a folder with the DICOM files of one slide."""
    if is_zarr(path):
        from wsiproc.io.slides.readers.zarr import open_zarr

        levels, metadata = open_zarr(path)
        return Opened(levels, metadata, "zarr")
    found = series_in(path)
    failures: dict[str, SlideError] = {}
    for files in found.values():
        try:
            # OpenSlide finds the other files of the series itself.
            opened = _open_with_openslide(files[0], fast=False)
        except SlideError as error:
            failures[files[0].name] = error
            continue
        if opened is not None:
            others = [other[0].name for other in found.values() if other is not files]
            return _without(opened, others)
    if failures:
        first = next(iter(failures.values()))
        if len(failures) == 1:
            raise first
        raise SlideError(
            f"{path}: none of its {len(failures)} slides can be read. {_all_reasons(path, failures)}"
        ) from first
    raise SlideError(
        f"{path}: a folder that is not a slide: it contains neither an OME-Zarr (zarr.json, .zattrs) nor DICOM files "
        "of a slide, and `wsiproc run` finds no slide in it or below; give a slide"
    )


def _without(opened: Opened, others: list[str]) -> Opened:
    """What was opened, with a warning about the other slides in the same folder."""
    warnings = tuple(
        f"its folder contains another slide ({name} …), which is left out: pass that file to process it too"
        for name in others
    )
    return replace(opened, metadata=replace(opened.metadata, warnings=(*opened.metadata.warnings, *warnings)))


def _open_with_openslide(path: Path, fast: bool) -> Opened | None:
    """Open with OpenSlide; with ``fast``, the pixels of plain tiled TIFFs are decoded directly."""
    from wsiproc.io.slides.readers.mirax import check_mirax
    from wsiproc.io.slides.readers.openslide import open_openslide
    from wsiproc.io.slides.readers.tiff_directories import check_directories, focal_planes

    is_tiff = first_bytes(path).startswith(_TIFF_STARTS)
    if is_tiff:
        check_directories(path)
    elif path.suffix == ".mrxs":
        check_mirax(path)
    elif is_dicom(path):
        check_dicom(path)
    found = open_openslide(path)
    if found is None:
        return None
    file, levels, metadata = found
    if fast and metadata.format in _PLAIN_TIFF_FORMATS:
        from wsiproc.io.slides.readers.tiff import tiff_levels_like

        direct = tiff_levels_like(path, [level.shape for level in levels])
        if direct is not None:
            file.close()
            return Opened(direct[1], metadata, "OpenSlide, its tiles by tifffile", direct[0].close)
    if metadata.format == "hamamatsu" and is_tiff:
        metadata = _with_planes(metadata, focal_planes(path))
    elif is_tiff:  # NDPI has no tiles in the TIFF
        from wsiproc.io.slides.readers.tiff import check_tile_bytes

        check_tile_bytes(path)
    return Opened(levels, metadata, "OpenSlide", file.close)


def _with_planes(metadata: SlideMetadata, planes: int) -> SlideMetadata:
    """The metadata, with a warning if focal planes are left out: OpenSlide reads the middle one."""
    if planes < 2:
        return metadata
    return replace(
        metadata, warnings=(*metadata.warnings, f"it contains {planes} focal planes; the middle one is used")
    )


def _is_of_scanner(path: Path) -> bool:
    """Whether OpenSlide knows the format of a file that is not a TIFF."""
    from wsiproc.io.slides.readers.openslide import detect_format

    return path.suffix.lower() == ".mrxs" or detect_format(path) is not None


def _is_of_no_vendor(path: Path) -> bool:
    """Whether OpenSlide detects a TIFF as generic tiled, or not at all."""
    from wsiproc.io.slides.readers.openslide import detect_format
    from wsiproc.io.slides.readers.tiff_directories import check_directories

    try:
        check_directories(path)
    except SlideError:
        return False
    return detect_format(path) in {None, "generic-tiff"}


def _is_ome_tiff(path: Path) -> bool:
    from wsiproc.io.slides.readers.tiff import is_ome_tiff

    return is_ome_tiff(path)


def _open_tiff(path: Path, whole: bool) -> Opened:
    from wsiproc.io.slides.readers.tiff import open_tiff

    file, levels, metadata = open_tiff(path, whole)
    return Opened(levels, metadata, "tifffile", file.close)


def _open_image(path: Path) -> Opened | None:
    from wsiproc.io.slides.readers.image import open_image

    found = open_image(path)
    return None if found is None else Opened(found[0], found[1], "Pillow")
