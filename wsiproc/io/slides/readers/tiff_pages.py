"""Which pages of a TIFF are the slide: its levels by their sizes, and what else there is and is left out.

OME-TIFF, ImageJ and scanner TIFFs say how their pages belong together, and tifffile interprets that; in other files,
pages that show the same image in other sizes are its levels, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from wsiproc.errors import SlideError, SlideKindError

_ASPECT_SLACK, _ASPECT_SLACK_PX = 0.02, 2
_SMALLEST_STEP = 1.2  # between two levels
_DAMAGED = "the file is damaged: copy or export it again"
# Words by which writers mark images that are not scans.
_NO_SCAN = ("label", "macro", "thumbnail", "overview", "barcode", "map")
_AXES = {"Z": "focal planes", "T": "time points"}
# Another image this large (share of the slide's px) may be a second scan on the same slide.
_SCENE_SHARE = 0.05


@dataclass(frozen=True)
class TiffImage:
    """The slide in a TIFF. ``stacks``: for each level, finest first, its page or its pages of one channel each.
    ``name``: of the image within an OME-TIFF; ``order``: what each level is in the file.
    """

    stacks: list[list[Any]]
    name: str = ""
    order: str = ""
    warnings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def page_shape(page: Any) -> tuple[int, int]:
    """(h, w)."""
    return int(page.imagelength), int(page.imagewidth)


def choose_image(path: Path, tiff: tifffile.TiffFile) -> TiffImage:
    """The largest image of a TIFF. Raises ``SlideError`` if there is none, or it is not a slide."""
    if tiff.is_ome or tiff.is_imagej or tiff.series[0].kind not in {"generic", "uniform", "shaped"}:
        return _of_series(path, tiff)
    return _of_pages(path, tiff)


# --- files that say how their pages belong together ------------------------------------------------------------------


def _of_series(path: Path, tiff: tifffile.TiffFile) -> TiffImage:
    """The largest scan among the series of the file."""
    found = [(series, _plane_shape(series)) for series in tiff.series]
    images = [(series, shape) for series, shape in found if min(shape) > 0 and series.size]
    if not images:
        raise SlideError(f"{path}: a TIFF without an image; {_DAMAGED}")
    scans = [each for each in images if not _is_no_scan(each[0].name)] or images
    chosen, shape = max(scans, key=lambda each: math.prod(each[1]))
    tiff_image = TiffImage([], str(chosen.name))
    levels = sorted(chosen.levels, key=lambda level: -math.prod(_plane_shape(level)))
    for number, level in enumerate(levels):
        pages = _level_pages(path, level, tiff_image.warnings if number == 0 else [])
        for page in pages:
            if page.parent is not tiff:
                raise SlideKindError(
                    f"{path}: its pixels are in other files ({page.parent.filename} …): export the slide as one "
                    "OME-TIFF"
                )
        tiff_image.stacks.append(pages)
    others = [each for each in images if each[0] is not chosen]
    for series, size in others:
        text = f"{series.name!r}, {size[1]} × {size[0]} px"
        if tiff.is_ome and not _is_no_scan(series.name) and math.prod(size) >= _SCENE_SHARE * math.prod(shape):
            tiff_image.warnings.append(_scene_left_out(text))
        tiff_image.left_out.append(text)
    return tiff_image


def _scene_left_out(what: str) -> str:
    return f"it contains another scene, {what}, which is left out: export each scene to its own file to process it too"


def _is_no_scan(name: str) -> bool:
    return any(word in name.lower() for word in _NO_SCAN)


def _plane_shape(level: Any) -> tuple[int, int]:
    """(h, w) of a series or one of its levels, from its axes."""
    sizes = dict(zip(level.axes, level.shape, strict=False))
    return int(sizes.get("Y", 0)), int(sizes.get("X", 0))


def _level_pages(path: Path, level: Any, warnings: list[str]) -> list[Any]:
    """The page of a level, or the three pages of an RGB image with one page per channel; warns about other pages."""
    pages = list(level.pages)
    first = next((page for page in pages if page is not None), None)
    if first is None:
        raise SlideError(f"{path}: a TIFF without an image; {_DAMAGED}")
    page = first.aspage()
    lead = level.axes[: len(level.axes) - len(page.axes)] if level.axes.endswith(page.axes) else None
    sizes = level.shape[: len(lead or "")]
    if lead is None or math.prod(sizes) != len(pages):
        raise SlideKindError(
            f"{path}: an image with axes {level.axes} and shape {level.shape} in {len(pages)} pages of {page.axes}; "
            "wsiproc reads RGB planes: export one"
        )
    channels = dict(zip(lead, sizes, strict=True)).get("C", 1)
    if (channels > 1 and page.samplesperpixel > 1) or channels not in {1, 3}:
        raise SlideKindError(
            f"{path}: {channels} channels of {page.samplesperpixel} samples each: fluorescence or another stack; "
            "wsiproc reads RGB brightfield slides: export one RGB plane"
        )
    index: list[Any] = []
    for axis, size in zip(lead, sizes, strict=True):
        index.append(slice(None) if axis == "C" else size // 2 if axis == "Z" else 0)
        if axis != "C" and size > 1:
            which = f"the middle one, {size // 2 + 1}," if axis == "Z" else "the first one"
            warnings.append(f"it contains {size} {_AXES.get(axis, f'planes (axis {axis})')}; {which} is used")
    positions = np.arange(len(pages)).reshape(sizes)[tuple(index)]
    chosen = [pages[int(position)] for position in np.atleast_1d(positions)]
    if any(page is None for page in chosen):
        raise SlideError(f"{path}: the plane to use is missing in it; {_DAMAGED}")
    return [page.aspage() for page in chosen]


# --- all others ------------------------------------------------------------------------------------------------------


def _of_pages(path: Path, tiff: tifffile.TiffFile) -> TiffImage:
    """The largest page, with the pages that show a smaller version of it."""
    pages = _all_pages(tiff)
    if not pages:
        raise SlideError(f"{path}: a TIFF without an image; {_DAMAGED}")
    base_name, base = max(pages, key=lambda each: math.prod(page_shape(each[1])))  # the first of equal ones
    if base.is_reduced:
        raise SlideError(
            f"{path}: its largest image, {base.imagewidth} × {base.imagelength} px, is marked as a smaller copy of "
            f"one that cannot be read; {_DAMAGED}"
        )
    twins = [each for each in pages if page_shape(each[1]) == page_shape(base) and _same_kind(each[1], base)]
    if len(twins) == len(pages) == 3 and base.samplesperpixel == 1:
        return TiffImage([[page for _, page in twins]], warnings=["its three grey pages are used as red, green, blue"])
    levels = [(base_name, base)]
    left_out = []
    for name, page in sorted(pages, key=lambda each: -math.prod(page_shape(each[1]))):
        if page is base:
            continue
        if _is_level(page, base) and page_shape(levels[-1][1])[0] > _SMALLEST_STEP * page_shape(page)[0]:
            levels.append((name, page))
        elif page_shape(page) not in [page_shape(level) for _, level in levels[1:]]:
            left_out.append((name, page))
    names = [name for name, _ in levels]
    tiff_image = TiffImage([[page] for _, page in levels], order=_order(names))
    if len(twins) > 1:
        tiff_image.warnings.append(
            f"it contains {len(twins)} pages of the same size (focal planes, time points or scenes); the first one is "
            "used"
        )
    for name, page in left_out:
        size = page_shape(page)
        text = f"page {name}, {size[1]} × {size[0]} px"
        is_scene = page.is_tiled and not page.is_reduced and not _is_no_scan(str(page.description)[:200])
        if is_scene and size != page_shape(base) and math.prod(size) >= _SCENE_SHARE * math.prod(page_shape(base)):
            tiff_image.warnings.append(_scene_left_out(text))
        tiff_image.left_out.append(text)
    return tiff_image


def _order(names: list[str]) -> str:
    return f"pages {', '.join(names)} of the file" if len(names) > 1 else ""


def _all_pages(tiff: tifffile.TiffFile) -> list[tuple[str, Any]]:
    """Images by their position in the file: 0, 1, and 1.0 for the first sub-image of 1."""
    found: list[tuple[str, Any]] = []
    for number, page in enumerate(tiff.pages):
        found.append((str(number), page.aspage()))
        below: Sequence[Any] = page.aspage().pages or ()
        found += [(f"{number}.{index}", each.aspage()) for index, each in enumerate(below)]
    return [
        (name, page)
        for name, page in found
        if page.dtype is not None and min(page_shape(page)) > 0 and not page.is_mask
    ]


def _same_kind(page: Any, base: Any) -> bool:
    return bool(page.dtype == base.dtype and page.samplesperpixel == base.samplesperpixel)


def _is_level(page: Any, base: Any) -> bool:
    """Whether a page shows a smaller version of the base: same aspect ratio and samples, stored in the same way."""
    (h, w), (h0, w0) = page_shape(page), page_shape(base)
    expected = w0 * h / h0
    alike = abs(expected - w) <= max(_ASPECT_SLACK * expected, _ASPECT_SLACK_PX * max(1.0, w0 / h0))
    stored = page.is_tiled == base.is_tiled or page.is_reduced
    return bool(alike and stored and _same_kind(page, base) and not _is_no_scan(str(page.description)[:200]))
