"""Coordinates as text: what is read back is what was written, and no shorter text would do."""

from __future__ import annotations

import itertools
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.array.decimal_text import rings_text

HUNDREDTHS = st.integers(-(10**12), 10**12)
RINGS = st.lists(st.lists(st.tuples(HUNDREDTHS, HUNDREDTHS), max_size=6), max_size=6)


@given(RINGS)
def test_rings_are_read_back_as_they_were(rings: list[list[tuple[int, int]]]) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]).astype(np.int64)
    points = np.array([point for ring in rings for point in ring], np.float64).reshape(-1, 2) / 100
    text, starts = rings_text(offsets, points)
    assert len(starts) == len(rings) + 1
    for i, (start, end) in enumerate(itertools.pairwise(starts)):
        ring = points[offsets[i] : offsets[i + 1]].tolist()
        assert json.loads(text[start:end]) == ring
        shortest = ",".join(f"[{_plain(x)},{_plain(y)}]" for x, y in ring)
        assert text[start:end].decode() == f"[{shortest}]"
    assert starts[-1] == len(text)


def _plain(value: float) -> str:
    return repr(value).removesuffix(".0").replace("-0", "0") if value == 0 else repr(value).removesuffix(".0")
