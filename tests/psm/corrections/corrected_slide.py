"""A slide with known truth, run, and corrected by its truth in a square: what a user of QuPath hands back."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import shapely

import wsiproc
from wsiproc.io.geojson.write import iter_features
from wsiproc.results.qupath.import_corrections import Corrections, import_corrections
from wsiproc.synthetic import write_synthetic_slide

SIDE = 900
MPP = 0.5
REVIEWED = shapely.box(200, 240, 330, 400)


def run_slide(folder: Path, model: str = "classical") -> Path:
    """The output folder of a slide of H&E, 450 µm a side."""
    slide = folder / "drawn.tif"
    write_synthetic_slide(slide, (SIDE, SIDE), mpp=MPP, seed=1, tissue_fraction=0.9, crowding=0.7)
    (outcome,) = wsiproc.run(slide, folder / "out", model=model, executor="loop", device="cpu")
    assert outcome.error is None
    return folder / "out" / "drawn"


def annotation(shape: shapely.Geometry, name: str) -> dict[str, Any]:
    """What QuPath exports of an annotation."""
    return _feature(shape, "annotation", name)


def drawn(shape: shapely.Geometry) -> dict[str, Any]:
    """A cell that a user drew."""
    return _feature(shape, "detection", "Nucleus")


def _feature(shape: shapely.Geometry, kind: str, name: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid4()),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": {"objectType": kind, "name": name, "classification": {"name": name}},
    }


def cells_of(output: Path) -> list[dict[str, Any]]:
    """The cells that were found, as QuPath has them after an import."""
    return list(iter_features(output / "cells.geojson.gz"))


def outline(feature: dict[str, Any]) -> shapely.Geometry:
    return shapely.from_geojson(json.dumps(feature["geometry"]))


def correct(output: Path, features: list[dict[str, Any]]) -> Corrections:
    """Import features as the corrections of a slide."""
    path = output.parent.parent / "corrections.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return import_corrections(path, output, exclude=[], missing="delete")
