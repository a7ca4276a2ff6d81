"""The scripts for QuPath, run by Groovy with stand-ins for QuPath: that they do what they should if QuPath does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results.qupath.finished_slide import IMMUNO, draw_cells, features, finished
from wsiproc.results.qupath.import_corrections import import_corrections
from wsiproc.results.qupath.split import Wanted, split_cells

STAND_INS = Path(__file__).parent / "stand_ins"
SHAPE, SCALE = (400, 600), 2.0
JAVAS = ["/usr/lib/jvm/java-17-openjdk-amd64", "/usr/lib/jvm/default-java"]  # Groovy of Debian runs on Java 8 to 17


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("groovy") is None:
        pytest.skip("Groovy is not installed (Debian: apt install groovy)")
    folder = finished(tmp_path_factory.mktemp("out") / "slide", draw_cells(SHAPE)[0], SHAPE, SCALE)
    split_cells(folder, Wanted(most_cells=30))
    return folder


def run_script(name: str, folder: Path, tmp_path: Path, *, asked: bool = False, **state: Any) -> tuple[str, Any]:
    """What a script prints, and what is there afterwards."""
    image = {"width": 1200, "height": 800, "objects": [], "selected": [], "chosen": None}
    (tmp_path / "state.json").write_text(json.dumps(image | state))
    java = next((path for path in JAVAS if Path(path).is_dir()), os.environ.get("JAVA_HOME", ""))
    done = subprocess.run(
        [
            "groovy", "-cp", STAND_INS, STAND_INS / "driver.groovy", tmp_path / "state.json",
            folder / name, *([] if asked else [folder]),
        ],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"JAVA_HOME": java},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, after = done.stdout.rsplit("\n", 2)[:2]
    return said, json.loads(after)


def annotation(x: float, y: float, side: float) -> dict[str, Any]:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {
        "type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry, "properties": {"objectType": "annotation"},
    }  # fmt: skip


def ids(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(each["id"] for each in objects)


def test_all_cells_are_imported_once_however_often(slide: Path, tmp_path: Path) -> None:
    everyone = features(slide / "cells.geojson.gz")
    said, first = run_script(
        "import-cells.groovy", slide / "qupath", tmp_path, asked=True, chosen=str(slide / "qupath")
    )
    assert ids(first["objects"]) == ids(everyone)
    assert first["updates"] == 1
    assert "150 cells imported: 150 new, 0 in place of what was there" in said
    said, second = run_script("import-cells.groovy", slide / "qupath", tmp_path, objects=first["objects"][:40])
    assert ids(second["objects"]) == ids(everyone)
    assert "150 cells imported: 110 new, 40 in place of what was there" in said


def test_classes_are_counted_and_their_rule_is_told(slide: Path, tmp_path: Path) -> None:
    cells = draw_cells(SHAPE)[0]
    said, _ = run_script("import-cells.groovy", slide / "qupath", tmp_path)
    positive = int(cells.classes.sum())
    assert f"Negative: {150 - positive}, Positive: {positive}" in said
    assert "A cell is positive" not in said, "there is no rule to tell where there is no DAB"
    cells = dataclasses.replace(cells, classes=np.repeat([0, 1, 2, 3], [60, 40, 30, 20]).astype(np.uint8))
    facts = IMMUNO | {"positive_dab_od": [0.1, 0.2, 0.4], "compartment": "cytoplasm"}
    names = ("Negative", "1+", "2+", "3+")
    folder = finished(tmp_path / "graded", cells, SHAPE, SCALE, names=names, immuno=facts)
    split_cells(folder, Wanted(most_cells=30))
    said, _ = run_script("import-cells.groovy", folder / "qupath", tmp_path)
    assert "1+: 40, 2+: 30, 3+: 20, Negative: 60" in said
    assert "in the ring around its nucleus exceeds 0.1 (1+), 0.2 (2+) or 0.4 (3+)" in said
    assert "Positive index of the slide: 60.0%; H-score 107." in said


def test_a_selected_annotation_gets_its_cells_only(slide: Path, tmp_path: Path) -> None:
    mine = annotation(100, 100, 300)
    said, after = run_script("import-cells.groovy", slide / "qupath", tmp_path, objects=[mine], selected=[mine["id"]])
    middles = {}
    for cell in features(slide / "cells.geojson.gz"):
        points = np.array(cell["geometry"]["coordinates"][0])
        middles[cell["id"]] = (points.min(0) + points.max(0)) / 2
    inside = [name for name, middle in middles.items() if ((middle >= 100) & (middle < 400)).all()]
    assert ids(after["objects"]) == sorted([*inside, mine["id"]])
    assert 10 < len(inside) < 40
    files = len(json.loads((slide / "qupath" / "index.json").read_text())["files"])
    touched = int(said.split()[0])
    assert f"{touched} of {files} files touch the 1 selected" in said
    assert touched < files


def test_another_image_is_refused(slide: Path, tmp_path: Path) -> None:
    said, after = run_script("import-cells.groovy", slide / "qupath", tmp_path, width=1201)
    assert "The open image has 1201 x 800 px, the cells are of 's' with 1200 x 800 px" in said
    assert after["objects"] == []


def test_a_folder_without_an_index_is_refused(slide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(slide / "qupath", folder)
    (folder / "index.json").unlink()
    said, _ = run_script("import-cells.groovy", folder, tmp_path)
    assert "index.json is missing: choose the folder qupath that `wsiproc qupath` wrote" in said


@pytest.mark.parametrize("script", ["import-cells.groovy", "export-corrections.groovy"])
def test_a_dialog_that_is_closed_does_nothing(slide: Path, tmp_path: Path, script: str) -> None:
    shutil.copytree(slide / "qupath", tmp_path / "qupath")
    before = sorted((tmp_path / "qupath").iterdir())
    said, after = run_script(script, tmp_path / "qupath", tmp_path, asked=True)
    assert said.startswith("No folder chosen")
    assert after == {"objects": [], "updates": 0}
    assert sorted((tmp_path / "qupath").iterdir()) == before


def test_what_is_exported_comes_back(slide: Path, tmp_path: Path) -> None:
    """Import, a class changed and a cell deleted as by hand, export, `wsiproc import`."""
    folder = Path(shutil.copytree(slide, tmp_path / "slide"))
    _, there = run_script("import-cells.groovy", folder / "qupath", tmp_path)
    cells = there["objects"][1:]
    old = cells[0]["properties"]["classification"]["name"]
    cells[0]["properties"]["classification"]["name"] = "Other"
    said, _ = run_script(
        "export-corrections.groovy", folder / "qupath", tmp_path, objects=[annotation(0, 0, 9), *cells]
    )
    assert "150 objects written" in said
    told = import_corrections(folder / "qupath" / "corrections.geojson.gz", folder, exclude=[])
    assert (told.reclassified, told.deleted, told.unchanged) == ({(old, "Other"): 1}, 1, 148)
    assert told.ignored == {"annotation": 1}
    assert not list((folder / "qupath").glob("*.unfinished"))
