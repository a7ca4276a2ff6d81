from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.psm.shapes import BLUE, BROWN, PINK
from wsiproc.array.stains import STANDARD, Stains
from wsiproc.psm.composite import Palette
from wsiproc.psm.positive import positive_cut
from wsiproc.psm.segmenter import Example
from wsiproc.psm.tiles import Tiles

HDAB = Stains("H-DAB", STANDARD["H-DAB"])
OTHERWISE = 0.123


def slide(name: str, stains: Stains = HDAB, gain: float = 1.0) -> Tiles:
    return Tiles(name, (), stains, gain)


def tile(group: str, pale: float, brown: float, counts: tuple[int, int] = (60, 30), gain: float = 1.0) -> Example:
    """Believed nuclei of a tile: blue ones with ``pale`` DAB in them and others with ``brown``, as density × gain."""
    dab = np.concatenate([np.full(count, level) for count, level in zip(counts, (pale, brown), strict=True)])
    dab += np.random.default_rng(0).normal(0, 0.01, len(dab))
    colours = gain * (0.3 * BLUE + dab[:, None] * BROWN).astype(np.float32)
    nothing = np.zeros((1, 1, 3), np.uint8)
    return Example(nothing, np.zeros((256, 3), np.float32), nothing[..., :2], Palette((), colours, HDAB), group)


@settings(max_examples=50)
@given(st.floats(0.0, 0.1), st.floats(0.3, 1.5), st.floats(0.7, 1.5), st.integers(20, 200))
def test_the_cut_lies_between_pale_and_brown_nuclei(pale: float, brown: float, gain: float, positive: int) -> None:
    """However many are positive; in density as it is, without the gain of the slide."""
    example = tile("a", pale, brown, (100, positive), gain)
    assert pale < positive_cut([slide("a", gain=gain)], [example], OTHERWISE) < brown


def test_nuclei_of_all_tiles_of_a_slide_count_together() -> None:
    """Tiles with only negative or only positive nuclei have no valley of their own."""
    tiles = [tile("a", 0.05, 0.05, (40, 0)), tile("a", 0.7, 0.7, (0, 40))]
    assert 0.05 < positive_cut([slide("a")], tiles, OTHERWISE) < 0.7


def test_slides_count_alike_and_each_has_a_valley_of_its_own() -> None:
    weak, strong = tile("weak", 0.02, 0.2, (500, 500)), tile("strong", 0.5, 1.4)
    alone = [positive_cut([slide(e.group)], [e], OTHERWISE) for e in (weak, strong)]
    both = positive_cut([slide("weak"), slide("strong")], [weak, strong], OTHERWISE)
    assert alone[0] < 0.2 < 0.4 < alone[1]
    assert both == pytest.approx(np.mean(alone), abs=0.011)


def test_slides_without_dab_say_nothing() -> None:
    pink = tile("pink", 0.1, 1.0)
    pink.palette.colours[:] = 0.5 * PINK
    dab = tile("dab", 0.05, 0.8)
    sources = [slide("pink", Stains()), slide("dab")]
    assert positive_cut(sources, [pink, dab], OTHERWISE) == positive_cut([slide("dab")], [dab], OTHERWISE)
    assert positive_cut([slide("pink", Stains())], [pink], OTHERWISE) == OTHERWISE


def test_too_few_nuclei_say_nothing() -> None:
    few = tile("few", 0.0, 1.0, (10, 10))
    assert positive_cut([slide("few")], [few], OTHERWISE) == OTHERWISE
    many = tile("many", 0.05, 0.8)
    assert positive_cut([slide("few"), slide("many")], [few, many], OTHERWISE) == (
        positive_cut([slide("many")], [many], OTHERWISE)
    )
