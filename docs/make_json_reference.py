"""Write docs/json.md from the models of what commands answer with ``--json``, and of ``run.json``.

python docs/make_json_reference.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsiproc.cli.documents import DOCUMENTS, schema
from wsiproc.results.folder import RUN

PAGE = Path(__file__).with_name("json.md")
INTRODUCTION = """\
# JSON for pipelines

Written by `docs/make_json_reference.py` from the models of `wsiproc.cli.documents` and `wsiproc.results.record`. With
`--json`, these commands answer with one JSON document on the standard output and nothing else there; progress and notes
stay on the standard error: {commands}. The exit code is the same as without, and what
failed is in `errors`: the command itself where it makes no sense, else each slide or folder by its path.

```sh
wsiproc run slides/ -o results --json > run.json
jq -r '.slides[] | [.slide, .status, .cells, .cells_per_mm2] | @tsv' run.json
jq -r '.errors[] | "\\(.path): \\(.message)"' run.json
wsiproc schema run > run.schema.json
```

Units are in the names: `_px`, `_mm`, `_mm2`, `_bytes`, `_s`; `mpp` is µm per px. Sizes are given as width and height. A
field may be added in a later version; none is renamed or given another unit. `wsiproc doctor --json` is for reports of
problems and has no schema.

[`run.json`](#runjson) in each folder of results is at the end of this page.

## Every document

{every}
"""
RECORD = """
## `run.json`

What a run says about a finished slide, in its folder: `wsiproc schema run.json` prints the schema, and
`wsiproc.open(folder).record` has the same fields as attributes. A field may be added in a later version; one that goes
or means something else makes a new `record_version`. Files of earlier versions are read as they are; a field with a
default may be missing in them.

"""


def reference() -> str:
    """The whole page."""
    commands = ", ".join(f"`{command}`" for command in DOCUMENTS)
    shared = schema("export")
    every = {name: shared["properties"][name] for name in ("command", "wsiproc", "exit_code", "errors")}
    text = INTRODUCTION.format(commands=commands, every=_table(every) + _part("errors", shared["$defs"]["Problem"]))
    documents = (f"\n## `wsiproc {command}`\n\n{_fields(schema(command), set(every))}" for command in DOCUMENTS)
    return text.strip() + "\n" + "".join(documents) + RECORD + _fields(schema(RUN), set())


def _fields(told: dict[str, Any], known: set[str]) -> str:
    """What a document has beside what is ``known`` of all, and the parts that it holds."""
    own = {name: field for name, field in told["properties"].items() if name not in known}
    parts = [(name, ref) for name, field in own.items() if (ref := _reference(field))]
    text, done = _table(own), set()
    for name, ref in parts:
        if ref in done:
            continue
        done.add(ref)
        part = told["$defs"][ref]
        text += _part(name, part)
        inner = part["properties"].items()
        parts += [(f"{_path(name, told)}.{key}", deep) for key, field in inner if (deep := _reference(field))]
    return text


def _part(name: str, part: dict[str, Any]) -> str:
    return f"\nIn `{name}`: {part['description'][0].lower()}{part['description'][1:]}\n\n{_table(part['properties'])}"


def _table(fields: dict[str, Any]) -> str:
    """A row for each field."""
    rows = "".join(f"| `{name}` | {_kind(field)} | {field['description']} |\n" for name, field in fields.items())
    return f"| field | type | meaning |\n|---|---|---|\n{rows}"


def _path(name: str, told: dict[str, Any]) -> str:
    """How the fields of a part are reached: those of a list of parts through ``[]``."""
    field = told["properties"].get(name, {})
    return name if "$ref" in field or "anyOf" in field else f"{name}[]"


def _reference(field: dict[str, Any]) -> str | None:
    """Name of the part that a field is, or a list of."""
    for place in (field, field.get("items", {}), *field.get("anyOf", [])):
        if "$ref" in place:
            return str(place["$ref"]).rpartition("/")[2]
    return None


def _kind(field: dict[str, Any]) -> str:
    """Type of a field in words."""
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"])
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return "object"
    if field["type"] == "array":
        fixed = field.get("prefixItems")
        return f"list of {len(fixed)} {_kinds(fixed[0])}" if fixed else f"list of {_kinds(field['items'])}"
    if field["type"] == "object":
        values = field["additionalProperties"]
        return "object" if values is True else f"object of {_kinds(values)}"
    return str(field["type"])


def _kinds(field: dict[str, Any]) -> str:
    """Several of them: lists of integers, objects of numbers."""
    first, *rest = _kind(field).split(" ", 1)
    return " ".join([f"{first}s", *rest])


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
