"""``wsiproc check``: validates the results of finished slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsiproc.cli.arguments import Answers, AsJson, for_each_output, path

CHECK_EXAMPLES = "Example:  wsiproc check wsiproc-out"


def check_command(
    folders: Annotated[list[Path], typer.Argument(parser=path, help="Folders that `run` wrote, or folders of them.")],
    as_json: AsJson = False,
) -> None:
    """Validate output folders: GeoJSON rules, OME-Zarr validity, the same cells and ids in every file."""
    from wsiproc.cli.console import print_findings
    from wsiproc.results.validate import check_output

    answers = Answers("check", as_json)
    wrong: list[Path] = []

    def show(output: Path) -> None:
        findings = check_output(output)
        if as_json:
            from wsiproc.cli.documents.folders import CheckFolder

            answers.give(CheckFolder.of(output, findings))
        else:
            print_findings(output, findings)
        if any(finding.level == "error" for finding in findings):
            wrong.append(output)

    for_each_output(folders, "checking it", show, answers)
    answers.end(int(bool(wrong)))
