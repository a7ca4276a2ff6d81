"""The package's own int8 layers next to OpenVINO's: the same network, weights and activation ranges, on one thread.

    pip install openvino
    python benchmarks/int8_libraries.py CMU-1-Small-Region.svs [--model default] [--rounds 20]

OpenVINO is given the U-Net with fake quantisation where the own layers round. Calls take turns on the same windows, and
the ratios are of processor time within a turn, so that other work on the machine hardly matters.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from wsiproc.core.geometry import Box
from wsiproc.executors import tune_malloc
from wsiproc.io.slides.open import SlideSource
from wsiproc.models import load_model
from wsiproc.models.folder import load_int8_network, load_network
from wsiproc.models.networks.unet import UNet
from wsiproc.models.staining import optical_density

Network = Callable[[Tensor], Tensor]
LOADS = """
import sys, time, psutil, numpy
rss, started = psutil.Process().memory_info().rss, time.perf_counter()
import openvino
imported = time.perf_counter() - started
options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
openvino.Core().compile_model(sys.argv[1], "CPU", options)
seconds, rss = time.perf_counter() - started, psutil.Process().memory_info().rss - rss
print(f"import {imported:.2f} s, import and compile {seconds:.2f} s, {rss / 2**20:.0f} MiB")
"""


class FakeInt8(nn.Module):
    """A fused U-Net as it is defined, with weights and activations in the steps of a byte if there are ``peaks``."""

    def __init__(self, network: UNet, peaks: tuple[float, ...] = ()) -> None:
        super().__init__()
        self._network, self._steps = network, [peak / 255 for peak in peaks]

    def forward(self, x: Tensor) -> Tensor:
        """See UNet."""
        network, skipped, number = self._network, [], 0
        for level, block in enumerate([*network.down, *reversed(network.up)]):
            if 0 < level < len(network.down):
                x = nnf.max_pool2d(x, 2)
            elif level:
                x = torch.cat([nnf.interpolate(x, scale_factor=2.0, mode="nearest"), skipped.pop()], 1)
            for conv in (layer for layer in block if isinstance(layer, nn.Conv2d)):
                x = torch.relu(nnf.conv2d(x, self._kernels(conv, number), conv.bias, padding=1))
                x = torch.fake_quantize_per_tensor_affine(x, self._steps[number], 0, 0, 255) if self._steps else x
                number += 1
            if level < len(network.down) - 1:
                skipped.append(x)
        return nnf.pixel_shuffle(nnf.conv2d(x, self._kernels(network.head, number), network.head.bias), network.fold)

    def _kernels(self, conv: nn.Conv2d, number: int) -> Tensor:
        if not self._steps or not number:
            return conv.weight
        scales = conv.weight.abs().amax((1, 2, 3)).clamp(min=1e-12) / 127
        zeros = torch.zeros(conv.out_channels, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(conv.weight, scales, zeros, 0, -127, 127)


def converted(network: nn.Module, example: Tensor) -> Any:
    """As a model of OpenVINO for pictures of any size, which takes them in the layout of channels last."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(openvino.convert_model(network.eval(), example_input=example.contiguous()))
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def compiled(model: Any, precision: str, threads: int = 1) -> Network:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def call(x: Tensor) -> Tensor:
        given = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
        request.infer({0: openvino.Tensor(given, shared_memory=True)})
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return call


def in_bfloat16(network: nn.Module) -> Network:
    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(x).float()

    return call


def seen(slide_path: Path, model: Any, count: int) -> list[Tensor]:
    """What the network is given of windows around the middle of a slide, (1, inputs, h, w) each."""
    slide, side = SlideSource(slide_path).open(), model.window + 2 * model.halo
    y, x = (int(length * slide.mpp / model.mpp) // 2 for length in slide.shape)
    boxes = [Box(y - side // 2, x - side + number * side // count, side, side) for number in range(count)]
    pixels = np.stack([slide.read(box, model.mpp) for box in boxes])
    calibrated, windows = model.calibrate(list(pixels)), torch.from_numpy(pixels)
    return [calibrated.network_sees(w, optical_density(w, calibrated.stains.white)) for w in windows.split(1)]


def compare(calls: dict[str, Network], windows: list[Tensor], rounds: int) -> None:
    """A row for each: ms of processor time a window, and how many times that of the first in the same turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-2, rounds):  # the first two are for warming up
        for name in reversed(calls) if turn % 2 else calls:
            started = time.process_time()
            calls[name](windows[turn % len(windows)])
            if turn >= 0:
                taken[name].append(time.process_time() - started)
    first = np.array(next(iter(taken.values())))
    print("| layers | CPU ms a window, median | ÷ own int8: quartiles |\n|---|---|---|")
    for name, seconds in taken.items():
        low, middle, high = np.percentile(np.array(seconds) / first, (25, 50, 75))
        print(f"| {name} | {np.median(seconds) * 1e3:.0f} | {low:.2f}, **{middle:.2f}**, {high:.2f} |")


def tell_same(name: str, call: Network, two_threads: Callable[[Tensor], Tensor], windows: list[Tensor]) -> None:
    """Whether numbers depend on what must not matter."""
    window, batch = windows[0], torch.cat(windows)
    found = call(window)
    cut, fold = (
        window[:, :, 32:-32, 64:-96].contiguous(memory_format=torch.channels_last),
        found.shape[-1] // window.shape[-1],
    )
    h, w, inner = cut.shape[2], cut.shape[3], 64 * fold  # farther than the network sees
    whole = found[:, :, 32 * fold :, 64 * fold :][:, :, : h * fold, : w * fold]
    pairs = {
        "again": (call(window), found),
        "two threads": (two_threads(window), found),
        "first of a batch": (call(batch)[:1], found),
        "last of a batch": (call(batch.flip(0))[-1:], found),
        "cut window": tuple(x[:, :, inner:-inner, inner:-inner] for x in (call(cut), whole)),
    }
    print(
        f"{name}: " + ", ".join(f"{what} {'same' if torch.equal(*pair) else 'OTHER'}" for what, pair in pairs.items())
    )


def grey_levels(call: Network, windows: list[Tensor]) -> Tensor:
    return torch.cat([(torch.sigmoid(call(window)) * 255).round() for window in windows])


def own_on_two_threads(call: Network) -> Network:
    def threaded(x: Tensor) -> Tensor:
        torch.set_num_threads(2)
        try:
            return call(x)
        finally:
            torch.set_num_threads(1)

    return threaded


def main(slide: Path, name: str, rounds: int) -> None:
    """Time, exactness, and what loading takes."""
    import openvino

    torch.set_num_threads(1)
    tune_malloc()
    model: Any = load_model(name)
    network = load_network(model.folder, model.weights_sha256, "cpu")
    assert isinstance(network, UNet)
    windows = seen(slide, model, 3)
    int8 = converted(FakeInt8(network, model.facts.int8_peaks), windows[0])
    own, theirs = load_int8_network(model.folder, model.weights_sha256), compiled(int8, "f32")
    wide = converted(FakeInt8(network), windows[0])
    calls = {"own int8": own, "OpenVINO int8": theirs, "OpenVINO int8, rest in bfloat16": compiled(int8, "bf16")}
    calls |= {"PyTorch bfloat16": in_bfloat16(network), "OpenVINO bfloat16": compiled(wide, "bf16")}
    calls |= {"PyTorch float32": network, "OpenVINO float32": compiled(wide, "f32")}
    with torch.inference_mode():
        compare(calls, windows, rounds)
        tell_same("own int8", own, own_on_two_threads(own), windows)
        tell_same("OpenVINO int8", theirs, compiled(int8, "f32", threads=2), windows)
        exact, mine, other = (grey_levels(call, windows) for call in (network, own, theirs))
    print(f"pixels with the same byte in both: {float((mine == other).float().mean()):.2%}", end="; ")
    off = [float((levels - exact).abs().mean()) for levels in (mine, other)]
    print(f"mean grey levels off float32: own {off[0]:.3f}, OpenVINO {off[1]:.3f}")
    with tempfile.TemporaryDirectory() as scratch:
        openvino.save_model(int8, Path(scratch) / "model.xml")
        done = subprocess.run([sys.executable, "-c", LOADS, f"{scratch}/model.xml"], capture_output=True, text=True)
    files = [path for path in Path(openvino.__file__).parent.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"OpenVINO {openvino.__version__}: {size:.0f} MB installed; in a worker {done.stdout.strip()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    try:
        import openvino  # noqa: F401
    except ImportError:
        sys.exit("this compares with OpenVINO, which is not installed: pip install openvino")
    main(given.slide, given.model, given.rounds)
