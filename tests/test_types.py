"""What a type checker, and with it an editor, knows of ``import wsiproc``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pydantic
import pydantic_core

ROOT = Path(__file__).parents[1]
SCRIPT = """\
from typing import assert_type
import wsiproc
def listen(event: wsiproc.Event) -> None: ...
outcomes = wsiproc.run("a.svs", out="o", on_progress=listen, device="cuda", roi="a.geojson", workers=None)
assert_type(outcomes, list[wsiproc.Outcome])
assert_type(wsiproc.open("o"), wsiproc.Result)
assert_type(wsiproc.open_all("o"), wsiproc.Results)
wsiproc.run("a.svs", device="gpu")  # [arg-type]
wsiproc.run("a.svs", regoin=3)  # [call-arg]
wsiproc.run("a.svs", workers="4")  # [arg-type]
wsiproc.Settings(precision="int4")  # [arg-type]
wsiproc.Settings(regoin=3)  # [call-arg]
wsiproc.opn("o")  # [attr-defined]
problems: list[wsiproc.WsiprocError] = [wsiproc.SlideError(), wsiproc.SettingsError()]
"""


def test_wrong_settings_and_names_are_told_before_anything_runs(tmp_path: Path) -> None:
    """Of the libraries mypy reads pydantic alone, which makes the settings what they are: the others take it long."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "libraries").mkdir()
    for library in (pydantic, pydantic_core):
        place = Path(str(library.__file__)).parent
        (tmp_path / "libraries" / place.name).symlink_to(place)
    command = ["mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary"]
    path = os.pathsep.join([str(ROOT), str(tmp_path / "libraries")])
    done = subprocess.run(
        [sys.executable, "-m", *command, "--no-site-packages", "script.py"],
        cwd=tmp_path, env=os.environ | {"MYPYPATH": path}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    told = re.findall(r"^script\.py:(\d+): error: .* (\[[a-z-]+\])$", done.stdout, re.MULTILINE)
    lines = SCRIPT.splitlines()
    expected = [(str(number), line.rpartition("# ")[2]) for number, line in enumerate(lines, 1) if "# [" in line]
    assert told == expected, done.stdout + done.stderr
