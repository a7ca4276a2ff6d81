"""The survey of a slide that a plan is based on: where tissue is, and the model calibrated on samples of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsiproc.array.fill import Fill, find_fill, where_filled, without_fill
from wsiproc.array.scale import ApparentScale, apparent_scale
from wsiproc.array.stains import Stain, estimate_stains
from wsiproc.array.tissue import PixelClass, classify_overview, grow, looks_fluorescent, looks_grey
from wsiproc.core.choices import StainChoice, TissueChoice
from wsiproc.core.frame import Frame, sample_windows
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.types import BoolArray, UInt8Array
from wsiproc.errors import PlanError, SlideKindError, SlideReadError, SlideTimeoutError
from wsiproc.io.geojson.roi import read_roi
from wsiproc.io.slides.open import Overview, Slide, SlideSource, read_overview
from wsiproc.io.slides.texture import read_texture
from wsiproc.models.base import Model
from wsiproc.models.staining import sample_pixels

if TYPE_CHECKING:
    from shapely import MultiPolygon

SAMPLE_WINDOWS = 16
# An overview with nothing darker is a slide without tissue.
_BACKGROUND = 200
STAINS: dict[StainChoice, Stain | None] = {"auto": None, "he": "H&E", "hdab": "H-DAB"}
"""Names of stains in the settings."""

# Cells are searched for this far beyond the tissue, whose edge is found on a low-resolution overview and smoothed.
_BORDER_UM = 40.0


@dataclass(frozen=True)
class Survey:
    """What is known of a slide. ``model``: calibrated on ``samples`` (h, w, 3), which are the windows ``boxes`` (grid
    px).

    ``tissue``, ``search``: masks (h, w) of tissue and of where to search for cells, on the ``overview`` (h, w, 3);
    ``seen``: the class of each of its px; ``fill``: what is read as background; ``read_s``: mean seconds to read a
    sample.
    """

    slide: dict[str, Any]
    frame: Frame
    overview: UInt8Array
    overview_mpp: tuple[float, float]
    roi: MultiPolygon | None
    tissue: BoolArray
    search: BoolArray
    seen: UInt8Array
    fill: Fill | None
    model: Model
    boxes: Sequence[Box]
    samples: Sequence[UInt8Array]
    read_s: float
    warnings: tuple[str, ...]


def survey_slide(
    source: SlideSource,
    model: Model,
    tissue: TissueChoice,
    roi: Path | None,
    stain: StainChoice = "auto",
    force: bool = False,
) -> Survey:
    """Read a slide's overview and a few windows of tissue; the result does not depend on how the work is divided.

    ``tissue``: how it is found; ``roi``: GeoJSON with areas to work in; ``stain``: as in the settings; ``force``: a
    slide that looks unsuitable is run with a warning, not refused. Unreadable areas do not affect the others: cells are
    searched for there too, so that each of their regions is reported with its reason. Raises SlideError,
    ResolutionError, SettingsError, or PlanError where there is no tissue.
    """
    with source.open() as slide:
        seen = read_overview(slide)
        slide.fill = None if looks_fluorescent(seen.pixels) else find_fill(seen.pixels)
        overview, overview_mpp = seen.pixels, seen.mpp
        unsuitable = _colour_warnings(slide, overview, force)
        frame = Frame(slide.shape, grid_shape(slide.shape, slide.mpp, model.mpp), slide.mpp)
        areas = read_roi(roi, slide.shape) if roi else None
        pixel_classes = classify_overview(
            overview, sum(overview_mpp) / 2, read_texture(slide, seen) if tissue == "auto" else None
        )
        everywhere = _tissue_mask(slide, seen, tissue, pixel_classes)
        inside = _restrict(everywhere, areas, slide.shape)
        _require_tissue(inside, source.path, areas)
        boxes = sample_windows(
            inside, frame.grid, model.window, SAMPLE_WINDOWS, _scanned(overview, slide.fill, frame.grid)
        )
        started = time.perf_counter()
        boxes, samples = _read_samples(slide, boxes, model.mpp)
        read_s = (time.perf_counter() - started) / len(boxes)
        scale = None if unsuitable else _apparent_scale(samples, model.mpp, STAINS[stain])
        return Survey(
            slide=_slide_metadata(slide) | {"likely_mpp": scale and round(slide.mpp / scale.factor, 3)},
            frame=frame,
            overview=overview,
            overview_mpp=overview_mpp,
            roi=areas,
            tissue=inside,
            search=_restrict(_around(everywhere, pixel_classes, overview_mpp[0]) | seen.unread, areas, slide.shape),
            seen=pixel_classes,
            fill=slide.fill,
            read_s=read_s,
            model=model.calibrate(samples, STAINS[stain]),
            boxes=boxes,
            samples=samples,
            warnings=slide.warnings + unsuitable + _damage_warnings(slide, seen) + _scale_warnings(slide.mpp, scale),
        )


def _scanned(overview: UInt8Array, fill: Fill | None, grid: tuple[int, int]) -> Box:
    """The part of the grid (px) that is not fill: samples are taken from it as if the slide ended there."""
    everything = Box(0, 0, *grid)
    if fill is None or (filled := where_filled(overview, fill)).all():
        return everything
    rows, cols = (np.flatnonzero(~filled.all(axis=axis)) for axis in (1, 0))
    fy, fx = grid[0] / overview.shape[0], grid[1] / overview.shape[1]
    y, x, y1, x1 = round(rows[0] * fy), round(cols[0] * fx), round((rows[-1] + 1) * fy), round((cols[-1] + 1) * fx)
    return Box(y, x, y1 - y, x1 - x)


def _read_samples(slide: Slide, boxes: Sequence[Box], mpp: float) -> tuple[list[Box], list[UInt8Array]]:
    """The boxes that can be read, and their pixels; SlideReadError where none can be, or a read times out."""
    found: list[tuple[Box, UInt8Array]] = []
    failure: SlideReadError | None = None
    for box in boxes:
        try:
            found.append((box, slide.read(box, mpp)))
        except SlideTimeoutError:
            raise
        except SlideReadError as error:
            failure = error
    if failure is not None and not found:
        raise failure
    return [box for box, _ in found], [pixels for _, pixels in found]


def _apparent_scale(samples: Sequence[UInt8Array], mpp: float, stain: Stain | None) -> ApparentScale | None:
    """The µm/px that nuclei in the samples suggest; None where they are inconclusive."""
    return apparent_scale(samples, estimate_stains(sample_pixels(samples, mpp), stain), mpp)


def _scale_warnings(given: float, scale: ApparentScale | None) -> tuple[str, ...]:
    """The warning where the pixel size seems wrong."""
    if scale is None or not scale.wrong:
        return ()
    large = scale.factor > 1
    times, what = (scale.factor, "large") if large else (1 / scale.factor, "small")
    return (
        f"at {given:.4g} µm/px nuclei and their chromatin look {times:.1f} times too {what}: the likely pixel size is "
        f"about {given / scale.factor:.2g} µm. If that is right, pass it with --mpp: at a wrong pixel size cells are "
        "missed or split, and all areas and densities are wrong",
    )


def _slide_metadata(slide: Slide) -> dict[str, Any]:
    return {
        "name": slide.name,
        "path": str(slide.path),
        "shape": list(slide.shape),
        "mpp": slide.mpp,
        "format": slide.format,
        "reader": slide.reader,
        "objective": slide.objective,
        "levels": list(slide.levels),
        "fingerprint": slide.fingerprint(),
    }


def _colour_warnings(slide: Slide, overview: UInt8Array, force: bool) -> tuple[str, ...]:
    """Warnings for a slide without the colours of a brightfield stain; SlideKindError where it is refused."""
    if looks_fluorescent(overview):
        what = "it looks like fluorescence (bright on black); models expect a brightfield stain such as H&E"
        remedy, then = "run brightfield slides", "so the cells cannot be trusted"
    elif looks_grey(overview) and overview.min() <= _BACKGROUND:
        what = "it has no colour: a grey image, or nothing but background. Stains are distinguished by their colours"
        remedy, then = "export the slide in colour", "so classes and stain densities in it are meaningless"
    else:
        return ()
    if not force:
        raise SlideKindError(f"{slide.path}: {what}: {remedy}, or pass --force to run it as it is")
    return (f"{what}, {then}",)


def _damage_warnings(slide: Slide, overview: Overview) -> tuple[str, ...]:
    if overview.reason is None:
        return ()
    return (
        f"{overview.unread.mean():.2%} of the overview of {slide.path.name} cannot be read and is shown white; where "
        f"the level that cells are segmented on is damaged too, regions are missing. {overview.reason}",
    )


def _tissue_mask(slide: Slide, seen: Overview, method: TissueChoice, pixel_classes: UInt8Array) -> BoolArray:
    """Tissue in the overview by the chosen method; ``pixel_classes`` (h, w): those of its px."""
    if method == "auto":
        return np.asarray(pixel_classes == PixelClass.TISSUE)
    if method == "all":
        return np.ones(pixel_classes.shape, bool)
    from wsiproc.pipeline.planning.tissue_mask import tissue_mask

    pixels = seen.pixels if slide.fill is None else without_fill(seen.pixels, slide.fill)
    return tissue_mask(pixels, method, sum(seen.mpp) / 2)


def _around(tissue: BoolArray, pixel_classes: UInt8Array, mpp: float) -> BoolArray:
    """Where to search for cells: tissue and a border, but no pen marks next to it."""
    return np.asarray(tissue | (grow(tissue, _BORDER_UM / mpp) & (pixel_classes != PixelClass.PEN)))


def _restrict(tissue: BoolArray, roi: MultiPolygon | None, slide_shape: tuple[int, int]) -> BoolArray:
    """Tissue within one overview px of the region of interest; the exact border is applied to cells later."""
    if roi is None:
        return tissue
    import shapely

    fy, fx = slide_shape[0] / tissue.shape[0], slide_shape[1] / tissue.shape[1]
    y, x = np.mgrid[: tissue.shape[0], : tissue.shape[1]]
    near = shapely.buffer(roi, max(fy, fx))
    shapely.prepare(near)
    inside: BoolArray = shapely.contains_xy(near, (x + 0.5) * fx, (y + 0.5) * fy)
    return tissue & inside


def _require_tissue(tissue: BoolArray, path: Path, roi: MultiPolygon | None) -> None:
    if not tissue.any():
        where = " in the region of interest" if roi else ""
        raise PlanError(f"{path}: no tissue found{where}. If there is some, --tissue all searches the entire slide")
