"""Which stain, and which compartment of DAB, is recognised in images whose stain is known from their folder.

    python benchmarks/stains_recognised.py DATA

``DATA`` contains corpus/ (folders named ``…_HE`` and ``…-IHC``), bcdata_dev/ and judges/. Each image is judged alone,
and all of a folder together, like the samples of a slide.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsiproc.models.builtin.classical import Classical
from wsiproc.pipeline.planning.scoring import slide_scoring

MPP = 0.5
# µm per px of the pictures: 0.25 unless it is known better; 20x material, by the size of its nuclei.
SCALES = {
    "OS2_Ki67-IHC": 0.2271, "EAS2-core_CD20-IHC": 0.263, "duodenum-net_SYN-IHC": 0.263, "judges/brca_m2c/images": 0.5,
    "colon_HE": 0.5, "kidney_HE": 0.5, "liver-sarcoma_HE": 0.5, "pituitary_HE": 0.5, "ovary_HE": 0.5,
    "meningioma_HE": 0.4, "skin-molluscum_HE": 0.4, "lymphnode_HE": 0.35, "esophagus_HE": 0.3,
}  # fmt: skip
OTHERS = ("bcdata_dev/images", "judges/tnbc/images", "judges/brca_m2c/images")


def load(path: Path, mpp: float) -> npt.NDArray[np.uint8]:
    """A picture at 0.5 µm/px."""
    picture = Image.open(path).convert("RGB")
    if path.name.startswith("os-OS-2-vsi"):  # another scanner
        mpp = 0.3461
    h, w = (round(side * mpp / MPP) for side in (picture.height, picture.width))
    return np.asarray(picture.resize((w, h), Image.Resampling.BOX))


def recognised(samples: list[npt.NDArray[np.uint8]]) -> tuple[str, str]:
    """Stain, and compartment where there is DAB."""
    model = Classical(mpp=MPP).calibrate(samples)
    scoring = slide_scoring(model, samples, "auto", None)
    if scoring is None:
        return model.stains.kind, ""
    found = scoring.found
    told = f"{found.compartment}, roundness {found.pattern.roundness:.2f}, blobs {found.pattern.blob_um2:.0f} µm²"
    return model.stains.kind, told


def main(data: Path) -> None:
    """Print the table."""
    corpus = [f"corpus/{p.name}" for p in sorted((data / "corpus").iterdir()) if p.name.endswith(("_HE", "-IHC"))]
    print("| folder | pictures | stain of all | right, each alone | compartment of all | the same, each alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in [*corpus, *OTHERS]:
        folder = data / name
        scale = SCALES.get(folder.name, SCALES.get(name, 0.25))
        paths = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))
        pictures = [load(path, scale) for path in paths]
        stain, where = recognised(pictures)
        expected = "H-DAB" if "IHC" in name or "bcdata" in name else "H&E"
        alone = [recognised([picture]) for picture in pictures]
        right = sum(kind == expected for kind, _ in alone)
        same = sum(told.split(",")[0] == where.split(",")[0] for _, told in alone) if where else ""
        print(f"| {folder.name} | {len(paths)} | {stain} | {right} | {where} | {same} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
