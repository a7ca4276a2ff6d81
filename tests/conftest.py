"""What all tests share: the real data, and hypothesis without a stopwatch on machines that are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Their assertions tell as much as those of tests.
pytest.register_assert_rewrite("tests.command", "tests.runs")

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real slides and tiles; tests that need it are skipped where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"real slides are not at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small slide of crowded tissue at 0.5 µm/px."""
    from wsiproc.synthetic import write_synthetic_slide

    path = tmp_path_factory.mktemp("slides") / "six.tif"
    write_synthetic_slide(path, (1000, 1500), mpp=0.5, seed=3, tissue_fraction=1.0)
    return path


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Memory for so many workers, as far as the watch can tell; called, it gives the list of pool sizes to come."""
    from wsiproc.errors import MemoryLimitError
    from wsiproc.executors import worker_pool

    sizes: list[int] = []

    def noted(kind: str, workers: int, scheduler: str | None) -> Any:
        sizes.append(workers)
        return worker_pool(kind, workers, scheduler)

    def limit(most: int) -> list[int]:
        def check(self: Any) -> None:
            if sizes[-1] > most:
                raise MemoryLimitError("9 GB in use, 8 GB allowed")

        monkeypatch.setattr("wsiproc.pipeline.workers.worker_pool", noted)
        monkeypatch.setattr("wsiproc.executors.memory.MemoryWatch.check", check)
        return sizes

    return limit


@pytest.fixture(scope="session")
def whole(six: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run in one process makes of ``six``."""
    from tests.runs import SIX
    from wsiproc.pipeline.cohort import run_slides
    from wsiproc.pipeline.settings import Settings

    (outcome,) = run_slides([six], tmp_path_factory.mktemp("whole"), Settings(**SIX))
    assert outcome.folder is not None
    return outcome.folder
