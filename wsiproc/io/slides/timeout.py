"""Reads that may hang, as on a network drive that went away: wait for them so long and no longer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from wsiproc.errors import SlideTimeoutError

T = TypeVar("T")


def call_with_timeout(seconds: float | None, read: Callable[[], T], what: str) -> T:
    """The result of ``read()``, if it comes within so many seconds (None: whenever); else SlideTimeoutError.

    ``what`` is read, for the error.

    Nothing can end a read that hangs in the system; its thread is left behind, and does not keep the process alive.
    """
    if seconds is None:
        return read()
    future: Future[T] = Future()

    def answer() -> None:
        try:
            future.set_result(read())
        except BaseException as error:  # whatever it is, it belongs to the one who asked
            future.set_exception(error)

    Thread(target=answer, daemon=True, name=f"read {what}").start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise  # the read itself says so
        raise SlideTimeoutError(
            f"{what}: a read did not end within {seconds:g} s; is the drive slow or gone? --read-timeout allows more"
        ) from error
