"""Which slides the arguments refer to: files, folders of slides, patterns that no shell expanded, lists in a file.

Only lists are opened, and the headers of files whose names say little; a file that turns out not to be a slide is
reported when it is processed.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from wsiproc.core.paths import absolute, as_text, local, require_possible
from wsiproc.errors import OutputError, SettingsError
from wsiproc.io.slides.folders import dicom_series, is_dicom, is_mirax_data, is_zarr, series_in

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".btf", ".tf8", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi",
    ".dcm", ".zarr",
)  # fmt: skip
# Plain images rarely state their pixel size; in a folder of slides they are mostly previews.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_RESULT = ("run.json", "cells.parquet", "slide.ome.zarr", ".work", "model.toml")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_LIST_BYTES = 64 << 20
_MOST_NAMED = 3  # files left out of a folder that a note names


@dataclass(frozen=True)
class SlideList:
    """The slides, each once and in the order given; ``notes``: sentences about what was left out."""

    slides: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def list_slides(
    given: Iterable[str | PathLike[str]],
    mpp: float | None = None,
    out: Path | None = None,
    counts_as_slide: Callable[[Path], bool] | None = None,
) -> SlideList:
    """The slides that ``given`` refers to: paths, patterns such as ``*.svs``, and ``@list.txt`` with one path per line.

    A folder that is not itself a slide stands for the slides in it and below, including plain images if ``mpp`` is
    given; a folder for which ``counts_as_slide`` is true is kept as it is; results in ``out`` and elsewhere are not
    slides. Missing files stay in the list. Raises SettingsError for a list that cannot be read and for invalid paths.
    """
    found = _Found(mpp is not None, out, counts_as_slide)
    for path in given:
        found.add(as_text(path), Path())
    slides, notes = _once(found.paths)
    return SlideList(tuple(slides), (*found.notes, *notes))


@dataclass
class _Found:
    """What has been found so far."""

    images: bool
    out: Path | None
    counts_as_slide: Callable[[Path], bool] | None
    paths: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    entered: set[Path] = field(default_factory=set)

    def add(self, text: str, base: Path, from_list: bool = False) -> None:
        """Add what one argument, or one line of a list in the folder ``base``, refers to."""
        text = local(text)
        path = absolute(base / os.path.expanduser(text) if text else text)
        if os.path.lexists(path):
            self._add_path(path)
        elif text.startswith("@") and not from_list:
            for line in _read_list(absolute(text[1:])):
                self.add(line, absolute(text[1:]).parent, from_list=True)
        else:
            hits = glob.glob(os.path.expanduser(text), root_dir=base, recursive=True) if glob.has_magic(text) else []
            for hit in sorted(hits):
                self._add_path(absolute(base / hit))
            if not hits:
                self.paths.append(path)

    def _add_path(self, path: Path) -> None:
        if not path.is_dir() or self._is_slide_folder(path):
            self.paths.append(path)
        elif _is_result(path):
            self.notes.append(f"{path}: left out, since it contains results of wsiproc")
        else:
            before = len(self.paths)
            others = list(self._enter(path))
            if len(self.paths) == before and self._holds_results(path):
                self.notes.append(f"{path}: left out, since it contains results of wsiproc and no slides")
            elif len(self.paths) == before:
                self.paths.append(path)  # it is reported when it is processed
            elif others:
                named = ", ".join(other.relative_to(path).as_posix() for other in others[:_MOST_NAMED])
                more = ", …" if len(others) > _MOST_NAMED else ""
                files = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
                self.notes.append(f"{path}: {files} not recognised as slides: {named}{more}")

    def _enter(self, folder: Path) -> Iterator[Path]:
        """Add the slides in a folder and below; yields all other files."""
        real = folder.resolve()
        if real in self.entered:
            return
        self.entered.add(real)
        entries = [folder / entry for entry in sorted(os.listdir(folder)) if not entry.startswith(".")]
        data = {entry.with_suffix("") for entry in entries if entry.suffix.lower() == ".mrxs"}
        for entry in entries:
            if not entry.is_dir():
                if self._is_slide_file(entry):
                    self.paths.append(entry)
                else:
                    yield entry
            elif self._is_slide_folder(entry):
                self.paths.append(entry)
            elif entry not in data and not self._is_result(entry):
                yield from self._enter(entry)

    def _is_slide_folder(self, folder: Path) -> bool:
        counts_as_slide = self.counts_as_slide is not None and self.counts_as_slide(folder)
        return _is_slide_folder(folder) or (counts_as_slide and not self._is_result(folder))

    def _is_slide_file(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        if suffix in SLIDE_SUFFIXES or (suffix in IMAGE_SUFFIXES and self.images):
            return True
        return suffix not in IMAGE_SUFFIXES and _looks_like_slide(path)

    def _is_result(self, folder: Path) -> bool:
        is_out = self.out is not None and self.out.is_dir() and folder.samefile(self.out)
        return is_out or _is_result(folder)

    def _holds_results(self, folder: Path) -> bool:
        return any(self._is_result(entry) for entry in folder.iterdir() if entry.is_dir())


def _is_result(folder: Path) -> bool:
    """Whether a folder is that of a slide's results, or of a model."""
    return any((folder / name).exists() for name in _RESULT)


def is_slide_folder(folder: Path) -> bool:
    """Whether a folder is itself a slide, an OME-Zarr or the DICOM files of one, or has the pixels of a MIRAX."""
    return is_mirax_data(folder) or _is_slide_folder(folder)


def require_outside_slides(folder: Path, slides: Iterable[Path] = ()) -> None:
    """Raise OutputError if no results can go to ``folder``, or it lies in a folder that is a slide: an OME-Zarr, the
    data folder of a MIRAX, or one of ``slides``.
    """
    require_possible(folder)
    real = folder.resolve()
    around = (real, *real.parents)
    given = (slide for slide in slides if slide.is_dir() and slide.resolve() in around and is_slide_folder(slide))
    others = (path for path in reversed(around) if is_zarr(path) or is_mirax_data(path))
    slide = next(itertools.chain(given, others), None)
    if slide is not None:
        raise OutputError(
            f"{folder}: results cannot be written there: it lies in {slide}, whose files are those of a slide; choose "
            "another folder"
        )


def _is_slide_folder(folder: Path) -> bool:
    """Whether a folder is itself a slide: an OME-Zarr, or the DICOM files of one slide."""
    if folder.suffix.lower() == ".zarr" or is_zarr(folder):
        return True
    found = series_in(folder)
    files = {file for files in found.values() for file in files}
    others = (path for path in folder.iterdir() if path not in files and path.suffix.lower() in SLIDE_SUFFIXES)
    return len(found) == 1 and not any(others)


def _looks_like_slide(path: Path) -> bool:
    """Whether a file of any name begins like TIFF or DICOM."""
    try:
        if not path.is_file():  # opening a pipe would block
            return False
        with path.open("rb") as stream:
            return stream.read(4) in _TIFF or is_dicom(path)
    except OSError:
        return False


def _read_list(path: Path) -> list[str]:
    """The paths in a list: one per line, without comments (lines that begin with #) and quotes around a path."""
    try:
        if path.stat().st_size > _MOST_LIST_BYTES:
            raise SettingsError(f"{path}: too large for a list of slides; it should have one path per line")
        content = path.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as PowerShell writes
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: the list of slides cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise SettingsError(f"{path}: a list of slides must be UTF-8 text with one path per line: {error}") from error
    lines = (line.strip() for line in text.splitlines())
    paths = [line[1:-1] if line[0] == line[-1] == '"' else line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise SettingsError(f"{path}: the list names no slides; write one path per line")
    return paths


def _once(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each slide once, under the first path given for it, and notes about the others."""
    first: dict[object, Path] = {}
    again: dict[Path, list[Path]] = {}
    for path in paths:
        known = first.setdefault(_identity(path), path)
        if known is not path:
            again.setdefault(known, []).append(path)
    return list(first.values()), list(_duplicate_notes(again))


def _duplicate_notes(again: Mapping[Path, Sequence[Path]]) -> Iterator[str]:
    for path, others in again.items():
        if is_dicom(path) and len({path, *others}) > 1:
            yield f"{path}: {len({path, *others})} DICOM files of one slide; used once"
            continue
        names = sorted({str(other) for other in others if other != path})
        also = f", also as {', '.join(names[:_MOST_NAMED])}" + ", …" * (len(names) > _MOST_NAMED) if names else ""
        yield f"{path}: given {len(others) + 1} times{also}; used once"


def _identity(path: Path) -> object:
    """Equal for all paths to one slide: through links, or by any of its DICOM files."""
    try:
        if path.is_dir() and not is_zarr(path) and (found := series_in(path)):
            return path.resolve(), next(iter(found))
        if (series := dicom_series(path)) is not None:
            return path.parent.resolve(), series
        status = path.stat()
    except OSError:
        return path
    return (
        (status.st_dev, status.st_ino) if status.st_ino else path.resolve()
    )  # some network drives have no inode numbers
