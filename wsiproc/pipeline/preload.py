"""Imported only by the process that workers are forked from, so that slow imports happen once.

Importing this module imports what workers need and loads the compiled code of their tasks, by segmenting one square
nucleus. It starts no threads, which would be lost in the fork, and leaves no state behind.
"""

from __future__ import annotations

import gc
from contextlib import suppress

import numpy as np

import wsiproc.models.builtin.classical
import wsiproc.models.builtin.distilled
import wsiproc.models.networks.unet  # with torch
import wsiproc.pipeline.stages.seams  # noqa: F401 - with all that tasks import
from wsiproc.array.nuclei.measure import centroids, label_sums, measure, measurement_names
from wsiproc.array.nuclei.outline import fill, trace
from wsiproc.array.nuclei.ring import ring_sums
from wsiproc.array.pyramid import downsample_mean, downsample_mode
from wsiproc.core.cells import CellTable
from wsiproc.io.geojson.write import features_bytes
from wsiproc.models.base import OD_STEP
from wsiproc.models.cells import CutRule, SplitLengths, cut_cells
from wsiproc.pipeline.stages.job import prepare_worker


def _load_compiled_code() -> None:
    prepare_worker()
    maps = np.zeros((4, 64, 64), np.uint8)
    maps[:, 20:40, 20:40] = 200
    for interior in (maps[3], None):
        found = cut_cells(maps, CutRule(), SplitLengths(), 0.5, interior=interior)
    sums = label_sums(found.labels, 1, maps)
    rings = trace(found.labels, np.array([1]))
    ring_sums(found.labels, sums, (0, 0), maps[0], maps[2], 0.5)
    stains = {"hematoxylin": 1, "eosin": 2}
    measured = measure(sums, rings, 0.25, stains, OD_STEP)
    assert list(measured) == measurement_names(list(stains))
    boxes = sums.boxes.astype(np.int32)
    cells = CellTable(found.classes, found.scores, centroids(sums), boxes, measured, rings)
    features_bytes(cells, 1, "", ["Nucleus"], [(0, 0, 0)], (2.0, 2.0))
    ids, phenotypes = np.zeros((64, 64), np.uint32), np.zeros((64, 64), np.uint8)
    fill(ids, rings.offsets, rings.vertices, np.array([1], np.uint32), 0, 0)
    fill(phenotypes, rings.offsets, rings.vertices, np.array([1], np.uint8), 0, 0)
    downsample_mode(ids)
    downsample_mode(phenotypes)
    downsample_mean(maps)


with suppress(OSError):  # the cache of compiled code cannot be written: workers compile it themselves, or say so
    _load_compiled_code()
# None of it is ever garbage: the forks share it, and this process need not collect it when it ends.
gc.freeze()
