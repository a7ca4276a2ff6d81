"""TIAToolbox's stain normalisers for any model: fitted once per slide, then applied as a colour lookup table.

TIAToolbox's ``transform`` estimates the stains of each image that it is given, so a cell's colours would depend on how
the slide is divided. Here its own ``fit`` is run on the samples of the slide that a model is calibrated on, and the
resulting transform is tabulated for all colours. TIAToolbox is needed for the fit alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsiproc.array.stains import Stain
from wsiproc.core.extras import load
from wsiproc.core.geometry import Box
from wsiproc.core.types import Float64Array, UInt8Array
from wsiproc.errors import PlanError, SettingsError
from wsiproc.io.slides.open import open_slide
from wsiproc.models.base import Channel, Instances, Model, SupportsInt8, doubt_rules
from wsiproc.models.doubt import Doubt

if TYPE_CHECKING:
    from torch import Tensor

Three = tuple[float, float, float]
_FITTED_PX = 300_000
_LARGEST_TARGET_PX = 4096**2
_LEAST = 1e-3  # smallest spread or amount of stain that can be normalised
# OpenCV's encoding of L*, a*, b* in bytes: grey levels per unit, and the zero point.
_LAB_UNITS, _LAB_ZERO = np.array([2.55, 1.0, 1.0]), np.array([0.0, 128.0, 128.0])


@dataclass(frozen=True)
class StainAppearance:
    """Two stains: their vectors (natural optical density in red, green, blue; 255 is white), haematoxylin first, and
    the 99th percentile of the amount of each.
    """

    vectors: tuple[Three, Three]
    strongest: tuple[float, float]

    def recolour(self, image: UInt8Array, target: StainAppearance) -> UInt8Array:
        """An image (h, w, 3) with this appearance, recoloured to have that of ``target``."""
        # Stain amounts by least squares, each scaled to the target's strength, then recombined.
        amounts = np.linalg.pinv(np.array(self.vectors)) * (np.array(target.strongest) / self.strongest)
        density = -np.log(np.maximum(image, 1) / 255)
        return _grey_levels(255 * np.exp(-density @ (amounts @ np.array(target.vectors))))


@dataclass(frozen=True)
class ColourAppearance:
    """Mean and standard deviation of L* (0 to 100), a* and b*."""

    means: Three
    spreads: Three

    def recolour(self, image: UInt8Array, target: ColourAppearance) -> UInt8Array:
        """See ``StainAppearance``."""
        gain = np.array(target.spreads) / self.spreads
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB) / _LAB_UNITS - _LAB_ZERO
        moved = ((lab - self.means) * gain + target.means + _LAB_ZERO) * _LAB_UNITS
        return np.asarray(cv2.cvtColor(_grey_levels(moved), cv2.COLOR_LAB2RGB), np.uint8)


def _grey_levels(values: Float64Array) -> UInt8Array:
    levels: UInt8Array = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return levels


Appearance = StainAppearance | ColourAppearance

# What ``find_appearance`` finds on CMU-1-Small-Region.svs, an H&E slide of OpenSlide's test data (CC0).
REFERENCE: dict[str, Appearance] = {
    "reinhard": ColourAppearance((80.224021, 9.815039, -4.063123), (25.238222, 15.193974, 8.229553)),
    "macenko": StainAppearance(((0.80081, 0.521657, 0.294239), (0.087898, 0.918552, 0.385404)), (2.401336, 2.031566)),
    "vahadane": StainAppearance(
        ((0.357996, 0.816151, 0.453583), (0.887113, -0.42265, -0.185468)), (3.843671, 0.859717)
    ),
    "ruifrok": StainAppearance(((0.65, 0.7, 0.29), (0.07, 0.99, 0.11)), (3.380951, 1.078573)),
}


@dataclass(frozen=True)
class StainNormalised:
    """A model whose input ``method`` has normalised from the appearance of the slide to that of a target."""

    model: Model
    method: str
    target: Appearance
    source: Appearance

    @property
    def name(self) -> str:
        """The model's, and the method: cells are measured on normalised colours."""
        return f"{self.model.name} after tiatoolbox:{self.method}"

    @property
    def mpp(self) -> float:
        """The model's."""
        return self.model.mpp

    @property
    def window(self) -> int:
        """The model's."""
        return self.model.window

    @property
    def window_multiple(self) -> int:
        """The model's."""
        return self.model.window_multiple

    @property
    def halo(self) -> int:
        """The model's: a pixel's new colour depends on that pixel alone."""
        return self.model.halo

    @property
    def margin(self) -> int:
        """The model's."""
        return self.model.margin

    @property
    def classes(self) -> tuple[str, ...]:
        """The model's."""
        return self.model.classes

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The model's."""
        return self.model.channels

    @property
    def weights_sha256(self) -> str | None:
        """The model's."""
        return self.model.weights_sha256

    @property
    def half_precision(self) -> bool:
        """The model's."""
        return self.model.half_precision

    @property
    def memory_bytes(self) -> int:
        """The model's, and the colour lookup table."""
        return self.model.memory_bytes + 3 * 256**3

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> StainNormalised:
        """With the appearance of the slide that ``samples`` (h, w, 3) are from, and the model calibrated on the new
        colours.

        Raises PlanError where the samples show no stain.
        """
        import torch

        try:
            source = find_appearance(self.method, np.concatenate([sample.reshape(-1, 3) for sample in samples]))
        except ValueError as error:
            raise PlanError(
                f"{self.method} finds no stain in the slide's tissue ({error}); run without --stain-norm"
            ) from error
        table = colour_table(source, self.target, "cpu")
        recoloured = [_look_up(table, torch.tensor(sample)).numpy() for sample in samples]
        return replace(self, source=source, model=self.model.calibrate(recoloured, stain))

    def recoloured(self, images: Sequence[UInt8Array]) -> list[UInt8Array]:
        """See ``Recolours``."""
        import torch

        return [self._recoloured(torch.tensor(image)).numpy() for image in images]

    def calibration(self) -> dict[str, object]:
        """The model's, on the new colours, and both appearances."""
        appearances = {"method": self.method, "source": asdict(self.source), "target": asdict(self.target)}
        return self.model.calibration() | {"stain_norm": appearances}

    def predict(self, windows: Tensor) -> Tensor:
        """See ``Model``."""
        return self.model.predict(self._recoloured(windows))

    @property
    def doubt(self) -> Doubt | None:
        """The model's."""
        return doubt_rules(self.model)

    @property
    def int8(self) -> bool:
        """The model's."""
        return isinstance(self.model, SupportsInt8) and self.model.int8

    def predict_int8(self, windows: Tensor) -> Tensor:
        """See ``SupportsInt8``."""
        assert isinstance(self.model, SupportsInt8)
        return self.model.predict_int8(self._recoloured(windows))

    def _recoloured(self, windows: Tensor) -> Tensor:
        return _look_up(colour_table(self.source, self.target, str(windows.device)), windows)

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """See ``Model``."""
        return self.model.instances(maps, inner)


def normalised(model: Model, method: str, target: Path | None) -> StainNormalised:
    """The model with its input normalised by TIAToolbox's ``method``: reinhard, macenko, vahadane or ruifrok.

    ``target``: an image of the target stain, None for ``REFERENCE``. Raises SettingsError for an unsuitable one,
    SlideError for one that cannot be read.
    """
    if target is None:
        appearance = REFERENCE[method]
    else:
        try:
            appearance = _target_appearance(method, target.absolute(), target.stat().st_mtime_ns)
        except OSError as error:
            raise SettingsError(f"{target}: the image of the target stain cannot be read: {error}") from error
    return StainNormalised(model, method, appearance, appearance)


@lru_cache(maxsize=8)
def _target_appearance(method: str, path: Path, modified_ns: int) -> Appearance:
    """The appearance of an image; cached, since it is needed several times per slide."""
    with open_slide(path, mpp=1.0) as image:  # any µm/px will do: only colours are used
        h, w = image.shape
        if h * w > _LARGEST_TARGET_PX:
            raise SettingsError(
                f"{path}: {w} × {h} px is too large for an image of the target stain, which may have "
                f"{_LARGEST_TARGET_PX / 1e6:.0f} Mpx; crop a field of typical tissue"
            )
        pixels = image.read(Box(0, 0, h, w), 1.0).reshape(-1, 3)
    try:
        return find_appearance(method, pixels)
    except ValueError as error:
        raise SettingsError(
            f"{path}: {method} finds no stain in it ({error}); use a field of typical tissue"
        ) from error


def find_appearance(method: str, pixels: UInt8Array) -> Appearance:
    """What TIAToolbox's ``method`` finds in pixels (N, 3) of one slide. Raises ValueError where they show no stain."""
    some = pixels[:: max(1, len(pixels) // _FITTED_PX)][:, None].copy()  # it writes to what it is given
    normaliser = load("tools.stainnorm").get_normalizer(method)
    with _same_random_numbers(), np.errstate(invalid="ignore", divide="ignore"):
        normaliser.fit(some)  # LinAlgError is a ValueError
    if method == "reinhard":
        colours = ColourAppearance(_three(normaliser.target_means), _three(normaliser.target_stds))
        _require_difference(colours.spreads)
        return colours
    first, second = (_three(vector) for vector in normaliser.stain_matrix_target)
    most = [round(float(amount), 6) for amount in normaliser.maxC_target.ravel()]
    _require_difference((*np.linalg.norm((first, second), axis=1), *most))
    return StainAppearance((first, second), (most[0], most[1]))


def _require_difference(numbers: Sequence[float]) -> None:
    """Refuse an appearance that cannot be normalised from, or to."""
    if not np.isfinite(numbers).all() or min(numbers) < _LEAST:
        raise ValueError("its pixels hardly differ")


def _three(values: Sequence[float]) -> Three:
    """Rounded, so that the last digits of libraries do not matter."""
    r, g, b = (round(float(value), 6) for value in values)
    return r, g, b


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Seed NumPy's global generator within the block, for libraries that draw from it (dictionary learning may)."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@lru_cache(maxsize=2)
def colour_table(source: Appearance, target: Appearance, device: str) -> Tensor:
    """The new colour of each red, green and blue: (256, 256, 256, 3) uint8; 50 MB, built in a second, once per process.

    A table, so that a colour always maps to the same bytes, on a CPU and on a GPU.
    """
    import torch

    table = np.empty((256, 256, 256, 3), np.uint8)
    plane = np.moveaxis(np.indices((256, 256), np.uint8), 0, -1)
    for red in range(256):
        colours = np.dstack([np.full((256, 256), red, np.uint8), plane])
        table[red] = source.recolour(colours, target)  # type: ignore[arg-type]
    return torch.from_numpy(table).to(device)


def _look_up(table: Tensor, windows: Tensor) -> Tensor:
    """The new colours of (…, 3) uint8."""
    red, green, blue = windows.long().unbind(-1)
    return table[red, green, blue]
