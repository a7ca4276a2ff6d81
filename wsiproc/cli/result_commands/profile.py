"""``wsiproc profile``: where the time of finished slides was spent, what limited them, and what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import Answers, AsJson, for_each_output, path

PROFILE_EXAMPLES = "Examples:  wsiproc profile wsiproc-out/slide   ·   wsiproc profile wsiproc-out"


def profile_command(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
    as_json: AsJson = False,
) -> None:
    """Show where the time of finished slides was spent, what limited them, and what to change.

    Seconds are the busy time of all workers, summed; shares are of this total.
    """
    from wsiproc.cli.console import print_profile
    from wsiproc.results.record import RunRecord

    answers = Answers("profile", as_json)

    def show(output: Path) -> None:
        run = RunRecord.read(output)
        if as_json:
            from wsiproc.cli.documents.folders import ProfileFolder

            answers.give(ProfileFolder.of(output, run))
        else:
            print_profile(output, run)

    for_each_output(folders, "reading it", show, answers)
    answers.end(0)
