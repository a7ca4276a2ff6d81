"""Make two small slides to try wsiproc on, with no download.

``skin.tif``: real skin in H&E, the ``skin.jpg`` next to this file as a tiled TIFF; it was cropped from
CMU-1-Small-Region, a test slide of OpenSlide (CC0, 1000 × 760 px, 0.499 µm/px). ``synthetic.tif``: a synthetic H&E
slide of 4096 × 4096 px; its true nuclei are in ``synthetic.truth.parquet``.

    python examples/make_demo_slides.py demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from wsiproc.synthetic import write_synthetic_slide

SKIN, SKIN_MPP = Path(__file__).with_name("skin.jpg"), 0.499


def main(folder: Path) -> None:
    """Write both slides into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        folder / "skin.tif",
        np.asarray(Image.open(SKIN)),
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        resolution=(1e4 / SKIN_MPP, 1e4 / SKIN_MPP),
        resolutionunit="CENTIMETER",
    )
    write_synthetic_slide(folder / "synthetic.tif", (4096, 4096), tissue_fraction=0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
