"""Decoding: wsiproc's reader against plain OpenSlide reads, the same areas, the same pixels.

    python benchmarks/read.py slide.svs [slide.tif …] [--strips 40]

Strips of 576 × 2112 px of level 0, as a run reads them, one row of windows after the other, on one core; megapixels per
second of processor time. The two readers take turns, strip by strip, so that a busy machine slows both. OpenSlide's
cache has its default size (32 MB).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import openslide

from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import open_slide

STRIP, STEP = (576, 2112), (512, 2048)


def strips(shape: tuple[int, int], most: int) -> list[Box]:
    """Neighbouring strips from the middle of the slide."""
    rows = range(0, max(1, shape[0] - STRIP[0]), STEP[0])
    cols = range(0, max(1, shape[1] - STRIP[1]), STEP[1])
    boxes = [Box(y, x, *STRIP).clip(shape) for x in cols for y in rows]
    first = max(0, (len(boxes) - most) // 2)
    return boxes[first : first + most]


def timed(read: Callable[[], npt.NDArray[np.uint8]]) -> tuple[float, npt.NDArray[np.uint8]]:
    """Seconds of processor time, and the pixels."""
    started = time.process_time()
    pixels = read()
    return time.process_time() - started, pixels


def main(path: Path, most: int) -> None:
    """One line of the table."""
    bare = openslide.OpenSlide(path)
    seconds, px, same = np.zeros(2), 0, 0
    with open_slide(path) as slide:
        boxes = strips(slide.shape, most)
        for box in boxes:
            ours, pixels = timed(lambda box=box: slide.pyramid[0].read(box))
            theirs, reference = timed(
                lambda box=box: np.asarray(bare.read_region((box.x, box.y), 0, (box.w, box.h)))[..., :3]
            )
            seconds += ours, theirs
            px += box.area
            same += np.array_equal(pixels, reference)
        speed = px / 1e6 / seconds
        print(
            f"| {path.name} | {slide.format} | {type(slide.pyramid[0]).__name__} | {speed[0]:.0f} | {speed[1]:.0f} | "
            f"{speed[0] / speed[1]:.1f} × | {same} of {len(boxes)} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--strips", type=int, default=40)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print("| slide | format | reader | wsiproc Mpx/s | OpenSlide Mpx/s | ratio | strips of the same pixels |")
    print("|---|---|---|---|---|---|---|")
    for each in arguments.slides:
        main(each, arguments.strips)
