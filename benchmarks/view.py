"""The viewer at a million cells: time to the first overlay, time per tile and per pick, and the browser's memory.

    python benchmarks/view.py [--cells 1000000] [--tiles 400]

The slide is synthetic: a million ellipses (see ``million_cells.py``), merged, rendered and exported by the
package. Tiles of 512 px are requested one after the other, at random places and zooms, from a server that has one core;
the browser is Debian's chromium, which pans and zooms over the slide for half a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from million_cells import make_parts, merged, record_of
from PIL import Image
from playwright.sync_api import sync_playwright

from wsiproc.executors import worker_pool
from wsiproc.io.cells.blocks import CellBlocks
from wsiproc.pipeline.stages.export import export_tasks
from wsiproc.pipeline.stages.render import render_tasks

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def main(cells: int, tiles: int) -> None:
    """Make the slide, then measure."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_results(Path(scratch) / "slide", cells)
        started = time.perf_counter()
        command = [sys.executable, "-m", "wsiproc.cli.main", "view", str(folder), "--no-browser", "--port", "0"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        os.sched_setaffinity(process.pid, {0})
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+/", process.stdout.readline())
            assert found
            server = Server(found[0], f"{found[0]}api/slides/{folder.name}", process.pid)
            server.get("/cells/6/0/0.png")
            print(f"first overlay tile, all cells from far away: {time.perf_counter() - started:.2f} s after the start")
            time_tiles(server, tiles)
            time_picks(server, tiles // 2)
            time_answers(server)
            browse(found[0], process.pid)
        finally:
            process.terminate()
            process.wait()


def make_results(folder: Path, count: int) -> Path:
    """A finished slide with so many cells."""
    job, regions = make_parts(folder, count, "H-DAB")
    with worker_pool("auto", 2) as team:
        blocks = merged(job, regions, team)
        for _ in team.run(export_tasks(job, blocks) + render_tasks(job, (), blocks)):
            pass
    cells = sum(block.count for block in blocks)
    counts = np.bincount(CellBlocks(folder / "cells.parquet").centres()[1], minlength=len(job.classes)).tolist()
    slide = folder.parent / "slide.png"
    Image.new("RGB", (64, 64), "white").save(slide)
    record_of(job, slide, counts).write(folder)
    print(f"{cells:,} cells on {job.frame.slide[1]} × {job.frame.slide[0]} px", flush=True)
    return folder


@dataclass(frozen=True)
class Server:
    """A running viewer. ``base``: address of its one slide."""

    address: str
    base: str
    process: int

    def timed(self, request: urllib.request.Request | str) -> tuple[float, float, bytes]:
        """Seconds that an answer takes, by the clock and of the server's processor time, and the answer."""
        clock, used = time.perf_counter(), self.used_s()
        with urllib.request.urlopen(request) as answer:
            body = answer.read()
        return time.perf_counter() - clock, self.used_s() - used, body

    def get(self, path: str) -> tuple[float, float]:
        """The seconds of an address below the slide's."""
        return self.timed(self.base + path)[:2]

    def used_s(self) -> float:
        """Processor time of all its threads so far, by the clock that Linux keeps for each process."""
        return time.clock_gettime(~self.process << 3 | 2)  # as clock_getcpuclockid(3) has it


def told(name: str, seconds: list[tuple[float, float]]) -> None:
    """Median, 95th percentile and maximum by the clock; and what the server computed, which other work hardly moves."""
    (middle, high, most), used = (
        np.percentile(np.array(part) * 1000, [50, 95, 100]) for part in zip(*seconds, strict=True)
    )
    print(
        f"{name}: median {middle:.0f} ms, 95th percentile {high:.0f} ms, longest {most:.0f} ms, of {len(seconds)}; "
        f"processor time {used[0]:.0f}, {used[1]:.0f}, {used[2]:.0f} ms",
        flush=True,
    )


def time_tiles(server: Server, count: int) -> None:
    """Tiles as somebody who looks around asks for them: a view of six at a zoom, then another place."""
    rng = random.Random(0)
    side = 14 * 2048
    every: list[tuple[float, float]] = []
    measured: list[tuple[float, float]] = []
    for _ in range(count // 6):
        level = rng.randint(-2, 6)
        most = max(1, int(side / (512 * 2.0**level)))
        row, col = rng.randrange(most), rng.randrange(most)
        view = {(min(row + r, most - 1), min(col + c, most - 1)) for r in (0, 1) for c in (0, 1, 2)}
        every += [server.get(f"/cells/{level}/{r}/{c}.png") for r, c in sorted(view)]
        # Another range each time, as when a handle is moved: nothing of it was computed before.
        keep = f"{rng.uniform(0, 0.4):.4f},{rng.uniform(0.5, 1):.4f}"
        look = f"measure=area_um2&paint=1&domain=0,1&grey=1&filled=1&keep={keep}"
        measured += [server.get(f"/cells/{level}/{r}/{c}.png?{look}") for r, c in sorted(view)]
    told("overlay tile", every)
    told("overlay tile coloured by a measurement, with a range", measured)


def time_picks(server: Server, count: int) -> None:
    """The cell under a random point, in a place that was not looked at before."""
    rng = random.Random(1)
    told("pick a cell", [server.get(f"/cell?x={rng.uniform(0, 5e4)}&y={rng.uniform(0, 5e4)}") for _ in range(count)])


def time_answers(server: Server) -> None:
    """What the panel asks: a range counted, thresholds of DAB, the next cell of an order, cells in an area."""
    rng = random.Random(3)
    ends = [(rng.uniform(0, 0.4), rng.uniform(0.5, 1)) for _ in range(30)]
    told("count a range", [server.get(f"/spread?measure=area_um2&keep={low},{high}") for low, high in ends])
    cuts = [sorted(rng.uniform(0, 1) for _ in range(3)) for _ in range(30)]
    told("positivity", [server.get(f"/positivity?cuts={','.join(map(str, three))}") for three in cuts])
    server.get("/walk?by=score")  # sorts
    told("next cell of an order", [server.get(f"/walk?by=score&rank={rng.randrange(900_000)}") for _ in range(30)])
    with urllib.request.urlopen(server.address) as answer:
        token = answer.read().decode().split('name="wsiproc-token" content="')[1].split('"')[0]
    sent = {"Content-Type": "application/json", "X-Wsiproc-Token": token}
    seconds, cells = [], 0
    for _ in range(20):
        ring = wobbly(rng, 30_720 * rng.uniform(0.8, 1.2), 30_720 * rng.uniform(0.8, 1.2), 10_950)
        body = json.dumps({"geometries": [{"type": "Polygon", "coordinates": [ring]}]}).encode()
        request = urllib.request.Request(f"{server.base}/measure", body, sent, method="POST")
        *spent, answered = server.timed(request)
        cells = json.loads(answered)[0]["cells"]
        seconds.append((spent[0], spent[1]))
    told(f"all about a freehand area of 300 corners and some {cells:,} cells", seconds)


def wobbly(rng: random.Random, x: float, y: float, radius: float) -> list[list[float]]:
    """A ring of 300 corners around a place, as a hand draws it."""
    corners = []
    for step in range(300):
        angle, far = step / 300 * 2 * math.pi, radius * rng.uniform(0.98, 1.02)
        corners.append([x + far * math.cos(angle), y + far * math.sin(angle)])
    return [*corners, corners[0]]


def browse(address: str, server: int) -> None:
    """Pan and zoom in chromium; the memory of the process that draws the page, and of the server."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(address)
        page.wait_for_timeout(2000)
        most = 0
        rng = random.Random(2)
        for _ in range(30):
            page.evaluate(f"viewer.viewport.zoomTo({2 ** rng.uniform(0, 7)})")
            page.evaluate(f"viewer.viewport.panTo(new OpenSeadragon.Point({rng.random()}, {rng.random()}))")
            page.wait_for_timeout(1000)
            most = max(most, *(held(process) for process in renderers()))
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        browser.close()
    print(
        f"browser, the process that draws the page: {most / 1e6:.0f} MB at most; of that JavaScript {heap / 1e6:.0f} MB"
    )
    print(f"server: {held(psutil.Process(server)) / 1e6:.0f} MB")


def renderers() -> list[psutil.Process]:
    """Chromium's processes that draw pages."""
    children = psutil.Process().children(recursive=True)
    return [process for process in children if "--type=renderer" in " ".join(process.cmdline())]


def held(process: psutil.Process) -> int:
    """Memory of a process, its share of what it has in common with others."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--tiles", type=int, default=400)
    given = parser.parse_args()
    main(given.cells, given.tiles)
