"""The shape of the code: imports point down only, each file format and each big library has one home."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "wsiproc"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 500

FOUNDATION = {"errors", "paths", "_version"}  # nouns of the whole package; everyone may use them, they use nobody
# What each part may use besides the foundation and itself. The order is the order of the layers, top first.
MAY_USE = {
    "cli": {
        "commands",
        "completion",
        "documents",
        "progress",
        "executors",
        "psm",
        "benchmark",
        "slide_queue",
        "plan",
        "devices",
        "evaluate",
        "settings",
        "models",
        "unexpected",
    },
    "__init__": {"result", "slide_queue", "one_slide", "executors", "settings", "io"},
    "commands": {
        "doctor",
        "documents",
        "export",
        "progress",
        "qupath",
        "result",
        "view",
        "check",
        "evaluate",
        "synthetic",
        "reclassify",
        "completion",
        "unexpected",
        "io",
        "core",
    },
    "documents": {"slide_queue", "plan", "check", "reclassify", "evaluate", "profile", "core"},
    "completion": {"evaluate", "models", "settings", "io"},
    "progress": {
        "benchmark",
        "slide_queue",
        "one_slide",
        "plan",
        "check",
        "doctor",
        "evaluate",
        "profile",
        "projection",
        "core",
    },
    "doctor": {
        "plan",
        "inference",
        "devices",
        "projection",
        "synthetic",
        "executors",
        "settings",
        "models",
        "io",
        "core",
    },
    "export": {"full_image", "result", "io", "core"},
    "reclassify": {
        "array",
        "cohort",
        "crops",
        "scoring",
        "plan",
        "pipeline",
        "coarse",
        "report",
        "report_cells",
        "workfolder",
        "io",
        "core",
    },
    "result": {"scverse", "io", "core"},
    "full_image": {"coarse", "executors", "memory", "projection", "workfolder", "io", "core"},
    "scverse": {"io", "core"},
    "view": {"report_figures", "io", "array", "core"},
    "benchmark": {"slide_queue", "inference", "devices", "evaluate", "executors", "settings", "models", "io", "core"},
    "slide_queue": {
        "cohort",
        "crews",
        "discover",
        "one_slide",
        "side_by_side",
        "plan",
        "projection",
        "executors",
        "memory",
        "result_folders",
        "unexpected",
        "workfolder",
        "settings",
        "io",
        "core",
    },
    "result_folders": {"workfolder", "io"},
    "unexpected": set(),
    "one_slide": {
        "side_by_side",
        "profile",
        "run_facts",
        "seams",
        "plan",
        "crops",
        "report",
        "report_cells",
        "pipeline",
        "executors",
        "memory",
        "workfolder",
        "settings",
        "io",
    },
    "profile": set(),
    "crews": {"plan", "devices", "executors", "settings"},
    "side_by_side": set(),
    "cohort": {"report_figures", "io", "core"},
    "discover": {
        "plan",
        "survey",
        "regions",
        "inference",
        "devices",
        "executors",
        "settings",
        "models",
        "io",
        "array",
        "core",
    },
    "run_facts": {"plan", "settings", "models", "io", "core"},
    "plan": {
        "scoring",
        "survey",
        "pipeline",
        "regions",
        "inference",
        "devices",
        "projection",
        "executors",
        "memory",
        "settings",
        "models",
        "io",
        "array",
        "core",
    },
    "scoring": {"inference", "devices", "models", "array", "core"},
    "survey": {"projection", "models", "io", "array", "core"},
    "rehearsal": {"seams", "regions", "models", "io", "array", "core"},
    "seams": {"pipeline", "regions", "projection", "executors", "io", "array", "core"},
    "crops": {"pipeline", "regions", "report", "io", "core"},
    "pipeline": {"coarse", "regions", "projection", "executors", "workfolder", "io", "array", "core"},
    "coarse": {"executors", "io", "array", "core"},
    "regions": {"inference", "devices", "projection", "executors", "workfolder", "models", "io", "array", "core"},
    "inference": {"devices", "models"},
    "report": {"report_cells", "report_figures", "io", "core"},
    "report_cells": {"core"},
    "report_figures": {"core"},
    "qupath": {"models", "io", "array", "core"},
    "check": {"io", "array", "core"},
    "evaluate": {"core"},
    "synthetic": {"executors", "core"},
    "psm": {"devices", "projection", "models", "io", "array", "core"},
    "devices": {"executors", "models"},
    "memory": {"projection", "executors"},
    "projection": {"core"},
    "workfolder": set(),
    "executors": set(),
    "settings": {"core"},
    "bridges": {"models", "io", "array", "core"},
    "models": {"array", "core"},
    "io": {"array", "core"},
    "array": {"core"},
    "core": set(),
}
# Upwards or sideways, each with its reason.
EXCEPTIONS = {
    # Optional readers are built of io's levels, and io opens them on demand, inside a function.
    ("io/readers.py", "bridges"),
    # An optional tissue mask, chosen by name.
    ("survey.py", "bridges"),
    # An optional stain normaliser, chosen by name.
    ("plan.py", "bridges"),
    # Optional models, built as those here are, and opened by their prefix, inside a function.
    ("models/__init__.py", "bridges"),
    # A format whose library is optional.
    ("export.py", "bridges"),
}
# Library → the parts that import it.
HOMES = {
    # io hands pictures over as dask arrays and computes none.
    "dask": {"executors", "io"},
    "distributed": {"executors"},
    "openslide": {"io"},
    # check and evaluate read what others wrote, synthetic writes what io reads: sharing code would prove nothing.
    "tifffile": {"io", "evaluate", "synthetic"},
    "zarr": {"io", "check"},
    "tensorstore": {"io"},
    # Bridges name the type of what they are handed.
    "pyarrow": {"io", "bridges", "check", "evaluate", "synthetic"},
    # What a network is lies in models. Benchmark and regions set threads; doctor says what PyTorch makes of the
    # machine.
    "torch": {"models", "bridges", "psm", "devices", "inference", "regions", "benchmark", "doctor"},
    "pydantic": {"commands", "documents", "models", "io", "psm"},
    "safetensors": {"models", "psm"},
    "tomli_w": {"models", "io"},
    "starlette": {"view"},
    "typer": {"cli", "commands"},
    "rich": {"commands", "progress", "evaluate"},
}


def part_of(path: Path) -> str:
    """Folder or file right under the package: ``io``, ``run``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Full names of all modules and members that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def parts_used(path: Path) -> set[str]:
    """The other parts of the package that a file imports."""
    names = {name.split(".")[1] for name in imported(path) if name.startswith("wsiproc.")}
    return names - FOUNDATION - {part_of(path)}


def in_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_the_layers_have_an_order() -> None:
    places = {part: place for place, part in enumerate(MAY_USE)}
    upwards = [(part, used) for part, below in MAY_USE.items() for used in below if places[used] <= places[part]]
    assert not upwards
    assert not MAY_USE["models"] & {"io", "bridges"}
    assert not MAY_USE["io"] & {"models"}


@pytest.mark.parametrize("path", FILES, ids=in_package)
def test_imports_point_down_only(path: Path) -> None:
    if part_of(path) in FOUNDATION:
        assert not parts_used(path)
        return
    excepted = {part for file, part in EXCEPTIONS if file == in_package(path)}
    assert parts_used(path) <= MAY_USE[part_of(path)] | excepted


def test_no_permission_is_unused() -> None:
    used = {(part_of(path), other) for path in FILES for other in parts_used(path)}
    assert {(part, other) for part, below in MAY_USE.items() for other in below} <= used
    assert all(part in parts_used(PACKAGE / file) for file, part in EXCEPTIONS)


@pytest.mark.parametrize("library", HOMES)
def test_a_big_library_is_imported_in_its_homes_only(library: str) -> None:
    users = {part_of(path) for path in FILES if library in {name.split(".")[0] for name in imported(path)}}
    assert users == HOMES[library]


def test_the_pipeline_knows_no_settings() -> None:
    """Below what runs slides, ``discover`` and ``plan``, numbers arrive as named arguments."""
    users = {part_of(path) for path in FILES if "settings" in parts_used(path)}
    assert users == {
        "cli", "benchmark", "completion", "crews", "discover", "doctor", "one_slide", "plan", "slide_queue",
        "run_facts", "__init__",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=in_package)
def test_functions_are_short_and_modules_explained(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    assert [(name, lines) for name, lines in lengths if lines > MAX_FUNCTION_LINES] == []
    assert ast.get_docstring(tree)


def test_files_are_short() -> None:
    lengths = {in_package(path): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    too_long = {name for name, lines in lengths.items() if lines > MAX_FILE_LINES}
    assert too_long == set()
