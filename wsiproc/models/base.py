"""What a model is: a few facts, a per-pixel function for the device, and a local rule that cuts out cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wsiproc.array.stains import Stain
from wsiproc.core.geometry import Box
from wsiproc.core.palette import RGB
from wsiproc.core.types import Float32Array, Float64Array, Int32Array, IntArray, UInt8Array

if TYPE_CHECKING:
    from torch import Tensor

GRAIN = 64
"""Windows of models that take pictures of any size are cut to multiples of so many px."""
OD_STEP = 0.01  # optical density of one grey level in the maps of stains; 255 levels reach 2.55


@dataclass(frozen=True)
class Channel:
    """One plane of the maps; ``stain`` planes hold optical density in ``OD_STEP``s and are measured per cell."""

    name: str
    colour: RGB
    stain: bool = False


@dataclass(frozen=True)
class Instances:
    """Cells of one piece of the maps: ``labels`` (h, w) int32, 1…N, each 4-connected and without holes; ``classes``
    (N,) uint8 and ``scores`` (N,) float32 in [0, 1], row *i* for label *i + 1*; ``dropped``: reason → (K, 2) places (y,
    x) of what was found and left out, so that it can be counted. ``evidence``: what scores are made of, (N,) each:
    logit of the mean probability, share of the outline that is a border, fall of the stain there; None where outlines
    are not searched.
    """

    labels: Int32Array
    classes: UInt8Array
    scores: Float32Array
    dropped: dict[str, IntArray]
    evidence: tuple[Float64Array, ...] | None = None


class Model(Protocol):
    """A cell model. Small and picklable: it travels to each worker; weights are loaded there.

    ``mpp``: µm per pixel that it wants; ``window``: side of the square that ``predict`` fills; ``window_multiple``:
    where less is needed, the sides of a window may be any multiple of it, which divides ``window``; ``halo``: px around
    a window that it must see; ``margin``: px of maps around a region that its cells can depend on; ``weights_sha256``:
    hash of the weights, None for a model that has none; ``half_precision``: whether half the bits are known to be
    enough for it: then ``predict`` may be called under autocast; ``memory_bytes``: what a worker holds for it beside
    what every worker holds, such as large weights or another library. Its ``repr`` holds all that decides what it
    finds, that hash too: it is part of the key by which unfinished work is told from work of another model.
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
        """The model with every number that it takes from the slide, estimated once from ``samples``.

        ``samples``: (h, w, 3) uint8 windows of tissue at the model's mpp; ``stain``: which it is, None to have it told
        by its colours. Raises PlanError where they show nothing
        to calibrate on.
        """

    def calibration(self) -> dict[str, object]:
        """The numbers that ``calibrate`` found, for ``run.json``; plain Python values."""

    def predict(self, windows: Tensor) -> Tensor:
        """Maps of windows with their halo: (b, h, w, 3) uint8 → (b, c, h, w) uint8 on the same device.

        The outer ``halo`` px are not to be trusted. The only code that runs on a GPU.
        """

    def instances(self, maps: UInt8Array, inner: Box | None = None) -> Instances:
        """Cells of stitched maps (c, h, w). Local: nothing may depend on pixels farther away than ``margin``.

        ``inner``: only cells whose centre lies in it are asked for, and what was dropped there; others may be left out
        or differ. None asks for all.
        """


@runtime_checkable
class Recolours(Protocol):
    """What a model has besides, where it sees pictures in other colours than those of the slide."""

    def recoloured(self, pictures: Sequence[UInt8Array]) -> list[UInt8Array]:
        """Pictures (h, w, 3) as the model sees them."""


@runtime_checkable
class InWholeNumbers(Protocol):
    """What a model has beside, where its network can also be computed in bytes, on CPUs that multiply those fast."""

    @property
    def int8(self) -> bool:
        """Whether this one can."""

    def predict_int8(self, windows: Tensor) -> Tensor:
        """As ``Model.predict``, on a CPU."""
