from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.psm.drawn_tissue import Drawn
from wsiproc.core.geometry import Box
from wsiproc.models.networks.unet import UNet
from wsiproc.psm.published.fit import (
    PixelNetwork,
    Schedule,
    activation_maps,
    cluster_masks,
    fit_activation,
    fit_published,
    pixel_loss,
    point_label,
    train_pixels,
)
from wsiproc.psm.published.pseudo import IGNORED
from wsiproc.synthetic import Scene

SCHEDULE = Schedule(activation=20, first=40, final=30, crop_px=64, batch=4)


def crowded(seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """A Ki-67 picture (256, 256, 3) at 0.25 µm/px where nuclei are many, and the masks of brown and of blue ones."""
    scene = Scene((768, 768), mpp=0.25, seed=seed, tissue_fraction=1.0, crowding=1.0, stain="HDAB")
    box = Box(384, 0, 256, 256)
    labels, truth = scene.labels(box), scene.truth(Box(0, 0, 768, 768))
    brown = np.isin(labels, truth.ids[truth.classes == scene.classes.index("Positive")])
    return scene.render(box), brown, (labels > 0) & ~brown


def dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.sum(a & b) / (np.sum(a) + np.sum(b)))


def test_the_whole_of_it_finds_nuclei() -> None:
    """So short a training ends well with most seeds and not with all, and with which depends on the processor."""
    picture, brown, blue = crowded(1)
    nuclei = brown | blue
    chance = 2 * nuclei.mean() / (1 + nuclei.mean())  # of calling every pixel a nucleus
    assert chance < 0.6

    def finds_them(seed: int) -> bool:
        found = fit_published([picture], SCHEDULE, two_classes=True, seed=seed)
        assert len(found.points(picture)) == 2
        places = np.concatenate(found.points(picture))
        good = dice(found.labels(picture) > 0, nuclei) > chance + 0.15
        return good and len(places) > 0 and float(np.mean(nuclei[tuple(places.T)])) > 0.5

    assert any(finds_them(seed) for seed in range(6))


@dataclass
class _Said:
    """Stands for a trained first network that says where a picture is red and where it is blue."""

    stride: int = 4

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        red, _, blue = (20 * pictures[:, i] for i in range(3))
        return torch.stack([10 + 0 * red, red, blue], 1)

    def parameters(self) -> list[torch.Tensor]:
        return iter([torch.zeros(1)])  # type: ignore[return-value]


def test_instances_and_points_are_read_from_the_probabilities() -> None:
    picture = np.zeros((61, 70, 3), np.uint8)  # no multiple of the stride
    for (y, x), channel in {(10, 10): 0, (10, 45): 2, (45, 30): 2}.items():
        picture[y - 7 : y + 8, x - 7 : x + 8, channel] = 255
    network = PixelNetwork(_Said())  # type: ignore[arg-type]
    probabilities = network.probabilities(picture)
    assert probabilities.shape == (3, 61, 70)
    assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
    assert np.bincount(network.labels(picture).ravel())[1:].tolist() == [225] * 3
    red, blue = network.points(picture)
    assert np.abs(red - [[10, 10]]).max() <= 1, "the square's middle is flat"
    assert np.abs(np.sort(blue, axis=0) - [[10, 30], [45, 45]]).max() <= 1
    label = point_label([red, blue], (61, 70))
    assert [int(label[y, x]) for y, x in ((10, 10), (10, 45), (45, 30))] == [1, 2, 2]
    assert np.unique(label).tolist() == [0, 1, 2, IGNORED]


def test_the_loss_is_that_of_the_paper() -> None:
    logits = torch.randn(2, 3, 4, 4)
    mask = torch.randint(3, (2, 4, 4))
    voronoi = torch.full((2, 4, 4), IGNORED)
    assert float(pixel_loss(logits, mask, voronoi)) == pytest.approx(float(pixel_loss(logits, mask)))
    voronoi[0, 0, :2] = torch.tensor([0, 2])
    picked = -logits[0, :, 0, :2].log_softmax(0)
    told = float(picked[0, 0] + picked[2, 1]) / 2
    expected = float(cross_entropy(logits, mask)) + 1.5 * told
    assert float(pixel_loss(logits, mask, voronoi)) == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(expected)


def test_the_seed_decides_the_final_weights(drawn: Drawn) -> None:
    pictures, masks = [drawn[0]], [(drawn[1] > 0).astype(np.uint8)]
    schedule = Schedule(2, 2, 2, crop_px=32, batch=2)
    one, again, other = (
        train_pixels(pictures, masks, masks, 2, schedule, seed=seed).net.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_maps_are_turned_to_what_absorbs_red(drawn: Drawn) -> None:
    picture = drawn[0]
    objective, net = fit_activation(
        [picture], Schedule(1, 0, 0, crop_px=64, batch=2), kind="small", objective="contrastive", seed=0, device="cpu"
    )
    (found,) = activation_maps(net, objective, [picture])
    with torch.no_grad():
        net.fc.weight.neg_()  # type: ignore[union-attr, operator]
    (turned,) = activation_maps(net, objective, [picture])
    assert np.allclose(found, turned, atol=1e-4)
    assert np.corrcoef(found.ravel(), 255.0 - picture[..., 0].ravel())[0, 1] > 0


def test_without_nuclei_a_mask_is_empty() -> None:
    rng = np.random.default_rng(0)
    speckled = rng.integers(200, 256, (64, 64, 3)).astype(np.uint8)
    masks = cluster_masks([rng.random((64, 64))], [speckled], two_classes=True)
    assert masks[0].max() == 0, "single pixels are no objects"
    assert isinstance(train_pixels([speckled], masks, None, 1, Schedule(0, 1, 0, 32, 2)).net, UNet)
