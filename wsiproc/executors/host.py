"""The machine that this process runs on: its cores, and memory that goes back to it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_name() -> str:
    """This process, told from all others of a cluster."""
    return f"{platform.node()}:{os.getpid()}"


def give_back_memory() -> None:
    """Return freed memory to the system; glibc keeps it, and other workers need the room. Elsewhere nothing is done."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
