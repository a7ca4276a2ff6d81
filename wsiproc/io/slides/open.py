"""Open any slide: ``open_slide(path)`` gives an object that reads boxes of a grid at any requested resolution.
``wsiproc/io/slides/readers/select.py`` selects the reader.
"""

from __future__ import annotations

import os
import re
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, get_args

import numpy as np

from wsiproc.array.fill import Fill
from wsiproc.array.tissue import looks_fluorescent, looks_grey
from wsiproc.core.choices import Reader
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.paths import did_you_mean
from wsiproc.core.types import BoolArray, UInt8Array
from wsiproc.errors import (
    ResolutionError,
    SettingsError,
    SlideError,
    SlideKindError,
    SlideReadError,
    SlideTimeoutError,
    WsiprocError,
)
from wsiproc.io.slides.fingerprint import slide_files
from wsiproc.io.slides.limits import check_overview, check_shapes
from wsiproc.io.slides.pixels.resample import choose_level, pieces
from wsiproc.io.slides.pyramid import PyramidSlide
from wsiproc.io.slides.readers.select import Opened, first_bytes, open_file
from wsiproc.io.slides.resolution import mpp_warnings, resolve_mpp
from wsiproc.io.slides.timeout import call_with_timeout

_NUCLEUS_UM = 5.0
# Around damage, an overview is left unread in squares of less than twice this side; in larger ones if there is so much
# damage that locating it is not worth the time.
_SMALLEST_UNREAD_PX, _MOST_FAILURES = 8, 200
_SUFFIXES = re.compile(r"(\.ome)?\.(zarr|tiff?|btf|tf[28])$|\.[^.\s]{1,6}$", re.IGNORECASE)
# Characters that a file system refuses, a terminal interprets (control characters, changes of direction), or UTF-8
# cannot encode.
_NO_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
# Names that are devices on Windows, whatever follows after a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *", re.IGNORECASE)


class Slide(Protocol):
    """A whole-slide image. (y, x) and (h, w); ``shape`` in level-0 px of the scanned part, ``mpp`` in µm/px."""

    path: Path
    name: str
    format: str
    reader: str
    shape: tuple[int, int]
    mpp: float
    objective: float | None
    properties: dict[str, str]
    warnings: tuple[str, ...]
    remarks: dict[str, str]
    fill: Fill | None

    @property
    def levels(self) -> tuple[float, ...]:
        """Level-0 px per px of each level."""

    def read(self, box: Box, mpp: float) -> UInt8Array:
        """The (h, w, 3) uint8 pixels of a box in grid px at ``mpp``; background colour outside the slide."""

    def fingerprint(self) -> str:
        """Hash of the content."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Slide: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class SlideSource:
    """What a worker process needs to open a slide by itself. ``read_timeout_s``: None waits indefinitely; ``fill``:
    colours that are read as background.
    """

    path: Path
    mpp: float | None = None
    reader: Reader = "auto"
    read_timeout_s: float | None = None
    fill: Fill | None = None

    def open(self) -> Slide:
        """See ``open_slide``; also raises SlideTimeoutError, here and in every read of the slide."""
        slide = call_with_timeout(
            self.read_timeout_s, partial(open_slide, self.path, self.mpp, self.reader), str(self.path)
        )
        slide.read_timeout_s = self.read_timeout_s
        slide.fill = self.fill
        return slide


def open_slide(path: Path | str, mpp: float | None = None, reader: Reader = "auto") -> PyramidSlide:
    """Open the slide at ``path``; ``mpp`` (µm/px of level 0) replaces what the file says.

    Raises
    ------
    SlideError
        There is no slide at ``path``, or it cannot be read.
    ResolutionError
        The pixel size is unknown and not given, or impossible.
    MissingExtraError
        ``reader`` is "tiatoolbox", which is not installed.
    """
    path = Path(path)
    if reader not in get_args(Reader):
        raise SettingsError(f"reader {reader!r} is unknown; choose one of {', '.join(get_args(Reader))}")
    _check_path(path)
    opened: Opened | None = None
    try:
        opened = open_file(path, reader)
        slide = _assemble(path, mpp, opened)
    except Exception as error:
        if opened is not None and opened.close is not None:
            opened.close()
        if isinstance(error, WsiprocError):
            raise
        # A damaged file may raise errors that a library does not document.
        raise SlideError(
            f"{path}: cannot be opened: {type(error).__name__}: {error}; the file is damaged: copy or export it again"
        ) from error
    if opened.close is not None:
        slide.on_close = _close_unused(slide, opened.close)
    return slide


def _close_unused(slide: PyramidSlide, close: Callable[[], None]) -> Callable[[], object]:
    """What closes a slide's file, once, at the latest when nothing refers to the slide: caches drop slides that another
    thread may still be reading. Not at exit, where a read that hangs may never end.
    """
    closing = weakref.finalize(slide, close)
    closing.atexit = False
    return closing


def slide_name(path: Path) -> str:
    """The file's name without its suffix, valid as a folder name on every system: ``a.ome.tif`` → ``a``."""
    stem = _SUFFIXES.sub("", path.name) if path.suffix == ".zarr" or not path.is_dir() else path.name
    return plain_name(stem).lstrip(".") or "slide"  # results in a hidden folder are not found again


def plain_name(text: str) -> str:
    """The text as a valid component of a path on every system; may be empty."""
    name = _NO_NAME.sub("_", text).rstrip(". ")
    is_taken = _DEVICES.fullmatch(name.partition(".")[0]) or name.endswith(".__lock")  # tensorstore rejects those
    return f"{name}_" if is_taken else name


def _assemble(path: Path, given_mpp: float | None, opened: Opened) -> PyramidSlide:
    """Assemble the slide from its levels, its metadata and the user's pixel size."""
    metadata = opened.metadata
    mpp = resolve_mpp(path, metadata.mpp, given_mpp, metadata.objective)
    properties = dict(metadata.properties)
    if given_mpp is not None:
        in_file = f"{metadata.mpp[0]:g} × {metadata.mpp[1]:g}" if metadata.mpp else "none"
        properties["wsiproc.mpp"] = f"{mpp:g} given by the user; in the file: {in_file}"
    check_shapes(path, [level.shape for level in opened.levels])
    h, w = opened.levels[0].shape
    scanned = (metadata.bounds or Box(0, 0, h, w)).clip((h, w))
    if scanned.area == 0:
        raise SlideError(
            f"{path}: the scanned part {metadata.bounds} lies outside the canvas of {w} × {h} px; the file is damaged: "
            "copy or export it again"
        )
    if min(scanned.shape) * mpp < _NUCLEUS_UM:
        raise SlideKindError(
            f"{path}: {scanned.w} × {scanned.h} px of {mpp:g} µm: narrower than a nucleus ({_NUCLEUS_UM:g} µm), so it "
            "cannot contain a cell; choose the full-resolution file, or pass the right pixel size with --mpp"
        )
    slide = PyramidSlide(
        path=path,
        name=slide_name(path),
        format=metadata.format,
        shape=scanned.shape,
        mpp=mpp,
        objective=metadata.objective,
        properties=properties,
        pyramid=opened.levels,
        reader=opened.reader,
        origin=(scanned.y, scanned.x),
        background=metadata.background,
        warnings=(*metadata.warnings, *mpp_warnings(mpp, metadata.objective)),
        remarks=dict(metadata.remarks),
    )
    shape, _ = overview_grid(slide)
    scale = (scanned.h / shape[0], scanned.w / shape[1])
    check_overview(path, opened.levels[choose_level([level.downsample for level in opened.levels], scale)].shape)
    return slide


def _check_path(path: Path) -> None:
    """Raise ``SlideError`` unless ``path`` is a readable, non-empty file or folder."""
    try:
        if path.is_symlink() and not path.exists():
            raise SlideError(f"{path}: a link to {os.readlink(path)}, which does not exist; copy the slide itself")
        if not path.exists():
            raise SlideError(f"{path}: no such file or folder{did_you_mean(path)}")
        if path.is_dir():
            next(path.iterdir(), None)
        elif not path.is_file():
            raise SlideError(f"{path}: neither a file nor a folder (a socket, pipe or device); give a slide")
        elif not first_bytes(path):
            raise SlideError(f"{path}: the file is empty (0 bytes); copy it again")
    except SlideError:
        raise
    except OSError as error:  # no permission, a loop of links, a name too long, a lost network disk
        raise SlideError(f"{path}: cannot be opened: {error.strerror or error}") from error


@dataclass(frozen=True)
class Overview:
    """The whole slide as one small image, (h, w, 3) uint8, of ``mpp`` (y, x) µm/px.

    ``unread`` (h, w): pixels that could not be read, white in the image; ``reason``: the first error.
    """

    pixels: UInt8Array
    mpp: tuple[float, float]
    unread: BoolArray
    reason: str | None = None


def overview_grid(slide: Slide, max_px: int = 3072, finest_mpp: float = 2.0) -> tuple[tuple[int, int], float]:
    """Size (h, w) and µm/px of an overview; ``finest_mpp`` limits the resolution for small slides."""
    mpp = max(finest_mpp, slide.mpp, max(slide.shape) * slide.mpp / max_px)
    return grid_shape(slide.shape, slide.mpp, mpp), mpp


def read_overview(slide: Slide, max_px: int = 3072, finest_mpp: float = 2.0) -> Overview:
    """An overview whose longest side has at most ``max_px``, even if parts of the file are damaged. Reads piecewise, so
    memory is bounded even for a single huge level. Raises ``SlideReadError`` if nothing can be read, and
    SlideTimeoutError at the first read that hangs.
    """
    shape, mpp = overview_grid(slide, max_px, finest_mpp)
    pixels, unread = np.full((*shape, 3), 255, np.uint8), np.zeros(shape, bool)
    reason: str | None = None  # the message only: an exception would keep the broken handle alive
    waiting = deque([Box(0, 0, *shape)])
    failures = 0
    while waiting:
        box = waiting.popleft()
        try:
            pixels[box.slices] = slide.read(box, mpp)
        except SlideTimeoutError:
            raise
        except SlideReadError as error:
            reason = reason or str(error)
            failures += 1
            side = -(-max(box.shape) // 2)
            if side >= _SMALLEST_UNREAD_PX and failures < _MOST_FAILURES:
                # Narrow down the damage; pieces give the same pixels as the whole.
                waiting += pieces(box, side)
            else:
                unread[box.slices] = True
    if reason is not None and unread.all():
        raise SlideReadError(reason)
    factors = (slide.shape[0] * slide.mpp / shape[0], slide.shape[1] * slide.mpp / shape[1])
    return Overview(pixels, factors, unread, reason)


# Placeholder for an unknown pixel size; only what does not depend on it is then reported.
_ANY_MPP = 1.0


def describe_file(path: Path, mpp: float | None = None, reader: Reader = "auto") -> dict[str, Any]:
    """What ``describe`` returns for the slide at ``path``, even if its pixel size is unknown. Then ``remedy`` says what
    to do, and ``mpp`` and ``size_mm`` are None. Otherwise raises like ``open_slide``, also for an impossible ``mpp``.
    """
    try:
        with open_slide(path, mpp, reader) as slide:
            return describe(slide)
    except ResolutionError as error:
        if mpp is not None:
            raise
        with open_slide(path, _ANY_MPP, reader) as slide:
            made_up = mpp_warnings(_ANY_MPP, slide.objective)
            slide.warnings = tuple(warning for warning in slide.warnings if warning not in made_up)
            metadata = describe(slide)
        return metadata | {"mpp": None, "size_mm": None, "remedy": str(error).removeprefix(f"{path}: ")}


def describe(slide: Slide) -> dict[str, Any]:
    """Metadata of a slide, for ``wsiproc info``; sizes are (h, w)."""
    overview = read_overview(slide, max_px=1024)
    h, w = slide.shape
    metadata: dict[str, Any] = {
        "name": slide.name,
        "path": str(slide.path),
        "format": slide.format,
        "reader": slide.reader,
        "size_px": slide.shape,
        "gigapixels": h * w / 1e9,
        "mpp": slide.mpp,
        "objective": slide.objective,
        "size_mm": (h * slide.mpp / 1000, w * slide.mpp / 1000),
        "levels": slide.levels,
        **slide.remarks,
        "file_bytes": sum(file.stat().st_size for file in slide_files(slide.path)),
        "looks_fluorescent": looks_fluorescent(overview.pixels),
        "looks_grey": looks_grey(overview.pixels),
    }
    if overview.reason is not None:
        metadata["damaged"] = f"{overview.unread.mean():.2%} of the overview; {overview.reason}"
    metadata |= {
        "warning" if number == 0 else f"warning {number + 1}": text for number, text in enumerate(slide.warnings)
    }
    return metadata
