"""``wsiproc doctor``."""

from __future__ import annotations

import json
import platform
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import path

DOCTOR_EXAMPLES = "Examples:  wsiproc doctor   ·   wsiproc doctor -o /data/results   ·   wsiproc doctor --quick --json"


def doctor_command(
    out: Annotated[Path, typer.Option("--out", "-o", parser=path, help="Folder that results would go to.")] = Path(
        "wsiproc-out"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Start no workers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For a bug report: JSON, without names of folders.")] = False,
) -> None:
    """Check what works on this machine, with a remedy for what does not; a small synthetic slide is written and run.

    Exit code 0: slides can be run; 1: there is a problem, reported with its remedy.
    """
    from wsiproc.cli.console import print_diagnosis
    from wsiproc.cli.diagnostics import examine

    found = []
    for diagnosis in examine(out, quick):
        found.append(diagnosis)
        if not as_json:
            print_diagnosis(diagnosis)
    if as_json:
        typer.echo(_report([vars(diagnosis) for diagnosis in found], out))
    raise typer.Exit(int(any(diagnosis.level == "problem" for diagnosis in found)))


def _report(checks: list[dict[str, str]], out: Path) -> str:
    """Everything known, as JSON; folders are replaced by what they are for, since their names may identify users."""
    from wsiproc._version import __version__
    from wsiproc.cli.diagnostics import library_versions

    environment = {
        "wsiproc": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": library_versions(),
    }
    text = json.dumps(environment | {"checks": checks}, indent=2, ensure_ascii=False)
    places = {
        str(Path(__file__).parents[2]): "<wsiproc>",
        str(out): "<out>",
        str(out.absolute()): "<out>",
        tempfile.gettempdir(): "<temporary>",
        str(Path.cwd()): "<here>",
        str(Path.home()): "<home>",
    }
    # The longest first, since one may contain another; a root such as "/" or "." identifies nobody.
    for place in sorted((place for place in places if len(place) > 1), key=len, reverse=True):
        text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], places[place])
    return text
