"""Fifty small slides in one call of ``wsiproc run``, some of them corrupt, each in a different way.

    python benchmarks/corrupt_batch.py [SLIDES]

Prints the outcome of each type and checks the promise: every good slide is done, every bad one is named once, with its
reason, and a slide that is damaged in one place is done except for that place. Exit code 1 if that does not hold.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tifffile
from hostile import Picture, tissue, write_ome_tiff, write_svs, write_tiff, write_zarr
from scanners import write_ndpi

SHAPE = (1100, 1200)


def _cut(path: Path) -> None:
    """The first third of the file."""
    os.truncate(path, path.stat().st_size // 3)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _text(path: Path) -> None:
    path.write_text("<html>502 Bad Gateway</html>")


def _zero_directory(path: Path) -> None:
    """A TIFF whose directory has no entries."""
    content = bytearray(path.read_bytes())
    content[4:8] = (8).to_bytes(4, "little")
    content[8:16] = bytes(8)
    path.write_bytes(content)


def _coarse(path: Path) -> None:
    """A pixel size in the wrong unit."""
    path.write_bytes(path.read_bytes().replace(b"|MPP = 0.5", b"|MPP = 500"))


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.svs"))


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _zarr_outside(path: Path) -> None:
    """A level that is said to lie elsewhere."""
    metadata = path / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"path": "0"', '"path": "../other.zarr/0"'))


def _zarr_pickle(path: Path) -> None:
    """Chunks that are code."""
    metadata = path / "0" / ".zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"compressor": {"id": "pickle"}}))


def _zarr_huge(path: Path) -> None:
    """A level of a million times a million pixels."""
    metadata = path / "0" / "zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"shape": [3, 10**6, 10**6]}))


def _damage_tile(path: Path) -> None:
    """One tile of level 0 is noise; the slide is good."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, size = page.dataoffsets[7], page.databytecounts[7]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = b"\xff" * size
    path.write_bytes(content)


def _svs(path: Path, picture: Picture) -> None:
    write_svs(path, picture, tile=256)


def _zarr_04(path: Path, picture: Picture) -> None:
    write_zarr(path, picture, "0.4")


def _zarr_05(path: Path, picture: Picture) -> None:
    write_zarr(path, picture, "0.5")


Write = Callable[[Path, Picture], None]
GOOD: list[tuple[str, Write]] = [
    ("svs", _svs), ("ndpi", write_ndpi), ("tif", write_tiff), ("ome.tif", write_ome_tiff), ("ome.zarr", _zarr_05),
]  # fmt: skip
BAD: list[tuple[str, str, Write, Callable[[Path], None]]] = [
    ("truncated", "svs", _svs, _cut),
    ("truncated", "ndpi", write_ndpi, _cut),
    ("truncated", "ome.tif", write_ome_tiff, _cut),
    ("empty", "svs", _svs, _empty),
    ("noise", "ndpi", write_ndpi, _noise),
    ("a web page", "tif", write_tiff, _text),
    ("no directory", "tif", write_tiff, _zero_directory),
    ("500 µm per pixel", "svs", _svs, _coarse),
    ("a link to nothing", "svs", _svs, _link),
    ("a socket", "svs", _svs, _socket),
    ("a folder", "svs", _svs, _folder),
    ("a path that leads out", "ome.zarr", _zarr_05, _zarr_outside),
    ("chunks of code", "ome.zarr", _zarr_04, _zarr_pickle),
    ("10¹² pixels", "ome.zarr", _zarr_05, _zarr_huge),
]
NAMES = ("plain", "with space", "it's", 'say "so"', "🔬 µm", "a..b", "-dash", "[bold]", "100%", "#1;x")


def write_slides(folder: Path, count: int) -> tuple[list[Path], dict[Path, str], Path]:
    """``count`` slides in mixed order: all, the bad ones with what is wrong with them, and one with a damaged tile."""
    bad, good = {}, []
    for number, (kind, suffix, write, spoil) in enumerate(BAD):
        path = folder / f"bad {number} {kind}.{suffix}"
        write(path, tissue((620, 780)))
        spoil(path)
        bad[path] = kind
    for number in range(count - len(BAD)):
        suffix, write = GOOD[number % len(GOOD)]
        path = folder / f"{NAMES[number % len(NAMES)]} {number}.{suffix}"
        write(path, tissue(SHAPE if number == 0 else (620, 780), seed=number % 5))
        good.append(path)
    _damage_tile(good[0])
    paths = [*good, *bad]
    return sorted(paths, key=lambda path: hash_of(path.name)), bad, good[0]


def hash_of(name: str) -> int:
    """An order that mixes good and bad, the same each time."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 9973


def main(count: int) -> int:
    """Write, run, count; 0 where all is as promised."""
    scratch = Path(tempfile.mkdtemp(prefix="fifty"))
    try:
        folder = scratch / "slides"
        folder.mkdir()
        paths, bad, damaged = write_slides(folder, count)
        before = sorted(os.listdir(scratch))
        started = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "wsiproc.cli.main",
            "run",
            "-o",
            "out",
            "--model",
            "classical",
            "--region",
            "512",
        ]
        command += ["--device", "cpu", "--executor", "loop", "--tissue", "all", "--"]
        done = subprocess.run(
            [*command, *map(str, paths)], capture_output=True, text=True, encoding="utf-8", check=False, cwd=scratch
        )
        seconds = time.perf_counter() - started
        stray = sorted(set(os.listdir(scratch)) - set(before) - {"out"})
        return report(done, paths, bad, damaged, scratch / "out", seconds, stray)
    finally:
        shutil.rmtree(scratch)


def report(
    done: subprocess.CompletedProcess[str], paths: list[Path], bad: dict[Path, str], damaged: Path, out: Path,
    seconds: float, stray: list[str],
) -> int:  # fmt: skip
    """Print what became of the slides; 0 where all is as promised."""
    failures = [line for line in done.stdout.splitlines() if line.startswith("Failed, ")]
    runs = [json.loads(path.read_text()) for path in out.glob("*/run.json")]
    finished = {run["slide"]["path"] for run in runs}
    lost = [path.name for path in paths if path not in bad and str(path) not in finished]
    named = {path: [line for line in failures if line.startswith(f"Failed, {path.name}: ")] for path in bad}
    wrong = [path.name for path, lines in named.items() if len(lines) != 1]
    places = [run["regions"]["failed"] for run in runs if run["slide"]["path"] == str(damaged)]
    told = bool(places and places[0])
    print(f"{len(paths)} slides, {len(bad)} of them bad, in one call: {seconds:.0f} s, exit code {done.returncode}")
    print(f"good: {len(finished)} done, {len(lost)} lost; bad: {len(failures)} named, {len(wrong)} not exactly once")
    print(f"damaged in one tile: done, {len(places[0]) if told else 0} of {_regions(runs, damaged)} regions named")
    print(f"tracebacks: {(done.stderr + done.stdout).count('Traceback')}; files elsewhere: {len(stray)}")
    for path, kind in bad.items():
        reason = named[path][0].split(f"{path}: ", 1)[-1] if named[path] else "NOT NAMED"
        reason = reason.replace(str(path.parent), "…")
        print(f"  {kind} ({path.name.rpartition(' ')[2].partition('.')[2]}): {reason}")
    good = not lost and not wrong and not stray and told and done.returncode == 1 and len(failures) == len(bad)
    return int(not good or "Traceback" in done.stderr + done.stdout)


def _regions(runs: list[dict[str, dict[str, int]]], slide: Path) -> int:
    return next((len(run["regions"]["boxes"]) for run in runs if run["slide"]["path"] == str(slide)), 0)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
