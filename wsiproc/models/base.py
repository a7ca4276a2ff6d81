"""The model protocol: some properties, a per-pixel function for the device, and a local rule that extracts cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from wsiproc.array.stains import Stain
from wsiproc.core.choices import Compartment
from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, IntArray, UInt8Array

if TYPE_CHECKING:
    from torch import Tensor

    from wsiproc.models.doubt import Doubt

WINDOW_MULTIPLE = 64
"""Windows of models that accept any image size are cut to multiples of this, px."""
OD_STEP = 0.01  # optical density of one grey level in the maps of stains; 255 levels reach 2.55


@dataclass(frozen=True)
class Channel:
    """One plane of the maps; ``stain`` planes contain optical density in ``OD_STEP``s and are measured per cell."""

    name: str
    colour: RGB
    stain: bool = False


@dataclass(frozen=True)
class Instances:
    """Cells in part of the maps: ``labels`` (h, w) int32, 1…N, each 4-connected and without holes; ``classes`` (N,)
    uint8 and ``scores`` (N,) float32 in [0, 1], row *i* for label *i + 1*; ``dropped``: reason → (K, 2) sites (y, x) of
    objects left out, so that they can be counted. ``evidence``: the features behind the scores, (N,) each: logit of the
    mean probability, share of the outline on a border, drop in stain there; None if outlines are not refined.
    """

    labels: Int32Array
    classes: UInt8Array
    scores: Float32Array
    dropped: dict[str, IntArray]
    evidence: tuple[Float64Array, ...] | None = None


class Model(Protocol):
    """A cell model. Small and picklable: it is sent to each worker, which loads the weights.

    ``mpp``: µm per pixel of its input; ``window``: side of the square that ``predict`` fills; ``window_multiple``: a
    divisor of ``window``; the sides of smaller windows may be any multiple of it; ``halo``: px of context around a
    window; ``margin``: px of maps around a region that its cells can depend on; ``weights_sha256``: hash of the
    weights, None without weights; ``half_precision``: whether half precision is known to suffice: then ``predict`` may
    be called under autocast; ``memory_bytes``: memory per worker in addition to that of any worker, such as for large
    weights or another library. The fields in its ``repr`` contain everything that determines its output, including that
    hash: their values are part of the identity of unfinished work.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def mpp(self) -> float: ...  # noqa: D102
    @property
    def window(self) -> int: ...  # noqa: D102
    @property
    def window_multiple(self) -> int: ...  # noqa: D102
    @property
    def halo(self) -> int: ...  # noqa: D102
    @property
    def margin(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def channels(self) -> tuple[Channel, ...]: ...  # noqa: D102
    @property
    def weights_sha256(self) -> str | None: ...  # noqa: D102
    @property
    def half_precision(self) -> bool: ...  # noqa: D102
    @property
    def memory_bytes(self) -> int: ...  # noqa: D102

    def calibrate(self, samples: Sequence[UInt8Array], stain: Stain | None = None) -> Model:
        """The model with all parameters that depend on the slide, estimated once from ``samples``.

        ``samples``: (h, w, 3) uint8 windows of tissue at the model's mpp; ``stain``: the stain, None to recognise it by
        colour. Raises PlanError if they show nothing to calibrate on.
        """

    def calibration(self) -> dict[str, object]:
        """The parameters that ``calibrate`` found, for ``run.json``; plain Python values."""

    def predict(self, windows: Tensor) -> Tensor:
        """Maps of windows with their halo: (b, h, w, 3) uint8 → (b, c, h, w) uint8 on the same device.

        The outer ``halo`` px are unreliable. The only code that runs on a GPU.
        """

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """Cells of stitched maps (c, h, w). Local: nothing may depend on pixels further away than ``margin``.

        ``inner``: only cells centred in it, and objects dropped there, are required; others may be missing or differ.
        None requires all.
        """


@runtime_checkable
class Recolours(Protocol):
    """Implemented also by models that recolour their input."""

    def recoloured(self, images: Sequence[UInt8Array]) -> list[UInt8Array]:
        """The images (h, w, 3) as the model sees them."""


def doubt_rules(model: Model) -> Doubt | None:
    """The rules by which a calibrated model drops cells in hindsight; None if it has none, or none that apply."""
    return model.doubt if isinstance(model, DropsInHindsight) else None


@runtime_checkable
class DetectsBesideDab(Protocol):
    """Implemented also by models that detect nuclei in the haematoxylin alone where DAB is not in the nuclei."""

    def for_compartment(self, compartment: Compartment) -> Self:
        """The model for slides whose DAB is in this compartment, whatever ``calibrate`` would recognise."""


@runtime_checkable
class SupportsInt8(Protocol):
    """Implemented also by models whose network can run in int8, on CPUs that are fast at it."""

    @property
    def int8(self) -> bool:
        """Whether this model can."""

    def predict_int8(self, windows: Tensor) -> Tensor:
        """As ``Model.predict``, on a CPU."""


@runtime_checkable
class DropsInHindsight(Protocol):
    """Implemented also by models that drop cells by others of the slide, once all of these are known."""

    @property
    def doubt(self) -> Doubt | None:
        """The rules, after calibration; None on slides where they do not apply."""
