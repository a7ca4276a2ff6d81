"""Slides for the tests of this folder: small ones of every kind, and where the real ones lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.io.slides.slide_writers import WRITERS, Picture, draw_picture

REAL_SLIDES = Path(__file__).parents[2] / ".." / "shared" / "data" / "slides"


@pytest.fixture(scope="session")
def real_slides() -> Path:
    if not REAL_SLIDES.is_dir():
        pytest.skip(f"the real slides are not at {REAL_SLIDES}")
    return REAL_SLIDES


@pytest.fixture(scope="session")
def picture() -> Picture:
    return draw_picture()


@pytest.fixture(scope="session")
def slide_paths(tmp_path_factory: pytest.TempPathFactory, picture: Picture) -> dict[str, Path]:
    """Kind → path of a slide of ``picture``."""
    folder = tmp_path_factory.mktemp("slides")
    for filename, write in WRITERS.values():
        write(folder / filename, picture)
    return {kind: folder / filename for kind, (filename, _) in WRITERS.items()}
