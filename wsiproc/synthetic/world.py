"""The synthetic tissue as a pure function of position: where there is tissue, of which type, and every nucleus. Only a
coarse map of distances to the tissue's border is stored for the whole slide. All random numbers are hashes of (seed,
position), so any box can be generated on its own, in any order, and neighbours agree to the last bit. All lengths below
are in µm unless a name says px.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from wsiproc.core.types import Float32Array, Float64Array

PITCH_UM = 7.0
"""Side of the jittered grid of candidates: each cell proposes a nucleus and, touching it, a partner."""
REACH_UM = 8.0
"""Maximum distance of a pixel of a nucleus from its centre."""
_REACH_CELLS = 4
"""Cells by which a nucleus, including the partner offset, may extend beyond its own: (REACH_UM + 7) / PITCH_UM + 1."""
_CONFLICT_CELLS = 3
"""Cells between which two nuclei may collide: 12 µm between centres and two partner offsets."""

STROMA_BELOW, LUMEN_ABOVE = 0.48, 0.69
"""Cuts of the zone noise: stroma, epithelium, lumen."""

(CY, CX, MAJOR, MINOR, COS, SIN, LOBE3, LOBE4, BEND, DARKNESS, VESICULAR, GAP, CLASS, ID) = range(14)
"""Columns of a row of nuclei: centre (px, pixel centres at .5), semi-axes (px), direction, shape, look, class, id."""

_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_GOLD = np.uint64(0x9E3779B97F4A7C15)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_UNIT = 1.0 / (1 << 53)


class World(NamedTuple):
    """Parameters of a scene for the compiled functions."""

    seed: int
    mpp: float
    h_px: int
    w_px: int
    columns: int  # candidate cells in a row
    crowding: float
    positive: float  # share of positive nuclei; negative for a stain without classes
    border: Float32Array  # distance to the tissue's border, positive inside, a coarse grid
    border_px: float  # side of a cell of that grid
    ragged: float  # amplitude of the border's roughness


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def unit_hash(seed: int, y: int, x: int, salt: int) -> float:
    """A pseudo-random number in [0, 1); the finaliser of SplitMix64 (Steele et al., 2014), three rounds."""
    z = np.uint64(seed) + _GOLD
    for key in (y, x, salt):
        z = (z ^ np.uint64(key)) * _GOLD
        z = (z ^ (z >> _S30)) * _MIX1
        z = (z ^ (z >> _S27)) * _MIX2
        z = z ^ (z >> _S31)
    value: float = np.float64(z >> _S11) * _UNIT
    return value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def smooth_noise(seed: int, y: float, x: float, salt: int) -> float:
    """Value noise in [0, 1) with one lattice point per unit."""
    iy, ix = math.floor(y), math.floor(x)
    fy, fx = y - iy, x - ix
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    a, b = unit_hash(seed, iy, ix, salt), unit_hash(seed, iy, ix + 1, salt)
    c, d = unit_hash(seed, iy + 1, ix, salt), unit_hash(seed, iy + 1, ix + 1, salt)
    value: float = (a + (b - a) * fx) * (1 - fy) + (c + (d - c) * fx) * fy
    return value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def zone(seed: int, y_um: float, x_um: float) -> float:
    """Type of tissue: low is stroma, middle epithelium, high lumen."""
    broad = smooth_noise(seed, y_um / 210, x_um / 210, 1)
    middle = smooth_noise(seed, y_um / 85, x_um / 85, 2)
    fine = smooth_noise(seed, y_um / 24, x_um / 24, 3)
    value: float = 0.6 * broad + 0.31 * middle + 0.09 * fine
    return value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fibre_phase(seed: int, y_um: float, x_um: float) -> float:
    """A smooth height whose contour lines are the fibres of the stroma."""
    broad = smooth_noise(seed, y_um / 170, x_um / 170, 4)
    value: float = broad + 0.3 * smooth_noise(seed, y_um / 60, x_um / 60, 5)
    return value


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def border_distance(world: World, y: float, x: float) -> float:
    """µm to the tissue's border at a point (px), positive inside."""
    rows, cols = world.border.shape
    gy = min(max(y / world.border_px - 0.5, 0.0), rows - 1.001)
    gx = min(max(x / world.border_px - 0.5, 0.0), cols - 1.001)
    iy, ix = int(gy), int(gx)
    fy, fx = gy - iy, gx - ix
    upper = world.border[iy, ix] * (1 - fx) + world.border[iy, ix + 1] * fx
    lower = world.border[iy + 1, ix] * (1 - fx) + world.border[iy + 1, ix + 1] * fx
    y_um, x_um = y * world.mpp, x * world.mpp
    rough = smooth_noise(world.seed, y_um / 70, x_um / 70, 6) + 0.4 * smooth_noise(world.seed, y_um / 18, x_um / 18, 7)
    return float(upper * (1 - fy) + lower * fy + world.ragged * (rough - 0.7))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fields(world: World, y0: int, x0: int, rows: int, cols: int, step: int) -> Float32Array:
    """(rows, cols, 3) border distance, zone and fibre phase at the points (y0 + i · step, x0 + j · step), px."""
    out = np.empty((rows, cols, 3), np.float32)
    for i in range(rows):
        for j in range(cols):
            y, x = float(y0 + i * step), float(x0 + j * step)
            out[i, j, 0] = border_distance(world, y, x)
            out[i, j, 1] = zone(world.seed, y * world.mpp, x * world.mpp)
            out[i, j, 2] = fibre_phase(world.seed, y * world.mpp, x * world.mpp)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _kind(world: World, y_um: float, x_um: float, draw: float) -> int:
    """0 none, 1 epithelial, 2 spindle, 3 lymphocyte alone, 4 in a dense clump."""
    z = zone(world.seed, y_um, x_um)
    if z > LUMEN_ABOVE - 0.02:
        return 0
    dense = 0.65 * smooth_noise(world.seed, y_um / 130, x_um / 130, 8)
    dense += 0.35 * smooth_noise(world.seed, y_um / 41, x_um / 41, 9)
    if dense > 0.9 - 0.4 * world.crowding:
        return 4
    if z > STROMA_BELOW:
        return 1 if draw < 0.72 + 0.25 * world.crowding else 0
    if draw < 0.22:
        return 2
    return 3 if draw > 0.96 - 0.05 * world.crowding else 0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shape(world: World, row: Float64Array, kind: int, y: int, x: int, slot: int) -> None:
    """Fill in semi-axes (µm), direction, outline and look of a nucleus of ``kind`` at cell (y, x)."""
    draws = np.empty(6)
    for k in range(6):
        draws[k] = unit_hash(world.seed, y, x, 20 + 10 * slot + k)
    r0, r1, r2, r3, r4, r5 = draws
    angle = math.pi * r2
    if kind == 1:
        major, aspect, dark, vesicular, gap = (
            2.9 + 2.0 * r0 * r0,
            1.0 + 0.55 * r1,
            0.75 + 0.35 * r3,
            0.3 + 0.7 * r4,
            1.04,
        )
    elif kind == 2:
        major, aspect, dark, vesicular, gap = 3.6 + 2.3 * r0, 1.9 + 1.6 * r1, 1.0 + 0.3 * r3, 0.25 * r4, 1.1
        dy = fibre_phase(world.seed, row[CY] + 2, row[CX]) - fibre_phase(world.seed, row[CY] - 2, row[CX])
        dx = fibre_phase(world.seed, row[CY], row[CX] + 2) - fibre_phase(world.seed, row[CY], row[CX] - 2)
        angle = math.atan2(-dx, dy) + 0.5 * (r2 - 0.5)  # along the contour line
    else:
        major, aspect, dark, vesicular, gap = 1.6 + 1.1 * r0, 1.0 + 0.25 * r1, 1.25 + 0.35 * r3, 0.2 * r4, 1.0
    if kind == 4:
        major, gap, vesicular = 2.1 + 1.5 * r0, 0.86, 0.6 * r4
    row[MAJOR], row[MINOR], row[GAP] = major, major / aspect, gap
    row[COS], row[SIN] = math.cos(angle), math.sin(angle)
    row[LOBE3], row[LOBE4] = 0.16 * (r4 - 0.5), 0.14 * (r5 - 0.5)
    row[BEND] = 0.5 * (r5 - 0.5) if kind == 2 else 0.0
    row[DARKNESS], row[VESICULAR] = dark, vesicular


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _settle(world: World, row: Float64Array, y: int, x: int, slot: int) -> bool:
    """From µm to px, class and id; False where the nucleus would leave the tissue or the slide."""
    row[ID] = 0.0
    reach = REACH_UM / world.mpp
    for k in (CY, CX, MAJOR, MINOR):
        row[k] /= world.mpp
    if not (reach < row[CY] < world.h_px - reach and reach < row[CX] < world.w_px - reach):
        return False
    if border_distance(world, row[CY], row[CX]) < 6.0:
        return False
    row[CLASS] = 1.0 if unit_hash(world.seed, y, x, 50 + slot) < world.positive else 0.0
    row[ID] = 2.0 * (y * world.columns + x) + slot + 1
    return True


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def radius(row: Float64Array, dy: float, dx: float) -> float:
    """Radius of a nucleus's ellipse in the direction (dy, dx) of unit length."""
    along, across = dy * row[SIN] + dx * row[COS], dy * row[COS] - dx * row[SIN]
    return 1.0 / math.sqrt((along / row[MAJOR]) ** 2 + (across / row[MINOR]) ** 2)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _candidate(world: World, pair: Float64Array, y: int, x: int) -> None:
    """The nucleus of cell (y, x) and its partner, before collisions: ``pair`` (2, 14), ID 0 where there is none."""
    pair[0, ID] = pair[1, ID] = 0.0
    one, two = pair[0], pair[1]
    one[CY] = (y + unit_hash(world.seed, y, x, 10)) * PITCH_UM
    one[CX] = (x + unit_hash(world.seed, y, x, 11)) * PITCH_UM
    kind = _kind(world, one[CY], one[CX], unit_hash(world.seed, y, x, 12))
    if kind == 0:
        return
    if kind == 4:  # closer to a regular packing, or too many would be removed
        one[CY] = (y + 0.12 + 0.76 * unit_hash(world.seed, y, x, 10)) * PITCH_UM
        one[CX] = (x + 0.12 + 0.76 * unit_hash(world.seed, y, x, 11)) * PITCH_UM
    two[CY], two[CX] = one[CY], one[CX]
    _shape(world, one, kind, y, x, 0)
    _shape(world, two, kind, y, x, 1)
    angle = 2 * math.pi * unit_hash(world.seed, y, x, 13)
    dy, dx = math.sin(angle), math.cos(angle)
    two[GAP] = min(one[GAP], 0.92)  # slightly less than the distance of the pair, or it would collide with itself
    apart = 1.02 * two[GAP] * (radius(one, dy, dx) + radius(two, dy, dx))
    two[CY], two[CX] = one[CY] + dy * apart, one[CX] + dx * apart
    partner = unit_hash(world.seed, y, x, 14) < (0.9 if kind == 4 else 0.35 * world.crowding)
    placed = _settle(world, one, y, x, 0)
    if placed and partner and apart < 7.0:
        _settle(world, two, y, x, 1)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _collides(a: Float64Array, b: Float64Array) -> bool:
    dy, dx = b[CY] - a[CY], b[CX] - a[CX]
    apart = math.hypot(dy, dx)
    if apart < 1e-6:
        return True
    dy, dx = dy / apart, dx / apart
    return bool(apart < min(a[GAP], b[GAP]) * (radius(a, dy, dx) + radius(b, dy, dx)))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _yields(cells: Float64Array, i: int, j: int, slot: int) -> bool:
    """Whether a candidate is removed in favour of one with a lower id, placed or not (Matérn type II thinning).
    Comparing only candidates keeps the rule local: no chain of decisions runs through the slide.
    """
    row = cells[i, j, slot]
    for a in range(max(0, i - _CONFLICT_CELLS), i + 1):
        for b in range(max(0, j - _CONFLICT_CELLS), min(cells.shape[1], j + _CONFLICT_CELLS + 1)):
            for k in range(2):
                other = cells[a, b, k]
                if 0.0 < other[ID] < row[ID] and _collides(row, other):
                    return True
    return False


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def nuclei_near(world: World, y0: int, x0: int, h: int, w: int) -> Float64Array:
    """(N, 14) every nucleus that may have a pixel in the box (px), by ascending id."""
    pitch = PITCH_UM / world.mpp
    edge = _REACH_CELLS + _CONFLICT_CELLS
    row0, col0 = max(0, int(y0 // pitch) - edge), max(0, int(x0 // pitch) - edge)
    row1 = min(int(world.h_px // pitch), int((y0 + h) // pitch) + edge) + 1
    col1 = min(int(world.w_px // pitch), int((x0 + w) // pitch) + edge) + 1
    cells = np.zeros((max(0, row1 - row0), max(0, col1 - col0), 2, 14))
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            _candidate(world, cells[i, j], row0 + i, col0 + j)
    reach, count = REACH_UM / world.mpp, 0
    found = np.empty((cells.shape[0] * cells.shape[1] * 2, 14))
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            for slot in range(2):
                row = cells[i, j, slot]
                inside = y0 - reach < row[CY] < y0 + h + reach and x0 - reach < row[CX] < x0 + w + reach
                if row[ID] > 0 and inside and not _yields(cells, i, j, slot):
                    found[count] = row
                    count += 1
    return found[:count].copy()
