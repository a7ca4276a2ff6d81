from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from wsiproc.models.networks.unet import SmallResNet
from wsiproc.psm.activation.objectives import OBJECTIVES, Contrastive, MeanValue, Rotation, Similarity, SimSiam


class Corner(nn.Module):
    """The first pixel's red: half a turn changes it, and by how much is known."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures[:, :1, 0, 0]


class Mean(nn.Module):
    """The mean pixel: no turn changes it."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean((1, 2, 3))[:, None]


class Arrow(nn.Module):
    """Four logits that say where the one bright pixel of the first corner has gone to."""

    def forward(self, pictures: Tensor) -> Tensor:
        corners = [pictures[:, 0, y, x] for y, x in ((0, 0), (-1, 0), (-1, -1), (0, -1))]
        return 40 * torch.stack(corners, 1)


def batch(*last: float) -> Tensor:
    """Pictures that are 0 but for the last pixel, which lies where half a turn brings it to the first."""
    pictures = torch.zeros(len(last), 3, 4, 4)
    pictures[:, 0, -1, -1] = torch.tensor(last)
    return pictures


def test_similarity_is_the_change_by_half_a_turn() -> None:
    assert float(Similarity().loss(Corner(), batch(0.5, -0.25))) == pytest.approx(0.375)
    assert float(Similarity().loss(Mean(), batch(0.5, 0.25))) == pytest.approx(0)


def test_contrastive_adds_a_hinge_on_the_difference_to_another_picture() -> None:
    pictures = batch(0.5, 0.25)
    pictures[:, 0, 0, 0] = torch.tensor([3.0, 7.0])
    same = (2.5 + 6.75) / 2
    assert float(Contrastive().loss(Corner(), pictures)) == pytest.approx(same + 10 - 4)
    pictures[1, 0, 0, 0] = 14.0  # farther away than the margin
    assert float(Contrastive().loss(Corner(), pictures)) == pytest.approx((2.5 + 13.75) / 2)
    with pytest.raises(ValueError, match="at least 2"):
        Contrastive().loss(Corner(), pictures[:1])


def test_rotation_labels_are_the_turns_made() -> None:
    pictures = torch.zeros(32, 3, 4, 4)
    pictures[:, 0, 0, 0] = 1
    torch.manual_seed(0)
    assert float(Rotation().loss(Arrow(), pictures)) < 1e-6
    last = nn.Linear(48, 4, bias=False)
    nn.init.zeros_(last.weight).requires_grad_(False)
    blind = nn.Sequential(nn.Flatten(), last)
    assert float(Rotation().loss(blind, pictures)) == pytest.approx(math.log(4))


def test_simsiam_stops_the_gradient_of_the_view_it_predicts() -> None:
    torch.manual_seed(0)
    objective = SimSiam()
    nn.init.eye_(objective.predictor.weight)
    nn.init.zeros_(objective.predictor.bias)
    projected, target = torch.randn(3, 64, requires_grad=True), torch.randn(3, 64, requires_grad=True)
    objective.agreement(projected, target).sum().backward()
    assert target.grad is None
    assert projected.grad is not None
    assert float(projected.grad.abs().sum()) > 0
    assert objective.agreement(projected, 3 * projected).tolist() == pytest.approx([1, 1, 1])
    assert objective.agreement(projected, -projected).tolist() == pytest.approx([-1, -1, -1])


def test_simsiam_is_least_where_views_agree() -> None:
    class Constant(nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            return torch.ones(len(pictures), 64)

    objective = SimSiam()
    nn.init.eye_(objective.predictor.weight)
    nn.init.zeros_(objective.predictor.bias)
    assert objective.loss(Constant(), torch.rand(2, 3, 8, 8)).item() == pytest.approx(-1)


def test_mean_value_is_the_squared_error_of_the_mean_pixel() -> None:
    pictures = torch.rand(3, 3, 4, 4)
    assert float(MeanValue().loss(Mean(), pictures)) == pytest.approx(0)
    expected = (pictures[:, 0, 0, 0] - pictures.mean((1, 2, 3))).square().mean()
    assert float(MeanValue().loss(Corner(), pictures)) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_can_be_trained_and_scored(name: str) -> None:
    torch.manual_seed(0)
    objective = OBJECTIVES[name]()
    net = SmallResNet(4, objective.outputs)
    pictures = torch.rand(4, 3, 32, 32)
    objective.loss(net, pictures).backward()
    trained = [*net.parameters(), *(p for module in objective.modules() for p in module.parameters())]
    assert all(p.grad is not None for p in trained)
    assert float(sum(p.grad.abs().sum() for p in trained if p.grad is not None)) > 0
    score = objective.score(net, pictures)
    assert score.shape == (4,)
    assert score.requires_grad
