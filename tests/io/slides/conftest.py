"""Slides that are closed when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from wsiproc.io.slides.open import Slide, open_slide


@pytest.fixture
def opened() -> Iterator[Callable[..., Slide]]:
    """``open_slide`` for slides that stay open until the end of the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(open_slide(*arguments, **options))
