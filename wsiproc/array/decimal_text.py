"""Coordinates as decimal text, for files that hold millions of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

_ZERO, _POINT, _COMMA, _MINUS, _OPEN, _CLOSE = b"0.,-[]"
_LONGEST = 2 * 20 + 4  # bytes of a point: two numbers, brackets, commas


def rings_text(offsets: npt.NDArray[np.int64], points: npt.NDArray[np.float64]) -> tuple[bytes, npt.NDArray[np.int64]]:
    """Rings as JSON, ``[[x,y],…]`` after one another, and where each of them begins and the last ends: (N + 1,).

    ``points`` (P, 2), multiples of 0.01 below 10¹⁵, from ``offsets`` (N + 1,). Each number is the shortest text that
    stands for it.
    """
    hundredths = np.rint(points * 100).astype(np.int64)
    text = np.empty(len(points) * _LONGEST + 2 * len(offsets), np.uint8)
    starts = _write_rings(offsets, hundredths, text)
    return text[: starts[-1]].tobytes(), starts


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
            at = _write_number(hundredths[j, 0], text, at + 1)
            text[at] = _COMMA
            at = _write_number(hundredths[j, 1], text, at + 1)
            text[at] = _CLOSE
            at += 1
        text[at] = _CLOSE
        at += 1
        starts[i + 1] = at
    return starts


@njit(cache=True, nogil=True)
def _write_number(hundredths, text, at):  # type: ignore[no-untyped-def]
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
