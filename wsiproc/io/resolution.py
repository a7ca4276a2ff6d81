"""The physical pixel size of a slide: taken from the file or from the user, never guessed."""

from __future__ import annotations

import math
from pathlib import Path

from wsiproc.errors import ResolutionError

# 0.05 µm/px is finer than any optical scanner (100x oil: 0.1); above 5 µm/px a nucleus of 5–10 µm has 1–2 px.
FINEST_MPP, COARSEST_MPP = 0.05, 5.0
# Scanners report axes that differ by a few ‰; more than this is a wrong tag or an anisotropic picture.
_MAX_ANISOTROPY = 0.05

MICROMETRES: dict[str, float] = {
    "µm": 1.0,  # U+00B5, micro sign
    "μm": 1.0,  # U+03BC, Greek mu
    "um": 1.0,
    "micrometer": 1.0,
    "micron": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25_400.0,
}


def resolve_mpp(path: Path, in_file: tuple[float, float] | None, given: float | None, objective: float | None) -> float:
    """The slide's µm/px: ``given`` by the user, or the mean of the file's (y, x).

    Raises ``ResolutionError`` where there is none, where the axes disagree and where no cell could be seen.
    """
    if given is not None:
        return _plausible(path, given, f"--mpp {given:g}")
    if in_file is None:
        hint = "the µm per pixel of the scan"
        if objective:
            usual = 10 / objective  # 20x: 0.5, 40x: 0.25
            hint += f" (the objective is {objective:g}x, where many scanners have about {usual:.2g}: check yours)"
        raise ResolutionError(f"{path}: the file does not say its pixel size; pass --mpp, {hint}")
    y, x = in_file
    if not abs(y - x) <= _MAX_ANISOTROPY * max(abs(y), abs(x)):
        raise ResolutionError(
            f"{path}: the pixels are not square: {y:g} µm high, {x:g} µm wide (more than 5 % apart); "
            "if that is a wrong tag, pass the right size with --mpp"
        )
    return _plausible(path, (y + x) / 2, "the file")


def _plausible(path: Path, mpp: float, source: str) -> float:
    """``mpp`` if cells can be seen at it."""
    limits = f"wsiproc works from {FINEST_MPP:g} to {COARSEST_MPP:g} µm/px"
    if not math.isfinite(mpp) or mpp < FINEST_MPP:
        raise ResolutionError(
            f"{path}: {source} says {mpp:.4g} µm/px, finer than any scanner; {limits}; pass the right one with --mpp"
        )
    if mpp > COARSEST_MPP:
        raise ResolutionError(
            f"{path}: {source} says {mpp:.4g} µm/px, far too coarse for cells; {limits}. This may be an overview or a "
            "thumbnail: choose the full-resolution file. If the tag is wrong (72 dpi = 352.8 µm is a printing "
            "default), pass the right one with --mpp"
        )
    return mpp
