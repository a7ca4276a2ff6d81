from __future__ import annotations

import threading
import time

import pytest

from wsiproc.errors import SlideReadError, SlideTimeoutError
from wsiproc.io.slides.timeout import call_with_timeout


def test_what_comes_in_time_comes_as_it_is() -> None:
    thing = object()
    assert call_with_timeout(10, lambda: thing, "a.svs") is thing


def test_what_hangs_is_named_after_the_time_and_left_behind() -> None:
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(SlideTimeoutError, match=r"a\.svs: a read did not finish within 0\.1 s.*--read-timeout"):
        call_with_timeout(0.1, lambda: release.wait(30), "a.svs")
    assert time.monotonic() - started < 10
    (left,) = [thread for thread in threading.enumerate() if thread.name == "read a.svs"]
    assert left.daemon  # so that the process can end
    release.set()
    left.join(10)


@pytest.mark.parametrize("error", [SlideReadError("level 0 cannot be decoded"), TimeoutError(110, "from the system")])
def test_errors_of_the_read_itself_come_through(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        call_with_timeout(10, fail, "a.svs")
    assert caught.value is error
