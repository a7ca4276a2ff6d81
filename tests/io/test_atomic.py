"""Files are whole or not there, whoever is killed while writing, and however many write at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from wsiproc.core.geometry import Box
from wsiproc.io.atomic import atomic_file, remove_leftovers, temporary_name
from wsiproc.io.ome_zarr import image as ngff

# Writes the same files again and again, each of them large enough to be killed in the middle of.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from wsiproc.core.geometry import Box
from wsiproc.io.ome_zarr import image as ngff
from wsiproc.io.atomic import write_json

folder = Path(sys.argv[1])
pixels = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), np.uint8)
print("ready", flush=True)
while True:
    write_json(folder / "marker.json", {"numbers": list(range(50_000))})
    ngff.write_pyramid(folder / "image.ome.zarr", Box(0, 0, 1024, 1024), pixels, 1024)
"""


def writer(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_writers_that_are_killed_leave_whole_files(tmp_path: Path) -> None:
    image, marker = tmp_path / "image.ome.zarr", tmp_path / "marker.json"
    ngff.create_image(image, (1024, 1024), (0.5, 0.5), 2, [(name, (255, 0, 0)) for name in "abc"], shard=1024)
    expected = np.random.default_rng(0).integers(0, 255, (3, 1024, 1024), np.uint8)
    for kill_after_s in (0.5, 0.77, 1.1):
        writers = [writer(tmp_path), writer(tmp_path)]
        end = time.monotonic() + kill_after_s
        while time.monotonic() < end or not marker.exists():
            if marker.exists():
                assert json.loads(marker.read_text()) == {"numbers": list(range(50_000))}
        assert [process.poll() for process in writers] == [None, None]  # no writer took the other's file away
        for process in writers:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        pixels = ngff.read_box(image, 0, Box(0, 0, 1024, 1024))
        assert (pixels == expected).all() or not pixels.any()  # killed before the first was done
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".partial")] == []
    assert json.loads(marker.read_text()) == {"numbers": list(range(50_000))}


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "c/0").mkdir(parents=True)
    left = [temporary_name(tmp_path / "cells.parquet"), tmp_path / "c/0/1.0a1b.partial"]
    for path in (*left, tmp_path / "c/0/1", tmp_path / "cells.parquet"):
        path.write_bytes(b"something")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["1", "cells.parquet"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")

    def fail() -> None:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("new, half")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]
