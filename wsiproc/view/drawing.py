"""Pictures of cells and maps for a screen: small arrays in, RGBA out; nothing here knows a file or a server."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from wsiproc.core.cells import DrawnCells
from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB

Pixels = npt.NDArray[np.uint8]

_SUBPIXEL_BITS = 4  # of the coordinates that OpenCV draws
_FILLED_ALPHA = 110
_FAINTEST, _DENSEST = 50, 215  # opacity of a pixel with hardly a cell, and with dense tissue


def blank(shape: tuple[int, int]) -> Pixels:
    """Nothing, (h, w, 4)."""
    return np.zeros((*shape, 4), np.uint8)


def outlines(cells: DrawnCells, colours: Sequence[RGB], box: Box, zoom: int, filled: bool) -> Pixels:
    """Outlines of cells in a ``box`` (grid px), ``zoom`` screen px a grid px: (h · zoom, w · zoom, 4).

    Drawn from the exact rings, whose corners are smoothed by half a pixel so that they look like outlines, not stairs.
    """
    picture = blank((box.h * zoom, box.w * zoom))
    for kind in np.unique(cells.classes):
        rings = [cells.rings[int(row)] for row in np.flatnonzero(cells.classes == kind)]
        points = [_drawn((smooth(ring) - (box.y, box.x)) * zoom) for ring in rings]
        colour = (*colours[kind], 255)
        if filled:
            inside = np.zeros(picture.shape[:2], np.uint8)
            cv2.fillPoly(inside, points, 1, shift=_SUBPIXEL_BITS)
            picture[inside > 0] = (*colours[kind], _FILLED_ALPHA)
        # Drawn on its own mask, since a line that fades into clear pixels would fade into black.
        line = np.zeros(picture.shape[:2], np.uint8)
        cv2.polylines(line, points, True, 255, min(2, zoom), cv2.LINE_AA, _SUBPIXEL_BITS)
        seen = line > picture[..., 3]
        picture[seen, :3] = colour[:3]
        picture[..., 3] = np.maximum(picture[..., 3], line)
    return picture


def _drawn(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """A ring (V, 2), (y, x), counted from the corner of the first pixel, as OpenCV wants it, from its centre."""
    points: npt.NDArray[np.int32] = np.rint((ring[:, ::-1] - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    return points


def smooth(ring: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """A ring of pixel corners with each step replaced by the middle of its edges; long edges keep their ends."""
    following = np.roll(ring, -1, axis=0)
    length = np.abs(following - ring).sum(axis=1, keepdims=True)
    step = np.sign(following - ring) * np.minimum(length / 2, 0.75)
    points: npt.NDArray[np.float64] = np.stack([ring + step, following - step], axis=1).reshape(-1, 2)
    return points


def label_outlines(
    labels: npt.NDArray[np.uint32], classes: Pixels, colours: Sequence[RGB], hidden: frozenset[int], filled: bool
) -> Pixels:
    """Cells (h, w, 4) from their labels and classes (h + 2, w + 2), which reach one pixel over on each side.

    ``classes`` counts from 1; ``hidden`` from 0, as in the table.
    """
    inner = labels[1:-1, 1:-1]
    edge = (inner != labels[:-2, 1:-1]) | (inner != labels[2:, 1:-1])
    edge |= (inner != labels[1:-1, :-2]) | (inner != labels[1:-1, 2:])
    table = np.zeros((256, 4), np.uint8)
    for kind, colour in enumerate(colours):
        if kind not in hidden:
            table[kind + 1] = (*colour, 255)
    picture = table[classes[1:-1, 1:-1]]
    inside = (inner > 0) & ~edge
    picture[inside, 3] = np.minimum(picture[inside, 3], _FILLED_ALPHA if filled else 0)
    picture[inner == 0] = 0
    return picture


def dots(
    centres: npt.NDArray[np.float32],
    classes: Pixels,
    colours: Sequence[RGB],
    box: Box,
    shrink: int,
    hidden: frozenset[int],
    dense: float,
) -> Pixels:
    """Cells from far away, (⌈h ÷ shrink⌉, ⌈w ÷ shrink⌉, 4): colours of the centres on each pixel, mixed.

    ``centres`` (N, 2), (y, x), and ``box`` in grid px; ``dense``: cells a grid px of dense tissue, whose pixels are all
    but opaque, while one cell on a small pixel is a dot.
    """
    h, w = -(-box.h // shrink), -(-box.w // shrink)
    y, x = ((centres - (box.y, box.x)) // shrink).astype(np.int64).T
    shown = (y >= 0) & (y < h) & (x >= 0) & (x < w)
    if hidden:
        shown &= ~np.isin(classes, list(hidden))
    place = (y * w + x)[shown]
    counts = np.stack([np.bincount(place[classes[shown] == k], minlength=h * w) for k in range(len(colours))], axis=1)
    total = counts.sum(axis=1)
    there = total > 0
    picture = blank((h, w)).reshape(-1, 4)
    picture[there, :3] = np.rint(counts[there] @ np.array(colours, np.float64) / total[there, None])
    share = np.minimum(total[there] / max(1.0, dense * shrink**2), 1)
    picture[there, 3] = np.rint(_FAINTEST + (_DENSEST - _FAINTEST) * share)
    return picture.reshape(h, w, 4)


def tinted(values: Pixels, colour: RGB) -> Pixels:
    """A map (h, w) in one colour, clear where it is 0: (h, w, 4)."""
    picture = np.empty((*values.shape, 4), np.uint8)
    picture[..., :3], picture[..., 3] = colour, values
    return picture


def mask_edge(mask: Pixels, colour: RGB) -> Pixels:
    """A mask (h, w) as a pale area with an edge, (h, w, 4)."""
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
    picture = tinted(np.where(mask > 0, 36, 0).astype(np.uint8), colour)
    picture[(mask > 0) & (inner == 0), 3] = 255
    return picture


def png(picture: Pixels) -> bytes:
    """(h, w, 4) as PNG, quickly."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


def jpeg(picture: Pixels) -> bytes:
    """(h, w, 3) as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    return data.tobytes()
