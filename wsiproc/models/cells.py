"""From maps to cells, the same for every model: threshold, small repairs, local split, classes, scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from wsiproc.array.instances import SplitRule, content, fill_small_holes, open_disc, split_clumps
from wsiproc.array.measure import centroids, label_sums
from wsiproc.models.base import OD_STEP, Instances

Share = Annotated[float, Ge(0), Le(1)]
# A cell may depend on five times this, so it bounds the margin.
Length = Annotated[float, Gt(0), Le(50)]


@dataclass(frozen=True)
class CutRule:
    """How the mask of nuclei is made of the map of their probability, and which cells are kept.

    ``threshold``: lowest probability of a nucleus' pixel; ``object``: cells with a lower mean probability are dropped;
    ``hole_um2``, ``hole_um``: holes of at most this area that fit into a square of this side are filled; ``spur_um``:
    what no disc of this radius fits into is removed; ``positive_dab_od``: cells with a higher mean optical density of
    DAB are positive (0.2 is QuPath's default).
    """

    threshold: Share = 0.5
    object: Share = 0.0
    hole_um2: Annotated[float, Ge(0), Le(1000)] = 25.0
    hole_um: Length = 8.0
    spur_um: Length = 0.75
    positive_dab_od: Annotated[float, Ge(0), Le(3)] = 0.2


@dataclass(frozen=True)
class SplitLengths:
    """The rule that splits touching nuclei (see ``wsiproc.array.instances.SplitRule``) in µm, for any resolution."""

    reach_um: Length = 12.0
    merge_um: Length = 4.0
    saddle: Share = 0.75
    smooth_um: Annotated[float, Ge(0), Le(10)] = 0.5
    smallest_um2: Annotated[float, Ge(0), Le(1000)] = 10.0

    def at(self, mpp: float) -> SplitRule:
        """The rule in px of ``mpp`` µm."""
        return SplitRule(
            reach=round(self.reach_um / mpp),
            merge=round(self.merge_um / mpp),
            saddle=self.saddle,
            smooth=self.smooth_um / mpp,
            min_area=round(self.smallest_um2 / mpp**2),
        )


def cell_margin(cut: CutRule, split: SplitLengths, mpp: float) -> int:
    """Pixels of the maps around a region that its cells can depend on: the split, the holes, the spurs."""
    return split.at(mpp).margin + round(cut.hole_um / mpp) + 2 * round(2 * cut.spur_um / mpp)


def cut_cells(
    maps: npt.NDArray[np.uint8],
    cut: CutRule,
    split: SplitLengths,
    mpp: float,
    dab: int | None = None,
    interior: npt.NDArray[np.uint8] | None = None,
) -> Instances:
    """Cells of stitched maps (c, h, w), whose first plane is the probability of a nucleus. Local, see ``cell_margin``.

    ``dab``: plane that tells positive from negative cells; None makes one class. ``interior``: (h, w) plane that is
    low between touching nuclei; None splits by the shape of the mask alone.
    """
    rule, hole = split.at(mpp), round(cut.hole_um / mpp)
    mask = maps[0] > cut.threshold * 255
    # Much of a slide is glass. The border is wider than any hole, or it would be one itself around a single nucleus.
    box = content(mask, hole + rule.smooth_radius + 2)
    mask = fill_small_holes(np.ascontiguousarray(mask[box.slices]), round(cut.hole_um2 / mpp**2), hole)
    interior = None if interior is None else np.ascontiguousarray(interior[box.slices])
    found = split_clumps(open_disc(mask, cut.spur_um / mpp), rule, interior)
    planes = slice(1 if dab is None else dab + 1)
    sums = label_sums(found.labels, found.count, maps[(planes, *box.slices)])
    means = sums.values / sums.areas[:, None]
    scores = (means[:, 0] / 255).astype(np.float32)
    classes = np.zeros(found.count, np.uint8)
    if dab is not None:
        classes[means[:, dab] * OD_STEP > cut.positive_dab_od] = 1
    dropped: dict[str, npt.NDArray[np.integer]] = {
        f"smaller than {rule.min_area * mpp**2:g} µm²": found.small,
        f"pixels more than {split.reach_um:g} µm from the middle of a nucleus": _places(found.clipped),
    }
    labels = np.zeros(maps.shape[1:], np.int32)
    labels[box.slices] = found.labels
    corner = (box.y, box.x)
    if cut.object > 0:
        kept = scores >= cut.object
        dropped[f"mean probability below {cut.object:g}"] = centroids(sums)[~kept].astype(np.int64)
        numbers = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
        labels[box.slices] = numbers[found.labels]
        classes, scores = classes[kept], scores[kept]
    return Instances(labels, classes, scores, {what: np.add(at, corner) for what, at in dropped.items()})


def _places(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Where a mask (h, w) is set: (K, 2), (y, x); OpenCV looks it through several times faster than NumPy."""
    found = cv2.findNonZero(mask.view(np.uint8))
    return np.zeros((0, 2), np.int32) if found is None else np.asarray(found, np.int32).reshape(-1, 2)[:, ::-1]
