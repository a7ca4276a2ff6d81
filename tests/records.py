"""Records of slides that were never run: what every ``run.json`` has, and what a test wants to be different."""

from __future__ import annotations

from typing import Any

from wsiproc.results.record import RunRecord

_FIXED = ("slide", "model", "grid", "regions", "counts")  # parts of which the fields are always the same


def run_facts(**changes: Any) -> dict[str, Any]:
    """The least that ``run.json`` holds, as the first versions wrote it; ``changes``: of parts, field by field."""
    least: dict[str, Any] = {
        "wsiproc": "0.1.0",
        "key": "k",
        "slide": {"name": "s", "path": "s.tif", "shape": [800, 400], "mpp": 0.25, "format": "tiff", "fingerprint": "f"},
        "model": {"name": "m", "mpp": 0.5, "classes": ["Nucleus"], "calibration": {}},
        "classes": {},
        "settings": {},
        "grid": {"shape": [400, 200], "mpp": [0.5, 0.5], "scale": [2.0, 2.0]},
        "tissue_mm2": 1.0,
        "regions": {"step": 2048, "total": 1, "tissue": 1, "failed": [], "boxes": []},
        "counts": {"cells": 0, "classes": {}, "dropped": {}},
        "warnings": [],
        "versions": {},
        "seconds": {"total": 1.0},
    }
    return least | changes | {name: least[name] | changes[name] for name in _FIXED if name in changes}


def record(**changes: Any) -> RunRecord:
    """The same as a record."""
    return RunRecord.model_validate(run_facts(**changes))


def scoring(**changes: Any) -> dict[str, Any]:
    """How cells with DAB in nuclei are scored."""
    found = {
        "compartment": "nucleus",
        "nucleus_dab_od": 0.2,
        "nucleus_how": "given",
        "ring_dab_od": 0.2,
        "ring_how": "given",
        "brown_share": 0.1,
        "roundness": 0.9,
        "blob_um2": 30.0,
    }
    told = {
        "compartment": "nucleus",
        "compartment_from": "given",
        "positive_dab_od": [0.2],
        "positive_dab_from": "given",
        "ring_dab_od": 0.2,
        "index": True,
        "recognised": found,
    }
    return told | changes
