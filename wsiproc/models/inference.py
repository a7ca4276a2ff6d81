"""Inference on windows, batch by batch, on a CPU or a GPU, in the precision of the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from wsiproc.core.types import UInt8Array
from wsiproc.models.base import Model, SupportsInt8
from wsiproc.models.device import Device

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# Batches in flight on a GPU (being copied or computed) before waiting for the first.
_ON_THE_WAY = 2


def predict(model: Model, windows: UInt8Array, device: Device) -> UInt8Array:
    """Maps (b, c, h, w) of windows with halo (b, h, w, 3)."""
    return next(predict_each(model, [windows], device))[0]


def predict_each(model: Model, batches: Iterable[UInt8Array], device: Device) -> Iterator[tuple[UInt8Array, float]]:
    """Maps (b, c, h, w) of each batch of windows with halo (b, h, w, 3), in order, and seconds of device time.

    A GPU computes while the next batch is taken from ``batches``, which may read it, and while maps are copied back.
    """
    if device.name == "cpu":
        yield from (_on_cpu(model, windows, device) for windows in batches)
        return
    import torch

    torch.backends.cudnn.allow_tf32 = False  # otherwise PyTorch computes convolutions in TF32, 19 bits of float32's 32
    gpu, waiting = _Gpu(), deque[_Pending]()
    for windows in batches:
        waiting.append(gpu.submit(model, windows, device))
        if len(waiting) > _ON_THE_WAY:
            yield waiting.popleft().result()
    yield from (pending.result() for pending in waiting)


def _on_cpu(model: Model, windows: UInt8Array, device: Device) -> tuple[UInt8Array, float]:
    import torch

    started = time.perf_counter()
    maps: UInt8Array = _maps(model, torch.from_numpy(windows), device).numpy()
    return maps, time.perf_counter() - started


def _maps(model: Model, windows: Tensor, device: Device) -> Tensor:
    """The maps of windows already on the device; a batch too large for a GPU is split in half."""
    import torch

    if device.precision == "int8":
        assert isinstance(model, SupportsInt8)
        with torch.inference_mode():
            return model.predict_int8(windows)
    half = device.precision != "float32"
    try:
        with torch.inference_mode(), torch.autocast(device.name, getattr(torch, device.precision), enabled=half):
            return model.predict(windows)
    except torch.cuda.OutOfMemoryError:
        if len(windows) == 1:
            raise
    torch.cuda.empty_cache()  # outside the handler, which keeps alive what did not fit
    return torch.cat([_maps(model, part, device) for part in windows.chunk(2)])


@dataclass(frozen=True)
class _Pending:
    """A batch submitted to a GPU: the buffer of its maps, and events for start and end."""

    maps: Tensor
    began: torch.cuda.Event
    ended: torch.cuda.Event
    back: torch.cuda.Event

    def result(self) -> tuple[UInt8Array, float]:
        """The maps, once they are back, and seconds from the first kernel to the last."""
        self.back.synchronize()
        maps: UInt8Array = self.maps.numpy()
        return maps, self.began.elapsed_time(self.ended) / 1e3


class _Gpu:
    """Streams for copies in both directions besides the compute stream; host buffers are page-locked."""

    def __init__(self) -> None:
        import torch

        self._there, self._back = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def submit(self, model: Model, windows: UInt8Array, device: Device) -> _Pending:
        """Queue a batch on the GPU."""
        import torch

        locked = torch.from_numpy(windows).pin_memory()
        computing = torch.cuda.current_stream()
        with torch.cuda.stream(self._there):
            given = locked.to("cuda", non_blocking=True)
        computing.wait_stream(self._there)
        given.record_stream(computing)
        timed = partial(torch.cuda.Event, enable_timing=True)
        began, ended, back = timed(), timed(), timed()
        began.record(computing)
        found = _maps(model, given, device)
        ended.record(computing)
        maps = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
        self._back.wait_stream(computing)
        with torch.cuda.stream(self._back):
            maps.copy_(found, non_blocking=True)
        found.record_stream(self._back)
        back.record(self._back)
        return _Pending(maps, began, ended, back)
