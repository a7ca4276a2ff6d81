"""A real slide, tiled several times into one larger slide: real tissue when no larger slide is available.

    python benchmarks/mosaic.py slide.tif large.tif [--times 2]

``--times 2`` tiles 2 × 2. Level 0 is re-encoded (JPEG), with levels 1, 2, 4, … below it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from wsiproc.core.geometry import Box
from wsiproc.io.slides.open import SlideSource
from wsiproc.synthetic.tiff import Encoder, write_tiff_pyramid


def main(source: Path, out: Path, times: int) -> None:
    """Write the mosaic."""
    with SlideSource(source).open() as slide:
        h, w = slide.shape
        one_at_a_time = Lock()

        def draw(box: Box) -> npt.NDArray[np.uint8]:
            pixels = np.empty((*box.shape, 3), np.uint8)
            for row in range(box.y // h, (box.y1 - 1) // h + 1):
                for col in range(box.x // w, (box.x1 - 1) // w + 1):
                    copy = Box(row * h, col * w, h, w)
                    part = box.intersect(copy)
                    with one_at_a_time:
                        pixels[part.relative_to(box).slices] = slide.read(part.relative_to(copy), slide.mpp)
            return pixels

        write_tiff_pyramid(out, (times * h, times * w), slide.mpp, draw, Encoder((240, 240, 240), 85), source.name, 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("--times", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.slide, arguments.large, arguments.times)
