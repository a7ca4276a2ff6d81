"""The Tab key, as bash asks for it and in bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from wsiproc.cli import completion
from wsiproc.core.choices import Reader
from wsiproc.models import MODELS

SCRIPT = Path(sys.executable).with_name("wsiproc")
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the command wsiproc is not installed")


def offered(line: str, cwd: Path) -> list[str]:
    """What bash is given for the last word of ``line``, which may be empty."""
    asked = {"_WSIPROC_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [SCRIPT], env=os.environ | asked, capture_output=True, text=True, timeout=60, check=True, cwd=cwd
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.endswith("\n") else done.stdout.split("\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Slides, a model, a settings file, and things that are none of these."""
    for name in ("slides/a.svs", "slides/b.NDPI", "slides/notes.txt", "lab.toml", "model/model.toml", "areas.geojson"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "slides/c.ome.zarr").mkdir()
    (tmp_path / "scan.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("wsiproc do", ["doctor"]),
        ("wsiproc run --rea", ["--reader", "--read-timeout"]),
        ("wsiproc run --reader ", [*get_args(Reader)]),
        ("wsiproc run --executor t", ["threads"]),
        ("wsiproc run --device cu", ["cuda"]),
        ("wsiproc plan --tissue a", ["auto", "all"]),
        ("wsiproc run --model ", [*MODELS, "model", "slides/"]),
        ("wsiproc fit --from d", ["default"]),
        ("wsiproc run --config ", ["lab.toml", "model/", "slides/"]),
        ("wsiproc run --roi a", ["areas.geojson"]),
        ("wsiproc run s", ["scan.png", "slides/"]),
        ("wsiproc run sl", ["slides/a.svs", "slides/b.NDPI", "slides/c.ome.zarr"]),
        ("wsiproc info slides/b", ["slides/b.NDPI"]),
        ("wsiproc run x.svs slides/a", ["slides/a.svs"]),
        ("wsiproc benchmark m", ["monuseg"]),
    ],
)
def test_what_is_offered(line: str, wanted: list[str], folder: Path) -> None:
    assert offered(line, folder) == wanted


def test_names_that_want_quotes_are_left_to_the_shell(folder: Path) -> None:
    (folder / "slides" / "my slide.svs").touch()
    assert completion.slides(f"{folder}/slides/") == []
    assert completion.slides(f"{folder}/slides/a") == [f"{folder}/slides/a.svs"]
    assert completion.slides(f"{folder}/gone/") == []


def test_hidden_files_are_offered_to_those_who_ask(folder: Path) -> None:
    (folder / ".lab.toml").touch()
    offer = completion.files(".toml")
    assert f"{folder}/.lab.toml" not in offer(f"{folder}/")
    assert offer(f"{folder}/.l") == [f"{folder}/.lab.toml"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_after_the_one_command_that_installs_it(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "PATH": f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"}

    def bash(commands: str) -> str:
        command = ["bash", "--norc", "-c", commands]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True, cwd=folder
        )
        return done.stdout

    assert "bash completion installed" in bash("wsiproc --install-completion; true")
    asked = "COMP_WORDS=(wsiproc run --executor p); COMP_CWORD=3; _wsiproc_completion wsiproc; echo ${COMPREPLY[@]}"
    assert bash(f"source ~/.bashrc; {asked}") == "processes\n"
