"""wsiproc compared with its peers: the same slide, the same cores, in one run.

    python benchmarks/peers.py slide.svs --python stardist=peers/stardist/bin/python --python …

Each peer runs in a process and an environment of its own, given by ``--python NAME=PATH``; without it, in the current
one. Peers that are not installed are listed in the table with the command that installs them:

    python -m venv peers/tiatoolbox && peers/tiatoolbox/bin/pip install tiatoolbox
    python -m venv peers/stardist && peers/stardist/bin/pip install stardist tensorflow-cpu
    python -m venv peers/cellpose && peers/cellpose/bin/pip install 'cellpose<4'
    python -m venv peers/cellpose-sam && peers/cellpose-sam/bin/pip install 'cellpose>=4'
    python -m venv peers/instanseg && peers/instanseg/bin/pip install instanseg-torch

wsiproc and the classical pipeline of scikit-image and dask run on the whole slide, from the start of Python to the last
file; their area is that of the tissue. Of the other peers, only the network runs, with random weights, on a square of
tissue that is read and rescaled for it: ``peer_tools.py`` says how, and ``--scale 2`` makes the squares twice as wide.
That leaves out their reading, tissue detection, cells and files: lower bounds, extrapolated from a fraction of a mm².
wsiproc's own network has a row for comparison: the time its workers spent on it, divided by their number. All use the
same number of cores, ``--threads``. wsiproc runs once beforehand (unless ``--cold``), so that its code is compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wsiproc.core.geometry import Box, grid_shape
from wsiproc.evaluate.tables import TableLine, markdown_table
from wsiproc.io.slides.open import open_slide

MPX_A_MM2 = 16.0
"""10⁶ px of 0.25 µm in a mm²."""


@dataclass(frozen=True)
class Peer:
    """A network that is timed: what it is, how it is installed, its µm/px, the side of its square of tissue.

    A square holds whole tiles; those of networks that take minutes hold few.
    """

    what: str
    install: str
    mpp: float
    side_um: float = 512.0


PEERS = {
    "tiatoolbox": Peer("HoVer-Net fast, as NucleusInstanceSegmentor runs it", "tiatoolbox", 0.25, 150.0),
    "stardist": Peer("2D_versatile_he", "stardist tensorflow-cpu", 0.5),
    "cellpose": Peer("Cellpose 3, nuclei", "'cellpose<4'", 0.5),
    "cellpose-sam": Peer("Cellpose-SAM", "'cellpose>=4'", 0.5, 300.0),
    "instanseg": Peer("brightfield_nuclei", "instanseg-torch", 0.5, 472.0),
}
CLASSICAL = "scikit-image"
NETWORK = "network alone"


@dataclass(frozen=True)
class Setting:
    """What is the same for all: the cores, Python by peer, and after how many seconds one is stopped."""

    threads: int
    pythons: Mapping[str, str]
    timeout_s: float

    def run(self, command: list[str]) -> tuple[float, str]:
        """Seconds of a command from start to end, and what it printed."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
        started = time.perf_counter()
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=self.timeout_s,
            env=os.environ | dict.fromkeys(names, str(self.threads)),
        )
        return time.perf_counter() - started, done.stdout

    def peer(self, name: str, data: Path) -> tuple[float, dict[str, Any]]:
        """Seconds of a peer's whole process, and what it says of itself; raises what ``subprocess.run`` raises."""
        script = Path(__file__).with_name("peer_tools.py")
        python = self.pythons.get(name, sys.executable)
        seconds, printed = self.run([python, str(script), name, str(data), str(self.threads)])
        return seconds, json.loads(printed.splitlines()[-1])


def wsiproc_lines(slide: Path, model: str, setting: Setting, repeats: int) -> list[TableLine]:
    """The fastest of some whole runs, and its network's share of it, which compares with the networks of peers."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, "-m", "wsiproc.cli.main", "run", str(slide), "-o", out, "-q"]
            seconds, _ = setting.run([*command, "-m", model, "-w", str(setting.threads), "--device", "cpu"])
            runs.append((seconds, json.loads(next(Path(out).glob("*/run.json")).read_text())))
    seconds, run = min(runs, key=lambda each: each[0])
    mpp, mm2, network_s = run["model"]["mpp"], run["tissue_mm2"], run["profile"]["busy_s"]["network"] / setting.threads
    name, weights = f"wsiproc `{model}`", "own" if run["model"].get("weights_sha256") else "none"
    lines = [line(name, f"whole run, {run['counts']['cells']:,} cells", weights, mpp, mm2, seconds)]
    if weights == "own":
        lines.append(line(name, f"{NETWORK}, of that run", weights, mpp, mm2, network_s))
    return lines


def line(tool: str, what: str, weights: str, mpp: float, mm2: float, seconds: float) -> TableLine:
    """A row of the table, without its ratio."""
    return {
        "tool": tool,
        "what was run": what,
        "weights": weights,
        "µm/px": f"{mpp:g}",
        "mm²": f"{mm2:.3f}",
        "s": f"{seconds:.1f}",
        "s per mm²": f"{seconds / mm2:.3g}",
        "s per Mpx": f"{seconds / mm2 / MPX_A_MM2:.3g}",
    }


def classical_line(slide: Path, mm2: float, setting: Setting) -> TableLine:
    """scikit-image over dask arrays, on the whole slide, for the same tissue."""
    with open_slide(slide) as opened:
        mpp = opened.mpp
    try:
        seconds, said = setting.peer(CLASSICAL, slide)
    except subprocess.SubprocessError as error:
        return {"tool": CLASSICAL, "what was run": reason(error)}
    if "missing" in said:
        return {"tool": CLASSICAL, "what was run": "not installed: pip install scikit-image dask openslide-bin"}
    what = f"whole run over dask, {said['cells']:,} cells"
    return line(f"{CLASSICAL} {said['version']}", what, "none", mpp, mm2, seconds)


def network_line(name: str, slide: Path, scale: float, setting: Setting, scratch: Path) -> TableLine:
    """A peer's network on a square of tissue, or why there is no figure."""
    peer, data = PEERS[name], scratch / f"{name}.npy"
    np.save(data, square_of(slide, scale * peer.side_um, peer.mpp))
    try:
        _, said = setting.peer(name, data)
    except (subprocess.SubprocessError, OSError) as error:
        return {"tool": name, "what was run": reason(error)}
    if "missing" in said:
        return {"tool": name, "what was run": f"not installed: pip install {peer.install}"}
    mm2 = said["px"] * (peer.mpp / 1000) ** 2
    return line(
        f"{name} {said['version']}",
        f"{NETWORK}: {peer.what}",
        "random: time only",
        peer.mpp,
        mm2,
        said["seconds"],
    )


def reason(error: Exception) -> str:
    """Why a peer gave no figure, in a line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.strip().splitlines() or ["it said nothing"]
        return f"failed: {lines[-1]}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"stopped after {error.timeout:.0f} s"
    return f"failed: {error}"


def square_of(slide: Path, side_um: float, mpp: float) -> np.ndarray:
    """The square (h, w, 3) of the strongest colour, which is tissue, at ``mpp``."""
    with open_slide(slide) as opened:
        h, w = grid_shape(opened.shape, opened.mpp, mpp)
        side = min(round(side_um / mpp), h, w)
        coarse = max(mpp, side_um / 32)
        small = opened.read(Box(0, 0, *grid_shape(opened.shape, opened.mpp, coarse)), coarse)
        colour = (small.max(axis=2) - small.min(axis=2)).astype(np.float32)
        width = min(32, *small.shape[:2])
        mean = cv2.boxFilter(colour, -1, (width, width), borderType=cv2.BORDER_CONSTANT)
        y, x = (int(middle * coarse / mpp) - side // 2 for middle in np.unravel_index(mean.argmax(), mean.shape))
        return opened.read(Box(min(max(y, 0), h - side), min(max(x, 0), w - side), side, side), mpp)


def with_ratios(lines: list[TableLine]) -> list[TableLine]:
    """Each row with its time per area against the first row's, a whole run; networks against the second row's too."""
    rows: list[TableLine] = []
    for each in lines:
        if "s per mm²" not in each:
            rows.append(each)
            continue
        whole, network = (float(each["s per mm²"]) / float(base["s per mm²"]) for base in lines[:2])
        alone = str(each["what was run"]).startswith(NETWORK)
        rows.append({**each, "× default": f"{whole:.3g}", "× its network": f"{network:.3g}" if alone else "–"})
    return rows


def main(slide: Path, setting: Setting, names: list[str], scale: float, repeats: int, warm: bool) -> None:
    """All tools, one after the other, and the table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: setting.threads]))
    if warm:
        wsiproc_lines(slide, "default", setting, 1)
    lines = [each for model in ("default", "classical") for each in wsiproc_lines(slide, model, setting, repeats)]
    if CLASSICAL in names:
        lines.append(classical_line(slide, float(lines[0]["mm²"]), setting))
    with tempfile.TemporaryDirectory() as scratch:
        networks = [name for name in names if name in PEERS]
        lines += [network_line(name, slide, scale, setting, Path(scratch)) for name in networks]
    print(f"{slide.name}, {setting.threads} cores; Mpx: 10⁶ px of 0.25 µm; network alone: a lower bound\n")
    print(markdown_table(with_ratios(lines)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="Python of a peer")
    parser.add_argument("--peers", nargs="*", default=[CLASSICAL, *PEERS], choices=[CLASSICAL, *PEERS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="times the side of the squares that networks are given"
    )
    parser.add_argument("--repeats", type=int, default=1, help="whole runs of wsiproc, of which the fastest counts")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds after which a peer is stopped")
    parser.add_argument("--cold", action="store_true", help="no first run that does not count")
    given = parser.parse_args()
    pythons = dict(each.split("=", 1) for each in given.python)
    same = Setting(given.threads, pythons, given.timeout)
    main(given.slide, same, given.peers, given.scale, given.repeats, not given.cold)
