"""The quick start says what the README says, and what it says works."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import wsiproc
from wsiproc.synthetic import write_synthetic_slide

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(sh|python)\n(.+?)^```$", (ROOT / "docs/quickstart.md").read_text("utf-8"), re.M | re.S)
SHELL = [text for language, text in BLOCKS if language == "sh"]
PYTHON = [text for language, text in BLOCKS if language == "python"]
# Where the demo comes from; what needs a network; a reader's own slides; what goes on until Ctrl-C.
APART = ("git clone", "python3 -m venv", ".venv/bin/wsiproc info slide.svs", ".venv/bin/wsiproc view")
RUN = [text for text in SHELL if not text.startswith(APART)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is after the first step, with smaller slides and a faster model."""
    place = tmp_path_factory.mktemp("checkout")
    (place / "examples").symlink_to(ROOT / "examples")
    (place / ".venv/bin").mkdir(parents=True)
    for name, module in (("python", ""), ("wsiproc", "-m wsiproc.cli.main")):
        program = place / ".venv/bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    slides = [place / "demo/skin.jpg", place / "demo/synthetic.tif"]
    slides[0].parent.mkdir()
    shutil.copy(ROOT / "examples/skin.jpg", slides[0])
    write_synthetic_slide(slides[1], (512, 512), mpp=0.5, tissue_fraction=0.6)
    outcomes = wsiproc.run(slides, place / "demo/results", model="classical", executor="loop", mpp=0.5)
    assert [outcome.error for outcome in outcomes] == [None, None]
    return place


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error::FutureWarning"}


def test_its_first_step_is_that_of_the_readme() -> None:
    """Which is run literally, in a fresh environment, on every change."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    demo = re.search(r"<!-- demo -->\n```sh\n(.+?)^```$", readme, re.M | re.S)
    assert demo is not None
    assert demo[1] in SHELL


def test_nothing_is_left_out_unnoticed() -> None:
    assert len(RUN) == 3
    assert len(SHELL) == len(RUN) + len(APART)


@pytest.mark.parametrize("commands", RUN, ids=lambda text: " ".join(text.split()[:2]))
def test_its_commands_work(place: Path, commands: str) -> None:
    smaller = commands.replace("2048", "512")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", smaller],
        cwd=place, env=environment(), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", PYTHON)
def test_its_python_works(place: Path, code: str) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Nucleus" in done.stdout


def test_the_viewer_starts_and_ends_with_ctrl_c(place: Path) -> None:
    (command,) = [text for text in SHELL if text.startswith(".venv/bin/wsiproc view")]
    words = [*command.split(), "--no-browser", "--port", "0"]
    with subprocess.Popen(words, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert re.match(r"\d slides: http://127\.0\.0\.1:\d+/", said)
