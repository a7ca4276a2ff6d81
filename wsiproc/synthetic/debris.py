"""Debris on slides: pen strokes, air bubbles, dust; as transmissions to multiply an image by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsiproc.core.geometry import Box
from wsiproc.core.types import Float32Array, Float64Array, UInt8Array

DebrisKind = Literal["pen", "bubble", "dust"]
_INKS = ((0.10, 0.25, 0.70), (0.12, 0.55, 0.25), (0.12, 0.12, 0.14))


@dataclass(frozen=True)
class Debris:
    """One object: its box (slide px), and three numbers in [0, 1) that vary its shape."""

    kind: DebrisKind
    box: Box
    draws: tuple[float, float, float]

    def transmission(self, box: Box, mpp: float) -> Float32Array:
        """(h, w, 3) factor by which the object darkens each pixel of ``box`` (slide px)."""
        y = (np.arange(box.y, box.y1, dtype=np.float64)[:, None] + 0.5 - self.box.y) / self.box.h
        x = (np.arange(box.x, box.x1, dtype=np.float64)[None, :] + 0.5 - self.box.x) / self.box.w
        draw = {"pen": self._pen, "bubble": self._bubble, "dust": self._dust}[self.kind]
        out: Float32Array = draw(y, x, mpp).astype(np.float32)
        return out

    def _pen(self, y: Float64Array, x: Float64Array, mpp: float) -> Float64Array:
        """A wavy vertical line that fills half of the box's width, with streaks along it."""
        a, b, c = self.draws
        off = (x - 0.5 - 0.22 * np.sin(2 * np.pi * (y * (0.6 + b) + a))) / 0.25
        body = np.clip((1 - np.abs(off)) * 12, 0, 1) * np.clip(np.minimum(y, 1 - y) * 30, 0, 1)
        streaks = 0.85 + 0.15 * np.sin(off * 23 + 40 * a) * np.sin(off * 57 + 3 * y)
        ink = np.asarray(_INKS[int(c * len(_INKS))])
        return np.asarray(1 - (body * streaks)[..., None] * (1 - ink))

    def _bubble(self, y: Float64Array, x: Float64Array, mpp: float) -> Float64Array:
        """A disc with a dark refracting rim of about 12 µm."""
        distance = (0.48 - np.hypot(y - 0.5, x - 0.5)) * self.box.w * mpp
        rim = np.exp(-((distance / 6.0) ** 2)) + 0.4 * np.exp(-(((distance - 14.0) / 5.0) ** 2))
        return np.repeat((1 - 0.65 * np.clip(rim, 0, 1))[..., None], 3, axis=2)

    def _dust(self, y: Float64Array, x: Float64Array, mpp: float) -> Float64Array:
        """A dark brown grain with a soft, uneven outline."""
        a, b, c = self.draws
        angle, radius = np.arctan2(y - 0.5, x - 0.5), np.hypot(y - 0.5, x - 0.5)
        outline = 0.32 + 0.08 * np.sin(3 * angle + 6 * a) + 0.05 * np.sin(5 * angle + 6 * b)
        body = np.clip((outline - radius) * (8 + 10 * c), 0, 1)
        return np.asarray(1 - body[..., None] * np.array([0.70, 0.75, 0.80]))


def scatter(count: int, shape: tuple[int, int], mpp: float, seed: int) -> tuple[Debris, ...]:
    """``count`` objects over a slide of ``shape`` (h, w) px: pen, bubble, dust in turn."""
    rng = np.random.default_rng([seed, 2])
    return tuple(_one(("pen", "bubble", "dust")[i % 3], shape, mpp, rng) for i in range(count))


def _one(kind: DebrisKind, shape: tuple[int, int], mpp: float, rng: np.random.Generator) -> Debris:
    size_um = {"pen": (6000.0, 900.0), "bubble": (500.0, 500.0), "dust": (40.0, 40.0)}[kind]
    scale = min(rng.uniform(0.5, 1.5), 0.5 * min(shape) * mpp / size_um[0])
    h, w = (max(4, round(um * scale / mpp)) for um in size_um)
    cy, cx = rng.uniform(0, 1, 2) * shape
    draws = rng.uniform(0, 1, 3)
    return Debris(kind, Box(int(cy) - h // 2, int(cx) - w // 2, h, w), (draws[0], draws[1], draws[2]))


def darken(rgb: UInt8Array, box: Box, mpp: float, objects: Sequence[Debris]) -> None:
    """Draw the objects that touch ``box`` into its image ``rgb`` (h, w, 3), in place."""
    for thing in objects:
        part = thing.box.intersect(box)
        if part.area:
            place = part.relative_to(box).slices
            rgb[place] = (rgb[place] * thing.transmission(part, mpp) + 0.5).astype(np.uint8)
