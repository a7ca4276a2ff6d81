"""The folders that ``wsiproc run`` leaves: where they are, and what their ``run.json`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wsiproc.errors import OutputError


def find_outputs(folder: Path) -> list[Path]:
    """The slide folders at ``folder``: itself, or those right inside it, finished or not.

    Raises ``OutputError`` where there is none.
    """
    if _is_output(folder):
        return [folder]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _is_output(path)) if folder.is_dir() else []
    if not found:
        what = "no output of wsiproc in it or in its folders" if folder.is_dir() else "no such folder"
        raise OutputError(f"{folder}: {what}; give the folder that `wsiproc run SLIDE -o FOLDER` wrote")
    return found


def read_run(output: Path) -> dict[str, Any]:
    """``run.json`` of a finished slide; ``OutputError`` where there is none."""
    try:
        run: dict[str, Any] = json.loads((output / "run.json").read_text(encoding="utf-8"))
        _ = run["slide"]["fingerprint"], run["slide"]["shape"], run["grid"]["scale"], run["key"]
    except FileNotFoundError as error:
        raise OutputError(
            f"{output}: unfinished, there is no run.json; the same `wsiproc run` command goes on where it stopped"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{output / 'run.json'}: not what `wsiproc run` writes ({type(error).__name__}: {error}); "
            "wsiproc run --overwrite makes the result again"
        ) from error
    return run


def _is_output(path: Path) -> bool:
    return any((path / name).exists() for name in ("run.json", "slide.ome.zarr", "cells.parquet"))
