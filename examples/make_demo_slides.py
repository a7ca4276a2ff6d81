"""Make two small slides to try wsiproc on, with no download.

``ihc.tif``: real colon tissue, haematoxylin and DAB; the photograph that scikit-image ships (CC0, 512 × 512 px), as a
tiled TIFF. ``synthetic.tif``: a drawn H&E slide of 4096 × 4096 px; its true nuclei are in
``synthetic.truth.parquet``.

    python examples/make_demo_slides.py demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import skimage.data
import tifffile

from wsiproc.synthetic import write_synthetic_slide

IHC_MPP = 0.5  # not recorded with the photograph; by the size of its lymphocytes


def main(folder: Path) -> None:
    """Write both slides into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        folder / "ihc.tif",
        skimage.data.immunohistochemistry(),
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
        resolution=(1e4 / IHC_MPP, 1e4 / IHC_MPP),
        resolutionunit="CENTIMETER",
    )
    write_synthetic_slide(folder / "synthetic.tif", (4096, 4096), tissue_fraction=0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
