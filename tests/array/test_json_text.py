"""Coordinates as text: what is read back is what was written, and no shorter text would do."""

from __future__ import annotations

import itertools
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.array.json_text import Texts, joined, rings_text, rows_text

HUNDREDTHS = st.integers(-(10**12), 10**12)
RINGS = st.lists(st.lists(st.tuples(HUNDREDTHS, HUNDREDTHS), max_size=6), max_size=6)


@given(RINGS)
def test_rings_are_read_back_as_they_were(rings: list[list[tuple[int, int]]]) -> None:
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]).astype(np.int64)
    points = np.array([point for ring in rings for point in ring], np.float64).reshape(-1, 2) / 100
    texts = each(rings_text(offsets, points))
    assert len(texts) == len(rings)
    for i, text in enumerate(texts):
        ring = points[offsets[i] : offsets[i + 1]].tolist()
        assert json.loads(text) == ring
        shortest = ",".join(f"[{_plain(x)},{_plain(y)}]" for x, y in ring)
        assert text.decode() == f"[{shortest}]"


def _plain(value: float) -> str:
    return repr(value).removesuffix(".0").replace("-0", "0") if value == 0 else repr(value).removesuffix(".0")


def each(texts: Texts) -> list[bytes]:
    """The texts as bytes."""
    assert texts.starts[-1] == len(texts.characters)
    return [texts.characters[start:end].tobytes() for start, end in itertools.pairwise(texts.starts)]


ODD = [0.0, -0.0, 1e-5, 9.9999999, 1e15, 1e16]
NUMBERS = st.floats(width=32) | st.floats(1e-30, 1e12) | st.sampled_from(ODD)


@given(st.lists(st.tuples(st.integers(1, 10**9), NUMBERS, NUMBERS), max_size=5))
def test_rows_are_read_back_to_seven_digits(rows: list[tuple[int, float, float]]) -> None:
    ids = np.array([row[0] for row in rows], np.int64)
    table = np.array([row[1:] for row in rows], np.float64).reshape(-1, 2)
    texts = each(rows_text([b'"id"', '"Area µm^2"'.encode(), b'"b"'], ids, table))
    assert len(texts) == len(rows)
    for text, row in zip(texts, rows, strict=True):
        read = json.loads(text)
        finite = {name: value for name, value in zip(("Area µm^2", "b"), row[1:], strict=True) if np.isfinite(value)}
        assert read.keys() == {"id"} | finite.keys()
        assert read.pop("id") == row[0]
        for name, value in finite.items():
            assert read[name] == float(f"{value:.6e}") or abs(read[name] - value) <= 5.0000001e-7 * abs(value)
            assert isinstance(read[name], float)


def test_numbers_are_as_short_as_they_can_be() -> None:
    numbers = [28.0, 0.5, 1234567.0, 12345678.0, 0.00001, 0.000001, 1e16, 99999.995, -3.25, 0.1 + 0.2, 1e-9, 123456.7]
    (text,) = each(rows_text([b'"i"', *(b'"%d"' % i for i in range(len(numbers)))], np.array([7]), np.array([numbers])))
    shown = [part.split(b":")[1].decode() for part in text.strip(b"{}").split(b",")]
    assert shown == [
        "7", "28.0", "0.5", "1234567.0", "12345680.0", "0.00001", "1e-6", "1e16", "100000.0", "-3.25", "0.3", "1e-9",
        "123456.7",
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=4), st.data())
def test_lines_are_put_together_from_parts(texts: list[bytes], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 5))
    index = st.lists(st.integers(0, len(texts) - 1), min_size=count, max_size=count)
    rows = [np.array(data.draw(index), np.int64) for _ in range(3)]
    text = joined([(Texts.of(texts), row) for row in rows], b", ")
    assert text == b", ".join(b"".join(texts[row[i]] for row in rows) for i in range(count))
