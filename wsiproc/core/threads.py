"""Several things at a time, each in a thread of its own; what they tell arrives in the thread that asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

_LISTEN_S = 1.0  # between chances for the system to interrupt, which some give only then
_JOIN_S = 10.0

_Item = TypeVar("_Item")
_News = TypeVar("_News")
_Result = TypeVar("_Result")


class Abandoned(Exception):  # noqa: N818 - no error: how work ends that nobody waits for
    """Whoever asked has left."""


@contextmanager
def in_background(work: Callable[[], _Result]) -> Iterator[Future[_Result]]:
    """``work()`` in a thread of its own beside the block, which ends when both have."""
    result: Future[_Result] = Future()

    def do() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # it belongs to the one who asks for the result
            result.set_exception(error)

    thread = Thread(target=do, daemon=True)  # one that hangs in the system does not keep the process alive
    thread.start()
    try:
        yield result
    finally:
        thread.join()


def concurrently(
    items: Sequence[_Item],
    at_once: int,
    work: Callable[[_Item, Callable[[_News], None]], _Result],
    on_progress: Callable[[_News], None],
    cancel: Callable[[], None],
) -> Iterator[_Result]:
    """``work(item, tell)`` of each item, begun in order, ``at_once`` at a time; results as they end.

    ``on_progress`` is only called from the thread that takes the results. If that leaves early, the next
    ``on_progress`` in a ``work`` raises Unheard, and ``cancel`` is called to end what it waits for. What a ``work``
    raises ends all.
    """
    if at_once == 1:
        for item in items:
            yield work(item, on_progress)
        return
    waiting, left = deque(items), len(items)
    news: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    over = Event()
    lanes = [Thread(target=_lane, args=(waiting, work, news, over), daemon=True) for _ in range(min(at_once, left))]
    for lane in lanes:
        lane.start()
    try:
        while left:
            kind, value = _next(news)
            if kind == "told":
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
        for lane in lanes:  # one that hangs in the system is left behind, and does not keep the process alive
            lane.join(_JOIN_S)


def _lane(waiting: deque[Any], work: Callable[..., Any], news: SimpleQueue[tuple[str, Any]], over: Event) -> None:
    """One item after the other, until there is none left or nobody waits for it."""

    def pass_on(told: Any) -> None:
        if over.is_set():
            raise Abandoned
        news.put(("told", told))

    while waiting and not over.is_set():
        try:
            item = waiting.popleft()
        except IndexError:  # another lane was faster
            return
        try:
            news.put(("done", work(item, pass_on)))
        except BaseException as error:  # whatever it is, it belongs to the one who asked
            news.put(("raised", error))
            return


def _next(news: SimpleQueue[tuple[str, Any]]) -> tuple[str, Any]:
    while True:
        try:
            return news.get(timeout=_LISTEN_S)
        except Empty:
            continue
