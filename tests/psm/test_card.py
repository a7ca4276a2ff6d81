from __future__ import annotations

import colorsys
import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageColor

from tests.psm.shapes import BLUE, ellipse
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.core.palette import OKABE_ITO
from wsiproc.core.types import BoolArray
from wsiproc.models.networks.unet import UNet
from wsiproc.psm.card import FitSummary, LossCurve, direct_card, model_card
from wsiproc.psm.labels.composite import Palette
from wsiproc.psm.labels.targets import IGNORE
from wsiproc.psm.segmenter import Example
from wsiproc.psm.tiles import Tiles

SIDE = 192
GREY = 200
NUCLEUS, IGNORED = ellipse(SIDE, (60, 60), 15), ellipse(SIDE, (130, 130), 15)
RECIPE: dict[str, Any] = {
    "rounds": [600, 1000],
    "seed": 7,
    "objective": "similarity",
    "sources": [{"name": "a.svs"}, {"name": "b"}],
}


def tiles(name: str, count: int = 2, side: int = 500, stains: Stains | None = None) -> Tiles:
    return Tiles(name, (np.zeros((side, side, 3), np.uint8),) * count, stains or Stains(), 1.0)


def example(group: str, grey: int = GREY, side: int = SIDE, accepted: int = 0) -> Example:
    """A grey tile with one nucleus and one ignored disc."""
    target = np.zeros((SIDE, SIDE, 2), np.uint8)
    target[NUCLEUS], target[IGNORED] = 1, IGNORE
    palette = Palette((None,) * accepted, np.repeat(BLUE[None], accepted, 0), Stains())  # type: ignore[arg-type]
    pixels = np.full((side, side, 3), grey, np.uint8)
    return Example(pixels, np.zeros((256, 3), np.float32), target[:side, :side], palette, group)


def learned(*examples: Example, curve: LossCurve | None = None) -> FitSummary:
    dab = Stains("H-DAB", STANDARD["H-DAB"])
    sources = (tiles("a.svs"), tiles("b", 3, 1000, dab))
    return FitSummary(RECIPE, sources, examples or (example("a.svs"),), UNet((4, 8)), curve or {"round 1": {1: 1.0}})


def pictures(what: FitSummary) -> dict[str, npt.NDArray[np.int64]]:
    """Of a card, by name without the type."""
    _, found = model_card(what, 0.5)
    assert all(name.endswith(".png") for name in found)
    return {
        name.removesuffix(".png"): np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.int64)
        for name, content in found.items()
    }


def near(sheet: npt.NDArray[np.int64], colour: tuple[int, int, int]) -> BoolArray:
    """Pixels of about a colour, since the pictures have a small palette."""
    close: BoolArray = np.abs(sheet - colour).max(axis=-1) < 12
    return close


# --- the text --------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_model_learned_from_and_how() -> None:
    text, _ = model_card(learned(example("a.svs", accepted=1200), example("b", accepted=34)), 0.5)
    rows = {cells[0]: cells[1:] for cells in table(text)}
    assert rows["a.svs"] == ["2", "0.5", "H&E"]
    assert rows["b"] == ["3", "3.0", "H-DAB"]
    assert rows["seed"] == ["7"]
    assert rows["objective"] == ["similarity"]
    assert rows["rounds"] == ["[600, 1000]"]
    assert "sources" not in rows, "they have a table of their own"
    assert "1,234 nuclei" in text
    assert f"{sum(p.numel() for p in UNet((4, 8)).parameters()):,} weights" in text


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_pictures_that_the_card_shows_are_beside_it() -> None:
    text, found = model_card(learned(), 0.5)
    assert sorted(re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)) == sorted(found)


def test_the_card_of_the_direct_engine_names_it_its_sources_and_its_settings() -> None:
    text = direct_card("liver psm", RECIPE)
    assert text.startswith("# Model card: liver psm")
    assert "a.svs, b." in text
    assert ["seed", "7"] in table(text)


# --- examples --------------------------------------------------------------------------------------------------------


def test_examples_show_what_was_believed_and_what_was_left_out() -> None:
    sheet = pictures(learned())["examples"][:SIDE, :SIDE]
    outlined = near(sheet, OKABE_ITO[3])
    assert not outlined[~NUCLEUS].any()
    assert not outlined[ellipse(SIDE, (60, 60), 12)].any(), "the outline only"
    assert outlined[NUCLEUS & ~ellipse(SIDE, (60, 60), 14)].mean() > 0.8
    assert near(sheet, (GREY // 2,) * 3)[IGNORED].all()
    assert near(sheet, (GREY,) * 3)[~IGNORED & ~NUCLEUS].all()


def test_the_text_names_the_colour_of_the_outlines() -> None:
    text, _ = model_card(learned(), 0.5)
    named = re.search(r"^(\w+): accepted as", text, re.MULTILINE)
    assert named is not None
    outlined = pictures(learned())["examples"][:SIDE, :SIDE][NUCLEUS & ~ellipse(SIDE, (60, 60), 14)]
    hues = [colorsys.rgb_to_hsv(*colour)[0] for colour in (ImageColor.getrgb(named[1]), np.median(outlined, axis=0))]
    assert 360 * abs(hues[0] - hues[1]) < 20


@pytest.mark.parametrize(("groups", "shown"), [(1, 1), (5, 5), (30, 12)])
def test_one_example_a_slide_is_shown_and_not_more_than_a_page(groups: int, shown: int) -> None:
    examples = [example(f"slide {i}", 100 + 3 * i) for i in range(groups) for _ in range(2)]
    sheet = pictures(learned(*examples))["examples"]
    rows, columns = (side // SIDE for side in sheet.shape[:2])
    middles = sheet.reshape(rows, SIDE, columns, SIDE, 3)[:, 4, :, 4, 0].ravel()
    assert columns == 4
    assert rows == -(-shown // 4)
    assert middles[:shown] == pytest.approx([100 + 3 * i for i in range(shown)], abs=2)
    assert (middles[shown:] == 255).all()


def test_a_tile_smaller_than_its_place_is_shown_whole_and_a_larger_one_from_its_middle() -> None:
    small = pictures(learned(example("a", side=170)))["examples"]
    assert near(small, (GREY,) * 3)[:170, :170][~(NUCLEUS | IGNORED)[:170, :170]].all()
    assert (small[:SIDE, 170:SIDE] == 255).all()
    large = example("a", side=SIDE)
    wide = Example(np.pad(large.pixels, ((50, 50), (50, 50), (0, 0))), large.density, large.target, large.palette, "a")
    wide = Example(wide.pixels, wide.density, np.pad(wide.target, ((50, 50), (50, 50), (0, 0))), wide.palette, "a")
    assert not near(pictures(learned(wide))["examples"][:SIDE, :SIDE], (0, 0, 0)).any()


def test_examples_are_not_painted_on() -> None:
    one = example("a")
    model_card(learned(one), 0.5)
    assert (one.pixels == GREY).all()


# --- curves ----------------------------------------------------------------------------------------------------------


def heights(panel: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean row of the line in each column that it crosses."""
    line = near(panel, OKABE_ITO[0])
    rows = np.arange(len(panel))[:, None]
    crossed = line.any(axis=0)
    means: npt.NDArray[np.float64] = (line * rows).sum(axis=0)[crossed] / line.sum(axis=0)[crossed]
    return means


def test_each_stage_has_its_curve_side_by_side() -> None:
    falling = {step: 2.0 / step for step in range(10, 500, 10)}
    rising = {step: float(step) for step in range(10, 500, 10)}
    sheet = pictures(learned(curve={"activation network": falling, "round 1": rising}))["curves"]
    half = sheet.shape[1] // 2
    one, other = heights(sheet[:, :half]), heights(sheet[:, half:])
    assert one[-1] > one[0] + 50, "loss falls, the line falls"
    assert other[-1] < other[0] - 50
    assert min(len(one), len(other)) > 0.9 * half


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("points", [{1: 0.7}, {10: 1.0, 20: 1.0}, {5: 3.0, 6: 0.0}])
def test_the_shortest_training_has_a_picture(points: dict[int, float]) -> None:
    sheet = pictures(learned(curve={"round 1": points}))["curves"]
    assert (sheet < 255).any(), "its loss is written at least"
    if len(points) > 1:
        assert (np.ptp(heights(sheet)) > 1) == (len(set(points.values())) > 1)
