"""``wsiproc schema``: JSON Schemas of what commands answer with ``--json``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

SCHEMA_EXAMPLES = "Example:  wsiproc schema run > run.schema.json"


class JsonCommand(StrEnum):
    """Commands whose ``--json`` has a schema, as ``wsiproc.cli.documents.DOCUMENTS`` has them."""

    run = "run"
    plan = "plan"
    info = "info"
    check = "check"
    evaluate = "evaluate"
    export = "export"
    profile = "profile"
    reclassify = "reclassify"


JSON_COMMANDS = frozenset(command.value for command in JsonCommand)


def schema_command(command: Annotated[JsonCommand, typer.Argument(help="Command.", show_default=False)]) -> None:
    """Print the JSON Schema of what a command answers with --json."""
    from wsiproc.cli.documents import schema as schema_of

    typer.echo(json.dumps(schema_of(command.value), indent=1, ensure_ascii=False))
