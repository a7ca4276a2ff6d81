"""The device and precision of models: chosen for this machine, or for the workers of a cluster."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from wsiproc.core.choices import (
    CpuPrecision,
    DeviceChoice,
    DeviceType,
    GpuPrecision,
    Precision,
    PrecisionChoice,
    either,
)
from wsiproc.errors import SettingsError
from wsiproc.executors import WorkerPool, available_cores
from wsiproc.models.base import Model, SupportsInt8

# PyTorch releases whose int8 operators passed the tests, on Linux with AVX-512 VNNI: for these, importing PyTorch,
# which takes a second, is avoided.
_TRIED_INT8 = ("2.13",)


@dataclass(frozen=True)
class Device:
    """``name``: ``cpu`` or ``cuda``; ``precision``: that of networks, the name of a PyTorch dtype.

    ``fallback``: the precision for networks that cannot run in int8, None if int8 was requested; ``note``: why the
    precision is higher than this processor would allow.
    """

    name: DeviceType = "cpu"
    precision: Precision = "float32"
    fallback: Precision | None = field(default="float32", compare=False)
    note: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"

    def suited(self, model: Model) -> Device:
        """The same device, with a higher precision if the model needs it.

        Raises SettingsError if int8 was requested and the model's network cannot run in it.
        """
        able = isinstance(model, SupportsInt8) and model.int8
        if not model.half_precision:
            return Device(self.name)
        if self.precision != "int8":
            return self if able or not self.note else Device(self.name, self.precision)
        if able:
            return self
        if self.fallback is None:
            raise SettingsError(f"precision is int8, but model {model.name!r} cannot run in int8; use --precision auto")
        return Device(self.name, self.fallback)


@dataclass(frozen=True)
class DeviceProbe:
    """Capabilities of a machine: free memory of its GPU, None without one; number formats that its CPU is fast at.

    ``no_int8``: why int8 is unavailable, empty if it is available; ``broken``: whether the CPU supports it but PyTorch
    fails.
    """

    gpu_bytes: int | None
    bfloat16: bool
    no_int8: str
    broken: bool = False


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster: device of inference, its free memory, number of concurrent tasks."""

    device: Device
    gpu_bytes: int
    threads: int


def choose_device(choice: DeviceChoice, precision: PrecisionChoice = "auto") -> Device:
    """The device of this machine, according to the settings.

    Raises SettingsError if CUDA is requested and missing, or a precision that the device does not support.
    """
    if _has_gpu(choice):
        return _gpu(precision)
    if choice == "cuda":
        raise SettingsError("device is cuda, but PyTorch finds no CUDA device; use --device cpu or auto")
    return _cpu(precision, [_cpu_of(precision)])


def _has_gpu(choice: DeviceChoice) -> bool:
    if choice == "cpu" or (choice == "auto" and not may_have_gpu()):
        return False
    import torch

    return torch.cuda.is_available()


def may_have_gpu() -> bool:
    """Whether to import PyTorch, which takes a second, to look for a GPU; on Linux a driver has a device file."""
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    return sys.platform != "linux" or any(Path(path).exists() for path in drivers)


def _gpu(choice: PrecisionChoice) -> Device:
    """A GPU, in half precision by default."""
    return Device("cuda", "float16" if choice == "auto" else _supported(choice, "cuda", GpuPrecision))


def _cpu(choice: PrecisionChoice, machines: Collection[DeviceProbe]) -> Device:
    """CPUs, by default in the lowest precision that all of them are fast at."""
    reasons = [machine.no_int8 for machine in machines if machine.no_int8]
    if choice == "int8":
        if reasons:
            raise SettingsError(f"precision is int8, but {reasons[0]}; use --precision auto")
        return Device("cpu", "int8", None)
    if choice != "auto":
        return Device("cpu", _supported(choice, "cpu", CpuPrecision))
    wide: Precision = "bfloat16" if all(machine.bfloat16 for machine in machines) else "float32"
    if not reasons:
        return Device("cpu", "int8", wide)
    broken = next((machine.no_int8 for machine in machines if machine.broken), None)
    note = f"networks compute in {wide}, which is slower: {broken}. Another PyTorch may do better" if broken else ""
    return Device("cpu", wide, note=note)


def _supported(precision: Precision, name: DeviceType, choices: Any) -> Precision:
    """The precision; SettingsError if it is not among the choices of the device."""
    if precision not in get_args(choices):
        raise SettingsError(
            f"precision is {precision}, which networks on {name} do not support; choose one of auto, {either(choices)}"
        )
    return precision


def _cpu_of(precision: PrecisionChoice = "auto") -> DeviceProbe:
    """What the CPU of this process is fast at, as far as it matters for ``precision``."""
    if precision not in ("auto", "int8"):
        return DeviceProbe(None, False, "")
    if not fast_int8():
        return DeviceProbe(None, fast_bfloat16(), "this processor does not multiply int8 exactly (no VNNI)")
    why = int8_failure()
    return DeviceProbe(None, fast_bfloat16(), why, broken=bool(why))


def int8_failure() -> str:
    """Why int8 in PyTorch is unusable here; empty if it works."""
    if "torch" not in sys.modules and _tried_int8():
        return ""
    from wsiproc.models.networks.int8 import self_test

    return self_test()


def _tried_int8() -> bool:
    return sys.platform == "linux" and cpu_has("avx512vnni") and _torch_release() in _TRIED_INT8


def _torch_release() -> str:
    try:
        return ".".join(version("torch").split(".")[:2])
    except PackageNotFoundError:
        return ""


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; others take several times as long as for float32."""
    return cpu_has("avx512bf16")


def fast_int8() -> bool:
    """Whether this CPU multiplies int8 and sums the products exactly; on others sums of two products overflow."""
    return cpu_has("avx512vnni") or cpu_has("avxvnni")


def cpu_has(feature: str) -> bool:
    """Whether this CPU has these instructions, by their name in LLVM: ``avx512vnni``."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature))


def use_allowed_cores() -> None:
    """Limit PyTorch's threads to the cores that may be used; by itself it ignores the quota of a container."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def free_gpu_bytes() -> int | None:
    """Free memory of the GPU of this process; None without one."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def probe_device() -> DeviceProbe:
    """Capabilities of this process's machine; asking for the GPU loads PyTorch, so its int8 operators are tried."""
    gpu_bytes = free_gpu_bytes()
    return dataclasses.replace(_cpu_of(), gpu_bytes=gpu_bytes)


def probe_cluster(workers: WorkerPool, choice: DeviceChoice, precision: PrecisionChoice) -> Cluster:
    """The capabilities of a cluster; inference runs on the workers with the resource ``GPU``, else on any.

    ``choice`` and ``precision`` as in the settings. Raises SettingsError if CUDA is requested and some have none, and
    if only some have it: a slide is processed on one kind of device, since another gives slightly different maps.
    """
    device, gpu_bytes = common_device(workers.ask(probe_device), choice, precision)
    return Cluster(device, gpu_bytes, workers.workers)


def common_device(
    found: Mapping[str, DeviceProbe], choice: DeviceChoice, precision: PrecisionChoice = "auto"
) -> tuple[Device, int]:
    """Device and least free memory of workers, given the probe of each by name; raises like ``probe_cluster``.

    For the same reason, a lower precision is chosen on CPUs only if all are fast at it.
    """
    without = sorted(name for name, machine in found.items() if machine.gpu_bytes is None)
    if choice == "cpu" or (choice == "auto" and len(without) == len(found)):
        return _cpu(precision, found.values()), 0
    if without:
        raise SettingsError(
            f"{len(without)} of {len(found)} workers for inference find no CUDA device: {', '.join(without[:5])}. "
            "Start those with a GPU, and only those, with `dask worker … --resources GPU=1`, or use --device cpu"
        )
    least = min(machine.gpu_bytes for machine in found.values() if machine.gpu_bytes is not None)
    return _gpu(precision), least
