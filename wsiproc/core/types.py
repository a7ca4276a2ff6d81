"""Array types by element, a few others, and the callback of work with steps: one name each for the whole package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[np.generic]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating[Any]]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Int8Array = npt.NDArray[np.int8]
IntArray = npt.NDArray[np.integer[Any]]
IntpArray = npt.NDArray[np.intp]
NumberArray = npt.NDArray[np.number]
ObjectArray = npt.NDArray[np.object_]
StrArray = npt.NDArray[np.str_]
UInt16Array = npt.NDArray[np.uint16]
UInt32Array = npt.NDArray[np.uint32]
UInt64Array = npt.NDArray[np.uint64]
UInt8Array = npt.NDArray[np.uint8]

Rng = np.random.Generator
Vector = tuple[float, float, float]
"""One value each for red, green and blue."""

OnProgress = Callable[[int, int], None]
"""Called with the number of steps done, and their total."""
