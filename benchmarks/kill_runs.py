"""``kill -9`` of a whole run at a random moment, then the same command again: is every byte as in an undisturbed run?

    python benchmarks/kill_runs.py SLIDE [--times 100] [--workers 2] [--region 512] [--seed 0]

Each run is the command line with worker processes of its own; all processes of it are killed at once. Counted are
results that differ in any byte of cells, GeoJSON or label chunks, extra or missing files, and finished tasks that were
done again. A run that ends before it is killed is not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

# They hold seconds and dates.
_WITH_TIMES = {"run.json", "report.html"}


def main(slide: Path, times: int, workers: int, region: int, seed: int) -> None:
    """Print a line a kill, and the sums."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("first", "whole"):  # the first one also fills caches
            reference = Path(scratch) / name
            started = time.monotonic()
            _command(slide, reference, workers, region).wait()
            usual_s = time.monotonic() - started
        expected = digests(reference)
        print(f"{slide.name}: {usual_s:.1f} s undisturbed, {len(expected)} files", flush=True)
        sums: Counter[str] = Counter()
        for number in range(1, times + 1):
            counts = None
            while counts is None:
                out = Path(scratch) / "killed"
                counts = _one(slide, out, workers, region, rng.uniform(0, usual_s), expected)
                shutil.rmtree(out)
            sums.update(counts)
            if number % 10 == 0:
                told = ", ".join(f"{count} {what}" for what, count in sorted(sums.items()))
                print(f"{number} killed: {told}", flush=True)


def _one(
    slide: Path, out: Path, workers: int, region: int, after_s: float, expected: dict[str, str]
) -> Counter[str] | None:
    """Kill one run after so many seconds, let the same command end, and compare; None where it had ended by then."""
    process = _command(slide, out, workers, region)
    try:
        process.wait(after_s)
        return None
    except subprocess.TimeoutExpired:
        moment = _moment(out)
        kill_family(process)
    markers = {path.name for path in out.rglob("*.inferred.json")} | {
        path.name for path in out.rglob("*.segmented.json")
    }
    again = _command(slide, out, workers, region)
    assert again.wait() == 0
    (run_file,) = out.glob("*/run.json")
    redone = len(markers) - json.loads(run_file.read_text())["resumed"] if markers else 0
    found = digests(out)
    return Counter(
        {
            f"killed {moment}": 1,
            "identical": int(found == expected),
            "with other files": int(found.keys() != expected.keys()),
            "with other bytes": int(any(found.get(name) != digest for name, digest in expected.items())),
            "finished tasks done again": redone,
        }
    )


def _moment(out: Path) -> str:
    """What the run was doing, by what lies there."""
    if not list(out.glob("*/.work/plan.json")):
        return "before the first region"
    if list(out.glob("*/run.json")):
        return "while tidying up"
    return "while drawing" if list(out.glob("*/.work/merged-*.part")) else "among regions"


def _command(slide: Path, out: Path, workers: int, region: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wsiproc.cli.main", "run", str(slide), "-o", str(out), "-m", "classical", "-q"]
    command += ["--executor", "processes", "--workers", str(workers), "--region", str(region)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, with ``kill -9``."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family[1:], timeout=60)


def digests(out: Path) -> dict[str, str]:
    """File → hash of its bytes, for every file below ``out``; the name alone for files that hold times."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(out)): ("" if path.name in _WITH_TIMES else hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--region", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.slide, given.times, given.workers, given.region, given.seed)
