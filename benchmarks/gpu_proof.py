"""Is what wsiproc promises of GPUs true on this machine, and how fast is it? One command, no network, ten minutes.

    python benchmarks/gpu_proof.py [--wheels wheels] [--out gpu-proof] [--only cells kill]
    python benchmarks/gpu_proof.py --device cpu --small

Requires this repository and a Python with PyTorch and NumPy; missing libraries come as wheels, collected by
``collect_wheels.py`` and unpacked into a temporary folder: nothing is installed. Slides are synthetic.
Each item is a process of its own, so that one that crashes, hangs or breaks the CUDA context does not affect the
others. Items are *proved*, *failed* or *not here*, each with its reason; the exit code is 1 if any failed. All
measurements are in ``proof.json``, which is rewritten after each item. ``--device cpu --small`` does the same on a CPU
with small inputs, with `fast` unless an item tests the network: it proves that the kit works, and items that need CUDA
say so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path

ITEMS = {  # what is proved, in this order, with the seconds that it may take
    "machine": 60,
    "maps": 90,
    "cells": 150,
    "kill": 150,
    "batch": 60,
    "large": 300,
    "transfers": 60,
    "forward": 90,
    "graph": 60,
    "fit": 150,
    "compile": 150,
}
CUDA_ONLY = {  # what there is nothing to be proved of on a CPU, and why
    "transfers": "batches travel to a GPU and back",
    "graph": "a CUDA graph",
    "compile": "on a CPU, networks compute in bytes or through oneDNN",
}
PROVED, FAILED, NOT_HERE = "proved", "failed", "not here"
ROOT = Path(__file__).resolve().parents[1]
_LEAST_S = 15.0  # that is worth beginning an item with


def unpack(wheels: Path, site: Path) -> None:
    """The wheels as a folder that Python can import from."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


def run_item(name: str, arguments: argparse.Namespace, scratch: Path, limit_s: float) -> dict:
    """What came of one item, run as a process of its own; whatever it started ends with it."""
    if arguments.device == "cpu" and name in CUDA_ONLY:
        return _not_here(name, f"needs CUDA: {CUDA_ONLY[name]}")
    answer = scratch / f"{name}.json"
    command = [sys.executable, Path(__file__).with_name("gpu_proof_items.py"), name, arguments.device, scratch, answer]
    command += ["--small"] if arguments.small else []
    started = time.monotonic()
    log = scratch / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if answer.exists():
        found = json.loads(answer.read_text(encoding="utf-8"))
    else:
        ended = f"not done after {limit_s:.0f} s" if code is None else f"its process ended with {code}"
        # Of its own time it may have had too little.
        status = NOT_HERE if code is None and limit_s < ITEMS[name] * arguments.patience else FAILED
        found = {"status": status, "why": f"{ended}: {_last_line(log)}", "figures": {}, "rows": []}
    return {"item": name} | found | {"seconds": round(time.monotonic() - started, 1)}


def _not_here(name: str, why: str) -> dict:
    return {"item": name, "status": NOT_HERE, "why": why, "figures": {}, "rows": [], "seconds": 0}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def told(value: object) -> str:
    """A figure as it is printed."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_item(found: dict) -> None:
    """A row of the table, and the rows that the item measured below it."""
    figures = ", ".join(f"{name} {told(value)}" for name, value in found["figures"].items())
    words = "; ".join(part for part in (found["why"], figures) if part)
    print(f"| {found['item']} | {found['status']} | {found['seconds']:.0f} s | {words} |", flush=True)


def print_rows(results: list[dict]) -> None:
    """The tables of the items that have some."""
    for found in results:
        if found["rows"]:
            names = list(dict.fromkeys(name for row in found["rows"] for name in row))
            print(f"\n{found['item']}:\n\n| {' | '.join(names)} |\n|{' --- |' * len(names)}")
            for row in found["rows"]:
                print(f"| {' | '.join(told(row.get(name, '')) for name in names)} |")


def main(arguments: argparse.Namespace) -> int:
    """Run the items one after the other; 1 where one failed."""
    started = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as folder:
        scratch = Path(folder)
        paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        if arguments.wheels is not None:
            unpack(arguments.wheels, scratch / "site")
            paths.insert(2, str(scratch / "site"))
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        print("| item | outcome | time | what was found |\n| --- | --- | --- | --- |", flush=True)
        for name in arguments.only or ITEMS:
            left = arguments.budget_s - (time.monotonic() - started)
            if left < _LEAST_S:
                why = f"{arguments.budget_s:.0f} s are over; --only {name} does it alone"
                results.append(_not_here(name, why))
            else:
                results.append(run_item(name, arguments, scratch, min(left, ITEMS[name] * arguments.patience)))
            print_item(results[-1])
            text = json.dumps({"device": arguments.device, "small": arguments.small, "items": results}, indent=1)
            (arguments.out / "proof.json").write_text(text + "\n", encoding="utf-8")
            for log in scratch.glob("*.log"):
                (arguments.out / log.name).write_bytes(log.read_bytes())
    print_rows(results)
    outcomes = [found["status"] for found in results]
    counts = ", ".join(f"{outcomes.count(status)} {status}" for status in (PROVED, FAILED, NOT_HERE))
    print(f"\n{counts}; {time.monotonic() - started:.0f} s; all figures: {arguments.out / 'proof.json'}")
    return int(FAILED in outcomes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="little work, for a CPU")
    parser.add_argument("--only", nargs="+", choices=list(ITEMS), help="only these items")
    parser.add_argument("--wheels", type=Path, help="folder of collect_wheels.py")
    parser.add_argument("--out", type=Path, default=Path("gpu-proof"))
    parser.add_argument("--budget-s", type=float, default=570.0, help="seconds for all items together")
    parser.add_argument("--patience", type=float, default=1.0, help="times as long for each item")
    sys.exit(main(parser.parse_args()))
