"""The kit that proves what is promised of GPUs works before there is one, and needs no more than it says."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gpu_proof, collect_wheels = script("gpu_proof"), script("collect_wheels")


def made_wheel(folder: Path, name: str, *requires: str) -> Path:
    """A wheel with a module of its name."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    facts = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", *(f"Requires-Dist: {each}" for each in requires)])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", f"NAME = {name!r}\n")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"{facts}\n\n")
    return path


def proved_on_a_cpu(out: Path, *more: object) -> tuple[str, dict[str, dict[str, Any]]]:
    """What the kit prints, and its items by name; none has failed."""
    command = [sys.executable, BENCHMARKS / "gpu_proof.py", "--device", "cpu", "--small", "--out", out]
    command += ["--patience", "4", "--budget-s", "280", *more]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, {item["item"]: item for item in json.loads((out / "proof.json").read_text())["items"]}


def test_what_needs_cuda_says_so_and_the_rest_is_proved(tmp_path: Path) -> None:
    printed, found = proved_on_a_cpu(tmp_path / "out", "--only", "machine", "graph", "batch")
    assert "2 proved, 0 failed, 1 not here" in printed
    assert "needs CUDA: a CUDA graph" in printed
    assert found["graph"]["status"] == "not here"
    assert found["batch"]["figures"]["batches tried"] == "[4, 2, 2]"


REFUSING = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {refused} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def test_a_whole_run_needs_no_library_that_is_not_carried(tmp_path: Path) -> None:
    """Those that are left out are found by no process, since a wheel that does nothing else hides them."""
    refused = sorted(name.replace("-", "_") for name in collect_wheels.UNUSED)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "refusing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("sitecustomize.py", REFUSING.format(refused=refused))
    printed, found = proved_on_a_cpu(tmp_path / "out", "--wheels", wheels, "--only", "large")
    assert "| network | " in printed
    assert found["large"]["figures"]["cells"] > 300
    assert found["large"]["figures"]["Mpx/s"] > 0


def test_an_item_that_hangs_is_ended_and_one_that_crashes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = argparse.Namespace(device="cpu", small=True, patience=0.03)
    monkeypatch.setattr(gpu_proof, "__file__", str(tmp_path / "gpu_proof.py"))
    items = tmp_path / "gpu_proof_items.py"
    items.write_text("import time\nprint('on my way', flush=True)\ntime.sleep(100)\n")
    found = gpu_proof.run_item("maps", arguments, tmp_path, 3.0)
    assert (found["status"], found["why"]) == ("failed", "not done after 3 s: on my way")
    arguments.patience = 1.0  # its time was cut short by what went before
    assert gpu_proof.run_item("maps", arguments, tmp_path, 3.0)["status"] == "not here"
    items.write_text("import os, signal\nprint('so far', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    found = gpu_proof.run_item("maps", arguments, tmp_path, 60.0)
    assert (found["status"], found["why"]) == ("failed", "its process ended with -11: so far")


def test_items_that_fail_cost_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {"machine": "failed", "maps": "proved"}

    def answered(name: str, *_: object) -> dict[str, object]:
        return {"item": name, "status": answers[name], "why": "", "figures": {"x": 1.23456}, "rows": [], "seconds": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_proof, "run_item", answered)
        given = argparse.Namespace(
            device="cpu", small=True, out=tmp_path, wheels=None, only=["machine", "maps"], budget_s=60.0, patience=1.0
        )
        assert gpu_proof.main(given) == 1
        answers["machine"] = "proved"
        assert gpu_proof.main(given) == 0
        given.budget_s = 1.0
        assert gpu_proof.main(given) == 0
    printed = capsys.readouterr().out
    assert "| maps | proved | 1 s | x 1.235 |" in printed
    assert "1 proved, 1 failed, 0 not here" in printed
    assert "| maps | not here | 0 s | 1 s are over; --only maps does it alone |" in printed


def test_items_of_the_kit_and_of_its_script_are_the_same() -> None:
    text = (BENCHMARKS / "gpu_proof_items.py").read_text(encoding="utf-8")
    assert all(f'"{name}": ' in text for name in gpu_proof.ITEMS)
    assert sum(gpu_proof.ITEMS[name] for name in ("machine", "maps", "cells", "kill")) < 570


# --- wheels ----------------------------------------------------------------------------------------------------------


def test_wheels_are_gathered_with_what_they_require_and_without_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, out = tmp_path / "store", tmp_path / "wheels"
    store.mkdir()
    made_wheel(store, "first", "second>=1", "torch>=2", 'old; python_version < "3.0"', 'more; extra == "all"')
    made_wheel(store, "second", "Third_Party", "first")
    made_wheel(store, "third_party")
    asked: list[str] = []

    def download(wanted: list[Requirement], python: str, folder: Path) -> None:
        for each in wanted:
            asked.append(each.name)
            name = each.name.lower()
            (folder / f"{name}-1.0-py3-none-any.whl").write_bytes((store / f"{name}-1.0-py3-none-any.whl").read_bytes())

    monkeypatch.setattr(collect_wheels, "download", download)
    monkeypatch.setattr(collect_wheels, "roots", lambda: [Requirement("first"), Requirement("numpy>=2")])
    found = collect_wheels.collect({"torch", "numpy"}, "3.12", out)
    assert [path.name.partition("-")[0] for path in found] == ["first", "second", "third_party"]
    assert asked == ["first", "second", "Third_Party"]
    gpu_proof.unpack(out, tmp_path / "site")
    code = "import second, third_party; print(second.NAME, third_party.NAME)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["second", "third_party"]


def test_names_are_read_as_pip_prints_them() -> None:
    lines = ["# a comment", "", "torch==2.11.0+cu130", "Typing_Extensions==4.1", "mine @ file:///x", "numpy"]
    assert collect_wheels.names_in(lines) == {"torch", "typing-extensions", "mine", "numpy"}


def test_what_a_proof_does_not_use_is_required_by_wsiproc_and_left_out() -> None:
    named = {each.name for each in collect_wheels.roots()}
    assert {"torch", "zarr", "numba", "openslide-bin"} <= named
    assert not named & collect_wheels.UNUSED
    text = (BENCHMARKS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{name}>=' in text for name in collect_wheels.UNUSED)
