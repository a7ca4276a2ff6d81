"""Where positive cells begin: the valley between pale and brown nuclei, found without labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.filters import threshold_otsu

from wsiproc.array.stains import unmixing
from wsiproc.psm.segmenter import Example
from wsiproc.psm.tiles import Tiles

_FEWEST = 50  # nuclei of a slide, below which its valley says nothing


def positive_cut(sources: Sequence[Tiles], examples: Sequence[Example], otherwise: float) -> float:
    """Mean optical density of DAB from which a nucleus is positive: mean over slides with DAB of Otsu's threshold.

    ``examples``: of their tiles, whose palettes hold the mean colours of believed nuclei; ``otherwise``: the answer
    where there are too few of them.
    """
    valleys = []
    for source in sources:
        if source.stains.kind != "H-DAB":
            continue
        colours = np.concatenate([e.palette.colours for e in examples if e.group == source.name])
        if len(colours) >= _FEWEST:
            dab = colours @ unmixing(source.stains)[:, 1] / source.gain
            valleys.append(float(threshold_otsu(dab)))  # type: ignore[no-untyped-call]
    return round(float(np.mean(valleys)), 2) if valleys else otherwise
