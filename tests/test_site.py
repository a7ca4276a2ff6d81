"""The documents build as a site that needs no network, holds every page, and says what the program says."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from mkdocs.config import load_config

from wsiproc.cli.main import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ADDED = {"contributing.md", "changelog.md", "settings.md"}  # by docs/site_hooks.py, from files outside docs/
COMMANDS = typer.main.get_group(app).commands


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning would end the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def pages_in(nav: Any) -> list[str]:
    """All pages of a navigation, however deep."""
    entries = [value for entry in nav for value in (entry.values() if isinstance(entry, dict) else [entry])]
    return [page for entry in entries for page in (pages_in(entry) if isinstance(entry, list) else [entry])]


NAV = [page for page in pages_in(load_config(str(ROOT / "mkdocs.yml")).nav) if "://" not in page]


class Loads(HTMLParser):
    """Addresses that a page loads by itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        followed = tag == "a" or (tag == "link" and given.get("rel") in ("canonical", "prev", "next"))
        loads = [] if followed else [given.get("src"), given.get("href"), given.get("data"), given.get("srcset")]
        self.found += [address for address in loads if address]


def test_every_document_has_a_place_in_the_navigation() -> None:
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    forgotten = sorted((written | ADDED) - set(NAV))
    assert not forgotten, f"in no part of `nav` in mkdocs.yml: {', '.join(forgotten)}; add a line for each there"
    lost = sorted(set(NAV) - written - ADDED)
    assert not lost, f"named in `nav` of mkdocs.yml, but not in docs/: {', '.join(lost)}"
    assert len(NAV) == len(set(NAV))


@pytest.mark.parametrize("page", NAV)
def test_each_page_is_built_and_loads_nothing_from_elsewhere(site: Path, page: str) -> None:
    built = site / page.replace(".md", ".html")
    loaded = Loads(built).found
    assert len(loaded) > 5
    for address in loaded:
        assert not re.match(r"(https?:)?//", address), f"{page} loads {address}"
        file = (built.parent / address.split("#")[0].split("?")[0]).resolve()
        assert file.exists(), f"{page} loads {address}, which is not there"


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"url\(['\"]?(?:https?:)?//|@import", text) == [], style.name


def test_programs_stay_out_of_the_site(site: Path) -> None:
    assert list(site.rglob("*.py")) == []


def test_the_settings_page_is_the_annotated_file(site: Path) -> None:
    page = (site / "settings.html").read_text(encoding="utf-8")
    shown = re.sub(r"<[^>]+>", "", page).replace("&quot;", '"').replace("&amp;", "&")
    lines = (ROOT / "configs/default.toml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line not in shown] == []


def test_the_first_page_begins_as_the_readme_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    paragraphs = readme.replace("](docs/", "](").strip().split("\n\n")
    assert len(paragraphs) == 5
    assert [paragraph for paragraph in paragraphs if paragraph not in index] == []


def test_search_works_from_the_file_system(site: Path) -> None:
    """As a reader opens it: no server, no network."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium), or CHROMIUM=path")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.click("[data-md-component=search-query]")
        page.keyboard.type("hilbert")
        page.wait_for_selector(".md-search-result__item", timeout=20_000)
        assert "How it works" in page.inner_text(".md-search-result__list")
        browser.close()
    assert [address for address in asked if not address.startswith(("file:", "data:", "about:", "blob:"))] == []


# --- the page of commands ---------------------------------------------------------------------------------------------


def section(command: str) -> str:
    """What docs/cli.md says of one command."""
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    found = re.search(rf"^## `wsiproc {command}`$(.+?)(?=^## |\Z)", page, re.M | re.S)
    assert found, f"docs/cli.md has no `wsiproc {command}`; run: python docs/make_cli_reference.py"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_commands_tells_all_of_each(name: str) -> None:
    """Whatever the version of typer that wrote it."""
    command, text = COMMANDS[name], section(name)
    told = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
    assert [option for option in told if f"`{option}" not in text and f", {option}" not in text] == []
    examples = [line.strip() for line in (command.epilog or "").partition(":")[2].split("·")]
    assert examples
    assert [example for example in examples if f"\n{example}\n" not in text] == []


def test_no_command_is_told_that_is_gone() -> None:
    told = re.findall(r"^## `wsiproc (\S+)`$", (DOCS / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert told == list(COMMANDS)


def test_the_page_of_commands_is_what_the_program_says() -> None:
    pinned = re.search(r"^typer==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    if typer.__version__ != pinned[1]:
        pytest.skip(f"the page is written by typer {pinned[1]}; this is {typer.__version__}")
    spec = importlib.util.spec_from_file_location("make_cli_reference", DOCS / "make_cli_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert module.reference() == written, "run: python docs/make_cli_reference.py"
