"""Cores and memory of this machine that a process may use, as limited by control groups, Slurm and the shell.

Everything that starts workers or estimates memory uses this module, so that all see the same limits.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsiproc.errors import PlanError

ROOT = Path("/")
"""Folder of ``proc`` and ``sys``, where no other is given."""
_UNLIMITED = 2**60  # version 1 expresses "no limit" as the largest number of pages
_MIB = 1 << 20  # Slurm's unit of memory

GB = 1e9
# Measured: a run of one region takes 3.5 GB of address space where there is no limit. Below 2.4 GB libraries end the
# process, or fail in ways of their own.
_LEAST_ADDRESS_SPACE = 3 * GB
LITTLE = 1.5 * GB
"""Address space that commands need which load few libraries; measured as well: with 1 GB, some of them fail."""


@dataclass(frozen=True)
class MemoryRoom:
    """A limit on memory: ``source``, ``limit`` in bytes, and how much of it is ``taken`` and cannot be reclaimed."""

    source: str
    limit: int
    taken: int


def available_cores(root: Path | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Number of workers worth starting: the cores that this process may use, at least 1; see ``core_limits``. A
    fraction of a core counts as one, otherwise the CPU time of a container would not be used up.
    """
    return max(1, math.ceil(min(core_limits(root, environ).values())))


def core_limits(root: Path | None = None, environ: Mapping[str, str] = os.environ) -> dict[str, float]:
    """Limits on the cores of this process, by source. The affinity is set by taskset, cpuset groups and most
    schedulers; the quota of a control group allows the CPU time of that many cores, on any. ``root``: folder of
    ``proc`` and ``sys``.
    """
    limits: dict[str, float] = {"machine": os.cpu_count() or 1}
    if hasattr(os, "sched_getaffinity"):
        limits["affinity"] = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _control_groups(root or ROOT, "cpu") if (quota := _quota(folder)) is not None]
    if quotas:
        limits["control group"] = min(quotas)
    slurm = _number(environ.get("SLURM_CPUS_PER_TASK", "")) or _number(environ.get("SLURM_CPUS_ON_NODE", ""))
    if slurm:
        limits["Slurm"] = slurm
    return limits


def memory_limits(root: Path | None = None, environ: Mapping[str, str] = os.environ) -> list[MemoryRoom]:
    """Memory limits of the control groups (v1 or v2) of this process and their parents, and of Slurm, if there are any.
    Processes that exceed them are killed. ``root``: folder of ``proc`` and ``sys``. Memory of other processes of a
    Slurm job is unknown.
    """
    rooms = [
        MemoryRoom("control group", min(limits), _taken(folder))
        for folder in _control_groups(root or ROOT, "memory")
        if (limits := _memory_limits_of(folder))
    ]
    slurm = _number(environ.get("SLURM_MEM_PER_NODE", ""))  # 0: all of the node
    if not slurm and (each := _number(environ.get("SLURM_MEM_PER_CPU", ""))):
        slurm = each * _number(environ.get("SLURM_CPUS_ON_NODE", "1"))
    return [*rooms, MemoryRoom("Slurm", slurm * _MIB, 0)] if slurm else rooms


def address_space_limit() -> int | None:
    """Bytes of address space that each process may have, by ``ulimit -v``; None where that is unlimited."""
    return _shell_limit("RLIMIT_AS")


def file_size_limit() -> int | None:
    """Bytes that a file may have, by ``ulimit -f``; None where that is unlimited."""
    return _shell_limit("RLIMIT_FSIZE")


def _shell_limit(name: str) -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(getattr(resource, name))
    return None if limit == resource.RLIM_INFINITY else limit


def require_address_space(needed: float = _LEAST_ADDRESS_SPACE) -> None:
    """Raise PlanError if ``ulimit -v`` allows less than ``needed`` bytes, those for loading all libraries: some of them
    end the process without a word.
    """
    limit = address_space_limit()
    if limit is not None:
        require(
            "Address space of each process (`ulimit -v`)",
            needed,
            limit,
            "Raise it with `ulimit -v unlimited`; to limit memory, use --memory or the job's own limit",
        )


def _quota(folder: Path) -> float | None:
    parts = _text(folder / "cpu.max").split() or [_text(folder / f"cpu.cfs_{x}_us") for x in ("quota", "period")]
    if len(parts) != 2 or not all(_number(part) for part in parts):
        return None
    return int(parts[0]) / int(parts[1])


def _memory_limits_of(folder: Path) -> list[int]:
    """Memory limit of a group in bytes: above ``memory.high`` it is throttled, above the others killed."""
    limits = [_number(_text(folder / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limits.append(
        _statistics(folder).get("hierarchical_memory_limit", 0)
    )  # of parent groups, even if they are not visible
    return [limit for limit in limits if 0 < limit < _UNLIMITED]


def _taken(folder: Path) -> int:
    """Bytes in use, without file pages, which are reclaimed when needed."""
    used = _number(_text(folder / "memory.current")) or _number(_text(folder / "memory.usage_in_bytes"))
    statistics = _statistics(folder)
    # Version 1 counts child groups under separate names.
    files = sum(statistics.get(f"total_{name}", statistics.get(name, 0)) for name in ("active_file", "inactive_file"))
    return max(0, used - files)


def _statistics(folder: Path) -> dict[str, int]:
    lines = (line.split() for line in _text(folder / "memory.stat").splitlines())
    return {parts[0]: _number(parts[1]) for parts in lines if len(parts) == 2}


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process, each with its parents; missing ones are harmless."""
    base = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = base / controller if controllers else base
        # In a container the path may be that of the host, while the mount shows the group itself; "/.." is its parent.
        own = mount if ".." in path.split("/") else mount / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _number(text: str) -> int:
    """A number in such a file; 0 if there is none."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _text(path: Path) -> str:
    """The content of a small file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def require(what: str, needed: float, available: float, remedy: str) -> None:
    """Raise PlanError, with both numbers, if ``needed`` exceeds ``available``."""
    if needed > available:
        raise PlanError(f"{what}: {needed / GB:.2f} GB needed, {available / GB:.2f} GB available. {remedy}")
