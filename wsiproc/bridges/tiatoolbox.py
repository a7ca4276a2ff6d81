"""TIAToolbox behind wsiproc's own nouns: its slide readers and its tissue maskers.

Needs ``pip install wsiproc[tiatoolbox]``. TIAToolbox takes many seconds to import, so its modules are imported when
first used, and the pixels go through wsiproc's resampling: the seamless reading holds for its readers too.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import Box
from wsiproc.errors import MissingExtraError, SlideError, SlideReadError
from wsiproc.io.openslide_reader import AlignedLevel
from wsiproc.io.pyramid_slide import SlideFacts
from wsiproc.io.resample import Level, UInt8Array, level_downsample

BoolArray = npt.NDArray[np.bool_]


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
        """See ``Level.read``."""
        location = (round(box.x * self.factor), round(box.y * self.factor))
        try:
            pixels = self._reader.read_rect(location, (box.w, box.h), resolution=self._number, units="level")
        except Exception as error:  # whatever the library below TIAToolbox raises
            raise SlideReadError(
                f"{self._path}: TIAToolbox cannot decode level {self._number}, {box.h} × {box.w} px at level-0 "
                f"y {location[1]}, x {location[0]}: {error}; try the default reader (--reader auto)"
            ) from error
        return np.ascontiguousarray(pixels[..., :3], np.uint8)


def open_tiatoolbox(path: Path) -> tuple[list[Level], SlideFacts]:
    """The levels and facts of a slide as TIAToolbox sees them.

    Raises ``MissingExtraError`` without TIAToolbox and ``SlideError`` for what it cannot open.
    """
    wsireader = _import("tiatoolbox.wsicore.wsireader")
    try:
        reader = wsireader.WSIReader.open(path)
        info = reader.info
    except Exception as error:  # FileNotSupportedError and those of each library below
        raise SlideError(
            f"{path}: TIAToolbox cannot open this: {error}; try the default reader (--reader auto)"
        ) from error
    levels: list[Level] = []
    for number in range(info.level_count):
        level = TiatoolboxLevel(path, reader, number)
        levels.append(level if level.factor.is_integer() else AlignedLevel(level))
    mpp = (float(info.mpp[1]), float(info.mpp[0])) if info.mpp is not None else None
    objective = float(info.objective_power) if info.objective_power else None
    properties = {"tiatoolbox.reader": type(reader).__name__, "tiatoolbox.vendor": str(info.vendor)}
    return levels, SlideFacts(f"tiatoolbox {type(reader).__name__}", mpp, objective, properties)


def tissue_mask(thumbnail: UInt8Array, method: Literal["otsu", "morphological"], mpp: float) -> BoolArray:
    """TIAToolbox's tissue mask (h, w) of a (h, w, 3) uint8 thumbnail of ``mpp`` µm/px."""
    tissuemask = _import("tiatoolbox.tools.tissuemask")
    masker = tissuemask.OtsuTissueMasker() if method == "otsu" else tissuemask.MorphologicalMasker(mpp=mpp)
    return np.asarray(masker.fit_transform(thumbnail[None])[0], np.bool_)


def _import(name: str) -> ModuleType:
    """A module of TIAToolbox, or the error that names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"TIAToolbox cannot be imported ({error}); install it, best in an environment of its own: "
            "pip install 'wsiproc[tiatoolbox]'"
        ) from error
