"""The settings that are chosen by name, with the type that lists their values."""

from __future__ import annotations

from typing import Any

from wsiproc.core.choices import (
    CompartmentChoice,
    DeviceChoice,
    Executor,
    PrecisionChoice,
    Reader,
    StainChoice,
    StainNormChoice,
    TissueChoice,
)

CHOICES: dict[str, Any] = {
    "reader": Reader,
    "tissue": TissueChoice,
    "stain": StainChoice,
    "compartment": CompartmentChoice,
    "stain_norm": StainNormChoice,
    "device": DeviceChoice,
    "precision": PrecisionChoice,
    "executor": Executor,
}
