"""Numbers as JSON, for files that hold millions of them: many texts in one buffer, and where each of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from wsiproc.core.types import Float64Array, Int64Array, IntArray, UInt8Array

_ZERO, _POINT, _COMMA, _MINUS, _OPEN, _CLOSE, _E = b"0.,-[]e"
_BEGIN, _END = b"{}"
_LONGEST_POINT = 2 * 20 + 4  # bytes: two numbers, brackets, commas
_LONGEST_NUMBER = 24
_DIGITS = 7
_LEAST, _MOST = -5, 16  # powers of ten of numbers that are written without an exponent


@dataclass(frozen=True)
class Texts:
    """Text *i* is ``characters[starts[i]:starts[i + 1]]``; ``characters``: uint8, ``starts``: (N + 1,) int64."""

    characters: UInt8Array
    starts: Int64Array

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        """Some texts, after one another."""
        starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        return cls(np.frombuffer(b"".join(texts), np.uint8).copy(), starts)  # one that numba takes like any other


def joined(parts: Sequence[tuple[Texts, IntArray]], separator: bytes) -> bytes:
    """Lines put together from parts, with a separator between lines.

    Line *i* is the text ``rows[i]`` of the first part, then that of the second, …; a part: (texts, ``rows`` (N,)).
    """
    characters = tuple(texts.characters for texts, _ in parts)
    starts = tuple(texts.starts for texts, _ in parts)
    rows = tuple(np.ascontiguousarray(row, np.int64) for _, row in parts)
    lengths = sum((np.diff(start)[row] for start, row in zip(starts, rows, strict=True)), np.int64(len(separator)))
    ends = np.cumsum(lengths)
    text = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    _join(characters, starts, rows, np.frombuffer(separator, np.uint8), text)
    return text[: max(0, len(text) - len(separator))].tobytes()


@njit(cache=True, nogil=True)
def _join(characters, starts, rows, separator, text):  # type: ignore[no-untyped-def]
    at = 0
    for i in range(len(rows[0])):
        for k in range(len(rows)):
            row = rows[k][i]
            for place in range(starts[k][row], starts[k][row + 1]):
                text[at] = characters[k][place]
                at += 1
        for character in separator:
            text[at] = character
            at += 1


def rows_text(names: Sequence[bytes], ids: IntArray, table: Float64Array) -> Texts:
    """Rows as JSON objects, ``{"name":1,"other":0.5,…}``: of ``ids`` (N,), then of ``table`` (N, M).

    ``names`` (M + 1): keys as JSON. Numbers, in the range of float32, have seven
    significant digits; what is not finite is left out.
    """
    keys = Texts.of([name + b":" for name in names])
    longest = len(keys.characters) + (len(names) + 1) * (_LONGEST_NUMBER + 1) + 2
    text = np.empty(len(ids) * longest, np.uint8)
    values = np.ascontiguousarray(table, np.float64)
    starts = _write_rows(keys.characters, keys.starts, np.ascontiguousarray(ids, np.int64), values, text)
    return Texts(text[: starts[-1]], starts)


@njit(cache=True, nogil=True)
def _write_rows(keys, key_starts, ids, table, text):  # type: ignore[no-untyped-def]
    starts = np.zeros(len(ids) + 1, np.int64)
    at = 0
    for i in range(len(ids)):
        text[at] = _BEGIN
        at += 1
        for k in range(len(key_starts) - 1):
            if k > 0 and not np.isfinite(table[i, k - 1]):
                continue
            if k > 0:
                text[at] = _COMMA
                at += 1
            for place in range(key_starts[k], key_starts[k + 1]):
                text[at] = keys[place]
                at += 1
            at = _write_hundredths(100 * ids[i], text, at) if k == 0 else _write_float(table[i, k - 1], text, at)
        text[at] = _END
        at += 1
        starts[i + 1] = at
    return starts


@njit(cache=True, nogil=True)
def _write_float(value, text, at):  # type: ignore[no-untyped-def]
    """Write a finite number with at most seven significant digits at a place; the place behind it."""
    if value < 0:
        text[at] = _MINUS
        at += 1
    size = abs(value)
    power = int(np.floor(np.log10(size))) if size > 0 else 0
    scale = _DIGITS - 1 - power
    # Powers of ten up to 10²² are exact, so multiplying or dividing by one rounds once.
    digits = int(np.rint(size * 10.0**scale if scale >= 0 else size / 10.0**-scale))
    if digits >= 10**_DIGITS:  # 9.9999999 is 10
        digits //= 10
        power += 1
    count = _DIGITS if digits else 1
    while digits and digits % 10 == 0:
        digits //= 10
        count -= 1
    if power < _LEAST or power >= _MOST:
        return _write_exponent(digits, count, power, text, at)
    for k in range(max(power, 0) + 1):  # digits before the point, none of them for 0.0…
        text[at] = _ZERO + (digits // 10 ** (count - 1 - k) % 10 if power >= 0 and k < count else 0)
        at += 1
    text[at] = _POINT
    at += 1
    for _ in range(-power - 1):
        text[at] = _ZERO
        at += 1
    first = power + 1 if power >= 0 else 0
    if first >= count:
        text[at] = _ZERO
        at += 1
    for k in range(first, count):
        text[at] = _ZERO + digits // 10 ** (count - 1 - k) % 10
        at += 1
    return at


@njit(cache=True, nogil=True)
def _write_exponent(digits, count, power, text, at):  # type: ignore[no-untyped-def]
    """Write ``d.ddd`` and the power of ten."""
    for k in range(count):
        if k == 1:
            text[at] = _POINT
            at += 1
        text[at] = _ZERO + digits // 10 ** (count - 1 - k) % 10
        at += 1
    text[at] = _E
    return _write_hundredths(100 * power, text, at + 1)


def rings_text(offsets: Int64Array, points: Float64Array) -> Texts:
    """Rings as JSON, ``[[x,y],…]``.

    ``points`` (P, 2), multiples of 0.01 below 10¹⁵, from ``offsets`` (N + 1,). Each number is the shortest text that
    stands for it.
    """
    hundredths = np.rint(points * 100).astype(np.int64)
    text = np.empty(len(points) * _LONGEST_POINT + 2 * len(offsets), np.uint8)
    starts = _write_rings(offsets, hundredths, text)
    return Texts(text[: starts[-1]], starts)


@njit(cache=True, nogil=True)
def _write_rings(offsets, hundredths, text):  # type: ignore[no-untyped-def]
    starts = np.zeros(len(offsets), np.int64)
    at = 0
    for i in range(len(offsets) - 1):
        text[at] = _OPEN
        at += 1
        for j in range(offsets[i], offsets[i + 1]):
            if j > offsets[i]:
                text[at] = _COMMA
                at += 1
            text[at] = _OPEN
            at = _write_hundredths(hundredths[j, 0], text, at + 1)
            text[at] = _COMMA
            at = _write_hundredths(hundredths[j, 1], text, at + 1)
            text[at] = _CLOSE
            at += 1
        text[at] = _CLOSE
        at += 1
        starts[i + 1] = at
    return starts


@njit(cache=True, nogil=True)
def _write_hundredths(hundredths, text, at):  # type: ignore[no-untyped-def]
    """Write a number of hundredths at a place; the place behind it."""
    if hundredths < 0:
        text[at] = _MINUS
        at += 1
        hundredths = -hundredths
    whole, part = hundredths // 100, hundredths % 100
    digits, rest = 1, whole // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for k in range(digits - 1, -1, -1):
        text[at + k] = _ZERO + whole % 10
        whole //= 10
    at += digits
    if part:
        text[at], text[at + 1] = _POINT, _ZERO + part // 10
        at += 2
        if part % 10:
            text[at] = _ZERO + part % 10
            at += 1
    return at
