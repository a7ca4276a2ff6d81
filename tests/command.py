"""The command as a user starts it: another process, and its text without line breaks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# The same work on every machine, by the model that costs nothing.
CPU = ("--device", "cpu", "--model", "classical")


def wsiproc(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as another process whose output is no terminal; a traceback is never an answer."""
    script = Path(sys.executable).with_name("wsiproc")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "wsiproc.cli.main"]
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE", "GITHUB_ACTIONS")}
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", timeout=200, check=False, cwd=cwd, env=plain,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return done


def words(text: str) -> str:
    """Text without its line breaks, frames and padding."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())
