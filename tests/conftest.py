"""What all tests share: the real data, and hypothesis without a stopwatch on machines that are shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real slides and tiles; tests that need it are skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"real slides are not at {DATA}")
    return DATA
