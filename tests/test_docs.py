"""What the documents point to exists, and what they quote is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    lost = []
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_what_is_quoted_under_troubleshooting_is_what_the_program_says() -> None:
    """Numbers and names apart."""
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    sources = [path for path in (ROOT / "wsiproc").rglob("*") if path.suffix in (".py", ".js")]
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    quoted = re.findall(r'"([^"]+)"', page)
    assert len(quoted) > 15
    pieces = [piece.strip() for quote in quoted for piece in re.split(r"…|\d+", quote)]
    missing = [piece for piece in pieces if len(piece) > 8 and piece not in said]
    assert missing == []
