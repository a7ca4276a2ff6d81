"""The notebook runs from top to bottom, as a reader runs it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from wsiproc.results.result import Result

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_look.ipynb"


def test_the_notebook_runs_and_tells_what_was_found(
    result: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WSIPROC_OUT", str(result.folder.parent))
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before committing"
    sockets = {"transport": "ipc", "ip": str(tmp_path / "kernel")}
    NotebookClient(notebook, timeout=120, km=AsyncKernelManager(kernel_name="python3", **sockets)).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert repr(result) in texts[0]
    assert len(pictures) == 4
    counts = result.table()["class"].value_counts()
    (by_class,) = [text for text in texts if "per mm²" in text]
    for name, count in counts.items():
        assert any(line.split()[:2] == [name, str(count)] for line in by_class.splitlines())
    assert f"n_obs × n_vars = {len(result)} × {len(result.measurements)}" in texts[-1]
