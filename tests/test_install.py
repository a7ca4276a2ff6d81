"""The ways in agree with the package: Dockerfile, environment.yml, docs/install.md. The image itself is not built."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTALL = (ROOT / "docs/install.md").read_text(encoding="utf-8")
PAGE = INSTALL.replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    """What stands after each instruction of that name."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)


def test_the_image_has_a_python_that_the_package_accepts() -> None:
    (base,) = instructions("FROM")
    python = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert python
    assert SpecifierSet(PROJECT["requires-python"]).contains(python[1])


def test_what_the_image_copies_is_there_and_let_in() -> None:
    let_in = [line.strip() for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()]
    assert "*" in let_in, "what is not named stays out"
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert sorted(f"!{source}" for source in copied) == sorted(line for line in let_in if line.startswith("!"))
    assert [source for source in copied if not (ROOT / source).exists()] == []
    build_needs = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "constraints.txt"}
    assert build_needs <= set(copied)


def test_the_image_starts_the_program_and_not_as_root() -> None:
    (entry,), (user,) = instructions("ENTRYPOINT"), instructions("USER")
    assert json.loads(entry)[0] in PROJECT["scripts"]
    assert f"useradd --no-create-home {user}" in DOCKERFILE


def test_the_page_builds_the_image_as_it_can_be_built() -> None:
    arguments = [line.partition("=")[0] for line in instructions("ARG")]
    assert set(re.findall(r"--build-arg (\w+)=", PAGE)) == set(arguments)


def test_what_is_run_in_the_image_has_its_folders() -> None:
    runs = re.findall(r"^docker run .+$", PAGE, re.MULTILINE)
    assert len(runs) == 3
    for run in runs:
        mounted = re.findall(r"-v \S+?:(/\w+)", run)
        used = re.findall(r" (/\w+)", run.partition(" wsiproc")[2])
        assert used
        assert set(used) <= set(mounted), run


def test_conda_makes_a_python_that_the_package_accepts_and_installs_it() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *plain, with_pip = environment["dependencies"]
    (python,) = [entry.removeprefix("python ") for entry in plain if entry.startswith("python ")]
    floor = PROJECT["requires-python"].removeprefix(">=")
    accepted = SpecifierSet(python)
    assert accepted.contains(floor)
    assert not any(accepted.contains(f"3.{minor}") for minor in range(int(floor.split(".")[1])))
    assert "pip" in plain
    assert with_pip["pip"] == ["--constraint constraints.txt", "."]
    assert f"conda activate {environment['name']}" in INSTALL


def test_every_extra_is_told() -> None:
    told = set(re.findall(r"'\.\[(\w+)\]'", INSTALL))
    assert told == set(PROJECT["optional-dependencies"])
