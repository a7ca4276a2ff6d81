"""The machine that this process runs on: its cores, what a container allows of it, and memory that goes back to it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def container_memory_bytes(root: Path = Path("/")) -> int | None:
    """Least memory limit of the control groups (v1 or v2) that this process is in, in bytes; None without one.

    ``root``: where ``proc`` and ``sys`` are.
    """
    limits = [
        int(text)
        for folder in _control_groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _text(folder / name)).isdecimal()
    ]
    # Version 1 says "no limit" with the largest number of pages that it knows.
    return min((limit for limit in limits if limit < 2**60), default=None)


def container_cores(root: Path = Path("/")) -> float | None:
    """Processor time that the control groups of this process allow, in cores; None without a limit.

    ``root``: where ``proc`` and ``sys`` are.
    """
    shares = []
    for folder in _control_groups(root, "cpu"):
        parts = _text(folder / "cpu.max").split() or [_text(folder / f"cpu.cfs_{x}_us") for x in ("quota", "period")]
        if len(parts) == 2 and all(part.isdecimal() and int(part) for part in parts):
            shares.append(int(parts[0]) / int(parts[1]))
    return min(shares, default=None)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process, each with those above it; what is not there is harmless."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = base / controller if controllers else base
        # Inside a container the path may be that of the host, while the mount shows the group itself.
        own = mount / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _text(path: Path) -> str:
    """What a small file holds; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def worker_name() -> str:
    """This process, told from all others of a cluster."""
    return f"{platform.node()}:{os.getpid()}"


def give_back_memory() -> None:
    """Return freed memory to the system; glibc keeps it, and other workers need the room. Elsewhere nothing is done."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
