"""Checks of an installation: each runs a sample, and names a remedy if it fails.

Everything happens in a temporary folder: a synthetic slide of a few hundred pixels is written, read back in two ways,
and its nuclei are detected.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from wsiproc._version import __version__
from wsiproc.core.types import UInt8Array
from wsiproc.errors import PlanError, sentence
from wsiproc.executors import require_address_space

if TYPE_CHECKING:
    from wsiproc.models.device import Device

CheckLevel = Literal["ok", "warning", "problem"]

_SIDE_PX, _MPP = 608, 0.5  # of the synthetic slide: a window of the default model with its halo just fits
_LOOPBACK = "only clusters need it; a firewall may block 127.0.0.1"
_SLIDE_MPP = 0.25  # of the slide that the number of workers is estimated for: 40x
_TISSUE_MM2 = 100.0  # of a slide whose results should fit on the disk
_LOSSY = 12.0  # largest mean difference, in grey levels, that a lossy codec may make to a smooth image
_APART = 2.0  # largest mean difference, in grey levels, between maps in lower and in full precision
_EXTRAS = {
    "dask-jobqueue": ("cluster", "workers on Slurm and LSF"),
    "tiatoolbox": ("tiatoolbox", "its readers, tissue maskers, stain normalisers, nucleus models and annotation store"),
    "timm": ("timm", "the activation network of the PSM paper, for comparison"),
}
_REINSTALL = "in the folder of wsiproc, pip install -c constraints.txt ."
_TORCH_CUDA = (
    "take the CUDA build of the same version instead: pip uninstall torch, then on Linux pip install torch=={version}; "
    "on Windows as https://pytorch.org/get-started says"
)


@dataclass(frozen=True)
class Diagnosis:
    """The result of one check: ``what`` was checked, its level, what was found, and the remedy if it is not ok."""

    what: str
    level: CheckLevel
    found: str
    remedy: str = ""


def examine(out: Path, quick: bool = False) -> Iterator[Diagnosis]:
    """Run all checks, lazily. ``out``: where results would go; ``quick``: without starting workers.

    A failure is a diagnosis, never an exception.
    """
    yield _tried("versions", check_versions, _REINSTALL)
    yield _tried("cores", check_cores, "set --workers")
    try:
        require_address_space()
    except PlanError as error:  # the rest would end the process
        yield Diagnosis("memory", "problem", str(error), "ulimit -v unlimited")
        return
    yield _tried("memory", check_memory, "set --memory")
    yield check_folder("disk for results", out, "choose another -o folder")
    scratch = Path(tempfile.gettempdir())
    room = check_folder("disk for temporary files", scratch, "set TMPDIR to a folder that can be written")
    yield room
    if room.level == "problem":
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield from _examine_files(Path(folder))
    if not quick:
        yield _tried("workers", partial(check_workers, "workers", "processes"), "use --executor loop")
        yield _tried("Dask", partial(check_workers, "Dask", "dask"), _LOOPBACK)
    for name in _EXTRAS:
        yield check_extra(name)


def _examine_files(folder: Path) -> Iterator[Diagnosis]:
    """The checks that need a slide, or files in ``folder``."""
    slide, zarr = folder / "drawn.tif", folder / "drawn.ome.zarr"
    yield _tried("codecs", check_codecs, "pip install --force-reinstall imagecodecs")
    yield _tried("OpenSlide", lambda: check_openslide(slide), "pip install --force-reinstall openslide-bin")
    yield _tried("TIFF", lambda: check_tiff(slide), "pip install --force-reinstall tifffile imagecodecs")
    yield _tried("OME-Zarr", lambda: check_zarr(zarr), "pip install --force-reinstall zarr")
    yield _tried(
        "model", lambda: check_model(slide), f"it comes with the package: {_REINSTALL} --force-reinstall --no-deps"
    )
    yield _tried("GPU", lambda: check_gpu(slide), "use --device cpu")


def _tried(what: str, check: Callable[[], Diagnosis], remedy: str) -> Diagnosis:
    """The diagnosis of a check; any exception becomes a problem with ``remedy``."""
    try:
        return check()
    except Exception as error:  # a broken installation may raise anything
        return Diagnosis(what, "problem", " ".join(sentence(error).split()), remedy)


# --- Python and the machine ------------------------------------------------------------------------------------------


def library_versions() -> dict[str, str | None]:
    """Version of each library that wsiproc requires, None where it is missing; by name."""
    from packaging.requirements import Requirement

    wanted = (Requirement(text) for text in requires("wsiproc") or ())
    return {each.name: _installed(each.name) for each in wanted if each.marker is None or each.marker.evaluate()}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_versions() -> Diagnosis:
    """Versions of Python and wsiproc, and whether every required library is installed in a suitable version."""
    from packaging.requirements import Requirement

    found = library_versions()
    wanted = {each.name: each.specifier for each in map(Requirement, requires("wsiproc") or ()) if each.name in found}
    wrong = [
        f"{name} is not installed" if (has := found[name]) is None else f"{name} is {has}, but {allowed} is required"
        for name, allowed in wanted.items()
        if found[name] is None or not allowed.contains(found[name] or "", prereleases=True)
    ]
    versions = f"wsiproc {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if wrong:
        return Diagnosis("versions", "problem", f"{versions}; {', '.join(wrong)}", _REINSTALL)
    return Diagnosis("versions", "ok", f"{versions}; {len(found)} libraries as required")


def check_cores() -> Diagnosis:
    """Number of cores that may be used, and what limits it."""
    from wsiproc.executors import available_cores, core_limits

    limits, cores = core_limits(), available_cores()
    tightest = min(limits, key=lambda source: limits[source])
    found = f"{cores} of {limits['machine']:g} may be used"
    if limits[tightest] < limits["machine"]:
        found += f" ({tightest}: {limits[tightest]:.3g})"
    return Diagnosis("cores", "ok", found)


def check_memory() -> Diagnosis:
    """Available memory, what limits it, and the number of workers that a run of the default model would start."""
    import psutil

    from wsiproc.executors import memory_limits
    from wsiproc.executors.limits import GB
    from wsiproc.pipeline.planning.estimate import driver_bytes
    from wsiproc.pipeline.planning.plan import memory_limit, workers_that_fit
    from wsiproc.pipeline.settings import Settings

    total, free = psutil.virtual_memory().total, memory_limit(Settings())
    found = f"{total / GB:.1f} GB, {free / GB:.1f} GB free"
    tightest = min(memory_limits(), key=lambda room: room.limit, default=None)
    if tightest is not None and tightest.limit < total:
        found += f" ({tightest.source}: {tightest.limit / GB:.1f} GB)"
    room, each = free - driver_bytes(1), _worker_bytes()
    workers = workers_that_fit(each, room)
    if room < each:
        needed = f"one worker needs up to {each / GB:.2f} GB, and the main process {driver_bytes(1) / GB:.2f} GB"
        return Diagnosis("memory", "warning", f"{found}: {needed}", "close other programs, or use a smaller --region")
    found += f": {workers} worker{'s' * (workers > 1)} of {each / GB:.2f} GB at most would be started"
    return Diagnosis("memory", "ok", found)


def _worker_bytes() -> int:
    """Projected peak memory of one worker with default settings."""
    from wsiproc.models import load_model
    from wsiproc.pipeline.planning.estimate import worker_bytes
    from wsiproc.pipeline.settings import Settings

    settings = Settings()
    model = load_model("classical")  # like all models, it has three maps: nuclei and two stains
    return worker_bytes(
        settings.region, model.margin, model.window, model.halo, len(model.channels), model.mpp / _SLIDE_MPP
    )


def check_folder(what: str, folder: Path, remedy: str) -> Diagnosis:
    """Whether a folder, or the one that it would be created in, is writable and has room for a slide's results."""
    from wsiproc.executors.limits import GB
    from wsiproc.pipeline.planning.estimate import disk_bytes

    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        with tempfile.NamedTemporaryFile(prefix=".wsiproc-doctor-", dir=there) as file:
            file.write(bytes(1 << 16))
            file.flush()
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Diagnosis(what, "problem", f"{folder} cannot be written to: {error.strerror or error}", remedy)
    px = int(_TISSUE_MM2 * 1e6 / _MPP**2)
    needed = disk_bytes(px, 3, _TISSUE_MM2)
    found = f"{free / GB:.1f} GB free; writable"
    if what == "disk for results" and free < needed:
        return Diagnosis(what, "warning", f"{found}; {_TISSUE_MM2:g} mm² of tissue need {needed / GB:.1f} GB", remedy)
    return Diagnosis(what, "ok", found)


# --- formats ---------------------------------------------------------------------------------------------------------


def _ramp() -> UInt8Array:
    """A smooth image (64, 64, 3), which a lossy codec preserves almost exactly."""
    ramp = np.linspace(40, 220, 64)
    return np.stack(
        [np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, -ramp) / 2 + 128, np.tile(ramp, (64, 1))], -1
    ).astype(np.uint8)


def check_codecs() -> Diagnosis:
    """Encode and decode with each codec that slides are stored with."""
    import imagecodecs

    image, broken = _ramp(), []
    flat = image.tobytes()
    lossy = {"JPEG": "jpeg8", "JPEG 2000": "jpeg2k", "WebP": "webp"}
    streams = {"zstd": "zstd", "deflate": "zlib", "LZW": "lzw"}
    for title, name in lossy.items():
        try:
            encoded = getattr(imagecodecs, f"{name}_encode")(image, level=90)
            decoded = np.asarray(getattr(imagecodecs, f"{name}_decode")(encoded), np.float64)
            if decoded.shape != image.shape or np.abs(decoded - image).mean() > _LOSSY:
                broken.append(f"{title} decodes to another image")
        except Exception as error:  # each codec has an error class of its own
            broken.append(f"{title}: {error}")
    for title, name in streams.items():
        try:
            encoded = getattr(imagecodecs, f"{name}_encode")(flat)
            if getattr(imagecodecs, f"{name}_decode")(encoded) != flat:
                broken.append(f"{title} decodes to other bytes")
        except Exception as error:
            broken.append(f"{title}: {error}")
    if broken:
        remedy = "slides stored with these cannot be read: pip install --force-reinstall imagecodecs"
        return Diagnosis("codecs", "problem", "; ".join(broken), remedy)
    return Diagnosis(
        "codecs", "ok", f"{', '.join(lossy)}, zstd, deflate and LZW (imagecodecs {version('imagecodecs')})"
    )


def check_openslide(slide: Path) -> Diagnosis:
    """Write a synthetic slide to ``slide``, open it with OpenSlide and read a tile."""
    from wsiproc.synthetic import write_synthetic_slide

    write_synthetic_slide(slide, (_SIDE_PX, _SIDE_PX), mpp=_MPP, tissue_fraction=1.0, workers=1)
    spread = int(np.ptp(_read(slide, "openslide")))
    if spread < 32:
        raise ValueError(f"the synthetic tissue is read with only {spread + 1} grey levels")
    libraries = f"openslide-python {version('openslide-python')}, openslide-bin {_installed('openslide-bin') or 'none'}"
    return Diagnosis("OpenSlide", "ok", f"opens a slide and reads a tile ({libraries})")


def check_tiff(slide: Path) -> Diagnosis:
    """Whether the tiles of a TIFF, decoded directly, are the pixels that OpenSlide gives."""
    direct, through = (_read(slide, reader).astype(np.int16) for reader in ("tifffile", "openslide"))
    apart = int(np.abs(direct - through).max())
    if apart > 2:  # two builds of the JPEG library may round differently
        return Diagnosis(
            "TIFF", "warning", f"tiles differ from OpenSlide's by {apart} grey levels", "--reader openslide"
        )
    return Diagnosis("TIFF", "ok", "tiles are decoded directly, to the pixels that OpenSlide gives")


def _read(slide: Path, reader: Literal["openslide", "tifffile"]) -> UInt8Array:
    from wsiproc.core.geometry import Box
    from wsiproc.io.slides.open import open_slide

    with open_slide(slide, reader=reader) as opened:
        return opened.read(Box(0, 0, 256, 256), opened.mpp)


def check_zarr(folder: Path) -> Diagnosis:
    """Write an image as OME-Zarr into ``folder``, and read it as a slide."""
    from wsiproc.core.geometry import Box
    from wsiproc.io.ome_zarr import image as ngff
    from wsiproc.io.slides.open import open_slide

    tile = np.tile(_ramp(), (8, 8, 1))
    box = Box(0, 0, *tile.shape[:2])
    channels = [("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))]
    ngff.create_image(folder, box.shape, (_MPP, _MPP), 1, channels, shard=ngff.CHUNK)
    ngff.write_pyramid(folder, box, np.ascontiguousarray(tile.transpose(2, 0, 1)), ngff.CHUNK)
    with open_slide(folder) as slide:
        if not np.array_equal(slide.read(box, _MPP), tile):
            raise ValueError("the pixels read differ from those written")
    return Diagnosis("OME-Zarr", "ok", f"written, and read back to the same pixels (zarr {version('zarr')})")


# --- model, GPU, workers ---------------------------------------------------------------------------------------------


def _maps(slide: Path, device: Device) -> tuple[UInt8Array, float, int]:
    """Maps (c, h, w) of a window of ``slide`` by the default model, seconds that took, and the number of nuclei."""
    from wsiproc.core.geometry import Box
    from wsiproc.io.slides.open import open_slide
    from wsiproc.models import load_model
    from wsiproc.models.inference import predict

    model = load_model("default")
    side = model.window + 2 * model.halo
    with open_slide(slide) as opened:
        pixels = opened.read(Box(0, 0, side, side), model.mpp)
    calibrated = model.calibrate([pixels])
    predict(calibrated, pixels[None], device)  # the first call pays for loading
    started = time.perf_counter()
    maps: UInt8Array = predict(calibrated, pixels[None], device)[0]
    return maps, time.perf_counter() - started, len(calibrated.instances(maps).classes)


def check_model(slide: Path) -> Diagnosis:
    """Whether the weights match their hash, and the default model finds nuclei in the synthetic slide; its precision.

    If this CPU is faster in lower precision, the maps must be close to those in full precision.
    """
    from wsiproc.models import load_model
    from wsiproc.models.device import Device, choose_device

    model, device = load_model("default"), choose_device("cpu")
    exact, here = _maps(slide, Device()), _maps(slide, device)
    found = f"{model.name}, weights {(model.weights_sha256 or '')[:12]} as recorded"
    if not here[2]:
        raise ValueError(f"{found}, but it finds no nuclei in the synthetic slide")
    found += f"; {here[2]} nuclei in a window of {model.window} px, {here[1]:.2f} s on one CPU in {device.precision}"
    if device.note:
        return Diagnosis("model", "warning", f"{found}; {device.note}", "install the PyTorch of constraints.txt")
    return _compared("model", found, _apart(exact[0], here[0]), "use --precision float32")


def _apart(some: UInt8Array, others: UInt8Array) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(some.astype(np.int16) - others).mean())


def _compared(name: str, found: str, apart: float, remedy: str) -> Diagnosis:
    if apart > _APART:
        return Diagnosis(name, "problem", f"{found}; its maps differ by {apart:.1f} grey levels", remedy)
    return Diagnosis(name, "ok", found)


def check_gpu(slide: Path) -> Diagnosis:
    """Whether PyTorch has a GPU, and whether the default model's maps on it match those on the CPU."""
    import torch

    build = f"PyTorch {torch.__version__}"
    if torch.cuda.is_available():
        return _check_cuda(slide, build)
    driver = nvidia_driver()
    if driver and torch.version.cuda is None:
        remedy = _TORCH_CUDA.format(version=torch.__version__.partition("+")[0])
        return Diagnosis("GPU", "warning", f"{build} is built for CPUs, but there is an NVIDIA driver", remedy)
    if driver:
        found = f"{build} is built for CUDA {torch.version.cuda}, but finds no GPU, although there is an NVIDIA driver"
        remedy = "check nvidia-smi: the driver may be too old for this CUDA, access denied, or CUDA_VISIBLE_DEVICES set"
        return Diagnosis("GPU", "warning", found, remedy)
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
    return Diagnosis("GPU", "ok", f"none; the CPU is used ({build}, {built})")


def _check_cuda(slide: Path, build: str) -> Diagnosis:
    import torch

    from wsiproc.executors.limits import GB
    from wsiproc.models.device import Device, choose_device

    free, total = torch.cuda.mem_get_info()
    here, there = _maps(slide, Device()), _maps(slide, choose_device("cuda"))
    found = (
        f"{torch.cuda.get_device_name()}, {free / GB:.1f} of {total / GB:.1f} GB free ({build}, CUDA "
        f"{torch.version.cuda}); a window in {there[1] * 1e3:.0f} ms"
    )
    return _compared("GPU", found, _apart(here[0], there[0]), "use --device cpu")


def nvidia_driver() -> bool:
    """Whether this system has an NVIDIA driver, whether or not PyTorch can use it."""
    devices = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"))
    return any(path.exists() for path in devices) or shutil.which("nvidia-smi") is not None


def check_workers(what: str, kind: str) -> Diagnosis:
    """Start one worker of an executor of this ``kind`` on this machine, run a task in it, and shut it down."""
    from wsiproc.executors import Task, worker_pool

    started = time.perf_counter()
    with worker_pool(kind, workers=1) as workers:
        answers = [answer for _, answer in workers.run([Task("hello", os.getpid, ())])]
    if answers == [os.getpid()] or len(answers) != 1:
        raise RuntimeError(f"a worker was asked for its process id, and returned {answers}")
    return Diagnosis(
        what, "ok", f"a worker starts, runs a task and shuts down in {time.perf_counter() - started:.1f} s"
    )


def check_extra(name: str) -> Diagnosis:
    """Whether an optional library is installed, and its use; it is not imported, which may be slow."""
    extra, use = _EXTRAS[name]
    if (has := _installed(name)) is not None and find_spec(name.replace("-", "_")) is not None:
        return Diagnosis(name, "ok", f"{has}: {use}")
    return Diagnosis(name, "ok", f"not installed; for {use}: pip install 'wsiproc[{extra}]'")
