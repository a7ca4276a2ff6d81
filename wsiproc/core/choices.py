"""Named choices. Each list is defined here once: as a type, and through ``get_args`` as values.

Options, their help and completion take their values from here, so this module must import nothing heavy.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Reader = Literal["auto", "openslide", "tifffile", "tiatoolbox"]
TissueMasker = Literal["tiatoolbox:otsu", "tiatoolbox:morphological"]
TissueChoice = Literal["auto", "all", TissueMasker]
StainChoice = Literal["auto", "he", "hdab"]
StainNormChoice = Literal[
    "none", "tiatoolbox:reinhard", "tiatoolbox:macenko", "tiatoolbox:vahadane", "tiatoolbox:ruifrok"
]
Compartment = Literal["nucleus", "membrane", "cytoplasm"]
CompartmentChoice = Literal["auto", Compartment]
DeviceType = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", DeviceType]
GpuPrecision = Literal["float32", "bfloat16", "float16"]
CpuPrecision = Literal["float32", "bfloat16", "int8"]
Precision = Literal[GpuPrecision, CpuPrecision]
PrecisionChoice = Literal["auto", Precision]
Executor = Literal["auto", "dask", "processes", "threads", "loop"]
SceneStain = Literal["HE", "HDAB"]


def either(choices: Any) -> str:
    """The values of one of these types in words: ``auto, cpu or cuda``."""
    *others, last = get_args(choices)
    return f"{', '.join(others)} or {last}"
