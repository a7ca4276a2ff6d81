"""The first look at a slide: what models cannot make sense of is refused, unless it is forced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from wsiproc.errors import SlideKindError
from wsiproc.io.slides import SlideSource
from wsiproc.models.classical import Classical
from wsiproc.survey import look_at


def source(path: Path, mpp: float | None = None) -> SlideSource:
    return SlideSource(path, mpp, "auto", 60.0)


def test_real_fluorescence_is_refused(data: Path) -> None:
    with pytest.raises(SlideKindError, match=r"looks like fluorescence.*--force"):
        look_at(source(data / "slides/fluorescence_dapi.ndpi"), Classical(), "auto", None)


def test_forced_it_is_worked_on_with_a_warning(tmp_path: Path) -> None:
    picture = Image.new("RGB", (900, 900), (4, 3, 8))
    draw = ImageDraw.Draw(picture)
    for y, x in np.random.default_rng(0).integers(40, 860, (60, 2)).tolist():
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=(30, 60, 250))
    picture.save(tmp_path / "dapi.png")
    with pytest.raises(SlideKindError, match="looks like fluorescence"):
        look_at(source(tmp_path / "dapi.png", 0.25), Classical(), "all", None)
    seen = look_at(source(tmp_path / "dapi.png", 0.25), Classical(), "all", None, force=True)
    assert "looks like fluorescence" in seen.warnings[0]
    assert "not to be trusted" in seen.warnings[0]
