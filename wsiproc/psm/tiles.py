"""Tissue to learn from: windows of slides, or whole pictures of folders, at the model's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiproc.array.stains import Stains, estimate_stains
from wsiproc.array.tissue import find_tissue, looks_fluorescent
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.errors import PlanError, SettingsError, SlideError
from wsiproc.io.slides import open_slide, read_overview
from wsiproc.models.staining import find_gain, sample_pixels
from wsiproc.projection import sample_windows

Pixels = npt.NDArray[np.uint8]

TILE_PX = 512
PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
SMALLEST_PX = 170  # below it no crop fits in


@dataclass(frozen=True)
class Source:
    """Where tiles come from: a slide, or a folder of pictures of one slide; ``mpp`` where the files do not say it."""

    path: Path
    mpp: float | None = None


@dataclass(frozen=True)
class Tiles:
    """Tissue of one source: pixels (h, w, 3) uint8 each, and what is calibrated on all of them together."""

    name: str
    pixels: tuple[Pixels, ...]
    stains: Stains
    gain: float

    @property
    def density(self) -> npt.NDArray[np.float32]:
        """(256, 3) optical density × gain of each grey level of R, G, B."""
        levels = np.maximum(np.arange(256), 1)[:, None]
        od = np.maximum(np.log10(np.array(self.stains.white)) - np.log10(levels), 0.0) * self.gain
        return od.astype(np.float32)


def read_tiles(source: Source, mpp: float, count: int, od99: float) -> Tiles:
    """Tissue of a source at ``mpp`` µm/px: ``count`` windows of a slide, all pictures of a folder.

    Raises SlideError, ResolutionError, or PlanError where there is nothing to learn from.
    """
    pixels = _pictures(source, mpp) if _is_picture_folder(source.path) else _windows(source, mpp, count)
    sample = sample_pixels(pixels, mpp)
    stains = estimate_stains(sample)
    return Tiles(source.path.name, tuple(pixels), stains, find_gain(sample, stains, od99))


def _is_picture_folder(path: Path) -> bool:
    return path.is_dir() and any(entry.suffix.lower() in PICTURES for entry in path.iterdir())


def _pictures(source: Source, mpp: float) -> list[Pixels]:
    """Every picture of a folder that is large enough, whole."""
    found, small = [], 0
    for path in sorted(source.path.iterdir()):
        if path.suffix.lower() in PICTURES:
            with open_slide(path, source.mpp) as slide:
                h, w = grid_shape(slide.shape, slide.mpp, mpp)
                if min(h, w) < SMALLEST_PX:
                    small += 1
                else:
                    found.append(slide.read(Box(0, 0, h, w), mpp))
    if not found:
        raise PlanError(
            f"{source.path}: none of its {small} pictures has {SMALLEST_PX} px a side at {mpp:g} µm/px; "
            "larger ones are needed to learn from"
        )
    return found


def _windows(source: Source, mpp: float, count: int) -> list[Pixels]:
    """Windows spread over the tissue of a slide; of a slide smaller than a window, all of it."""
    with open_slide(source.path, source.mpp) as slide:
        overview, overview_mpp = read_overview(slide)
        if looks_fluorescent(overview):
            raise SlideError(f"{source.path} looks like fluorescence; cells are learned from brightfield stains")
        grid = grid_shape(slide.shape, slide.mpp, mpp)
        if min(grid) < TILE_PX:
            boxes: Sequence[Box] = [Box(0, 0, *grid)]
        else:
            tissue = find_tissue(overview, sum(overview_mpp) / 2)
            if not tissue.any():
                raise PlanError(f"{source.path}: no tissue found, so there is nothing to learn from")
            boxes = sample_windows(tissue, grid, TILE_PX, count)
        if min(grid) < SMALLEST_PX:
            raise PlanError(f"{source.path} has {grid} px at {mpp:g} µm/px; at least {SMALLEST_PX} a side are needed")
        return [slide.read(box, mpp) for box in boxes]


def check_sources(sources: Sequence[Source]) -> None:
    """SettingsError where there are none, or one is missing or named twice."""
    if not sources:
        raise SettingsError("nothing to learn from: name slides, or folders of pictures")
    names = [source.path.name for source in sources]
    for path in (source.path for source in sources):
        if not path.exists():
            raise SettingsError(f"{path}: there is no such slide or folder of pictures")
        if names.count(path.name) > 1:
            raise SettingsError(f"{path.name} is given twice; each slide or folder needs a name of its own")
