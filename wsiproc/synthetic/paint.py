"""Compiled pixel loops: stain amounts of the tissue, nuclei on top of it, and stains to colours."""

from __future__ import annotations

import math

import numba
import numpy as np

from wsiproc.core.types import Float32Array, Float64Array, Int64Array, UInt8Array, UInt32Array
from wsiproc.synthetic.world import (
    BEND,
    COS,
    CX,
    CY,
    DARKNESS,
    ID,
    LOBE3,
    LOBE4,
    LUMEN_ABOVE,
    MAJOR,
    MINOR,
    REACH_UM,
    SIN,
    STROMA_BELOW,
    VESICULAR,
)

OD_STEPS = 512
"""Steps of the transmission table for one unit of optical density."""


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ramp(value: float, low: float, high: float) -> float:
    """0 below ``low``, 1 above ``high``, linear between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def tissue_stains(
    fields: Float32Array,
    step: int,
    y0: int,
    x0: int,
    h: int,
    w: int,
    mpp: float,
    bank: Float32Array,
    counterstain: float,
) -> Float32Array:
    """(h, w, 3) amounts of the first stain, of the second, and coverage (0 background … 1 tissue), without nuclei.

    ``fields`` are the border distance, zone and fibre phase every ``step`` px from (y0, x0); ``bank`` (p, p) periodic
    noise in [0, 1], p a power of two; ``counterstain`` the strength of the second stain.
    """
    out = np.empty((h, w, 3), np.float32)
    mask = bank.shape[0] - 1
    streak = 0.1 * mpp / 0.25  # along a fibre the noise varies slowly, across it fast
    for i in range(h):
        ci, fy = i // step, np.float32((i % step) / step)
        gy = y0 + i
        for j in range(w):
            cj, fx = j // step, np.float32((j % step) / step)
            a, b, c, d = fields[ci, cj], fields[ci, cj + 1], fields[ci + 1, cj], fields[ci + 1, cj + 1]
            wa, wb, wc, wd = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
            border = a[0] * wa + b[0] * wb + c[0] * wc + d[0] * wd
            gx = x0 + j
            grain = bank[gy & mask, gx & mask]
            cover = _ramp(border + 5 * (grain - 0.5), -1.0, 1.5)
            if cover == 0.0:
                out[i, j, 0] = out[i, j, 1] = out[i, j, 2] = 0.0
                continue
            place = a[1] * wa + b[1] * wb + c[1] * wc + d[1] * wd
            phase = a[2] * wa + b[2] * wb + c[2] * wc + d[2] * wd
            fibre = bank[int(phase * 900) & mask, int((gx + gy) * streak + 24 * grain) & mask]
            coarse = bank[(gy >> 2) & mask, (gx >> 2) & mask]
            epithelium = _ramp(place + 0.02 * (grain - 0.5), STROMA_BELOW - 0.008, STROMA_BELOW + 0.008)
            lumen = _ramp(place + 0.03 * (grain - 0.5), LUMEN_ABOVE - 0.004, LUMEN_ABOVE + 0.004)
            gap = _ramp(fibre, 0.28, 0.36)  # clefts between the fibres
            stroma = (0.24 + 0.5 * fibre + 0.22 * (coarse - 0.5)) * (0.35 + 0.65 * gap)
            plasma = 0.34 + 0.20 * (grain - 0.5) + 0.3 * (coarse - 0.5)
            second = stroma + (plasma - stroma) * epithelium
            first = 0.035 + 0.11 * epithelium * (0.6 + 0.8 * coarse)
            cover *= 1 - 0.97 * lumen
            out[i, j, 0] = first * cover
            out[i, j, 1] = second * counterstain * cover
            out[i, j, 2] = cover
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _level(row: Float64Array, dy: float, dx: float) -> float:
    """Shape function of a nucleus: below 1 inside. An ellipse, bent, with lobes of third and fourth order."""
    u = (dy * row[SIN] + dx * row[COS]) / row[MAJOR]
    v = (dy * row[COS] - dx * row[SIN]) / row[MINOR] - row[BEND] * (u * u - 0.4)
    u2, v2 = u * u, v * v
    lobes = row[LOBE3] * u * (u2 - 3 * v2) + row[LOBE4] * (u2 * u2 - 6 * u2 * v2 + v2 * v2)
    level: float = u2 + v2 + (lobes if u2 + v2 < 1.6 else 1.0)
    return level


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def nucleus_box(row: Float64Array, mpp: float, y0: int, x0: int, h: int, w: int) -> tuple[int, int, int, int]:
    """First and last row, first and last column (half open) of the box that a nucleus may reach, from (y0, x0)."""
    reach = min(REACH_UM / mpp, 1.35 * row[MAJOR])
    top, bottom = max(0, int(row[CY] - reach) - y0), min(h, int(row[CY] + reach) + 2 - y0)
    left, right = max(0, int(row[CX] - reach) - x0), min(w, int(row[CX] + reach) + 2 - x0)
    return top, bottom, left, right


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def paint_labels(nuclei: Float64Array, mpp: float, y0: int, x0: int, labels: UInt32Array) -> None:
    """Write the ids of ``nuclei`` (N, 14; by rising id) into ``labels`` (h, w) whose corner is (y0, x0) px."""
    h, w = labels.shape
    for n in range(len(nuclei) - 1, -1, -1):  # the lowest id comes last and so ends up on top
        row = nuclei[n]
        top, bottom, left, right = nucleus_box(row, mpp, y0, x0, h, w)
        for i in range(top, bottom):
            for j in range(left, right):
                if _level(row, y0 + i + 0.5 - row[CY], x0 + j + 0.5 - row[CX]) < 1.0:
                    labels[i, j] = np.uint32(row[ID])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def paint_nuclei(
    nuclei: Float64Array, channels: Int64Array, mpp: float, y0: int, x0: int, stains: Float32Array,
    bank: Float32Array,
) -> None:  # fmt: skip
    """Write the nuclei's stain into ``stains`` (h, w, 3); ``channels`` (N,) the stain of each."""
    h, w = stains.shape[:2]
    mask = bank.shape[0] - 1
    for n in range(len(nuclei) - 1, -1, -1):
        row, number = nuclei[n], int(nuclei[n, ID])
        spot_y, spot_x = 0.35 * row[MINOR] * math.sin(row[ID]), 0.35 * row[MINOR] * math.cos(row[ID])
        spot = (0.55 / mpp) ** 2
        top, bottom, left, right = nucleus_box(row, mpp, y0, x0, h, w)
        for i in range(top, bottom):
            for j in range(left, right):
                dy, dx = y0 + i + 0.5 - row[CY], x0 + j + 0.5 - row[CX]
                level = _level(row, dy, dx)
                if level >= 1.0:
                    continue
                grain = bank[(3 * (y0 + i) + 7 * number) & mask, (3 * (x0 + j)) & mask] - 0.5
                pale = row[VESICULAR] * (1 - level * level)
                amount = row[DARKNESS] * (1 - 0.45 * pale) * (1 + (0.5 + 0.7 * pale) * grain)
                if row[VESICULAR] > 0.55 and (dy - spot_y) ** 2 + (dx - spot_x) ** 2 < spot:
                    amount = 1.15 * row[DARKNESS]
                channel = channels[n]
                stains[i, j, channel] = amount
                stains[i, j, 1 - channel] *= 0.5
                stains[i, j, 2] = 1.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def place_cells(nuclei: Float64Array, mpp: float, y0: int, x0: int, labels: UInt32Array) -> Float64Array:
    """(N, 7) visible area, sums of y and x, first and last row and column of each nucleus in ``labels`` (slide px)."""
    h, w = labels.shape
    out = np.zeros((len(nuclei), 7))
    for n in range(len(nuclei)):
        row, sums = nuclei[n], out[n]
        sums[3], sums[5] = np.inf, np.inf
        top, bottom, left, right = nucleus_box(row, mpp, y0, x0, h, w)
        for i in range(top, bottom):
            for j in range(left, right):
                if labels[i, j] == np.uint32(row[ID]):
                    sums[0] += 1
                    sums[1] += y0 + i + 0.5
                    sums[2] += x0 + j + 0.5
                    sums[3], sums[4] = min(sums[3], y0 + i), max(sums[4], y0 + i)
                    sums[5], sums[6] = min(sums[5], x0 + j), max(sums[6], x0 + j)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def colours(
    stains: Float32Array,
    matrix: Float32Array,
    transmission: Float32Array,
    white: Float32Array,
    noise: Float32Array,
    y0: int,
    x0: int,
) -> UInt8Array:
    """(h, w, 3) uint8 RGB of stain amounts (h, w, 3) by Beer–Lambert, with the sensor's noise where there is tissue.

    ``matrix`` (2, 3) optical density of one unit of each stain; ``transmission`` exp(−OD) every 1 / OD_STEPS;
    ``noise`` (p, p) periodic, grey levels, p a power of two.
    """
    h, w = stains.shape[:2]
    out = np.empty((h, w, 3), np.uint8)
    mask, last = noise.shape[0] - 1, len(transmission) - 1
    for i in range(h):
        for j in range(w):
            first, second, cover = stains[i, j, 0], stains[i, j, 1], stains[i, j, 2]
            for c in range(3):
                density = first * matrix[0, c] + second * matrix[1, c]
                value = white[c] * transmission[min(int(density * OD_STEPS), last)]
                value += cover * noise[(y0 + i + 311 * c) & mask, (x0 + j + 173 * c) & mask]
                out[i, j, c] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
    return out
