"""What models run on, a processor and a precision: chosen from this machine, or from the workers of a cluster."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsiproc.errors import SettingsError
from wsiproc.executors import Crew
from wsiproc.models.base import Model


@dataclass(frozen=True)
class Device:
    """``name``: ``cpu`` or ``cuda``; ``precision``: in what networks compute, the name of a PyTorch type."""

    name: str = "cpu"
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"

    def suited(self, model: Model) -> Device:
        """The same, but in full precision where the model needs that."""
        return self if model.half_precision else Device(self.name)


@dataclass(frozen=True)
class Found:
    """What a machine has: free memory of its GPU, None without one; whether its CPU multiplies bfloat16 numbers."""

    gpu_bytes: int | None
    bfloat16: bool


@dataclass(frozen=True)
class Cluster:
    """The workers of a cluster: device that inference runs on, its free memory, tasks that run side by side."""

    device: Device
    gpu_bytes: int
    threads: int


def choose_device(choice: str, precision: str = "auto") -> Device:
    """The device of this machine, as the settings ask; raises SettingsError where CUDA is asked for and not there."""
    if _has_gpu(choice):
        return Device("cuda", _precision("cuda", precision, bfloat16=False))
    if choice == "cuda":
        raise SettingsError("device is cuda, but PyTorch finds no CUDA device; use --device cpu or auto")
    return Device("cpu", _precision("cpu", precision, fast_bfloat16()))


def _has_gpu(choice: str) -> bool:
    if choice == "cpu" or (choice == "auto" and not _may_have_gpu()):
        return False
    import torch

    return torch.cuda.is_available()


def _may_have_gpu() -> bool:
    """Whether it is worth loading PyTorch, which takes a second, to ask for a GPU; on Linux its driver has a device."""
    drivers = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
    return sys.platform != "linux" or any(Path(path).exists() for path in drivers)


def _precision(device: str, choice: str, bfloat16: bool) -> str:
    """Half the bits where that is faster: float16 on a GPU, and bfloat16 on CPUs that multiply such numbers."""
    if choice != "auto":
        return choice
    if device == "cuda":
        return "float16"
    return "bfloat16" if bfloat16 else "float32"


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers; others take several times as long for them as for float32."""
    from llvmlite import binding

    return bool(binding.get_host_cpu_features().get("avx512bf16"))


def free_gpu_bytes() -> int | None:
    """Free memory of the GPU of this process; None without one."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def look() -> Found:
    """What the machine of this process has."""
    return Found(free_gpu_bytes(), fast_bfloat16())


def cluster_facts(workers: Crew, choice: str, precision: str) -> Cluster:
    """What the workers of a cluster are; inference runs on those with the resource ``GPU``, else on any.

    ``choice`` and ``precision`` as in the settings. Raises SettingsError where CUDA is asked for and some have none,
    and where some have it and some not: a slide is done on one kind of device, for the other gives slightly other maps.
    """
    device, gpu_bytes = common_device(workers.ask(look), choice, precision)
    return Cluster(device, gpu_bytes, workers.workers)


def common_device(found: Mapping[str, Found], choice: str, precision: str = "auto") -> tuple[Device, int]:
    """Device and least free memory of workers, whose machines are given by name; raises as ``cluster_facts``.

    Half precision on CPUs only where all are fast at it, for the same reason.
    """
    without = sorted(name for name, machine in found.items() if machine.gpu_bytes is None)
    if choice == "cpu" or (choice == "auto" and len(without) == len(found)):
        return Device("cpu", _precision("cpu", precision, all(machine.bfloat16 for machine in found.values()))), 0
    if without:
        raise SettingsError(
            f"{len(without)} of {len(found)} workers for inference find no CUDA device: {', '.join(without[:5])}. "
            "Start those with a GPU, and no others, as `dask worker … --resources GPU=1`, or use --device cpu"
        )
    least = min(machine.gpu_bytes for machine in found.values() if machine.gpu_bytes is not None)
    return Device("cuda", _precision("cuda", precision, bfloat16=False)), least
