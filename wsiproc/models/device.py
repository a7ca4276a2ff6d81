"""What models run on, a processor and a precision: chosen from this machine, or from the workers of a cluster."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wsiproc.choices import DeviceType
from wsiproc.errors import SettingsError
from wsiproc.executors import WorkerPool, available_cores
from wsiproc.models.base import InWholeNumbers, Model

# Releases of PyTorch whose operators on bytes have passed the tests: there loading it, which takes a second, is spared.
_TRIED_INT8 = ("2.13",)
_GPU_PRECISIONS = ("float32", "bfloat16", "float16")
_CPU_PRECISIONS = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Device:
    """``name``: ``cpu`` or ``cuda``; ``precision``: in what networks compute, the name of a PyTorch type.

    ``otherwise``: the precision for networks that cannot be computed in int8, None where int8 was asked for; ``note``:
    why the precision is wider than this processor would have it.
    """

    name: DeviceType = "cpu"
    precision: str = "float32"
    otherwise: str | None = field(default="float32", compare=False)
    note: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"

    def suited(self, model: Model) -> Device:
        """The same, but in a wider precision where the model needs that.

        Raises SettingsError where int8 was asked for and the model's network cannot be computed so.
        """
        able = isinstance(model, InWholeNumbers) and model.int8
        if not model.half_precision:
            return Device(self.name)
        if self.precision != "int8":
            return self if able or not self.note else Device(self.name, self.precision)
        if able:
            return self
        if self.otherwise is None:
            raise SettingsError(
                f"precision is int8, but model {model.name!r} cannot be computed so; use --precision auto"
            )
        return Device(self.name, self.otherwise)


@dataclass(frozen=True)
class DeviceProbe:
    """What a machine has: free memory of its GPU, None without one; what its CPU is fast at multiplying.

    ``no_int8``: why not bytes, empty where it is; ``broken``: whether the CPU could, but its PyTorch does not.
    """

    gpu_bytes: int | None
    bfloat16: bool
    no_int8: str
    broken: bool = False


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster: device that inference runs on, its free memory, tasks that run side by side."""

    device: Device
    gpu_bytes: int
    threads: int


def choose_device(choice: str, precision: str = "auto") -> Device:
    """The device of this machine, as the settings ask.

    Raises SettingsError where CUDA is asked for and not there, or a precision that the device has not.
    """
    if _has_gpu(choice):
        return _gpu(precision)
    if choice == "cuda":
        raise SettingsError("device is cuda, but PyTorch finds no CUDA device; use --device cpu or auto")
    return _cpu(precision, [_cpu_of(precision)])


def _has_gpu(choice: str) -> bool:
    if choice == "cpu" or (choice == "auto" and not _may_have_gpu()):
        return False
    import torch

    return torch.cuda.is_available()


def _may_have_gpu() -> bool:
    """Whether it is worth loading PyTorch, which takes a second, to ask for a GPU; on Linux its driver has a device."""
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    return sys.platform != "linux" or any(Path(path).exists() for path in drivers)


def _gpu(choice: str) -> Device:
    """A GPU, with half the bits unless told otherwise."""
    return Device("cuda", "float16" if choice == "auto" else _known(choice, "cuda", _GPU_PRECISIONS))


def _cpu(choice: str, machines: Collection[DeviceProbe]) -> Device:
    """CPUs, with as few bits as all of them are fast at unless told otherwise."""
    reasons = [machine.no_int8 for machine in machines if machine.no_int8]
    if choice == "int8":
        if reasons:
            raise SettingsError(f"precision is int8, but {reasons[0]}; use --precision auto")
        return Device("cpu", "int8", None)
    if choice != "auto":
        return Device("cpu", _known(choice, "cpu", _CPU_PRECISIONS))
    wide = "bfloat16" if all(machine.bfloat16 for machine in machines) else "float32"
    if not reasons:
        return Device("cpu", "int8", wide)
    broken = next((machine.no_int8 for machine in machines if machine.broken), None)
    note = f"networks compute in {wide}, which is slower: {broken}. Another PyTorch may do better" if broken else ""
    return Device("cpu", wide, note=note)


def _known(precision: str, name: str, precisions: Sequence[str]) -> str:
    if precision not in precisions:
        raise SettingsError(
            f"precision is {precision}, which networks on {name} are not computed in; choose one of auto, "
            f"{', '.join(precisions)}"
        )
    return precision


def _cpu_of(precision: str = "auto") -> DeviceProbe:
    """What the CPU of this process is fast at, as far as it matters for a choice."""
    if precision not in ("auto", "int8"):
        return DeviceProbe(None, False, "")
    if not fast_int8():
        return DeviceProbe(None, fast_bfloat16(), "this processor does not multiply bytes exactly (no VNNI)")
    why = int8_failure()
    return DeviceProbe(None, fast_bfloat16(), why, broken=bool(why))


def int8_failure() -> str:
    """Why PyTorch computes nothing in bytes here that can be used; empty where it does."""
    if "torch" not in sys.modules and _torch_release() in _TRIED_INT8:
        return ""
    from wsiproc.models.networks.int8 import self_test

    return self_test()


def _torch_release() -> str:
    try:
        return ".".join(version("torch").split(".")[:2])
    except PackageNotFoundError:
        return ""


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers; others take several times as long for them as for float32."""
    return _has("avx512bf16")


def fast_int8() -> bool:
    """Whether this CPU multiplies bytes and adds up the products exactly; others let sums of two of them overflow."""
    return _has("avx512vnni") or _has("avxvnni")


def _has(feature: str) -> bool:
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature))


def use_allowed_cores() -> None:
    """Have PyTorch start no more threads than may run; by itself it does not know the quota of a container."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def free_gpu_bytes() -> int | None:
    """Free memory of the GPU of this process; None without one."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def look() -> DeviceProbe:
    """What the machine of this process has."""
    return dataclasses.replace(_cpu_of(), gpu_bytes=free_gpu_bytes())


def cluster_facts(workers: WorkerPool, choice: str, precision: str) -> Cluster:
    """What the workers of a cluster are; inference runs on those with the resource ``GPU``, else on any.

    ``choice`` and ``precision`` as in the settings. Raises SettingsError where CUDA is asked for and some have none,
    and where some have it and some not: a slide is done on one kind of device, for the other gives slightly other maps.
    """
    device, gpu_bytes = common_device(workers.ask(look), choice, precision)
    return Cluster(device, gpu_bytes, workers.workers)


def common_device(found: Mapping[str, DeviceProbe], choice: str, precision: str = "auto") -> tuple[Device, int]:
    """Device and least free memory of workers, whose machines are given by name; raises as ``cluster_facts``.

    Fewer bits on CPUs only where all are fast at them, for the same reason.
    """
    without = sorted(name for name, machine in found.items() if machine.gpu_bytes is None)
    if choice == "cpu" or (choice == "auto" and len(without) == len(found)):
        return _cpu(precision, found.values()), 0
    if without:
        raise SettingsError(
            f"{len(without)} of {len(found)} workers for inference find no CUDA device: {', '.join(without[:5])}. "
            "Start those with a GPU, and no others, as `dask worker … --resources GPU=1`, or use --device cpu"
        )
    least = min(machine.gpu_bytes for machine in found.values() if machine.gpu_bytes is not None)
    return _gpu(precision), least
