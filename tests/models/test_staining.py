"""What all models of stained slides share: where it is grey there is no nucleus."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wsiproc.array.stains import STANDARD, Stain, Stains
from wsiproc.models.staining import stained_maps

SIDE = 256
KINDS: tuple[Stain, ...] = ("H&E", "H-DAB")


def stained(kind: Stain) -> Stains:
    """Textbook stains of a slide whose tissue is not grey."""
    return Stains(kind, STANDARD[kind], grey=False)


def absorbed(kind: Stain, mpp: float, spot_um: float) -> torch.Tensor:
    """Optical density (1, 3, SIDE, SIDE) of nuclei in the first stain, with a grey square in the middle."""
    od = torch.tensor(STANDARD[kind][0])[None, :, None, None].repeat(1, 1, SIDE, SIDE)
    half = round(spot_um / mpp / 2)
    od[..., SIDE // 2 - half : SIDE // 2 + half, SIDE // 2 - half : SIDE // 2 + half] = 0.5
    return od


def nuclei(od: torch.Tensor, stains: Stains, mpp: float) -> torch.Tensor:
    """The plane of nuclei, of a network that sees one everywhere."""
    return stained_maps(torch.ones(od.shape[0], *od.shape[2:]), od, stains, mpp)[0, 0]


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_grain_of_dust_is_no_nucleus_and_what_is_around_it_is(kind: Stain, mpp: float) -> None:
    found = nuclei(absorbed(kind, mpp, 12.0), stained(kind), mpp)
    half, away = round(6.0 / mpp), round(10.0 / mpp)
    middle, around = SIDE // 2, torch.ones(SIDE, SIDE, dtype=torch.bool)
    assert (found[middle - half : middle + half, middle - half : middle + half] == 0).all()
    around[middle - away : middle + away, middle - away : middle + away] = False
    assert (found[around] == 255).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_grey_pixel_of_a_nucleus_is_no_dust(kind: Stain) -> None:
    assert (nuclei(absorbed(kind, 0.25, 1.5), stained(kind), 0.25) == 255).all()


@pytest.mark.parametrize("kind", KINDS)
def test_grey_is_searched_where_the_stain_may_be_grey(kind: Stain) -> None:
    assert (nuclei(absorbed(kind, 0.25, 12.0), replace(stained(kind), grey=True), 0.25) == 255).all()


@pytest.mark.parametrize("kind", KINDS)
def test_grey_is_found_alike_in_every_window(kind: Stain) -> None:
    torch.manual_seed(1)
    od = torch.nn.functional.interpolate(torch.rand(1, 3, 40, 40), size=(320, 320))  # blocks of 2 µm, some of them grey
    od[:, :, 100:180, 60:200] = 0.4
    whole = nuclei(od, stained(kind), 0.25)
    part = nuclei(od[..., 64:, 64:].contiguous(), stained(kind), 0.25)
    assert (whole == 0).any()
    assert (whole[64 + 32 :, 64 + 32 :] == part[32:, 32:]).all()
