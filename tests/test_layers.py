"""The shape of the code: imports point down only, each file format and each big library has one home."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "wsiproc"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 500
MOST_AT_THE_TOP, MOST_IN_A_FOLDER, LONGEST_CHAIN = 13, 12, 9

# A part may use what stands in a lower row, and nothing beside it or above.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"evaluate", "psm"},
    {"pipeline"},
    {"results"},
    {"io", "models", "synthetic"},
    {"array", "executors"},
    {"core"},
    {"errors", "_version"},
]
# Library → the parts that import it.
HOMES = {
    # io hands images over as dask arrays and computes none.
    "dask": {"executors", "io"},
    "distributed": {"executors"},
    "openslide": {"io"},
    # evaluate reads what others wrote, synthetic writes what io reads: sharing code would prove nothing.
    "tifffile": {"io", "evaluate", "synthetic"},
    # results/validate reads what io wrote with nothing of io.
    "zarr": {"io", "results"},
    "tensorstore": {"io"},
    # An optional adapter names the type of what it is handed.
    "pyarrow": {"io", "results", "evaluate", "synthetic"},
    # What a network is lies in models; stages and the benchmark set threads; diagnostics say what PyTorch makes of the
    # machine.
    "torch": {"models", "psm", "pipeline", "evaluate", "cli"},
    # Settings, the command line's documents, files that people write, and run.json.
    "pydantic": {"cli", "pipeline", "models", "io", "psm", "results"},
    "safetensors": {"models", "psm"},
    "tomli_w": {"models", "io"},
    "jinja2": {"results"},
    "starlette": {"results"},
    "typer": {"cli"},
    "rich": {"cli", "evaluate"},
}


def part_of(path: Path) -> str:
    """Folder or file right under the package: ``io``, ``errors``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Full names of all modules and members that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{name.name}" for name in node.names)
    return frozenset(names)


def parts_used(path: Path) -> set[str]:
    """The other parts of the package that a file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("wsiproc.")} - {part_of(path)}


def in_package(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def below(part: str) -> set[str]:
    """All parts that it may use."""
    row = next(number for number, parts in enumerate(LAYERS) if part in parts)
    return set().union(*LAYERS[row + 1 :])


@pytest.mark.parametrize("path", FILES, ids=in_package)
def test_imports_point_down_only(path: Path) -> None:
    assert parts_used(path) <= below(part_of(path))


def test_every_part_has_its_layer() -> None:
    assert {part_of(path) for path in FILES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", FILES, ids=in_package)
def test_no_module_is_named_in_a_string(path: Path) -> None:
    """An import that this file could not see: only what resources are looked up in, and marks of our own."""
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    modules = {in_package(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in FILES}
    named = {text for text in texts if text.startswith("wsiproc.") and text.removeprefix("wsiproc.") in modules}
    # What holds the files that are read there, and the method that OME-Zarr's metadata name.
    assert all(text.removeprefix("wsiproc.").split(".")[0] in below(part_of(path)) | {part_of(path)} for text in named)


def test_folders_are_small() -> None:
    entries = Counter(
        path.parent
        for path in PACKAGE.rglob("*")
        if "__pycache__" not in path.parts
        and path.name not in ("__init__.py", "__main__.py", "__pycache__", "py.typed")
    )
    top = entries.pop(PACKAGE)
    assert top <= MOST_AT_THE_TOP
    assert {in_package(folder): count for folder, count in entries.items() if count > MOST_IN_A_FOLDER} == {}


def test_the_way_down_is_short() -> None:
    """The longest chain of imports, by the parts of the package."""
    used: dict[str, set[str]] = {}
    for path in FILES:
        used.setdefault(part_of(path), set()).update(parts_used(path))

    @functools.cache
    def floors(part: str) -> int:
        return 1 + max((floors(other) for other in used[part]), default=0)

    assert max(map(floors, used)) <= LONGEST_CHAIN


@pytest.mark.parametrize("library", HOMES)
def test_a_big_library_is_imported_in_its_homes_only(library: str) -> None:
    users = {part_of(path) for path in FILES if library in {name.split(".")[0] for name in imported(path)}}
    assert users == HOMES[library]


def test_stages_know_no_settings() -> None:
    """Below what plans and runs slides, numbers arrive as named arguments."""
    users = {
        in_package(path).rpartition("/")[0]
        for path in FILES
        if any(name.startswith("wsiproc.pipeline.settings.") for name in imported(path))
    }
    assert users == {"", "cli", "cli/slide_commands", "evaluate", "pipeline", "pipeline/planning"}


def test_run_json_is_read_through_its_record_only() -> None:
    """``run["…"]`` and ``run.get("…")`` would be a second, unwritten schema of it."""
    found = {
        f"{in_package(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Subscript) and _names_a_run(node.value) and isinstance(node.slice, ast.Constant))
        or (isinstance(node, ast.Attribute) and node.attr == "get" and _names_a_run(node.value))
    }
    assert found == set()
    templates = [path for path in PACKAGE.rglob("*.j2") if re.search(r"\brun(\[|\.get\()", path.read_text("utf-8"))]
    assert templates == []


def _names_a_run(node: ast.expr) -> bool:
    """Whether an expression is ``run`` or ``something.run``."""
    return (isinstance(node, ast.Name) and node.id == "run") or (isinstance(node, ast.Attribute) and node.attr == "run")


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


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_what_tests_share_stands_in_no_test_and_no_conftest(path: Path) -> None:
    modules = {part for name in imported(path) if name.startswith("tests.") for part in name.split(".")}
    assert not {part for part in modules if part == "conftest" or part.startswith("test_")}
