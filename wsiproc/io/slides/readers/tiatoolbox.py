"""TIAToolbox's slide readers. Their pixels go through wsiproc's resampling, so reading is seamless for them too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsiproc.core.extras import load
from wsiproc.core.geometry import Box
from wsiproc.core.types import UInt8Array
from wsiproc.errors import SlideError, SlideReadError
from wsiproc.io.slides.pixels.resample import PyramidLevel, level_downsample
from wsiproc.io.slides.pyramid import SlideMetadata
from wsiproc.io.slides.readers.openslide import AlignedLevel


class TiatoolboxLevel:
    """A level of a TIAToolbox reader."""

    def __init__(self, path: Path, reader: Any, number: int) -> None:
        self._path, self._reader, self._number = path, reader, number
        info = reader.info
        (w0, h0), (w, h) = info.level_dimensions[0], info.level_dimensions[number]
        self.shape: tuple[int, int] = (int(h), int(w))
        self.factor = float(info.level_downsamples[number])
        self.downsample = level_downsample((int(h0), int(w0)), self.shape, self.factor)

    def read(self, box: Box) -> UInt8Array:
        """See ``PyramidLevel.read``."""
        location = (round(box.x * self.factor), round(box.y * self.factor))
        try:
            pixels = self._reader.read_rect(location, (box.w, box.h), resolution=self._number, units="level")
        except Exception as error:  # whatever the library below TIAToolbox raises
            raise SlideReadError(
                f"{self._path}: TIAToolbox cannot decode level {self._number}, {box.w} × {box.h} px at level-0 "
                f"x {location[0]}, y {location[1]}: {error}; try the default reader (--reader auto)"
            ) from error
        return np.ascontiguousarray(pixels[..., :3], np.uint8)


def open_tiatoolbox(path: Path) -> tuple[list[PyramidLevel], SlideMetadata]:
    """The levels and metadata of a slide as read by TIAToolbox. Raises ``MissingExtraError`` without TIAToolbox and
    ``SlideError`` if it cannot open the file.
    """
    wsireader = load("wsicore.wsireader")
    try:
        reader = wsireader.WSIReader.open(path)
        info = reader.info
    except Exception as error:  # FileNotSupportedError and those of each library below
        raise SlideError(
            f"{path}: TIAToolbox cannot open this: {error}; try the default reader (--reader auto)"
        ) from error
    levels: list[PyramidLevel] = []
    for number in range(info.level_count):
        level = TiatoolboxLevel(path, reader, number)
        levels.append(level if level.factor.is_integer() else AlignedLevel(level))
    mpp = (float(info.mpp[1]), float(info.mpp[0])) if info.mpp is not None else None
    objective = float(info.objective_power) if info.objective_power else None
    properties = {"tiatoolbox.reader": type(reader).__name__, "tiatoolbox.vendor": str(info.vendor)}
    return levels, SlideMetadata(f"tiatoolbox {type(reader).__name__}", mpp, objective, properties)
