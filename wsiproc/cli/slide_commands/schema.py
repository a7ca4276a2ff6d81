"""``wsiproc schema``: JSON Schemas of the output of commands with ``--json``, and of ``run.json``."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

SCHEMA_EXAMPLES = "Examples:  wsiproc schema run > run.schema.json   ·   wsiproc schema run.json"


class JsonDocument(StrEnum):
    """What has a schema: commands with ``--json``, keys of ``wsiproc.cli.documents.DOCUMENTS``, and ``run.json``."""

    run = "run"
    plan = "plan"
    info = "info"
    check = "check"
    evaluate = "evaluate"
    export = "export"
    profile = "profile"
    reclassify = "reclassify"
    run_json = "run.json"


JSON_COMMANDS = frozenset(document.value for document in JsonDocument) - {JsonDocument.run_json.value}


def schema_command(
    command: Annotated[JsonDocument, typer.Argument(help="Command, or run.json.", show_default=False)],
) -> None:
    """Print the JSON Schema of a command's output with --json, or of run.json in each folder of results."""
    from wsiproc.cli.documents import schema as schema_of

    typer.echo(json.dumps(schema_of(command.value), indent=1, ensure_ascii=False))
