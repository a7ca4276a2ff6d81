"""Images of cells and maps for a screen: small arrays in, RGBA out; nothing here knows a file or a server."""

from __future__ import annotations

import cv2
import numpy as np

from wsiproc.core.cells import DrawnCells
from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB
from wsiproc.core.types import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array, UInt8Array, UInt32Array
from wsiproc.results.viewer.colouring import GREY, HIDDEN, SHADES

_SUBPIXEL_BITS = 4  # of the coordinates that OpenCV draws
_FAINTEST, _DENSEST = 50, 215  # opacity of a pixel with hardly a cell, and with dense tissue


def blank(shape: tuple[int, int]) -> UInt8Array:
    """Nothing, (h, w, 4)."""
    return np.zeros((*shape, 4), np.uint8)


def outlines(cells: DrawnCells, colours: UInt8Array, box: Box, zoom: int, fill: int) -> UInt8Array:
    """Outlines of cells in a ``box`` (grid px), ``zoom`` screen px a grid px: (h · zoom, w · zoom, 4).

    ``cells.classes`` are codes, indexes of ``colours`` (256, 3); none of them is hidden. ``fill``: opacity of their
    insides, 0 to 255. Drawn from the exact rings, whose corners are smoothed by half a pixel so that they look like
    outlines, not stairs.
    """
    shape = (box.h * zoom, box.w * zoom)
    points = [_drawn((smooth(cells.rings[row]) - (box.y, box.x)) * zoom) for row in range(len(cells))]
    # What is seen of a pixel is drawn on a mask of its own, since a line that fades into clear pixels would fade into
    # black; its colour is that of the line next to it.
    inside, beside, line = (np.zeros(shape, np.uint8) for _ in range(3))
    width = min(2, zoom)
    for code in np.unique(cells.classes).tolist():
        some = [points[row] for row in np.flatnonzero(cells.classes == code)]
        if fill:
            cv2.fillPoly(inside, some, code + 1, shift=_SUBPIXEL_BITS)
        cv2.polylines(beside, some, True, code + 1, width + 2, cv2.LINE_8, _SUBPIXEL_BITS)
    cv2.polylines(line, points, True, 255, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    table = np.zeros((257, 4), np.uint8)
    table[1:, :3], table[1:, 3] = colours, fill
    image = table[inside]
    on = line > image[..., 3]
    image[on] = table[beside[on]]
    image[on, 3] = line[on]
    return image


def _drawn(ring: Float64Array) -> Int32Array:
    """A ring (V, 2), (y, x), counted from the corner of the first pixel, as OpenCV wants it, from its centre."""
    points: Int32Array = np.rint((ring[:, ::-1] - 0.5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    return points


def smooth(ring: Int32Array) -> Float64Array:
    """A ring of pixel corners with each step replaced by the middle of its edges; long edges keep their ends."""
    following = np.roll(ring, -1, axis=0)
    length = np.abs(following - ring).sum(axis=1, keepdims=True)
    step = np.sign(following - ring) * np.minimum(length / 2, 0.75)
    points: Float64Array = np.stack([ring + step, following - step], axis=1).reshape(-1, 2)
    return points


def draw_outlines(labels: UInt32Array, codes: UInt8Array, colours: UInt8Array, fill: int) -> UInt8Array:
    """Cells (h, w, 4) from their labels (h + 2, w + 2), which reach one pixel over on each side.

    ``codes`` (N,): of the cells with the labels 1 … N; ``colours`` (256, 3): of the codes;
    ``fill``: opacity of their insides, 0 to 255.
    """
    inner = labels[1:-1, 1:-1]
    edge = (inner != labels[:-2, 1:-1]) | (inner != labels[2:, 1:-1])
    edge |= (inner != labels[1:-1, :-2]) | (inner != labels[1:-1, 2:])
    table = np.empty((256, 4), np.uint8)
    table[:, :3], table[:, 3], table[HIDDEN] = colours, 255, 0
    found = np.where(inner > 0, codes[np.maximum(inner, 1) - 1], HIDDEN).astype(np.uint8)
    image = table[found]
    inside = (inner > 0) & ~edge
    image[inside, 3] = np.minimum(image[inside, 3], fill)
    return image


def dots(
    centres: Float32Array, codes: UInt8Array, colours: UInt8Array, box: Box, shrink: int, dense: float, scale: bool
) -> UInt8Array:
    """Cells from far away, (⌈h ÷ shrink⌉, ⌈w ÷ shrink⌉, 4): colours of the centres on each pixel, mixed.

    ``centres`` (N, 2), (y, x), and ``box`` in grid px; ``codes`` (N,) and ``colours`` (256, 3) as in ``outlines``, or
    hidden; ``dense``: cells a grid px of dense tissue, whose pixels are all but opaque, while one cell on a small
    pixel is a dot. ``scale``: codes are shades of a scale, so that the shade of their mean is shown.
    """
    h, w = -(-box.h // shrink), -(-box.w // shrink)
    place, shown = _places(centres, codes, box, shrink, (h, w))
    codes = codes[shown]
    total = np.bincount(place, minlength=h * w)
    image = blank((h, w)).reshape(-1, 4)
    there = np.flatnonzero(total)
    if scale:
        image[there, :3] = colours[_mean_shade(place, codes, total)[there]]
    else:
        used = np.unique(codes)
        mixed = np.zeros((len(there), 3))
        for code in used.tolist():
            of_code = np.bincount(place[codes == code], minlength=h * w) if len(used) > 1 else total
            mixed += of_code[there, None] * colours[code].astype(np.float64)
        image[there, :3] = np.rint(mixed / total[there, None])
    share = np.minimum(total[there] / max(1.0, dense * shrink**2), 1)
    image[there, 3] = np.rint(_FAINTEST + (_DENSEST - _FAINTEST) * share)
    return image.reshape(h, w, 4)


def _places(
    centres: Float32Array, codes: UInt8Array, box: Box, shrink: int, shape: tuple[int, int]
) -> tuple[Int32Array, BoolArray]:
    """Pixels, counted row by row, of the cells that are shown; and which (N,) those are."""
    inside = (centres[:, 0] >= box.y) & (centres[:, 1] >= box.x) & (codes != HIDDEN)
    y = ((centres[:, 0] - np.float32(box.y)) * np.float32(1 / shrink)).astype(np.int32)
    x = ((centres[:, 1] - np.float32(box.x)) * np.float32(1 / shrink)).astype(np.int32)
    shown = inside & (y < shape[0]) & (x < shape[1])
    return (y * np.int32(shape[1]) + x)[shown], shown


def _mean_shade(place: Int32Array, codes: UInt8Array, total: Int64Array) -> Int64Array:
    """The code of the mean of each pixel's cells; grey where all of them are grey."""
    coloured = codes < SHADES
    number = np.bincount(place[coloured], minlength=len(total)) if not coloured.all() else total
    summed = np.bincount(place[coloured], codes[coloured], minlength=len(total))
    return np.where(number > 0, np.rint(summed / np.maximum(number, 1)), GREY).astype(np.int64)


def tinted(values: UInt8Array, colour: RGB) -> UInt8Array:
    """A map (h, w) in one colour, clear where it is 0: (h, w, 4)."""
    image = np.empty((*values.shape, 4), np.uint8)
    image[..., :3], image[..., 3] = colour, values
    return image


def mask_edge(mask: UInt8Array, colour: RGB) -> UInt8Array:
    """A mask (h, w) as a pale area with an edge, (h, w, 4)."""
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0)
    image = tinted(np.where(mask > 0, 36, 0).astype(np.uint8), colour)
    image[(mask > 0) & (inner == 0), 3] = 255
    return image


def png(image: UInt8Array) -> bytes:
    """(h, w, 4) as PNG, quickly."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


def jpeg(image: UInt8Array) -> bytes:
    """(h, w, 3) as JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done
    return data.tobytes()
