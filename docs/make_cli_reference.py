"""Write docs/cli.md from the program itself, by typer's own generator.

python docs/make_cli_reference.py
"""

from __future__ import annotations

import re
from pathlib import Path

from typer.cli import app as typer_command
from typer.testing import CliRunner

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """\
# Commands

Written by `docs/make_cli_reference.py` from what each command says of itself with `--help`, or `-h`. Settings of `run`
can stand in a file as well: [every setting with its meaning](../configs/default.toml).

| exit code | meaning |
|---|---|
| 0 | all that was asked for is done |
| 1 | some of it failed, and is named with its reason: a slide, a folder, an image, a check |
| 2 | the command makes no sense as it stands: an unknown option, a file that is not there, a setting that cannot be |
| 130 | stopped by Ctrl-C; run the same command to resume |

"""


def examples(epilog: re.Match[str]) -> str:
    """What ends a command's help, a command a line."""
    lines = "\n".join(line.strip() for line in epilog[1].split("·"))
    return f"**Examples**:\n\n```sh\n{lines}\n```\n"


def reference() -> str:
    """The whole page."""
    made = CliRunner().invoke(typer_command, ["wsiproc.cli.main", "utils", "docs", "--name", "wsiproc"])
    if made.exit_code:
        raise SystemExit(f"typer utils docs: {made.output}")
    text = made.output.replace("&#x27;", "'").replace("&quot;", '"').replace("```console\n$ ", "```sh\n")
    commands = re.findall(r"^## `wsiproc (\S+)`\n\n(.+)$", text, re.MULTILINE)
    parts = text[text.index("## `") :]
    table = "".join(f"| [`{name}`](#wsiproc-{name}) | {summary} |\n" for name, summary in commands)
    parts = re.sub(r"  \[default: (.+)\]$", r" (default: \1)", parts, flags=re.MULTILINE)
    parts = re.sub(r"^Examples?:  (.+)\n", examples, parts, flags=re.MULTILINE)
    return f"{INTRODUCTION}| command | what it does |\n|---|---|\n{table}\n{parts.strip()}\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
