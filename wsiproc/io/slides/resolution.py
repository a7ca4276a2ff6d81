"""The physical pixel size of a slide: taken from the file or from the user, never guessed."""

from __future__ import annotations

import math
from pathlib import Path

from wsiproc.errors import ResolutionError

# 0.05 µm/px is finer than any optical scanner (100x oil: 0.1); above 5 µm/px a nucleus of 5–10 µm has 1–2 px.
FINEST_MPP, COARSEST_MPP = 0.05, 5.0
_LIMITS = f"wsiproc works from {FINEST_MPP:g} to {COARSEST_MPP:g} µm/px"
# Scanners report axes that differ by a few ‰; more than this is a wrong tag or an anisotropic image.
_MAX_ANISOTROPY = 0.05

# By the names of OME-XML, of UDUNITS in OME-Zarr, and of ImageJ. Units without a length (pixel, reference frame) are
# deliberately absent: they say nothing about µm.
_UNITS: dict[float, str] = {
    1e-6: "pm picometer picometre",
    1e-4: "Å Å A\u030a angstrom ångström angstroms",  # U+00C5, U+212B, and A with a combining ring
    1e-3: "nm nanometer nanometre nanometers",
    1.0: "µm μm um micrometer micrometre micrometers micron microns",  # U+00B5 micro sign, U+03BC Greek mu
    25.4: "thou mil",
    25_400 / 72: "pt",
    25_400 / 12: "li",
    1e3: "mm millimeter millimetre millimeters",
    1e4: "cm centimeter centimetre centimeters",
    25_400.0: "in inch inches",
    1e5: "dm decimeter decimetre",
    304_800.0: "ft foot feet",
    914_400.0: "yd yard yards",
    1e6: "m meter metre meters",
    1e7: "dam decameter",
    1e8: "hm hectometer",
    1e9: "km kilometer",
}
MICROMETRES: dict[str, float] = {name: size for size, names in _UNITS.items() for name in names.split()}

# Objective and pixel size are related: 20x has about 0.5 µm, 40x 0.25. Beyond this factor one of the two is wrong.
_USUAL_UM, _UNUSUAL = 10.0, 1.75
# Range of µm/px in which slides are scanned.
_USUAL_MPP = (0.1, 1.1)
# Dots per inch that programs write for printers.
_PRINTING_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 200, 240, 300, 360, 400, 600, 720, 1200, 2400)


def resolve_mpp(path: Path, in_file: tuple[float, float] | None, given: float | None, objective: float | None) -> float:
    """The slide's µm/px: ``given`` by the user, or the mean of the file's (y, x).

    Raises ``ResolutionError`` if there is none, if the axes disagree, and if cells could not be seen at it.
    """
    if given is not None:
        if not (math.isfinite(given) and given > 0):
            raise ResolutionError(f"{path}: --mpp {given:g} is not a positive number of µm per pixel; {_LIMITS}")
        return _plausible(path, given, f"--mpp {given:g}")
    if in_file is None:
        hint = "the µm per pixel of the scan"
        if objective:
            usual = 10 / objective  # 20x: 0.5, 40x: 0.25
            hint += f" (the objective is {objective:g}x, for which many scanners have about {usual:.2g}: check yours)"
        raise ResolutionError(f"{path}: the file does not say its pixel size; pass --mpp, {hint}")
    y, x = in_file
    if not abs(y - x) <= _MAX_ANISOTROPY * max(abs(y), abs(x)):
        raise ResolutionError(
            f"{path}: the pixels are not square: {y:g} µm high, {x:g} µm wide (more than 5 % apart); "
            "if that is a wrong tag, pass the right size with --mpp"
        )
    return _plausible(path, (y + x) / 2, "the file", objective)


def mpp_warnings(mpp: float, objective: float | None) -> list[str]:
    """A warning about a possible pixel size that does not match the objective."""
    if not objective:
        return []
    usual = _USUAL_UM / objective
    if usual / _UNUSUAL <= mpp <= usual * _UNUSUAL:
        return []
    likely = _likely(mpp, objective)
    hint = f"{likely:.4g} is likely" if likely else f"about {usual:.2g} is usual for it"
    return [
        f"its pixel size, {mpp:.4g} µm, does not match its objective, {objective:g}x ({hint}): one of the two is "
        "wrong. Cells are detected at this pixel size; if it is wrong, pass the right one with --mpp"
    ]


def _likely(mpp: float, objective: float | None = None) -> float | None:
    """The size meant if ``mpp`` is off by a power of ten: nm read as µm, a slipped decimal point."""
    if any(math.isclose(mpp, 25_400 / dpi, rel_tol=2e-3) for dpi in _PRINTING_DPI):
        return None
    # nm or mm read as µm, or a decimal point off by one digit; by two digits only if an objective is known, since
    # overviews have such sizes.
    powers: tuple[int, ...] = (-3, 1, 3)
    low, high = _USUAL_MPP
    if objective:
        powers = (-3, -2, -1, 1, 2, 3)
        low, high = _USUAL_UM / objective / _UNUSUAL, _USUAL_UM / objective * _UNUSUAL
    return next((mpp * 10.0**power for power in powers if low <= mpp * 10.0**power <= high), None)


def _plausible(path: Path, mpp: float, source: str, objective: float | None = None) -> float:
    """Return ``mpp`` if cells can be seen at it."""
    likely = _likely(mpp, objective) if math.isfinite(mpp) and mpp > 0 else None
    remedy = "pass the right one with --mpp" + (f" (likely {likely:.4g}, off by a power of ten)" if likely else "")
    if not math.isfinite(mpp) or mpp < FINEST_MPP:
        raise ResolutionError(f"{path}: {source} says {mpp:.4g} µm/px, finer than any scanner; {_LIMITS}; {remedy}")
    if mpp > COARSEST_MPP:
        raise ResolutionError(
            f"{path}: {source} says {mpp:.4g} µm/px, far too coarse for cells; {_LIMITS}. This may be an overview or a "
            f"thumbnail: choose the full-resolution file. If the tag is wrong (72 dpi = 352.8 µm is a printing "
            f"default), {remedy}"
        )
    return mpp
