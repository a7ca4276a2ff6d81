"""A timeout for reads that may hang, as on a network drive that has disappeared."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from wsiproc.errors import SlideTimeoutError

T = TypeVar("T")


def call_with_timeout(seconds: float | None, read: Callable[[], T], what: str) -> T:
    """The result of ``read()`` within that many seconds (None: no limit); else raises SlideTimeoutError. ``what`` names
    the source in the error. A read that hangs in the system cannot be ended; its thread is abandoned and does not keep
    the process alive.
    """
    if seconds is None:
        return read()
    future: Future[T] = Future()

    def answer() -> None:
        try:
            future.set_result(read())
        except BaseException as error:  # any error is re-raised in the caller
            future.set_exception(error)

    Thread(target=answer, daemon=True, name=f"read {what}").start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise  # raised by the read itself
        raise SlideTimeoutError(
            f"{what}: a read did not finish within {seconds:g} s; is the drive slow or disconnected? Allow more with "
            "--read-timeout"
        ) from error
