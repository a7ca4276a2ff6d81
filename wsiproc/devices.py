"""What models run on, a processor and a precision: chosen from this machine, or from the workers of a cluster."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsiproc.errors import SettingsError
from wsiproc.executors import Crew
from wsiproc.models.base import InWholeNumbers, Model


@dataclass(frozen=True)
class Device:
    """``name``: ``cpu`` or ``cuda``; ``precision``: in what networks compute, the name of a PyTorch type.

    ``otherwise``: the precision for networks that cannot be computed in int8.
    """

    name: str = "cpu"
    precision: str = "float32"
    otherwise: str = field(default="float32", compare=False)

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"

    def suited(self, model: Model) -> Device:
        """The same, but in a wider precision where the model needs that."""
        if self.precision == "int8":
            able = isinstance(model, InWholeNumbers) and model.int8
            return self if able else Device(self.name, self.otherwise).suited(model)
        return self if model.half_precision else Device(self.name)


@dataclass(frozen=True)
class Found:
    """What a machine has: free memory of its GPU, None without one; what its CPU is fast at multiplying."""

    gpu_bytes: int | None
    bfloat16: bool
    int8: bool


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster: device that inference runs on, its free memory, tasks that run side by side."""

    device: Device
    gpu_bytes: int
    threads: int


def choose_device(choice: str, precision: str = "auto") -> Device:
    """The device of this machine, as the settings ask; raises SettingsError where CUDA is asked for and not there."""
    if _has_gpu(choice):
        return _gpu(precision)
    if choice == "cuda":
        raise SettingsError("device is cuda, but PyTorch finds no CUDA device; use --device cpu or auto")
    return _cpu(precision, fast_bfloat16(), fast_int8())


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
    return Device("cuda", "float16" if choice == "auto" else choice)


def _cpu(choice: str, bfloat16: bool, int8: bool) -> Device:
    """A CPU, with as few bits as it is fast at unless told otherwise."""
    if choice != "auto":
        return Device("cpu", choice)
    wide = "bfloat16" if bfloat16 else "float32"
    return Device("cpu", "int8", wide) if int8 else Device("cpu", wide)


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers; others take several times as long for them as for float32."""
    return _has("avx512bf16")


def fast_int8() -> bool:
    """Whether this CPU multiplies bytes and adds up the products exactly; others let sums of two of them overflow."""
    return _has("avx512vnni") or _has("avxvnni")


def _has(feature: str) -> bool:
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get(feature))


def free_gpu_bytes() -> int | None:
    """Free memory of the GPU of this process; None without one."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def look() -> Found:
    """What the machine of this process has."""
    return Found(free_gpu_bytes(), fast_bfloat16(), fast_int8())


def cluster_facts(workers: Crew, choice: str, precision: str) -> Cluster:
    """What the workers of a cluster are; inference runs on those with the resource ``GPU``, else on any.

    ``choice`` and ``precision`` as in the settings. Raises SettingsError where CUDA is asked for and some have none,
    and where some have it and some not: a slide is done on one kind of device, for the other gives slightly other maps.
    """
    device, gpu_bytes = common_device(workers.ask(look), choice, precision)
    return Cluster(device, gpu_bytes, workers.workers)


def common_device(found: Mapping[str, Found], choice: str, precision: str = "auto") -> tuple[Device, int]:
    """Device and least free memory of workers, whose machines are given by name; raises as ``cluster_facts``.

    Fewer bits on CPUs only where all are fast at them, for the same reason.
    """
    without = sorted(name for name, machine in found.items() if machine.gpu_bytes is None)
    if choice == "cpu" or (choice == "auto" and len(without) == len(found)):
        machines = found.values()
        return _cpu(precision, all(each.bfloat16 for each in machines), all(each.int8 for each in machines)), 0
    if without:
        raise SettingsError(
            f"{len(without)} of {len(found)} workers for inference find no CUDA device: {', '.join(without[:5])}. "
            "Start those with a GPU, and no others, as `dask worker … --resources GPU=1`, or use --device cpu"
        )
    least = min(machine.gpu_bytes for machine in found.values() if machine.gpu_bytes is not None)
    return _gpu(precision), least
