"""One name, one meaning: no public name of the package is defined twice, and array types have one home."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import wsiproc

PACKAGE = Path(__file__).parents[1] / "wsiproc"
FILES = sorted(PACKAGE.rglob("*.py"))
TYPES = PACKAGE / "core" / "types.py"


def defined(node: ast.stmt) -> Iterator[str]:
    """Public names that a statement at the top of a module defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            names = [name]
        case ast.Assign(targets=targets):
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            names = [name]
        case _:
            names = []
    yield from (name for name in names if not name.startswith("_"))


def test_no_public_name_is_defined_twice() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for name in defined(node):
                homes.setdefault(name, []).append(path.relative_to(PACKAGE).as_posix())
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_array_types_have_one_home() -> None:
    aliases = {
        f"{path.relative_to(PACKAGE).as_posix()}: {ast.unparse(node)}"
        for path in FILES
        if path != TYPES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and "NDArray[" in ast.unparse(node.value)
    }
    assert aliases == set()


def test_what_the_package_promises_is_there() -> None:
    assert all(hasattr(wsiproc, name) for name in wsiproc.__all__)
    assert wsiproc.__all__ == sorted(wsiproc.__all__)
