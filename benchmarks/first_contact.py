"""What a new user encounters: odd slides, odd paths and every command, run for real; how much of it is right.

    python benchmarks/first_contact.py                     # with the Python that runs this
    python benchmarks/first_contact.py --fresh             # in a new virtual environment, installed from this checkout
    python benchmarks/first_contact.py --only 10_ --model classical

Prints a line for each wrong outcome, then a table: *right* has the expected cells or ends as it should, *refused well*
was refused with the expected message, *wrong* is neither. Exit code 1 if anything is wrong, including a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import unicodedata
import venv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from odd_slides import ALL, MPP, Odd, make_all

ROOT = Path(__file__).parents[1]
RIGHT, REFUSED, WRONG = "right", "refused well", "wrong"


@dataclass(frozen=True)
class Case:
    """One thing that was tried: of what ``group``, and whether it came out right."""

    group: str
    name: str
    verdict: str
    found: str = ""


@dataclass(frozen=True)
class Command:
    """The real command, of one installation, with the settings of all runs."""

    start: tuple[str, ...]
    model: str

    def __call__(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Its end, after at most an hour."""
        return subprocess.run(
            [*self.start, *map(str, arguments)],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=3600, check=False, cwd=cwd,
        )  # fmt: skip

    def run(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """``wsiproc run`` in one process."""
        return self("run", "--model", self.model, "--executor", "loop", "--quiet", *arguments, cwd=cwd)


def installation(folder: Path) -> tuple[str, ...]:
    """The command of a new virtual environment in ``folder`` that has nothing but this checkout."""
    os.environ.pop("PYTHONPATH", None)  # it would put a checkout before what is installed
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    install = [str(programs / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(ROOT)]
    started = time.monotonic()
    subprocess.run(install, check=True)
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
    return (str(programs / "wsiproc"),)


# --- slides ----------------------------------------------------------------------------------------------------------


def slides(command: Command, home: Path, odd: Sequence[Odd]) -> Iterator[Case]:
    """All odd slides in as few calls as their options allow, each call with all of them at once."""
    make_all(home / "slides", list(odd))
    for options in dict.fromkeys(each.options for each in odd):
        some = [each for each in odd if each.options == options]
        paths = [home / "slides" / each.name for each in some]
        done = command.run("-o", home / "out", *options, "--", *paths)
        told = done.stdout + done.stderr
        yield Case("call over all slides", " ".join(options) or "no options", *_call(some, done))
        runs = {run["slide"]["path"]: run for run in map(_read, (home / "out").glob("*/run.json"))}
        reference = runs.get(str(home / "slides" / "00_reference.tif"))
        base = reference["counts"]["cells"] if reference else _count(home)
        for each, path in zip(some, paths, strict=True):
            yield Case("slides", each.name, *_judge(each, path, runs.get(str(path)), base, told))


def _read(path: Path) -> dict[str, dict[str, object]]:
    run: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return run


def _count(home: Path) -> int:
    run = _read(home / "out" / "00_reference" / "run.json")
    return int(str(run["counts"]["cells"]))


def _call(some: Sequence[Odd], done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    bad = any(each.cells is None and each.count is None for each in some)
    expected = int(bad)
    raw = "Traceback" in done.stdout + done.stderr
    right = done.returncode == expected and not raw
    return RIGHT if right else WRONG, f"exit code {done.returncode}, {expected} expected" + ", a traceback" * raw


def _judge(each: Odd, path: Path, run: dict[str, object] | None, base: object, told: str) -> tuple[str, str]:
    """Verdict on one slide, and what was found."""
    if run is None:
        lines = [line for line in told.splitlines() if line.startswith("Failed, ") and str(path) in line]
        found = lines[0] if lines else "not named"
        refused = each.cells is None and each.count is None and len(lines) == 1 and each.said in found
        return (REFUSED if refused else WRONG), found
    cells, reference = int(run["counts"]["cells"]), int(str(base))  # type: ignore[index]
    low, high = each.count or (reference, reference)
    if each.cells is not None:
        low, high = round(reference * (1 - each.cells)), round(reference * (1 + each.cells))
    warned = each.said.lower() in " ".join(run["warnings"]).lower()  # type: ignore[arg-type]
    expected = each.cells is not None or each.count is not None
    found = f"{cells} cells, {low} to {high} expected" + ("" if warned else f"; no warning of {each.said!r}")
    return (RIGHT if expected and low <= cells <= high and warned else WRONG), found


# --- paths -----------------------------------------------------------------------------------------------------------


def paths(command: Command, home: Path) -> Iterator[Case]:
    """One slide, named and written to in many ways: the same bytes each time."""
    data = home / "paths" / "dä ta"
    here = home / "paths" / "here" / "deeper"
    for folder in (data, here):
        folder.mkdir(parents=True)
    slide = data / "sl #1 é.tif"
    slide.write_bytes((home / "slides" / "00_reference.tif").read_bytes())
    slide.chmod(0o444)
    (home / "paths" / "link").symlink_to(data)
    (here / "list.txt").write_text(f"# one\n../../dä ta/{slide.name}\n", encoding="utf-8")
    right = (home / "out" / "00_reference" / "cells.parquet").read_bytes()
    spellings = {
        "absolute": slide,
        "relative with ..": f"../../dä ta/{slide.name}",
        "a/../b": f"../../link/../dä ta/{slide.name}",
        "./ and //": f"./..//../dä ta/./{slide.name}",
        "through a link": f"../../link/{slide.name}",
        "decomposed letters": unicodedata.normalize("NFD", f"../../dä ta/{slide.name}"),
        "folder": "../../dä ta/",
        "pattern": "../../d*/*.tif",
        "list": "@list.txt",
        "list elsewhere": f"@{here.parent}/deeper/../deeper/list.txt",
        "twice": [slide, f"../../dä ta/{slide.name}"],
    }
    outs = ("../out", "out/", "../../dä ta/results", "new/../new out", "[o] #%?é", f"{here}//abs")
    for number, (name, given) in enumerate(spellings.items()):
        out = f"{outs[number % len(outs)]} {number}"
        words = given if isinstance(given, list) else [given]
        done = command.run("-o", out, "--", *words, cwd=here)
        tables = list(Path(os.path.normpath(here / out)).glob("*/cells.parquet"))
        same = done.returncode == 0 and len(tables) == 1 and tables[0].read_bytes() == right
        yield Case("paths", f"{name}, to {out}", RIGHT if same else WRONG, _last(done))


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return f"exit code {done.returncode}: " + " / ".join((done.stdout + done.stderr).strip().splitlines()[-2:])


# --- commands --------------------------------------------------------------------------------------------------------


def commands(command: Command, home: Path) -> Iterator[Case]:
    """Every command over a result with cells, one without, and all of them; and what makes no sense."""
    out, scratch = home / "out", home / "commands"
    scratch.mkdir()
    some, none, odd = out / "00_reference", out / "42_no_nuclei", out / "60_#1"
    formats = [word for name in ("csv", "h5ad", "ome-zarr-0.4", "regions", "classes") for word in ("-t", name)]
    slide, gone = home / "slides" / "00_reference.tif", home / "slides" / "00_referense.tif"
    roi = ("--roi", home / "roi.geojson", "-o", scratch / "roi")
    tried: list[tuple[int, str, tuple[object, ...]]] = [
        *((0, "", ("check", folder)) for folder in (some, none, odd, out)),
        *((0, "", ("profile", folder)) for folder in (some, none, out)),
        *((0, "", ("qupath", folder)) for folder in (some, none, odd)),
        *((0, "", ("export", folder, *formats, "-o", scratch / "export")) for folder in (some, none, out)),
        (0, "unchanged", ("import", some / "cells.geojson.gz", some, "--dry-run")),
        (2, "this slide", ("import", some / "cells.geojson.gz", none)),
        *((0, "", ("evaluate", folder, folder)) for folder in (some, none)),
        (0, "0.5", ("info", slide)),
        (0, "about", ("plan", slide, "-m", command.model)),
        (0, "done", ("run", slide, *roi, "-m", command.model, "--executor", "loop")),
        (0, "already done", ("run", slide, "-o", out, "-m", command.model, "--executor", "loop")),
        (2, f"did you mean {slide}", ("run", gone)),
        (2, f"did you mean {slide}", ("info", gone)),
        (2, "no such folder", ("check", home / "gone")),
        (2, "no finished slide", ("view", scratch, "--no-browser")),
        *((2, "not a positive number", ("run", slide, f"--mpp={mpp}")) for mpp in ("nan", "inf", "-1")),
        (2, "is not a path", ("run", slide, "-o", "")),
        (2, "cannot be read", ("run", "@gone.txt")),
        (2, "not a path", ("run", "s3://bucket/slide.svs")),
        (2, "not a path", ("run", slide, "-o", "https://host/out")),
        (2, "no file matches", ("run", "*.nothing")),
        (2, "was not replaced", ("run", "$SLIDES/a.svs")),
        (2, "is not a folder", ("run", slide, "-o", slide)),
        (2, "wsiproc run", (slide,)),
        (2, "unknown model", ("run", slide, "-m", "gone")),
        (2, "settings cannot be read", ("run", slide, "--config", "gone.toml")),
        (1, "cannot be read", ("run", slide, "--roi", "gone.geojson", "-o", scratch / "no", "-m", command.model)),
        (0, "0.", ("-V",)),
        (0, "Usage", ("--help",)),
        (0, "wsiproc[spatialdata]", ("export", "--help")),
    ]
    for code, said, words in tried:
        done = command(*words, cwd=scratch)
        text = " ".join((done.stdout + done.stderr).replace("│", " ").split())
        right = done.returncode == code and said in text and "Traceback" not in text
        name = " ".join(str(word).replace(f"{home}/", "") for word in words)
        verdict = WRONG if not right else REFUSED if code else RIGHT
        yield Case("commands", name, verdict, f"{code} and {said!r} expected; {_last(done)}")


# --- all -------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Try everything, print what was wrong and a table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="install into a new virtual environment first")
    parser.add_argument("--only", help="odd slides whose names begin so, besides the reference; no paths, no commands")
    parser.add_argument("--model", default="default")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        start = installation(home / "venv") if given.fresh else (sys.executable, "-m", "wsiproc")
        command = Command(start, given.model)
        wanted = [each for each in ALL if given.only is None or each.name.startswith((given.only, "00_"))]
        groups = [slides(command, home, wanted)]
        if given.only is None:
            groups += [paths(command, home), commands(command, home)]
        cases = []
        for case in chain.from_iterable(groups):
            cases.append(case)
            if case.verdict == WRONG:
                print(f"wrong: {case.group}, {case.name}: {case.found}".replace(f"{home}/", "…/"), flush=True)
    print(f"{len(cases)} tried with the model {given.model} at {MPP:g} µm/px, in {time.monotonic() - started:.0f} s")
    print(f"| | {RIGHT} | {REFUSED} | {WRONG} |\n|---|---|---|---|")
    for group in dict.fromkeys(case.group for case in cases):
        counts = Counter(case.verdict for case in cases if case.group == group)
        print(f"| {group} | {counts[RIGHT]} | {counts[REFUSED]} | {counts[WRONG]} |")
    return int(any(case.verdict == WRONG for case in cases))


if __name__ == "__main__":
    sys.exit(main())
