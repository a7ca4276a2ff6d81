"""Finished slides, a server that shows them, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas
import pytest

from tests.results.viewer.browsing import FLAGS
from tests.results.viewer.serving import ODD, Shown, viewing
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide


@pytest.fixture(scope="session")
def view_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides: one of two classes, and one with an odd name."""
    folder = tmp_path_factory.mktemp("slides")
    write_synthetic_slide(folder / "ihc.tif", (2300, 3100), mpp=0.25, seed=1, tissue_fraction=0.8, stain="HDAB")
    write_synthetic_slide(folder / f"{ODD}.tif", (700, 700), mpp=0.5, seed=2, tissue_fraction=0.9)
    return folder


@pytest.fixture(scope="session")
def results(view_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their results."""
    out = tmp_path_factory.mktemp("results")
    outcomes = list(run_slides(sorted(view_slides.glob("*.tif")), out, Settings(model="classical", executor="loop")))
    assert [outcome.error for outcome in outcomes] == [None, None]
    return out


@pytest.fixture(scope="session")
def shown(results: Path) -> Iterator[Shown]:
    """The server over both."""
    with viewing(results) as server:
        yield server


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium, headless."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Debian's chromium (apt-get install chromium), or CHROMIUM=path")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not complain of anything."""
    opened = browser.new_page(viewport={"width": 1200, "height": 760})
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 400 else None)
    yield opened
    opened.close()
    assert complaints == []


@pytest.fixture(scope="module")
def table(results: Path) -> Any:
    return geopandas.read_parquet(results / "ihc/cells.parquet")


@pytest.fixture
def folder(results: Path, tmp_path: Path) -> Path:
    """A copy of the results of a slide, to be written to."""
    shutil.copytree(results / "ihc", tmp_path / "ihc", symlinks=True)
    return tmp_path / "ihc"


@pytest.fixture
def writing(folder: Path) -> Iterator[Shown]:
    with viewing(folder, "--write") as server:
        yield server
