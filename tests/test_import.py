"""Importing the package costs nothing: whatever is heavy is loaded by the command that needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import wsiproc
from wsiproc import errors
from wsiproc.pipeline.settings import Settings
from wsiproc.synthetic import write_synthetic_slide

HEAVY = {
    "torch", "dask", "distributed", "zarr", "numba", "cv2", "scipy", "skimage", "pyarrow", "shapely", "openslide",
    "tifffile", "PIL", "jinja2",
}  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps([n for n in sys.modules if '.' not in n]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "statement",
    ["import wsiproc", "import wsiproc.cli.main", "from wsiproc.pipeline.settings import Settings, load_settings"],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    assert loaded_by(statement) & HEAVY == set()


@pytest.mark.parametrize("statement", ["import wsiproc", "import wsiproc.cli.main"])
def test_help_and_completion_wait_for_neither_numpy_nor_pydantic(statement: str) -> None:
    assert loaded_by(statement) & {"numpy", "pydantic"} == set()


def test_what_the_package_names_is_what_it_has() -> None:
    public: dict[str, object] = {}
    exec("from wsiproc import *", public)
    assert public.keys() - {"__builtins__"} == {*wsiproc.__all__}
    assert {*wsiproc.__all__} <= {*dir(wsiproc)}
    assert public["Settings"] is Settings
    with pytest.raises(AttributeError, match="module 'wsiproc' has no attribute 'opn'"):
        wsiproc.opn  # type: ignore[attr-defined]  # noqa: B018


def test_each_error_is_public() -> None:
    own = {name for name, value in vars(errors).items() if getattr(value, "__module__", None) == errors.__name__}
    assert {name for name in own if isinstance(getattr(errors, name), type)} <= {*wsiproc.__all__}


def test_what_runs_loads_no_torch_and_no_dask_before_they_are_needed() -> None:
    loaded = loaded_by("import wsiproc.pipeline.cohort")
    assert loaded & {"torch", "dask", "distributed", "zarr", "openslide", "jinja2"} == set()
    assert "numba" in loaded, "the probe sees what is loaded"


def test_what_workers_import_knows_no_record_of_runs() -> None:
    """Which costs a tenth of a second, and none of them reads or writes it."""
    stages = sorted((Path(wsiproc.__file__).parent / "pipeline/stages").glob("*.py"))
    names = [f"wsiproc.pipeline.stages.{path.stem}" for path in stages if path.stem not in ("__init__", "crops")]
    assert "pydantic" not in loaded_by(f"import {', '.join(names)}")
    assert "pydantic" not in loaded_by("import wsiproc.cli.main")


def test_a_run_needs_no_pandas(tmp_path: Path) -> None:
    """Which takes a worker a quarter of a second to load; Arrow does where it is only offered NumPy's arrays."""
    write_synthetic_slide(tmp_path / "small.tif", (900, 900), mpp=0.25, seed=5, tissue_fraction=0.5)
    loaded = loaded_by(
        "from pathlib import Path; from wsiproc.pipeline.settings import Settings\n"
        "from wsiproc.pipeline.cohort import run_slides\n"
        "settings = Settings(model='classical', executor='loop', workers=1)\n"
        f"(outcome,) = run_slides([Path({str(tmp_path / 'small.tif')!r})], Path({str(tmp_path / 'out')!r}), settings)\n"
        "assert outcome.run['counts']['cells'] > 0"
    )
    assert "pyarrow" in loaded
    assert "pandas" not in loaded
