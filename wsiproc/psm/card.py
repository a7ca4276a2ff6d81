"""The model card: training data, method, settings, training curves and example images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch import nn

from wsiproc.core.palette import OKABE_ITO
from wsiproc.core.types import BoolArray, Int32Array, UInt8Array
from wsiproc.psm.labels.targets import IGNORE
from wsiproc.psm.segmenter import Example
from wsiproc.psm.tiles import Tiles

LossCurve = Mapping[str, Mapping[int, float]]

_EXAMPLES, _SIDE = 12, 192
_PLOT = 260, 900  # px (h, w)


@dataclass(frozen=True)
class FitSummary:
    """The result of a fit: its recipe, tissue, examples of the last round, network and training curves."""

    recipe: dict[str, Any]
    sources: tuple[Tiles, ...]
    examples: tuple[Example, ...]
    net: nn.Module
    curve: LossCurve


def model_card(summary: FitSummary, mpp: float) -> tuple[str, dict[str, bytes]]:
    """The card as Markdown, and its images by file name."""
    rows = [
        f"| {s.name} | {len(s.pixels)} | {sum(p.shape[0] * p.shape[1] for p in s.pixels) / 1e6:.1f} | {s.stains.kind} |"
        for s in summary.sources
    ]
    accepted = sum(len(e.palette.nuclei) for e in summary.examples)
    weights = sum(p.numel() for p in summary.net.parameters())
    text = f"""# Model card

A network that finds cell nuclei in brightfield slides, trained by `wsiproc fit` **without a single label**.

- **Use**: `wsiproc run SLIDE --model THIS_FOLDER`; haematoxylin and eosin, or haematoxylin and DAB, 0.2 to 0.6 µm/px.
- **Not for**: diagnosis. The model never saw fluorescence or cytology.
- **Network**: U-Net of {weights:,} weights at {mpp:g} µm/px, outputs nucleus and interior of a nucleus.
- **Learned from**: the slides below; from {accepted:,} nuclei that were found in them without labels and that the
  images support, and from nuclei and other objects pasted into them.
- **How**: the method is described in `docs/method.md` of wsiproc. The activation ranges for int8
  (`int8_peaks`) were found on two tiles of each source.

## What it learned from

| source | tiles | Mpx at {mpp:g} µm/px | stain |
|---|---|---|---|
{chr(10).join(rows)}

Orange: accepted as a nucleus. Darkened: ignored, since uncertain.

![examples](examples.png)

## Curves

Loss of each stage, each from its first step to its last.

![curves](curves.png)

## Settings

{_settings(summary.recipe)}
"""
    return text, {"examples.png": _png(_examples(summary.examples)), "curves.png": _png(_plot(summary.curve))}


def tuned_card(
    recipe: Mapping[str, Any], windows: Sequence[tuple[UInt8Array, Int32Array, BoolArray]], curve: LossCurve
) -> tuple[str, dict[str, bytes]]:
    """The card, as Markdown, of a model that learned from corrected cells, and its images by file name. ``windows``:
    pixels (h, w, 3), labels (h, w) and known pixels (h, w) of each.
    """
    rows = [f"| {slide['name']} | {slide['cells']} |" for slide in recipe["corrected"]]
    text = f"""# Model card

A network that finds cell nuclei in brightfield slides: `{recipe["base"]["name"]}`, after it learned from cells that
someone corrected, by `wsiproc fit --corrections`.

- **Use**: `wsiproc run SLIDE --model THIS_FOLDER`, on slides like those below.
- **Not for**: diagnosis. How well it does is unknown: it was not scored on anything that it did not learn from. To find
  out, correct an area of a slide that is not listed here, and run `wsiproc evaluate`.
- **How**: `docs/method.md` of wsiproc.

## What it learned from

| slide | corrected cells |
|---|---|
{chr(10).join(rows)}

Orange: the cells. Bright: where they are known to be right. Darkened: elsewhere.

![examples](examples.png)

## Curve

![curves](curves.png)

## Settings

{_settings({name: value for name, value in recipe.items() if name != "corrected"})}
"""
    chosen = np.linspace(0, len(windows) - 1, min(_EXAMPLES, len(windows))).round().astype(int)
    drawn = [_outlined(pixels, labels > 0, ~known, known) for pixels, labels, known in (windows[i] for i in chosen)]
    return text, {"examples.png": _png(_sheet(drawn)), "curves.png": _png(_plot(curve))}


def direct_card(name: str, recipe: dict[str, Any]) -> str:
    """The card of the direct engine, as Markdown."""
    return f"""# Model card: {name}

The self-activation map of a network trained on a pretext task about whole images, read with fixed weights, and the
clusters of its pixels. No labels were used, and no second network. Use: `wsiproc run SLIDE --model THIS_FOLDER`.

Learned from: {", ".join(source["name"] for source in recipe["sources"])}.

{_settings(recipe)}
"""


def _settings(recipe: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in recipe.items() if name != "sources"]
    return "\n".join(["| setting | value |", "|---|---|", *lines])


def _png(pixels: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _examples(examples: Sequence[Example]) -> UInt8Array:
    """A sheet of tiles with accepted nuclei, from as many groups as possible."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.group, example)
    chosen = list(first.values())[:_EXAMPLES]
    return _sheet([_outlined(e.pixels, e.target[..., 0] == 1, e.target[..., 0] == IGNORE) for e in chosen])


def _sheet(tiles: list[UInt8Array]) -> UInt8Array:
    """Tiles in rows of four."""
    tiles = tiles + [np.full((_SIDE, _SIDE, 3), 255, np.uint8)] * (-len(tiles) % 4)
    return np.vstack([np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)])


def _outlined(pixels: UInt8Array, inside: BoolArray, ignored: BoolArray, around: BoolArray | None = None) -> UInt8Array:
    """The centre of a tile, or the middle of the pixels ``around``: nuclei outlined, ignored pixels darkened."""
    shape = np.array(pixels.shape[:2])
    middle = shape / 2 if around is None else np.argwhere(around).mean(0)
    y, x = np.clip(middle - _SIDE / 2, 0, np.maximum(shape - _SIDE, 0)).astype(int).tolist()
    part = (slice(y, y + _SIDE), slice(x, x + _SIDE))
    image = pixels[part].copy()
    image[ignored[part]] //= 2
    nuclei = inside[part].astype(np.uint8)
    image[(nuclei - cv2.erode(nuclei, np.ones((3, 3), np.uint8))) > 0] = OKABE_ITO[3]
    full = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    full[: image.shape[0], : image.shape[1]] = image
    return full


def _plot(curve: LossCurve) -> UInt8Array:
    """One panel per stage, side by side."""
    h, w = _PLOT
    sheet = np.full((h, w, 3), 255, np.uint8)
    panel = w // max(len(curve), 1)
    for place, (stage, points) in enumerate(curve.items()):
        _panel(sheet[:, place * panel : (place + 1) * panel], stage, points)
    return sheet


def _panel(area: UInt8Array, stage: str, points: Mapping[int, float]) -> None:
    """Plot loss over steps into ``area``, with the first and last value as text."""
    h, w = area.shape[:2]
    steps, losses = np.array(sorted(points)), np.array([points[s] for s in sorted(points)])
    smooth = np.convolve(np.pad(losses, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    low, high = float(smooth.min()), max(float(smooth.max()), float(smooth.min()) + 1e-6)
    x = 12 + (w - 24) * (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    y = 30 + (h - 60) * (high - smooth) / (high - low)
    canvas = np.ascontiguousarray(area)
    line = np.stack([x, y], axis=1).astype(np.int32)
    cv2.polylines(canvas, [line], False, OKABE_ITO[0], 2, cv2.LINE_AA)
    for text, at in ((stage, 18), (f"{high:.3g} .. {low:.3g} in {steps[-1]} steps", h - 10)):
        cv2.putText(canvas, text, (12, at), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (60, 60, 60), 1, cv2.LINE_AA)
    area[:] = canvas
