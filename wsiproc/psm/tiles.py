"""Training tissue: windows of slides, or whole images from folders, at the model's resolution."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsiproc.array.fill import find_fill
from wsiproc.array.stains import Stains, estimate_stains
from wsiproc.array.tissue import find_tissue, looks_fluorescent
from wsiproc.core.frame import sample_windows
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.core.paths import differing
from wsiproc.core.types import Float32Array, Float64Array, UInt8Array
from wsiproc.errors import PlanError, SettingsError, SlideError
from wsiproc.io.slides.list import SLIDE_SUFFIXES
from wsiproc.io.slides.open import open_slide, read_overview
from wsiproc.io.slides.readers.tiff_directories import largest_image_side
from wsiproc.io.slides.texture import read_texture
from wsiproc.models.staining import find_gain, sample_pixels

TRAINING_TILE_PX = 512
_TIFFS = {".tif", ".tiff"}
TILE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp"} | _TIFFS
SMALLEST_TILE_PX = 170  # smaller tiles cannot contain a crop
LARGEST_PX = 8192  # of an image in a folder, which is read whole
MOST_IMAGES = 400  # per folder


@dataclass(frozen=True)
class Source:
    """Source of tiles: a slide, or a folder of images of one slide; ``mpp`` if the files do not state it.

    ``dab_outside_nuclei``: brown is membrane or cytoplasm; nuclei are blue. ``called``: its name, if that of the file
    or folder is not unique.
    """

    path: Path
    mpp: float | None = None
    dab_outside_nuclei: bool = False
    called: str | None = None

    @property
    def name(self) -> str:
        """The name of the file or folder itself, however its path is written."""
        return self.called or os.path.basename(os.path.abspath(self.path))


@dataclass(frozen=True)
class Tiles:
    """Tissue of one source: pixels (h, w, 3) uint8 each, and the calibration on all of them together."""

    name: str
    pixels: tuple[UInt8Array, ...]
    stains: Stains
    gain: float
    dab_outside_nuclei: bool = False

    @property
    def density(self) -> Float32Array:
        """(256, 3) optical density × gain of each grey level of R, G, B."""
        levels = np.maximum(np.arange(256), 1)[:, None]
        od: Float64Array = np.log10(np.array(self.stains.white)) - np.log10(levels)
        return (np.maximum(od, 0.0) * self.gain).astype(np.float32)


def read_tiles(source: Source, mpp: float, count: int, od99: float) -> Tiles:
    """Tissue of a source at ``mpp`` µm/px: ``count`` windows, or at most ``MOST_IMAGES`` images of a folder.

    Raises SlideError, ResolutionError, or PlanError if there is nothing to train on.
    """
    pixels = _images(source, mpp) if is_image_folder(source.path) else _windows(source, mpp, count)
    return calibrated_tiles(source.name, pixels, mpp, od99, source.dab_outside_nuclei)


def calibrated_tiles(
    name: str, pixels: Sequence[UInt8Array], mpp: float, od99: float, dab_outside_nuclei: bool = False
) -> Tiles:
    """Tiles of ``mpp`` µm/px, with the calibration on all of them."""
    sample = sample_pixels(pixels, mpp)
    stains = estimate_stains(sample)
    return Tiles(name, tuple(pixels), stains, find_gain(sample, stains, od99), dab_outside_nuclei)


def is_image_folder(path: Path) -> bool:
    """Whether a folder contains images of one slide rather than slides: no scanner file, no TIFF as large as one."""
    if not path.is_dir():
        return False
    found = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    suffixes = {entry.suffix.lower() for entry in found}
    if not suffixes & TILE_SUFFIXES or suffixes & (set(SLIDE_SUFFIXES) - TILE_SUFFIXES):
        return False
    tiffs = (entry for entry in found if entry.suffix.lower() in _TIFFS and entry.is_file())
    return all(largest_image_side(tiff) <= LARGEST_PX for tiff in tiffs)


def _images(source: Source, mpp: float) -> list[UInt8Array]:
    """Whole images of a folder, a regular sample if there are very many; those that are too small are left out."""
    paths = sorted(path for path in source.path.iterdir() if path.suffix.lower() in TILE_SUFFIXES)
    chosen = np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths))).round().astype(int)
    found = [pixels for i in chosen if (pixels := _image(paths[i], source.mpp, mpp)) is not None]
    if not found:
        raise PlanError(
            f"{source.path}: none of its {len(chosen)} images has {SMALLEST_TILE_PX} px on a side at {mpp:g} µm/px; "
            "training needs larger ones"
        )
    return found


def _image(path: Path, own_mpp: float | None, mpp: float) -> UInt8Array | None:
    """A whole image, None if it is too small."""
    with open_slide(path, own_mpp) as slide:
        h, w = grid_shape(slide.shape, slide.mpp, mpp)
        if min(h, w) < SMALLEST_TILE_PX:
            return None
        if max(h, w) > LARGEST_PX:
            raise PlanError(
                f"{path} has {(h, w)} px at {mpp:g} µm/px, too many for a tile; pass the file itself, as a slide"
            )
        pixels = slide.read(Box(0, 0, h, w), mpp)
    _refuse_fluorescence(path, pixels)
    return pixels


def _refuse_fluorescence(path: Path, pixels: UInt8Array) -> None:
    if looks_fluorescent(pixels):
        raise SlideError(f"{path} looks like fluorescence; models are trained on brightfield stains")


def _windows(source: Source, mpp: float, count: int) -> list[UInt8Array]:
    """Windows spread over the tissue of a slide; the whole slide if it is narrower than a window."""
    with open_slide(source.path, source.mpp) as slide:
        grid = grid_shape(slide.shape, slide.mpp, mpp)
        if min(grid) < SMALLEST_TILE_PX:
            raise PlanError(
                f"{source.path} has {grid} px at {mpp:g} µm/px; at least {SMALLEST_TILE_PX} on a side are needed"
            )
        seen = read_overview(slide)
        _refuse_fluorescence(source.path, seen.pixels)
        slide.fill = find_fill(seen.pixels)
        tissue = find_tissue(seen.pixels, sum(seen.mpp) / 2, read_texture(slide, seen))
        if not tissue.any():
            raise PlanError(f"{source.path}: no tissue found, so there is nothing to train on")
        if min(grid) < TRAINING_TILE_PX:
            return [slide.read(Box(0, 0, *grid), mpp)]
        boxes = sample_windows(tissue, grid, TRAINING_TILE_PX, count)
        return [slide.read(_whole_window(box, grid), mpp) for box in boxes]


def _whole_window(box: Box, grid: tuple[int, int]) -> Box:
    """A window cut off by the slide's edge, moved inwards, since no crop fits into a sliver."""
    return Box(
        min(box.y, grid[0] - TRAINING_TILE_PX),
        min(box.x, grid[1] - TRAINING_TILE_PX),
        TRAINING_TILE_PX,
        TRAINING_TILE_PX,
    )


def with_distinct_names(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources; names that are not unique are extended by the differing parts of their paths."""
    names = [source.name for source in sources]
    folders = [Path(os.path.abspath(source.path)).parent.parts for source in sources]
    apart = []
    for place, source in enumerate(sources):
        others = [folders[i] for i, name in enumerate(names) if name == names[place] and i != place]
        before = differing(folders[place], others) if others else ()
        apart.append(replace(source, called="_".join([*before, source.name])) if before else source)
    return tuple(apart)


def check_sources(sources: Sequence[Source]) -> None:
    """Raise SettingsError if there are none, or one is missing or given twice."""
    if not sources:
        raise SettingsError("nothing to train on: give slides, or folders of images")
    names = [source.name for source in sources]
    for source in sources:
        if not source.path.exists():
            raise SettingsError(f"{source.path}: there is no such slide or folder of images")
        if names.count(source.name) > 1:
            raise SettingsError(f"{source.name} is given twice; use each slide or folder once")
