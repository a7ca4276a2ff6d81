"""Corrupt small slides in thousands of ways and use each as a user would: does wsiproc survive, and say what is wrong?

    python benchmarks/fuzz.py [svs] [ndpi] [tiff] [ome-zarr] [mrxs] [dicom] [--files 1000] [--seed 1] [--real slides/]

Each corrupted file is opened, described and read in a process of its own, with limits on time and memory; one in
``--run-every`` goes through the whole of ``wsiproc run`` as well. A clear refusal (an error of wsiproc's own) or a
successful read is good; everything else counts as a finding:

    crash       the process was killed by a signal
    hang        it took longer than --seconds
    memory      it requested more than --memory-gb, and the error was not translated
    traceback   an error that is not wsiproc's own, or a message without the file's name
    stray       a file was created, changed or removed outside the output folder (a pickle that is executed leaves one)
    outside     pixels were read from an image outside the slide's folder

POSIX only. ``--only N`` repeats one file, ``--keep FOLDER`` keeps those with findings.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from hostile import (
    OUTSIDE,
    OUTSIDE_RGB,
    SEEDS,
    copy,
    spoil_file,
    spoil_folder,
    spoil_parts,
    write_outside,
    write_seeds,
)

from wsiproc.core.choices import Reader
from wsiproc.core.geometry import Box, grid_shape
from wsiproc.errors import ResolutionError, SlideReadError, WsiprocError
from wsiproc.io.slides.open import describe, open_slide, read_overview
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings

FINDINGS = ("crash", "hang", "memory", "traceback", "stray", "outside")
OUT = "out"


@dataclass(frozen=True)
class Limits:
    """What one file may take."""

    seconds: float
    memory_gb: float


@dataclass
class Trial:
    """One spoiled file in a folder of its own."""

    number: int
    folder: Path
    slide: Path
    done: str
    whole: bool
    before: dict[str, str]
    started: float = field(default_factory=time.monotonic)


def prepare(reader: str, number: int, seeds: list[Path], scratch: Path, seed: int, run_every: int) -> Trial:
    """Make the spoiled file; the same numbers make the same file."""
    rng = Random(f"{seed} {reader} {number}")
    good = rng.choice(seeds)
    folder = scratch / f"{reader} {number}"
    folder.mkdir()
    if reader == "ome-zarr":
        copy(scratch / OUTSIDE, folder / OUTSIDE)
    else:
        (folder / OUTSIDE).mkdir()
    slide = folder / good.name
    copy(good, slide)
    if reader in {"mrxs", "dicom"}:
        done = spoil_parts(slide if slide.is_dir() else slide.with_suffix(""), folder / OUTSIDE, rng)
    else:
        done = spoil_folder(slide, folder / OUTSIDE, rng) if slide.is_dir() else spoil_file(slide, good, rng)
    return Trial(number, folder, slide, f"{good.name}: {done}", number % run_every == 0, snapshot(folder))


def snapshot(folder: Path) -> dict[str, str]:
    """Every path but those of the output: what it is, and its content."""
    found = {}
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder and OUT in folders:
            folders.remove(OUT)
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = "folder or other"
            found[str(path.relative_to(folder))] = content
    return found


def use(slide: Path, limits: Limits, whole: bool, say: Any) -> None:
    """In a process of its own: open, describe and read a slide, and run it where ``whole``. Says what came of it."""
    os.chdir(slide.parent)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    faulthandler.disable()
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    room = now + int(limits.memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        say.send(("end", read_all(slide)))
        if whole:
            # Each of a run's threads reserves address space (stack, allocator arena) that it never touches.
            resource.setrlimit(resource.RLIMIT_AS, (room + 6 * 2**30, resource.RLIM_INFINITY))
            say.send(("run", run(slide)))
    except MemoryError:
        say.send(("memory", traceback.format_exc()))
    except BaseException:
        say.send(("traceback", traceback.format_exc()))


def read_all(path: Path) -> str:
    """Read a slide with each reader that might be chosen for it; how far the default one went."""
    others: tuple[Reader, ...] = () if path.is_dir() or path.suffix == ".mrxs" else ("openslide", "tifffile")
    outcome, *_ = [read(path, reader) for reader in ("auto", *others)]
    return outcome


def read(path: Path, reader: Reader) -> str:
    """Use a slide as ``info`` and a run do; how far that went."""
    try:
        try:
            slide = open_slide(path, reader=reader)
        except ResolutionError as error:
            require_name(path, error)
            slide = open_slide(path, 0.5, reader)
    except WsiprocError as error:
        require_name(path, error)
        return "refused"
    outcome = "read"
    with slide:
        h, w = grid_shape(slide.shape, slide.mpp, slide.mpp)
        boxes = (Box(h // 2, w // 2, 200, 200), Box(h - 90, w - 90, 100, 100), Box(0, 0, 64, 64))
        calls = [slide.fingerprint, lambda: read_overview(slide).pixels]
        if reader == "auto":
            calls.append(lambda: describe(slide)["size_px"])
        calls += [lambda box=box: slide.read(box, slide.mpp) for box in boxes]  # type: ignore[misc]
        for call in calls:
            try:
                require_inside(call())
            except SlideReadError as error:
                require_name(path, error)
                outcome = "damaged"
    return outcome


def require_name(path: Path, error: WsiprocError) -> None:
    """A message that does not say which file is no message."""
    if str(path) not in str(error):
        raise AssertionError(f"the message does not name {path}: {error}") from error


def require_inside(pixels: object) -> None:
    """Refuse pixels of the picture that lies outside the slide's folder."""
    if isinstance(pixels, np.ndarray) and (pixels == OUTSIDE_RGB).all(axis=-1).sum() > 10:
        raise PermissionError("pixels from outside the slide's folder")


def run(path: Path) -> str:
    """The whole of a run; what became of it."""
    settings = Settings(model="classical", executor="loop", device="cpu", region=512, tissue="all", mpp=0.5)
    (outcome,) = run_slides([path], path.parent / OUT, settings)
    if outcome.error is None:
        return "run"
    if not isinstance(outcome.error, WsiprocError):
        raise outcome.error
    require_name(path, outcome.error)
    return "run refused"


def judge(trial: Trial, process: Any, heard: Any, limits: Limits) -> tuple[list[str], str]:
    """Outcomes, or the one finding and its detail, of a process that ended or was stopped."""
    said: dict[str, str] = {}
    try:
        while heard.poll():
            kind, text = heard.recv()
            said[kind] = text
    except EOFError:
        pass
    after = snapshot(trial.folder)
    if after != trial.before:
        changed = sorted(k for k in after.keys() | trial.before.keys() if after.get(k) != trial.before.get(k))
        return ["stray"], ", ".join(changed)
    for finding in ("memory", "traceback"):
        if finding in said:
            return ["outside" if "outside the slide's folder" in said[finding] else finding], said[finding]
    if process.exitcode != 0:
        signalled = f"exit code {process.exitcode}, after {said or 'nothing'}"
        return ["hang" if time.monotonic() - trial.started >= limits.seconds else "crash"], signalled
    return list(said.values()), ""


def fuzz(reader: str, numbers: range, arguments: argparse.Namespace, scratch: Path) -> collections.Counter[str]:
    """Try all files of a reader, ``--jobs`` at a time; counts of outcomes and findings."""
    limits = Limits(arguments.seconds, arguments.memory_gb)
    seeds = write_seeds(reader, scratch / f"seeds {reader}", arguments.real)
    for good in seeds:
        if read_all(good) != "read":
            raise SystemExit(f"{good} should be a good slide, and is not read")
    counts: collections.Counter[str] = collections.Counter()
    waiting = list(reversed(numbers))
    active: dict[Any, tuple[Trial, Any, Any]] = {}
    fork = multiprocessing.get_context("fork")
    while waiting or active:
        while waiting and len(active) < arguments.jobs:
            trial = prepare(reader, waiting.pop(), seeds, scratch, arguments.seed, arguments.run_every)
            heard, say = fork.Pipe(duplex=False)
            process = fork.Process(target=use, args=(trial.slide, limits, trial.whole, say), daemon=True)
            trial.started = time.monotonic()
            process.start()
            say.close()
            active[process.sentinel] = (trial, process, heard)
        multiprocessing.connection.wait(list(active), timeout=1)
        for sentinel, (trial, process, heard) in list(active.items()):
            if process.is_alive() and time.monotonic() - trial.started < limits.seconds:
                continue
            if process.is_alive():
                process.kill()
            process.join()
            outcomes, detail = judge(trial, process, heard, limits)
            counts.update(outcomes)
            if outcomes[0] in FINDINGS:
                print(f"{reader} {trial.number}: {outcomes[0]}: {trial.done}\n    {detail[-900:]}", flush=True)
                if arguments.keep:
                    shutil.rmtree(arguments.keep / trial.folder.name, ignore_errors=True)
                    shutil.copytree(trial.folder, arguments.keep / trial.folder.name, symlinks=True)
            elif arguments.only is not None:
                print(f"{reader} {trial.number}: {', '.join(outcomes)}: {trial.done}")
            shutil.rmtree(trial.folder)
            del active[sentinel]
    return counts


def main() -> None:
    """Try every reader and print the table; exit code 1 where there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", choices=[*SEEDS, []], default=[])
    parser.add_argument("--files", type=int, default=1000, help="spoiled files a reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=Path, help="folder with real slides, of which the small ones are spoiled too")
    parser.add_argument("--run-every", type=int, default=40, help="every so many files, the whole of a run")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit for one file")
    parser.add_argument("--memory-gb", type=float, default=2.0, help="limit for one file, over an idle process")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int, help="number of the one file to try")
    parser.add_argument("--keep", type=Path, help="folder for the files with findings")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    numbers = range(arguments.files) if arguments.only is None else range(arguments.only, arguments.only + 1)
    total = 0
    print("| reader | files | refused | damaged places named | read whole | run | run refused | ", end="")
    print(" | ".join(FINDINGS), "| seconds |")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        write_outside(Path(scratch) / OUTSIDE)
        for reader in arguments.readers or SEEDS:
            started = time.monotonic()
            counts = fuzz(reader, numbers, arguments, Path(scratch))
            outcomes = ("refused", "damaged", "read", "run", "run refused", *FINDINGS)
            numbers_row = [len(numbers), *(counts[outcome] for outcome in outcomes)]
            rows.append(f"| {reader} | {' | '.join(map(str, numbers_row))} | {time.monotonic() - started:.0f} |")
            total += sum(counts[finding] for finding in FINDINGS)
    print("\n".join(rows))
    sys.exit(int(total > 0))


if __name__ == "__main__":
    main()
