"""``wsiproc profile``: where the time of finished slides went, what limited them, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.commands.arguments import for_each_output, path

PROFILE_EXAMPLES = "Examples:  wsiproc profile wsiproc-out/slide   ·   wsiproc profile wsiproc-out"


def profile(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
) -> None:
    """Show where the time of finished slides went, what limited them, and what to change.

    Seconds are those that workers were busy, added up; the share is of all of these.
    """
    from wsiproc.io.outputs import read_run
    from wsiproc.progress import print_profile

    for_each_output(folders, "reading it", lambda output: print_profile(output, read_run(output)))
