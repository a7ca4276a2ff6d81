"""Training of the small network that runs on every slide: crops, augmentation in optical density, loss, checkpoints.

Each step draws its random numbers from (seed, round, step) alone, so an interrupted training resumes from its
checkpoint with identical results.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.types import Float32Array, UInt8Array
from wsiproc.io.atomic import atomic_file
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.builtin.hints import folded_input, half_resolution_density, hints
from wsiproc.models.builtin.learned import network_input
from wsiproc.models.device import fast_bfloat16
from wsiproc.models.folder import HINTS, InputNumbers
from wsiproc.psm.activation.training import OnStep
from wsiproc.psm.labels.composite import Palette, paste_nuclei
from wsiproc.psm.labels.negatives import paste_negatives
from wsiproc.psm.labels.restain import restain, without_dab
from wsiproc.psm.labels.targets import IGNORE

_SCALES = 0.75, 1.3  # of crops: nuclei of other sizes, slides whose µm per pixel is slightly wrong
_SHARE_PASTED, _SHARE_PASTED_FOLDED = 0.95, 0.6
_SHARE_COARSE = 0.35  # of folded crops: scanned at half the resolution
_SHARE_WITHOUT_CLASSICAL = 0.15  # of folded crops: without the classical model
_SHARE_RESTAINED = 0.3  # of crops without DAB
_DARKEST_OD = 1.4  # darkest value that scanners distinguish from black
_SHARE_ALONE = 0.5  # of crops with DAB outside nuclei: the haematoxylin alone, as in a run
_SHARE_DAB = 0.35  # of crops, if there are slides with and without DAB
_POSITIVE_WEIGHT, _INTERIOR_WEIGHT = 1.5, 0.5
_WARM_UP, _CHECKPOINT_STEPS = 50, 100
_AVERAGE = 0.99  # of the weights over the steps
_LONGEST_GRADIENT = 5.0


@dataclass(frozen=True)
class Example:
    """One training tile: pixels (h, w, 3) uint8, optical density of each grey level (256, 3) including the slide's
    gain, target (h, w, 2), palette for pasting. ``group``: the slide or cohort; all are sampled equally often;
    ``classical``: the classical model, calibrated on it; ``dab_outside_nuclei``: see ``Tiles``.
    """

    pixels: UInt8Array
    density: Float32Array
    target: UInt8Array
    palette: Palette
    group: str
    gain: float = 1.0
    classical: Classical = field(default_factory=Classical)
    dab_outside_nuclei: bool = False

    def cut(self, y: int, x: int, side: int) -> tuple[Float32Array, UInt8Array]:
        """A square crop as optical density and target, copied."""
        part = (slice(y, y + side), slice(x, x + side))
        pixels = self.pixels[part]
        od = np.stack([self.density[pixels[..., c], c] for c in range(3)], axis=-1)
        return od, self.target[part].copy()


@dataclass(frozen=True)
class Training:
    """Parameters of one round: ``batch`` crops of ``crop_px`` at ``mpp`` per step, peak learning rate ``lr``.
    ``folded``: the network gets hints, see ``wsiproc.models.builtin.hints``; then negatives are pasted too.
    """

    steps: int
    mpp: float
    crop_px: int = 128
    batch: int = 16
    lr: float = 2e-3
    seed: int = 0
    round: int = 1
    folded: bool = False

    @property
    def share_pasted(self) -> float:
        """Share of crops with pasted nuclei."""
        return _SHARE_PASTED_FOLDED if self.folded else _SHARE_PASTED

    @property
    def positive_weight(self) -> float:
        """Weight of nuclear pixels in the loss."""
        return 1.0 if self.folded else _POSITIVE_WEIGHT


def train_segmenter(
    net: nn.Module,
    examples: Sequence[Example],
    training: Training,
    numbers: InputNumbers,
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    """A trained copy of ``net``, its weights averaged over the steps, in evaluation mode.

    Resumes from ``checkpoint`` if it exists, and writes it. The same seed gives the same weights on the same device
    with the same number of threads.
    """

    def loss_at(net: nn.Module, step: int) -> Tensor:
        od, target, hint_planes = draw_batch(examples, training, step)
        generator = step_generator(training.seed, training.round, step, device)
        seen = network_input(jitter(od.to(device), generator), 1.0, numbers)
        if training.folded:
            seen = folded_input(seen, jitter_hints(hint_planes.to(device), generator))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=computes_bfloat16(device)):
            logits = net(seen)
        return segmentation_loss(logits.float(), target.to(device), training.positive_weight)

    return optimise(
        net, loss_at, training.steps, training.lr, warm_up=_WARM_UP, keep=_AVERAGE, every=_CHECKPOINT_STEPS,
        device=device, checkpoint=checkpoint, on_step=on_step,
    )  # fmt: skip


def step_generator(seed: int, round: int, step: int, device: str) -> torch.Generator:
    """The random numbers of one step, whatever was drawn before it."""
    state = np.random.SeedSequence([seed, round, step, 1]).generate_state(1)[0]
    return torch.Generator(device).manual_seed(int(state))


def optimise(
    net: nn.Module,
    loss_at: Callable[[nn.Module, int], Tensor],
    steps: int,
    lr: float,
    *,
    warm_up: int,
    keep: float,
    every: int,
    frozen_statistics: bool = False,
    device: str = "cpu",
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> nn.Module:
    """A copy of ``net`` after ``steps`` of AdamW on the loss of each step, from 1; its weights averaged over the steps.

    ``lr``: peak learning rate, reached after ``warm_up`` steps; ``keep``: share of the average that stays in each step;
    ``frozen_statistics``: batch norms keep those that they have. Resumes from ``checkpoint``, which is written after
    ``every`` so many steps, and after the last.
    """
    net = copy.deepcopy(net).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if frozen_statistics:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr, weight_decay=1e-3)
    done = _resume(checkpoint, net, average, optimiser) if checkpoint else 0
    with _denormals_flushed():
        for step in range(done + 1, steps + 1):
            for group in optimiser.param_groups:
                group["lr"] = lr * _schedule(step, steps, warm_up)
            loss = loss_at(net, step)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), _LONGEST_GRADIENT)
            optimiser.step()
            _average(average, net, min(keep, step / (step + 10)))
            if on_step is not None:
                on_step(step, float(loss.detach()))
            if checkpoint and (step % every == 0 or step == steps):
                _save(checkpoint, net, average, optimiser, step)
    return average.eval()


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Flush denormals: averages and moments that decay would slow a CPU tenfold. Restored afterwards for other code."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def computes_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 numbers in hardware; elsewhere it would be slower than float32."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return fast_bfloat16()


def _schedule(step: int, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate: a short warm-up, then half a cosine."""
    return min(1.0, step / warm_up) * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps))


def _average(average: nn.Module, net: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for old, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)


def mean_weights(one: nn.Module, other: nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    """The mean of the weights of two networks, the second of which was tuned from the first and has this ``share``;
    often better than either (Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022).
    """
    later = other.state_dict()
    return {
        name: torch.lerp(old, later[name], share) if old.dtype.is_floating_point else later[name]
        for name, old in one.state_dict().items()
    }


def _save(path: Path, net: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Save all that the next step depends on, atomically."""
    state = {
        "net": net.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
    }
    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, net: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Restore the state; returns the steps done, 0 without a checkpoint. Nothing in it is executed."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    net.load_state_dict(state["net"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def draw_batch(examples: Sequence[Example], training: Training, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Crops as optical density (b, 3, h, w), target (b, 2, h, w) and, if folded, hints (b, HINTS, h/2, w/2)."""
    rng = np.random.default_rng([training.seed, training.round, step])
    brown, others = (_groups([e for e in examples if e.palette.dab is dab]) for dab in (True, False))
    crops = []
    for _ in range(training.batch):
        groups = brown if not others or (brown and rng.random() < _SHARE_DAB) else others
        group = groups[rng.integers(len(groups))]
        crops.append(_draw_crop(group[rng.integers(len(group))], training, rng))
    od = torch.from_numpy(np.stack([crop for crop, _, _ in crops])).permute(0, 3, 1, 2)
    target = torch.from_numpy(np.stack([target for _, target, _ in crops])).permute(0, 3, 1, 2)
    return od, target, torch.cat([hint_planes for _, _, hint_planes in crops])


def _groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples of each group, in the order of the groups' names."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    return [groups[name] for name in sorted(groups)]


def _draw_crop(
    example: Example, training: Training, rng: np.random.Generator
) -> tuple[Float32Array, UInt8Array, Tensor]:
    """A square at a random position, scale and rotation, often with pasted nuclei, and its hints."""
    size = training.crop_px
    side = min(round(size / rng.uniform(*_SCALES)), *example.pixels.shape[:2])
    y, x = (int(rng.integers(length - side + 1)) for length in example.pixels.shape[:2])
    od, target = example.cut(y, x, side)
    if example.dab_outside_nuclei and rng.random() < _SHARE_ALONE:
        od = without_dab(od, example.palette.stains)[0]
    if training.folded:
        paste_negatives(od, target, example.palette.stains, training.mpp, rng)
    if rng.random() < training.share_pasted:
        paste_nuclei(od, target, example.palette, training.mpp, rng)
    restained = not example.palette.dab and rng.random() < _SHARE_RESTAINED
    if restained:
        restain(od, target, example.palette.stains, rng)
    np.minimum(od, _DARKEST_OD, out=od)
    if side != size:
        od = np.asarray(cv2.resize(od, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
        target = np.asarray(cv2.resize(target, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8)
    if training.folded and rng.random() < _SHARE_COARSE:
        half = cv2.resize(od, (size // 2, size // 2), interpolation=cv2.INTER_AREA)
        od = np.asarray(cv2.resize(half, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
    turns = int(rng.integers(4))
    od, target = np.rot90(od, turns), np.rot90(target, turns)
    if rng.random() < 0.5:
        od, target = od[:, ::-1], target[:, ::-1]
    return od, target, _hints(od, example, restained) if training.folded else torch.zeros(1, HINTS, 0, 0)


def _hints(od: Float32Array, example: Example, restained: bool) -> Tensor:
    """Hints for a crop (h, w, 3) that includes the slide's gain."""
    given = torch.from_numpy(np.ascontiguousarray(od)).permute(2, 0, 1)[None]
    if not restained:
        return hints(
            half_resolution_density(given / example.gain), example.gain, example.palette.stains, example.classical
        )
    halved = half_resolution_density(given)
    stains = Stains("H-DAB", STANDARD["H-DAB"])
    return hints(halved, 1.0, stains, replace(example.classical, stains=stains).calibrate_density([halved]))


def jitter_hints(hint_planes: Tensor, generator: torch.Generator) -> Tensor:
    """Hints (b, HINTS, h, w) varied like those of other calibrations; sometimes without the classical model."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(len(hint_planes), *shape, generator=generator, device=hint_planes.device)
        return drawn * (high - low) + low

    amounts = hint_planes[:, :3] * torch.exp(uniform(-0.12, 0.12, 3, 1, 1))
    kept = (uniform(0, 1, 1, 1, 1) > _SHARE_WITHOUT_CLASSICAL).float()
    classical = (hint_planes[:, 3:] * uniform(0.6, 1.4, 1, 1, 1) + uniform(-0.25, 0.25, 1, 1, 1)) * kept
    return torch.cat([amounts, classical], 1)


def jitter(od: Tensor, generator: torch.Generator) -> Tensor:
    """Optical density (b, 3, h, w) varied like that of other laboratories and scanners.

    Strength of all stains and of each colour, a little mixing of the colours, haze, blur or sharpening, noise.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(len(od), *shape, generator=generator, device=od.device)
        return drawn * (high - low) + low

    gain = torch.exp(uniform(-0.35, 0.35, 1, 1, 1) + uniform(-0.2, 0.2, 3, 1, 1))
    mixing = torch.eye(3, device=od.device) + uniform(-0.08, 0.08, 3, 3)
    od = torch.einsum("bij,bjhw->bihw", mixing, od) * gain + uniform(-0.03, 0.05, 3, 1, 1)
    blurred = nnf.avg_pool2d(nnf.pad(od, (1, 1, 1, 1), mode="replicate"), 3, 1)
    sharper = torch.where(uniform(0, 1, 1, 1, 1) < 0.25, -1.0, 1.0)
    amount = uniform(0, 1, 1, 1, 1) * (uniform(0, 1, 1, 1, 1) < 0.5) * sharper
    noise = torch.randn(od.shape, generator=generator, device=od.device) * uniform(0, 0.03, 1, 1, 1)
    return od + (blurred - od) * amount + noise


def segmentation_loss(logits: Tensor, target: Tensor, positive_weight: float = _POSITIVE_WEIGHT) -> Tensor:
    """Cross-entropy of nucleus and interior, (b, 2, h, w) both; ignored pixels weigh 0, nuclei more."""
    total = logits.new_zeros(())
    for plane, share in ((0, 1.0), (1, _INTERIOR_WEIGHT)):
        wanted = target[:, plane]
        positive = (wanted == 1).float()
        weight = (wanted != IGNORE).float() * (1 + (positive_weight - 1) * positive)
        losses = nnf.binary_cross_entropy_with_logits(logits[:, plane], positive, reduction="none")
        total = total + share * (losses * weight).sum() / weight.sum().clamp(min=1)
    return 2 * total
