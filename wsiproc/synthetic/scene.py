"""A synthetic slide before it is written: any box of it as image, labels or table rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np
from scipy import ndimage

from wsiproc.core.choices import SceneStain
from wsiproc.core.geometry import Box
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, UInt8Array, UInt32Array
from wsiproc.errors import SettingsError
from wsiproc.synthetic import paint, world
from wsiproc.synthetic.debris import Debris, darken, scatter

RECIPE: Final = 1
"""Incremented whenever the same scene would give different pixels, so that old files are not read with a new recipe."""

STEP_PX: Final = 16
"""Spacing of the points at which slowly varying fields are computed; between them they are linear."""

SYNTHETIC_STAINS: Final[dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]]] = {
    "HE": ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)),  # Macenko et al., ISBI 2009
    "HDAB": ((0.650, 0.704, 0.286), (0.268, 0.570, 0.776)),  # Ruifrok and Johnston, 2001
}
CLASSES: Final[dict[str, tuple[str, ...]]] = {"HE": ("Nucleus",), "HDAB": ("Negative", "Positive")}
_COUNTERSTAIN: Final = {"HE": 0.85, "HDAB": 0.10}


@dataclass(frozen=True)
class SceneLook:
    """Properties of scanner and laboratory: background colour, stain strength, noise (grey levels), blur (px), JPEG."""

    white: tuple[int, int, int]
    gain: tuple[float, float]
    noise: float
    blur_px: float
    jpeg_quality: int


LOOKS: Final[dict[str, SceneLook]] = {
    "bright": SceneLook((243, 243, 245), (1.0, 1.0), 3.0, 0.7, 85),
    "grey": SceneLook((222, 222, 226), (0.85, 0.9), 4.0, 0.9, 80),
    "warm": SceneLook((248, 241, 233), (0.9, 1.35), 3.0, 0.7, 85),
    "purple": SceneLook((240, 238, 246), (1.25, 0.7), 3.0, 0.8, 85),
    "soft": SceneLook((236, 236, 238), (0.9, 0.9), 5.0, 1.6, 60),
}


@dataclass(frozen=True)
class Truth:
    """Nuclei as columns (slide px): ``ids`` (N,), ``classes`` (N,) index, ``centroids`` (N, 2) mean of the pixel
    centres (y, x; the first pixel's centre is 0.5), ``areas_px`` (N,) visible pixels, ``boxes`` (N, 4) y, x, h, w.
    """

    ids: UInt32Array
    classes: UInt8Array
    centroids: Float64Array
    areas_px: Int32Array
    boxes: Int32Array

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def concat(cls, parts: Sequence[Truth]) -> Truth:
        """All rows of ``parts`` (at least one), one part after the other."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.centroids for part in parts]),
            np.concatenate([part.areas_px for part in parts]),
            np.concatenate([part.boxes for part in parts]),
        )


@dataclass(frozen=True)
class Scene:
    """All parameters of a synthetic slide.

    ``shape`` (h, w) px; ``mpp`` µm per px; ``tissue_fraction`` of the slide's area in (0, 1]; ``crowding`` 0 (most
    nuclei free) … 1 (dense clumps everywhere); ``positive_fraction`` of the nuclei of an HDAB slide;
    ``debris`` the number of pen strokes, air bubbles and dust grains together.
    """

    shape: tuple[int, int]
    mpp: float = 0.25
    seed: int = 0
    tissue_fraction: float = 0.4
    stain: SceneStain = "HE"
    look: str = "bright"
    crowding: float = 0.5
    positive_fraction: float = 0.3
    debris: int = 0

    def __post_init__(self) -> None:
        self._require("shape", min(self.shape) >= 64, "both sides at least 64 px")
        self._require("mpp", 0.1 <= self.mpp <= 2.0, "between 0.1 and 2 µm per px")
        self._require("seed", 0 <= self.seed < 2**62, "a non-negative integer")
        self._require("tissue_fraction", 0 < self.tissue_fraction <= 1, "above 0 and at most 1")
        self._require("stain", self.stain in SYNTHETIC_STAINS, f"one of {', '.join(SYNTHETIC_STAINS)}")
        self._require("look", self.look in LOOKS, f"one of {', '.join(LOOKS)}")
        self._require("crowding", 0 <= self.crowding <= 1, "between 0 and 1")
        self._require("positive_fraction", 0 <= self.positive_fraction <= 1, "between 0 and 1")
        self._require("debris", 0 <= self.debris <= 1000, "between 0 and 1000 objects")
        cells = math.prod(side * self.mpp / world.PITCH_UM + 1 for side in self.shape)
        self._require("shape", 2 * cells < 2**32, "small enough for 32-bit ids (about 10 m² of slide)")

    def _require(self, name: str, good: bool, rule: str) -> None:
        if not good:
            raise SettingsError(f"synthetic slide: {name}={getattr(self, name)!r}; it must be {rule}.")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return CLASSES[self.stain]

    @property
    def background(self) -> tuple[int, int, int]:
        """RGB of the empty slide."""
        return LOOKS[self.look].white

    def to_json(self) -> str:
        """One line from which :meth:`from_json` recreates the scene."""
        return json.dumps({"recipe": RECIPE, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Scene:
        """The scene written by :meth:`to_json`; raises SettingsError if it is of another recipe."""
        values: dict[str, Any] = json.loads(text)
        recipe = values.pop("recipe", None)
        if recipe != RECIPE or set(values) != {field.name for field in fields(cls)}:
            raise SettingsError(
                f"synthetic slide of recipe {recipe}, but this version renders recipe {RECIPE}: the pixels would "
                "differ. Write the slide again with this version."
            )
        return cls(**{**values, "shape": tuple(values["shape"])})

    @cached_property
    def world(self) -> world.World:
        """The scene in the form of the compiled functions."""
        h, w = self.shape
        border, cell_px = _border_map(self)
        ragged = min(25.0, 0.02 * min(self.shape) * self.mpp) if self.tissue_fraction < 1 else 0.0
        columns = int(w * self.mpp / world.PITCH_UM) + 1
        positive = self.positive_fraction if len(self.classes) > 1 else -1.0
        return world.World(self.seed, self.mpp, h, w, columns, self.crowding, positive, border, cell_px, ragged)

    @cached_property
    def _banks(self) -> tuple[Float32Array, Float32Array]:
        """Texture and sensor noise, both periodic (1024, 1024)."""
        rng = np.random.default_rng(self.seed)
        octaves = [(0.5, 0.3), (1.0, 0.4), (2.5, 0.3)]  # (µm, weight)
        size = (1024, 1024)
        texture = sum(weight * _unit_noise(rng, size, um / self.mpp) for um, weight in octaves)
        texture = np.clip(0.5 + 0.3 * np.asarray(texture), 0, 1).astype(np.float32)
        return texture, (LOOKS[self.look].noise * rng.standard_normal(size)).astype(np.float32)

    @cached_property
    def debris_objects(self) -> tuple[Debris, ...]:
        """Pen strokes, bubbles and dust."""
        return scatter(self.debris, self.shape, self.mpp, self.seed)

    def is_background(self, box: Box) -> bool:
        """Whether ``box`` is certainly empty: no tissue, nucleus or debris."""
        if any(thing.box.intersect(box).area for thing in self.debris_objects):
            return False
        near = box.pad(2 * STEP_PX)
        rows, cols = -(-near.h // STEP_PX) + 1, -(-near.w // STEP_PX) + 1
        border = world.fields(self.world, near.y, near.x, rows, cols, STEP_PX)[..., 0]
        return bool(border.max() < -(4 + STEP_PX * self.mpp))  # µm: texture of the border and spacing of the points

    def render(self, box: Box) -> UInt8Array:
        """(h, w, 3) uint8 RGB of any box; the pattern continues beyond the slide."""
        look, halo = LOOKS[self.look], STEP_PX
        y0, x0 = (box.y - halo) // STEP_PX * STEP_PX, (box.x - halo) // STEP_PX * STEP_PX
        h, w = box.y1 + halo - y0, box.x1 + halo - x0
        texture, noise = self._banks
        rows, cols = -(-h // STEP_PX) + 1, -(-w // STEP_PX) + 1
        slow = world.fields(self.world, y0, x0, rows, cols, STEP_PX)
        stains = paint.tissue_stains(slow, STEP_PX, y0, x0, h, w, self.mpp, texture, _COUNTERSTAIN[self.stain])
        nuclei = world.nuclei_near(self.world, y0, x0, h, w)
        paint.paint_nuclei(nuclei, nuclei[:, world.CLASS].astype(np.int64), self.mpp, y0, x0, stains, texture)
        stains = cv2.GaussianBlur(stains, (0, 0), look.blur_px)
        inner = np.ascontiguousarray(stains[box.y - y0 : box.y1 - y0, box.x - x0 : box.x1 - x0])
        matrix = np.asarray(SYNTHETIC_STAINS[self.stain], np.float32) * np.asarray(look.gain, np.float32)[:, None]
        white = np.asarray(look.white, np.float32)
        rgb: UInt8Array = paint.colours(inner, matrix, _transmission(), white, noise, box.y, box.x)
        darken(rgb, box, self.mpp, self.debris_objects)
        return rgb

    def labels(self, box: Box) -> UInt32Array:
        """(h, w) uint32 truth of any box: ids, 0 for background and outside the slide; the lower id is on top."""
        out = np.zeros(box.shape, np.uint32)
        nuclei = world.nuclei_near(self.world, box.y, box.x, box.h, box.w)
        paint.paint_labels(nuclei, self.mpp, box.y, box.x, out)
        return out

    def truth(self, box: Box) -> Truth:
        """The nuclei whose (unoccluded) centre lies in ``box``, each measured as a whole, by ascending id."""
        around = box.pad(math.ceil(world.REACH_UM / self.mpp) + 1)
        nuclei = world.nuclei_near(self.world, around.y, around.x, around.h, around.w)
        labels = np.zeros(around.shape, np.uint32)
        paint.paint_labels(nuclei, self.mpp, around.y, around.x, labels)
        cy, cx = nuclei[:, world.CY], nuclei[:, world.CX]
        mine = nuclei[(box.y <= cy) & (cy < box.y1) & (box.x <= cx) & (cx < box.x1)]
        sums = paint.place_cells(mine, self.mpp, around.y, around.x, labels)
        mine, sums = mine[sums[:, 0] > 0], sums[sums[:, 0] > 0]
        boxes = np.stack([sums[:, 3], sums[:, 5], sums[:, 4] - sums[:, 3] + 1, sums[:, 6] - sums[:, 5] + 1], axis=1)
        return Truth(
            mine[:, world.ID].astype(np.uint32),
            mine[:, world.CLASS].astype(np.uint8),
            sums[:, 1:3] / sums[:, :1],
            sums[:, 0].astype(np.int32),
            boxes.astype(np.int32),
        )


def _transmission() -> Float32Array:
    """exp(−OD) for optical densities from 0 to 4."""
    return np.exp(-np.arange(4 * paint.OD_STEPS, dtype=np.float32) / paint.OD_STEPS)


def _unit_noise(rng: np.random.Generator, size: tuple[int, int], sigma_px: float) -> Float32Array:
    """Periodic smooth noise of zero mean and unit deviation."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(size).astype(np.float32), sigma_px, mode="wrap")
    out: Float32Array = (smooth - smooth.mean()) / smooth.std()
    return out


def _border_map(scene: Scene) -> tuple[Float32Array, float]:
    """Coarse map of the distance (µm) to the tissue's border, positive inside, and the side of its cells (px).

    A few overlapping ellipses, thresholded so that they cover ``tissue_fraction`` of the slide.
    """
    h, w = scene.shape
    cell_px = max(h, w) / 512
    rows, cols = max(2, math.ceil(h / cell_px)), max(2, math.ceil(w / cell_px))
    if scene.tissue_fraction == 1:
        return np.full((rows, cols), 1e6, np.float32), cell_px
    rng = np.random.default_rng([scene.seed, 1])
    y, x = np.mgrid[:rows, :cols].astype(np.float32)
    height = np.full((rows, cols), -np.inf, np.float32)
    for _ in range(int(rng.integers(2, 6))):
        cy, cx = rng.uniform(0.22, 0.78, 2) * (rows, cols)
        angle, spread = rng.uniform(0, np.pi), rng.uniform(0.6, 1.3, 2) * min(rows, cols)
        along, across = (
            (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle),
            (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle),
        )
        height = np.maximum(height, -np.hypot(along / spread[0], across / spread[1]))
    bumps = ndimage.gaussian_filter(rng.standard_normal((rows, cols)), 0.04 * min(rows, cols), mode="nearest")
    height = height + 0.05 * (bumps / bumps.std()).astype(np.float32)
    inside = height > np.quantile(height, 1 - scene.tissue_fraction)
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return (ndimage.gaussian_filter(distance, 1.0) * cell_px * scene.mpp).astype(np.float32), cell_px
