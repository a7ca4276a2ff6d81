"""Concurrent work, each item in its own thread; progress is reported in the calling thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

_POLL_S = 1.0  # so that Ctrl-C can interrupt, on some systems only between waits
_JOIN_S = 10.0

_Item = TypeVar("_Item")
_Update = TypeVar("_Update")
_Result = TypeVar("_Result")


class Abandoned(Exception):  # noqa: N818 - not an error: ends work that nobody waits for
    """The caller has left."""


@contextmanager
def in_background(work: Callable[[], _Result]) -> Iterator[Future[_Result]]:
    """Run ``work()`` in its own thread alongside the block; leaving the block waits for it."""
    result: Future[_Result] = Future()

    def do() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # raised for the caller of result()
            result.set_exception(error)

    thread = Thread(target=do, daemon=True)  # a thread that hangs in the system does not keep the process alive
    thread.start()
    try:
        yield result
    finally:
        thread.join()


def concurrently(
    items: Sequence[_Item],
    at_once: int,
    work: Callable[[_Item, Callable[[_Update], None]], _Result],
    on_progress: Callable[[_Update], None],
    cancel: Callable[[], None],
) -> Iterator[_Result]:
    """``work(item, report)`` of each item, started in order, ``at_once`` at a time; yields results as they complete.

    ``on_progress`` is only called in the thread that consumes the results. If that leaves early, the next ``report`` in
    a ``work`` raises Abandoned, and ``cancel`` is called to end what it waits for. An exception in a ``work`` ends all.
    """
    if at_once == 1:
        for item in items:
            yield work(item, on_progress)
        return
    waiting, left = deque(items), len(items)
    events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    over = Event()
    lanes = [Thread(target=_lane, args=(waiting, work, events, over), daemon=True) for _ in range(min(at_once, left))]
    for lane in lanes:
        lane.start()
    try:
        while left:
            kind, value = _next(events)
            if kind == "update":
                on_progress(value)
            elif kind == "raised":
                raise value
            else:
                left -= 1
                yield value
    finally:
        over.set()
        if left:
            cancel()
        for lane in lanes:  # one that hangs in the system is abandoned and does not keep the process alive
            lane.join(_JOIN_S)


def _lane(waiting: deque[Any], work: Callable[..., Any], events: SimpleQueue[tuple[str, Any]], over: Event) -> None:
    """Process one item after the other, until none is left or nobody waits for it."""

    def pass_on(update: Any) -> None:
        if over.is_set():
            raise Abandoned
        events.put(("update", update))

    while waiting and not over.is_set():
        try:
            item = waiting.popleft()
        except IndexError:  # another lane took it
            return
        try:
            events.put(("done", work(item, pass_on)))
        except BaseException as error:  # any exception is re-raised in the caller
            events.put(("raised", error))
            return


def _next(events: SimpleQueue[tuple[str, Any]]) -> tuple[str, Any]:
    while True:
        try:
            return events.get(timeout=_POLL_S)
        except Empty:
            continue
