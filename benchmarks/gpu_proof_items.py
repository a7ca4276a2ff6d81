"""The items of ``gpu_proof.py``, each a process of its own: ``gpu_proof_items.py ITEM DEVICE SCRATCH ANSWER``."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from gpu_proof import FAILED, NOT_HERE, PROVED
from kill_runs import digests, kill_family
from precision import overlaps

from wsiproc.core.geometry import Box, Grid
from wsiproc.executors import available_cores, memory_limits
from wsiproc.io.ome_zarr.image import CHUNK
from wsiproc.io.slides.open import SlideSource
from wsiproc.models import load_model
from wsiproc.models.base import Model
from wsiproc.models.device import Device, choose_device
from wsiproc.models.folder import load_network
from wsiproc.models.inference import predict, predict_each
from wsiproc.models.staining import optical_density
from wsiproc.results.profile import lines
from wsiproc.results.record import RunRecord
from wsiproc.synthetic import Scene, write_synthetic_slide
from wsiproc.synthetic.tiff import CHUNK_TILES, TIFF_TILE_PX, Encoder, write_tiff_pyramid

MPX_A_MM2 = 16.0  # at 0.25 µm/px
# Most that maps may differ from those of a CPU in float32, in grey levels: on average, and all but one in 100 pixels.
TOLERANCE = {"float32": (0.05, 1), "bfloat16": (0.5, 6), "float16": (0.5, 6), "int8": (0.5, 6)}
FOUND_AGAIN = {"float32": 0.995, "bfloat16": 0.985, "float16": 0.985, "int8": 0.985}  # share of cells, at IoU > 0.5


_SMALL_PX = 256  # of a window without its halo, where there is little work


class NotHereError(Exception):
    """What an item needs is not there."""


@dataclass
class Proof:
    """What an item works on, and what it finds: ``figures`` by name, ``rows`` of a table.

    ``scratch``: a folder that all items share; ``wrong``: what was not as it should be.
    """

    device: str
    small: bool
    scratch: Path
    figures: dict[str, object] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def expect(self, right: bool, otherwise: str) -> None:
        """Note what is not as it should be, and go on."""
        if not right:
            self.wrong.append(otherwise)

    @property
    def cuda(self) -> bool:
        """Whether this is about a GPU."""
        return self.device == "cuda"

    @property
    def model(self) -> str:
        """For what is not about the network."""
        return "fast" if self.small else "default"

    @property
    def precisions(self) -> tuple[str, ...]:
        """What networks can be computed in."""
        if self.cuda:
            return ("float32", "bfloat16", "float16")
        return ("float32", "bfloat16", *(("int8",) if choose_device("cpu").precision == "int8" else ()))


# --- slides and windows ----------------------------------------------------------------------------------------------


def drawn_slide(proof: Proof) -> Path:
    """A slide that several items share, all tissue, at 0.5 µm/px."""
    side = 1024 if proof.small else 3072
    path = proof.scratch / "drawn.tif"
    if not path.exists():
        write_synthetic_slide(path, (side, side), mpp=0.5, seed=3, tissue_fraction=1.0)
    return path


def calibrated_windows(proof: Proof, count: int, name: str = "default") -> tuple[Model, np.ndarray]:
    """A model, calibrated on drawn tissue, and different windows of it (count, h, w, 3); small ones for small work."""
    model = load_model(name)
    side = (_SMALL_PX if proof.small else model.window) + 2 * model.halo
    tissue = Scene((side, 2 * side), model.mpp, 7, 1.0).render(Box(0, 0, side, 2 * side))
    step = side // max(1, count)
    windows = np.stack([tissue[:, i * step : i * step + side] for i in range(count)])
    return model.calibrate([windows[0]]), windows


def mosaic(path: Path, side: int, times: int) -> None:
    """A slide of 0.25 µm/px: the same drawn tissue ``times`` by ``times``."""
    scene, step = Scene((side, side), 0.25, 5, 0.9), 1024
    picture = np.full((side, side, 3), scene.background, np.uint8)

    def fill(box: Box) -> None:
        if not scene.is_background(box):
            picture[box.slices] = scene.render(box)

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(fill, [region.box for region in Grid((side, side), step)]))
    # With its beginning once more behind its end, what is asked for is always a slice.
    around = np.pad(picture, ((0, TIFF_TILE_PX), (0, TIFF_TILE_PX * CHUNK_TILES), (0, 0)), mode="wrap")

    def draw(box: Box) -> np.ndarray:
        return around[Box(box.y % side, box.x % side, box.h, box.w).slices]

    write_tiff_pyramid(
        path, (side * times, side * times), 0.25, draw, Encoder(scene.background, 85), "drawn", available_cores()
    )


def wsiproc_run(proof: Proof, slide: Path, out: Path, *more: object) -> list[str]:
    """The command line of a run with a summary that nobody reads; ``more`` options win."""
    command = [sys.executable, "-m", "wsiproc.cli.main", "run", slide, "-o", out, "-q", "--model", proof.model]
    return [str(part) for part in (*command, "--device", proof.device, *more)]


def finished(proof: Proof, slide: Path, out: Path, *more: object) -> dict:
    """``run.json`` of a whole run, with the seconds of the command as ``command_s``."""
    started = time.perf_counter()
    done = subprocess.run(wsiproc_run(proof, slide, out, *more), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"wsiproc run ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    run = json.loads(next(out.glob("*/run.json")).read_text(encoding="utf-8"))
    return run | {"command_s": time.perf_counter() - started}


# --- the items -------------------------------------------------------------------------------------------------------


def machine(proof: Proof) -> None:
    """What there is."""
    proof.figures |= {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}
    proof.figures |= {"cores": available_cores(), "limits on memory": len(memory_limits())}
    if proof.cuda:
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no CUDA device; --device cpu --small tries the kit itself")
        facts = torch.cuda.get_device_properties(0)
        proof.figures |= {"GPU": facts.name, "GB": facts.total_memory / 1e9, "CUDA": torch.version.cuda}
        proof.figures |= {"compute capability": f"{facts.major}.{facts.minor}", "cuDNN": torch.backends.cudnn.version()}
        proof.figures["choice"] = str(choose_device("auto"))
        proof.expect(choose_device("auto").name == "cuda", "--device auto does not take the GPU")
    else:
        proof.figures["choice"] = str(choose_device("cpu"))


def maps(proof: Proof) -> None:
    """Maps of the default model in every precision against those of the CPU in float32."""
    model, windows = calibrated_windows(proof, 1 if proof.small else 4)
    exact = np.concatenate([predict(model, window[None], Device()) for window in windows]).astype(int)
    stains = [channel.stain for channel in model.channels]
    cells = len(model.instances(exact[0].astype(np.uint8)).classes)
    for precision in proof.precisions:
        device = Device(proof.device, precision)
        found = np.concatenate([predict(model, window[None], device) for window in windows])
        again = np.concatenate([predict(model, window[None], device) for window in windows])
        apart = np.abs(exact - found)
        mean, most = float(apart.mean()), float(np.percentile(apart, 99))
        row = {"precision": precision, "mean grey levels off": mean, "99 %": most, "largest": int(apart.max())}
        row |= {"stains": int(apart[:, stains].max()), "cells": len(model.instances(found[0]).classes), "of": cells}
        proof.rows.append(row)
        allowed = TOLERANCE[precision]
        proof.expect(mean <= allowed[0] and most <= allowed[1], f"{precision}: maps {mean:.3f} grey levels off")
        proof.expect(int(apart[:, stains].max()) <= 1, f"{precision}: stains more than a grey level off")
        proof.expect(bool((again == found).all()), f"{precision}: the same window gives other maps")
        proof.expect(abs(row["cells"] - cells) <= max(3, 0.02 * cells), f"{precision}: {row['cells']} of {cells} cells")
    allowed_mean = {precision: TOLERANCE[precision][0] for precision in proof.precisions}
    proof.figures["mean grey levels allowed"] = ", ".join(f"{name} {mean}" for name, mean in allowed_mean.items())


def cells(proof: Proof) -> None:
    """Cells of a slide against those of the CPU in float32."""
    import pyarrow.parquet as pq
    import shapely

    slide = drawn_slide(proof)

    def outlines(out: Path) -> np.ndarray:
        table = pq.read_table(next(out.glob("*/cells.parquet")), columns=["geometry"])
        return shapely.from_wkb(table["geometry"].to_pylist())

    finished(proof, slide, proof.scratch / "exact", "--device", "cpu", "--precision", "float32")
    exact = outlines(proof.scratch / "exact")
    for asked in ("float32", "auto") if proof.cuda else ("auto",):
        run = finished(proof, slide, proof.scratch / f"cells-{asked}", "--precision", asked)
        found = outlines(proof.scratch / f"cells-{asked}")
        shares = [float(np.mean(overlaps(*pair)[0] > 0.5)) for pair in ((exact, found), (found, exact))]
        row = {"precision": run["precision"], "cells": len(found), "on the CPU": len(exact)}
        proof.rows.append(row | {"found again": shares[0], "not new": shares[1], "s": run["command_s"]})
        proof.expect(run["device"] == proof.device, f"the run was made on {run['device']}")
        proof.expect(min(shares) >= FOUND_AGAIN[run["precision"]], f"{run['precision']}: {min(shares):.2%} found again")
        proof.figures[f"share that is enough, {run['precision']}"] = FOUND_AGAIN[run["precision"]]


def kill(proof: Proof) -> None:
    """``kill -9`` of all processes among the regions; the same command then leaves the bytes of a run without."""
    slide, region = drawn_slide(proof), math.lcm(load_model(proof.model).window, CHUNK)
    more = ("--region", region, "--workers", min(4, available_cores()), "--executor", "processes")
    whole, killed = proof.scratch / "whole", proof.scratch / "killed"
    undisturbed = finished(proof, slide, whole, *more)
    process = subprocess.Popen(wsiproc_run(proof, slide, killed, *more), stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("*/.work/*.inferred.json"))) < 2:
        time.sleep(0.01)
    ended = process.poll() is not None
    if not ended:
        kill_family(process)
    proof.expect(not ended, "the run ended before it could be killed")
    left = len(list(killed.glob("*/.work/*.inferred.json")))
    again = finished(proof, slide, killed, *more)
    one, other = digests(whole), digests(killed)
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    proof.figures |= {"regions": undisturbed["regions"]["tissue"], "done before the kill": left}
    proof.figures |= {"not done again": again["resumed"], "files": len(one), "files that differ": len(differing)}
    proof.expect(again["resumed"] >= 2, "what was done was done again")
    proof.expect(not differing, f"other bytes in {', '.join(sorted(differing)[:3])}")


@dataclass(frozen=True)
class Counted:
    """A model that notes how many windows it was given at a time; ``room``: more than that do not fit, None: untold."""

    model: Model
    sizes: list[int]
    room: int | None = None

    def predict(self, windows: torch.Tensor) -> torch.Tensor:
        """See ``Model``."""
        self.sizes.append(len(windows))
        if self.room is not None and len(windows) > self.room:
            raise torch.cuda.OutOfMemoryError("no room, for once")
        return self.model.predict(windows)


def batch(proof: Proof) -> None:
    """A batch for which there is no memory is halved until it fits, and gives the maps of single windows."""
    count = 4 if proof.small else 16
    model, windows = calibrated_windows(proof, count, proof.model)
    device = Device(proof.device, "float32")
    single = np.concatenate([predict(model, window[None], device) for window in windows]).astype(int)
    counted = Counted(model, [], None if proof.cuda else 2)
    if proof.cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        predict(model, windows[: count // 4], device)
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        predict(model, windows[: count // 4], device)
        needed = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(1.0, 1.3 * needed / total))
        proof.figures |= {"GB for a quarter": needed / 1e9, "GB allowed": 1.3 * needed / 1e9, "GB held": held / 1e9}
    found = predict(counted, windows, device)  # type: ignore[arg-type]
    if proof.cuda:
        torch.cuda.set_per_process_memory_fraction(1.0)
    apart = np.abs(single - found)
    proof.figures |= {
        "windows": count,
        "batches tried": str(counted.sizes),
        "mean grey levels off": float(apart.mean()),
    }
    proof.expect(counted.sizes[0] == count and len(counted.sizes) > 1, "nothing was halved: the limit was not felt")
    allowed = TOLERANCE["float32"]
    right = float(apart.mean()) <= allowed[0] and float(np.percentile(apart, 99)) <= allowed[1]
    proof.expect(right, "halved batches give other maps than single windows")


def transfers(proof: Proof) -> None:
    """Windows there and maps back: page-locked memory and streams of their own against plain copies."""
    model, windows = calibrated_windows(proof, 16)
    batches = [np.roll(windows, 40 * number, axis=2) for number in range(12)]
    device = choose_device("cuda")
    mpx = sum(each.shape[0] * each.shape[1] * each.shape[2] for each in batches) / 1e6

    def plain() -> list[np.ndarray]:
        found = []
        for each in batches:
            given = torch.from_numpy(each).to("cuda")
            with torch.inference_mode(), torch.autocast("cuda", getattr(torch, device.precision)):
                found.append(model.predict(given).cpu().numpy())
        return found

    def streams() -> list[np.ndarray]:
        return [maps_.copy() for maps_, _ in predict_each(model, iter(batches), device)]

    expected = plain()  # the first call also pays for loading
    seconds = {}
    for name, way in (("plain copies", plain), ("page-locked, side streams", streams), ("plain copies again", plain)):
        torch.cuda.synchronize()
        started = time.perf_counter()
        found = way()
        torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started
        same = all((one == other).all() for one, other in zip(found, expected, strict=True))
        proof.rows.append({"way": name, "Mpx/s": mpx / seconds[name], "same maps": str(same)})
        proof.expect(same, f"{name}: other maps")
    faster = seconds["plain copies again"] / seconds["page-locked, side streams"]
    proof.figures |= {"precision": device.precision, "times as fast": faster}


# --- the forward pass alone ------------------------------------------------------------------------------------------


def pictures(proof: Proof, count: int) -> torch.Tensor:
    """What the network sees of drawn tissue, (b, inputs, h, w) float32 on the device."""
    model, windows = calibrated_windows(proof, count)
    given = torch.from_numpy(windows)
    seen: torch.Tensor = model.network_sees(given, optical_density(given, model.stains.white))  # type: ignore[attr-defined]
    return seen.to(proof.device)


def network_of(proof: Proof) -> torch.nn.Module:
    model = load_model("default")
    return load_network(model.folder, model.weights_sha256, proof.device)  # type: ignore[attr-defined]


@contextmanager
def computing(device: str, precision: str) -> Iterator[None]:
    """In a precision; weights are cast in every pass, as captured passes need it and as a run does it."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    half = precision in ("bfloat16", "float16")
    kind = getattr(torch, precision) if half else torch.bfloat16
    with torch.no_grad(), torch.autocast(device, kind, enabled=half, cache_enabled=False):
        yield


def timed(proof: Proof, call: Callable[[], object]) -> float:
    """Median seconds of a call, over a second and after some that do not count; for small work, of one."""
    if proof.small:
        return _seconds(proof.device, call)
    for _ in range(2):
        call()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < 1.0:
        seconds.append(_seconds(proof.device, call))
    return median(seconds)


def _seconds(device: str, call: Callable[[], object]) -> float:
    if device == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1e3
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measured(proof: Proof, what: dict[str, object], seen: torch.Tensor, exact: torch.Tensor, seconds: float) -> None:
    """A row: how fast, and how far from float32 in standard deviations of its logits; ``what`` has the logits."""
    found = what.pop("logits")
    assert isinstance(found, torch.Tensor)
    apart = float((found.float() - exact).abs().mean() / exact.std())
    mpx = seen.shape[0] * seen.shape[2] * seen.shape[3] / 1e6
    proof.rows.append(what | {"ms": 1e3 * seconds, "Mpx/s": mpx / seconds, "logits off, std": apart})
    proof.expect(apart < 0.05, f"{', '.join(map(str, what.values()))}: logits {apart:.3f} standard deviations off")


def forward(proof: Proof) -> None:
    """Every precision, channels last and first."""
    seen, network = pictures(proof, 1 if proof.small else 16), network_of(proof)
    layouts = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
    with computing(proof.device, "float32"):
        exact = network(seen).float()
    for precision in ("float32", "tf32", "bfloat16", "float16") if proof.cuda else ("float32", "bfloat16"):
        for layout, memory_format in layouts.items():
            for weights in network.parameters():
                if weights.ndim == 4:
                    weights.data = weights.data.contiguous(memory_format=memory_format)
            given = seen.contiguous(memory_format=memory_format)
            with computing(proof.device, precision):
                seconds = timed(proof, partial(network, given))
                row = {"precision": precision, "layout": layout, "logits": network(given)}
            measured(proof, row, seen, exact, seconds)
    best = max(proof.rows, key=lambda row: float(str(row["Mpx/s"])))
    proof.figures["fastest"] = f"{best['precision']}, {best['layout']}"


def graph(proof: Proof) -> None:
    """The forward pass captured as a CUDA graph and replayed, against the same without, for small and large batches."""
    network, precision = network_of(proof), choose_device("cuda").precision
    for count in (1, 4, 16):
        seen = pictures(proof, count).contiguous(memory_format=torch.channels_last)
        with computing("cuda", "float32"):
            exact = network(seen).float()
        with computing("cuda", precision):
            seconds = timed(proof, partial(network, seen))
            measured(proof, {"windows": count, "way": "as it is", "logits": network(seen)}, seen, exact, seconds)
            given, captured = seen.clone(), torch.cuda.CUDAGraph()
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # libraries choose and set up what they need before anything is captured
                for _ in range(3):
                    network(given)
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(captured, stream=beside):
                found = network(given)
            given.copy_(seen.flip(3))
            captured.replay()
            torch.cuda.synchronize()
            other = float((found.float() - network(seen.flip(3)).float()).abs().mean() / exact.std())
            proof.expect(other < 0.01, f"{count} windows: a replay does not see its new input ({other:.3f} off)")
            given.copy_(seen)
            replayed = timed(proof, captured.replay)
            row = {"windows": count, "way": "captured", "logits": found.clone()}
        measured(proof, row, seen, exact, replayed)
        proof.figures[f"times as fast, {count} windows"] = seconds / replayed
    proof.figures["precision"] = precision


def compiled(proof: Proof) -> None:
    """The forward pass through ``torch.compile``, plain and with its own graphs, against the same without."""
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        raise NotHereError("torch.compile needs a C compiler")
    network, precision, count = network_of(proof), choose_device("cuda").precision, 16
    seen = pictures(proof, count).contiguous(memory_format=torch.channels_last)
    with computing("cuda", "float32"):
        exact = network(seen).float()
    with computing("cuda", precision):
        plain = timed(proof, partial(network, seen))
        measured(proof, {"way": "as it is", "compiled in s": 0.0, "logits": network(seen)}, seen, exact, plain)
    for mode in ("default", "reduce-overhead"):
        torch.compiler.reset()
        with computing("cuda", precision):
            faster = torch.compile(network, mode=mode, dynamic=False)
            started = time.perf_counter()
            faster(seen)
            torch.cuda.synchronize()
            took = time.perf_counter() - started
            seconds = timed(proof, partial(faster, seen))
            row = {"way": f"compiled, {mode}", "compiled in s": took, "logits": faster(seen).clone()}
        measured(proof, row, seen, exact, seconds)
        proof.figures[f"times as fast, {mode}"] = plain / seconds
    proof.figures["precision"] = precision


# --- learning, and a large slide -------------------------------------------------------------------------------------


def fit(proof: Proof) -> None:
    """A shortened ``wsiproc fit --quick`` on the device; the model can be used there."""
    from wsiproc.psm import fit as fitting
    from wsiproc.psm.tiles import Source

    settings = fitting.FitSettings((Source(drawn_slide(proof)),), proof.scratch / "learned", device=proof.device)
    settings = replace(fitting.quick_settings(settings), activation_steps=40, rounds=(60, 60), student=(60,), tiles=6)
    if proof.small:
        from tests.psm.small_fit import shrink

        shrink(setattr)
        few: dict[str, Any] = {"activation_steps": 2, "rounds": (2,), "student": (2,), "tiles": 4}
        settings = replace(settings, **few, teacher_widths=(8, 16), widths=(8, 16))
    stages: dict[str, list[tuple[int, float]]] = {}

    def on_progress(stage: str, done: int, total: int) -> None:
        stages.setdefault(stage, []).append((done, time.perf_counter()))

    facts = fitting.fit(settings, on_progress)
    for stage, steps in stages.items():
        (first, began), (last, ended) = steps[0], steps[-1]
        if last > first:
            proof.rows.append({"stage": stage, "steps": last, "ms a step": 1e3 * (ended - began) / (last - first)})
    learned, windows = calibrated_windows(proof, 1, str(proof.scratch / "learned"))
    maps_ = predict(learned, windows, Device(proof.device))
    apart = np.abs(maps_.astype(int) - predict(learned, windows, Device()))
    proof.figures |= {"weights": facts.weights_sha256[:12], "mean grey levels off": float(apart.mean())}
    proof.expect(float(apart.mean()) <= TOLERANCE["float32"][0], "the learned model gives other maps than on the CPU")
    proof.expect(len(np.unique(maps_[:, 0])) > 3, "the learned model tells nothing from nothing")


@contextmanager
def watched(proof: Proof) -> Iterator[list[float]]:
    """Per cent of the time before each look in which the GPU was busy, as its driver tells; none where it does not."""
    shares: list[float] = []
    tool = shutil.which("nvidia-smi") if proof.cuda else None
    over = threading.Event()

    def look() -> None:
        command = [str(tool), "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
        while not over.wait(1.0):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            with suppress(ValueError):
                shares.append(float(done.stdout))

    looking = threading.Thread(target=look, daemon=True)
    if tool is not None:
        looking.start()
    try:
        yield shares
    finally:
        over.set()
        if tool is not None:
            looking.join(10)


def large(proof: Proof) -> None:
    """A slide of 15 × 15 mm at 0.25 µm/px: Mpx a second, the device's share, and where the time goes."""
    side, times = (1024, 1) if proof.small else (7500, 8)
    slide = proof.scratch / "large.tif"
    started = time.perf_counter()
    mosaic(slide, side, times)
    proof.figures |= {"drawn in s": time.perf_counter() - started, "mm": side * times * 0.25e-3}
    with SlideSource(slide).open() as opened:
        assert opened.shape == (side * times, side * times)
    with watched(proof) as shares:
        run = finished(proof, slide, proof.scratch / "large")
    mpx, seconds = run["tissue_mm2"] * MPX_A_MM2, run["command_s"]
    proof.figures |= {"tissue mm²": run["tissue_mm2"], "cells": run["counts"]["cells"], "s": seconds}
    proof.figures |= {"Mpx/s": mpx / seconds, "Mpx/s while cells are found": mpx / run["seconds"]["infer and segment"]}
    proof.figures |= {"workers": run["profile"]["workers"], "precision": run["precision"]}
    proof.figures |= {"workers' share in the network": run["profile"]["device_busy"]}
    if shares:
        busy = [share for share in shares if share]  # while there was work for it: not at the start, nor at the end
        proof.figures |= {"GPU busy": float(np.mean(shares)) / 100, "GPU busy at work": float(np.mean(busy or 0)) / 100}
    proof.figures["peak GB"] = run["memory"]["peak_bytes"] / 1e9
    proof.rows += [
        {"stage": line.what, "s of workers": line.seconds, "share": f"{line.share:.0%}"}
        for line in lines(RunRecord.model_validate(run).profile)
    ]
    proof.rows += [{"stage": f"{stage}, by the clock", "s": spent} for stage, spent in run["seconds"].items()]
    proof.expect(run["device"] == proof.device, f"the run was made on {run['device']}")
    faults = {name: share for name, share in run["seams"]["per_1000"].items() if share}
    proof.expect(not faults, f"the seam certificate tells of {faults}")


ITEMS: dict[str, Callable[[Proof], None]] = {
    "machine": machine, "maps": maps, "cells": cells, "kill": kill, "batch": batch, "transfers": transfers,
    "forward": forward, "graph": graph, "compile": compiled, "fit": fit, "large": large,
}  # fmt: skip


def outcome(item: str, proof: Proof) -> dict:
    """Run an item; how it went, with all that it had found by then."""
    try:
        ITEMS[item](proof)
        status, why = (FAILED, "; ".join(proof.wrong)) if proof.wrong else (PROVED, "")
    except NotHereError as error:
        status, why = NOT_HERE, str(error)
    except Exception as error:  # whatever it is, the others go on
        traceback.print_exc()
        status, why = FAILED, " ".join(f"{type(error).__name__}: {error}".split())
    return {"status": status, "why": why, "figures": proof.figures, "rows": proof.rows}


def main(given: Sequence[str] | None = None) -> None:
    """Write the answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("item", choices=list(ITEMS))
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("scratch", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(given)
    found = outcome(arguments.item, Proof(arguments.device, arguments.small, arguments.scratch))
    part = arguments.answer.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(arguments.answer)


if __name__ == "__main__":
    main()
