"""What mkdocs does not know of this repository: pages that lie outside docs/, and links that lead there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files outside docs/ → the pages that are made of them.
ADDED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "configs/default.toml": "settings.md"}
WIDE = {"index.md": ["navigation", "toc"], "settings.md": ["toc"]}
SETTINGS = """\
# Settings

All that a file for `wsiproc run --config` can hold:

```toml title="configs/default.toml"
{file}```

Others to start from: [laptop.toml](laptop.toml), [gpu-workstation.toml](gpu-workstation.toml),
[cluster.toml](cluster.toml), [qupath-roi.toml](qupath-roi.toml).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in ADDED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = SETTINGS.format(file=text) if source.endswith(".toml") else text
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as GitHub follows them → links as the site does; what needs the width gets it."""
    page.meta["hide"] = WIDE.get(page.file.src_uri, [])
    came_from = {added: source for source, added in ADDED.items()}
    folder = posixpath.dirname(came_from.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    on_site = ADDED | {"README.md": "index.md"}

    def follow(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if path in on_site:
            return f"]({on_site[path]}"
        if path.startswith("docs/") and files.get_file_from_path(path.removeprefix("docs/")):
            return f"]({path.removeprefix('docs/')}"
        return f"]({config.extra['source']}/{path}"

    return re.sub(r"\]\((?!https?:)([^)#\s]+)", follow, markdown)
