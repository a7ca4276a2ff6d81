"""Metadata missing from the files of known datasets: resolution, organs, matching radius, and what images were used
for.

Organs of MoNuSeg's training images are those of Kumar et al. (IEEE TMI 2017); those called liver there have TCGA codes
of lung. Images of BRCA-M2C (Abousamra et al., ICCV 2021) were downsampled to 0.5 µm/px, as their sizes show: 1000 px
of 0.2325 µm, the slide file's pixel size, became 465.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TruthKind = Literal["labels", "points", "areas"]
Role = Literal["chosen on", "unseen"]
"""*chosen on*: settings of the bundled models were chosen on these images; *unseen*: nothing was."""

KI67_RADIUS_UM = 2.5
"""10 px at 0.25 µm/px, less than the radius of a tumour nucleus."""
NUCLEUS_RADIUS_UM = 4.0
"""The radius of a typical nucleus: points are placed by hand, anywhere in it."""


@dataclass(frozen=True)
class Known:
    """``mpp`` µm/px; ``radius_um``: largest distance of matching points; ``organs`` by prefix of the image's name."""

    kind: TruthKind
    mpp: float
    role: Role
    radius_um: float = NUCLEUS_RADIUS_UM
    organs: Mapping[str, str] = field(default_factory=dict)


_MONUSEG = {
    "bladder": "DK-A2I6 G2-A2EK",
    "breast": "A7-A13E A7-A13F AR-A1AK AR-A1AS E2-A14V E2-A1B5",
    "colon": "AY-A8YK NH-A8F7",
    "kidney": "B0-5698 B0-5710 B0-5711 HE-7128 HE-7129 HE-7130",
    "liver": "18-5592 21-5784 21-5786 38-6178 49-4488 50-5931",
    "prostate": "CH-5767 G9-6336 G9-6348 G9-6356 G9-6362 G9-6363",
    "stomach": "KB-A93J RD-A8N9",
}

KNOWN: dict[str, Known] = {
    "monuseg": Known(
        "labels",
        0.25,
        "chosen on",
        organs={f"TCGA-{case}-": organ for organ, cases in _MONUSEG.items() for case in cases.split()},
    ),
    "tnbc": Known("labels", 0.25, "unseen"),
    "nucls": Known("labels", 0.25, "unseen"),
    "nucls-points": Known("points", 0.25, "unseen"),
    "brca-m2c": Known("points", 0.5, "unseen"),
    "bcdata": Known("points", 0.25, "chosen on", KI67_RADIUS_UM),
}
