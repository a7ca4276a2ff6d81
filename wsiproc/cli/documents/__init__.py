"""What commands answer with ``--json``: one document for each command, whose fields keep their names and units.

The models of this package are the definition. ``wsiproc schema COMMAND`` prints the JSON Schema of each, and
docs/json.md lists the fields as they are told here, with those of ``run.json``, which ``wsiproc.results.record``
defines. A field may be added in a later version; none is renamed or given
another unit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from wsiproc._version import __version__
from wsiproc.cli.documents.base import Document, Problem
from wsiproc.cli.documents.folders import (
    CheckDocument,
    EvaluateDocument,
    ExportDocument,
    ProfileDocument,
    ReclassifyDocument,
)
from wsiproc.cli.documents.slides import InfoDocument, PlanDocument, RunDocument
from wsiproc.results.folder import RUN
from wsiproc.results.record import RunRecord

__all__ = ["DOCUMENTS", "Document", "Problem", "document", "schema"]

DOCUMENTS: dict[str, type[Document]] = {
    "run": RunDocument,
    "plan": PlanDocument,
    "info": InfoDocument,
    "check": CheckDocument,
    "evaluate": EvaluateDocument,
    "export": ExportDocument,
    "profile": ProfileDocument,
    "reclassify": ReclassifyDocument,
}
"""Models by command."""


def document(
    command: str, exit_code: int, items: Sequence[BaseModel] = (), errors: Sequence[Problem] = (), **more: object
) -> str:
    """The document of a command as JSON text. ``items``: slides, folders or what else it lists; ``more``: its own."""
    model = DOCUMENTS[command]
    known = {"command": command, "wsiproc": __version__, "exit_code": exit_code, "errors": list(errors)}
    made = model.model_validate(known | {model.items: list(items)} | more)
    try:
        return made.model_dump_json(indent=1)
    except PydanticSerializationError:  # a path with bytes that are not UTF-8, which JSON can escape
        return json.dumps(made.model_dump(mode="json"), indent=1)


def schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the document of a command, or of ``run.json``."""
    if name == RUN:  # as it is read: files of earlier versions lack what was added since
        found = RunRecord.model_json_schema(mode="validation")
    else:
        found = DOCUMENTS[name].model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
