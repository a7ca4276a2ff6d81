"""Named choices. Each list is defined here once: as a type, and through ``get_args`` as values.

Options, their help and completion take their values from here, so this module must import nothing heavy.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Reader = Literal["auto", "openslide", "tifffile", "tiatoolbox"]
TissueChoice = Literal["auto", "all", "tiatoolbox:otsu", "tiatoolbox:morphological"]
StainChoice = Literal["auto", "he", "hdab"]
StainNormChoice = Literal[
    "none", "tiatoolbox:reinhard", "tiatoolbox:macenko", "tiatoolbox:vahadane", "tiatoolbox:ruifrok"
]
Compartment = Literal["nucleus", "membrane", "cytoplasm"]
CompartmentChoice = Literal["auto", Compartment]
DeviceType = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", DeviceType]
PrecisionChoice = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Executor = Literal["auto", "dask", "processes", "threads", "loop"]


def either(choices: Any) -> str:
    """The values of one of these types in words: ``auto, cpu or cuda``."""
    *others, last = get_args(choices)
    return f"{', '.join(others)} or {last}"
