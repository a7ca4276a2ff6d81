"""``wsiproc profile``: where the time of finished slides went, what limited them, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.commands.arguments import Answers, AsJson, for_each_output, path

PROFILE_EXAMPLES = "Examples:  wsiproc profile wsiproc-out/slide   ·   wsiproc profile wsiproc-out"


def profile(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
    as_json: AsJson = False,
) -> None:
    """Show where the time of finished slides went, what limited them, and what to change.

    Seconds are those that workers were busy, added up; the share is of all of these.
    """
    from wsiproc.io.outputs import read_run
    from wsiproc.progress import print_profile

    answers = Answers("profile", as_json)

    def show(output: Path) -> None:
        run = read_run(output)
        if as_json:
            from wsiproc.documents.folders import ProfileFolder

            answers.give(ProfileFolder.of(output, run))
        else:
            print_profile(output, run)

    for_each_output(folders, "reading it", show, answers)
    answers.end(0)
