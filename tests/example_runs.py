"""Examples, run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """What became of ``examples/name``; ``variables``: of its environment."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=os.environ | variables, encoding="utf-8"
    )


def example(name: str, *arguments: object) -> str:
    """What an example prints; it must end well and complain of nothing."""
    done = run_example(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
