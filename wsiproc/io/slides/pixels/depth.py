"""The range of a slide's samples, determined once per slide: declared by the file, else derived from its pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import Box
from wsiproc.errors import SlideKindError
from wsiproc.io.slides.pixels.samples import bits_in_use, float_range, is_unit_range, sample_boxes


def find_full(
    path: Path,
    dtype: np.dtype[Any],
    declared_bits: int | None,
    coarsest: tuple[int, int],
    read: Callable[[Box], npt.NDArray[Any]],
) -> tuple[float, str | None]:
    """The sample value of full intensity, and a warning if it was derived from the pixels.

    ``declared_bits``: bits in use as declared by the file; ``coarsest`` (h, w) and ``read``: the slide's coarsest
    level, used if the file declares nothing. Raises ``SlideKindError`` for floats that are not 0 … 1.
    """
    if dtype == np.uint8:
        return 255.0, None
    if dtype == np.uint16 and declared_bits is not None and 1 <= declared_bits <= 16:
        return float(2**declared_bits - 1), None
    looks = (read(box) for box in sample_boxes(coarsest))
    if dtype == np.uint16:
        bits = bits_in_use(looks)
        warning = (
            f"its samples have 16 bits, of which {bits} are in use (no larger value in its coarsest level, and the "
            f"file does not say); {2**bits - 1:,} is used as full intensity"
        )
        return float(2**bits - 1), None if bits == 16 else warning
    low, high = float_range(looks)
    if not is_unit_range(low, high):
        raise SlideKindError(
            f"{path}: its samples are of type {dtype}, {low:g} … {high:g}; wsiproc reads floats of 0 … 1: convert it, "
            "with the display range that you see, to 8-bit RGB"
        )
    return 1.0, None
