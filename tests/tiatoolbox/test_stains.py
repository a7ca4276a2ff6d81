"""Stain normalisers before a model; what needs a fit runs in an environment with the extra ``wsiproc[tiatoolbox]``."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.models.small_networks import picture
from tests.runs import assert_same_cells, run_one
from wsiproc.core.choices import StainNormChoice
from wsiproc.core.geometry import Box
from wsiproc.errors import OutputError, PlanError, SettingsError
from wsiproc.io.slides.open import open_slide
from wsiproc.models import load_model
from wsiproc.models.builtin.classical import Classical
from wsiproc.models.device import Device, fast_int8
from wsiproc.models.inference import predict
from wsiproc.pipeline.planning.plan import choose_model
from wsiproc.pipeline.planning.stain_normaliser import (
    REFERENCE,
    ColourAppearance,
    StainAppearance,
    StainNormalised,
    colour_table,
    find_appearance,
)
from wsiproc.pipeline.settings import Settings

METHODS = tuple(REFERENCE)
Picture = npt.NDArray[np.uint8]


def pinker(tissue: Picture) -> Picture:
    """The same tissue as another scanner might see it."""
    return np.clip(tissue * np.array([1.0, 0.85, 0.95]) * 0.9, 0, 255).astype(np.uint8)


def test_every_method_can_be_chosen() -> None:
    assert get_args(StainNormChoice)[1:] == tuple(f"tiatoolbox:{method}" for method in METHODS)
    with pytest.raises(SettingsError, match="stain_norm is 'macenko'; choose one of none, tiatoolbox:reinhard"):
        Settings(stain_norm="macenko")
    with pytest.raises(SettingsError, match=r"stain_norm is 'none=a\.png'"):
        Settings(stain_norm="none=a.png")
    assert choose_model(Settings(model="classical")) == Classical()
    assert choose_model(Settings(model="classical", stain_norm="tiatoolbox:macenko")).name.startswith("classical after")


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_that_has_the_wanted_look_stays_as_it_is(method: str) -> None:
    appearance = REFERENCE[method]
    colours = picture(seed=3, side=64)
    if isinstance(appearance, StainAppearance):  # what no mixture of the two stains makes would not stay
        amounts = np.stack(np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 0.4, 20)), axis=-1)
        colours = np.rint(255 * np.exp(-amounts @ np.array(appearance.vectors))).clip(0, 255).astype(np.uint8)
    same = appearance.recolour(colours, appearance).astype(int)  # type: ignore[arg-type]
    within = (colours > 0) & (colours < 255)  # and so would what is out of the range of a pixel
    assert np.abs(same - colours)[within.all(axis=-1)].max() <= 2


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_the_table_holds_what_the_transform_makes_of_each_colour(method: str) -> None:
    target = REFERENCE[method]
    source: Any = (
        dataclasses.replace(target, strongest=(1.1, 0.9))
        if isinstance(target, StainAppearance)
        else dataclasses.replace(target, means=(70.0, 20.0, -10.0))
    )
    some = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    red, green, blue = np.moveaxis(some, -1, 0)
    assert (colour_table(source, target, "cpu").numpy()[red, green, blue] == source.recolour(some, target)).all()
    assert (source.recolour(some, target) != some).any()


def test_a_model_behind_a_normaliser_is_another_model() -> None:
    appearance = REFERENCE["macenko"]
    assert isinstance(appearance, StainAppearance)
    some = StainNormalised(Classical(), "macenko", appearance, appearance)
    other = dataclasses.replace(appearance, strongest=(1.0, 1.0))
    assert some.name != Classical().name
    assert repr(StainNormalised(Classical(), "macenko", other, appearance)) != repr(some)
    assert pickle.loads(pickle.dumps(some)) == some
    assert some.memory_bytes == Classical().memory_bytes + 3 * 256**3
    assert json.loads(json.dumps(some.calibration()))["stain_norm"]["target"]["strongest"] == list(appearance.strongest)
    for fact in ("mpp", "window", "halo", "margin", "classes", "channels", "weights_sha256", "half_precision"):
        assert getattr(some, fact) == getattr(Classical(), fact)


@pytest.mark.skipif(not fast_int8(), reason="this processor does not multiply int8 exactly")
def test_what_a_model_computes_in_bytes_it_computes_behind_a_normaliser_too() -> None:
    appearance = REFERENCE["macenko"]
    assert isinstance(appearance, StainAppearance)
    source = dataclasses.replace(appearance, strongest=(1.5, 0.8))
    device = Device("cpu", "int8")
    some = StainNormalised(load_model("default"), "macenko", source, appearance)
    assert device.suited(some) == device
    window = picture(seed=7)[None]
    recoloured = colour_table(some.source, some.target, "cpu").numpy()[tuple(np.moveaxis(window, -1, 0))]
    assert (recoloured != window).any()
    assert (predict(some, window, device) == predict(some.model, recoloured, device)).all()
    plain = StainNormalised(Classical(), "macenko", appearance, appearance)
    assert device.suited(plain).precision == "float32"


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.png: the image of the target stain cannot be read"):
        choose_model(Settings(model="classical", stain_norm=f"tiatoolbox:macenko={tmp_path / 'gone.png'}"))


def normalise(tissue: Picture, target: Path, method: str) -> StainNormalised:
    """A model for the slide that ``tissue`` is from."""
    pytest.importorskip("tiatoolbox")
    model = choose_model(Settings(model="classical", stain_norm=f"tiatoolbox:{method}={target}"))
    assert isinstance(model, StainNormalised)
    return model.calibrate([tissue])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("target") / "typical.png"
    cv2.imwrite(str(path), cv2.cvtColor(picture(seed=4), cv2.COLOR_RGB2BGR))
    return path


@pytest.mark.tiatoolbox
@pytest.mark.parametrize("method", METHODS)
def test_colours_are_those_of_tiatoolbox_where_a_slide_is_one_picture(method: str, target: Path) -> None:
    pytest.importorskip("tiatoolbox")
    from tiatoolbox.tools.stainnorm import get_normalizer

    tissue = pinker(picture(seed=3, side=500))[:, :500]
    model = normalise(tissue, target, method)
    ours = model.source.recolour(tissue, model.target).astype(int)  # type: ignore[arg-type]
    theirs = get_normalizer(method)
    theirs.fit(picture(seed=4))
    expected = theirs.transform(tissue.copy()).astype(int)
    assert np.abs(ours - expected).mean() < 1.5, "they cut digits off where we round"
    # The other scanner's tissue comes out closer to what the first one sees than it went in.
    first = picture(seed=3, side=500).astype(int)
    assert np.abs(ours - first).mean() < np.abs(tissue - first).mean()


@pytest.mark.tiatoolbox
@pytest.mark.parametrize("method", METHODS)
def test_what_a_window_becomes_does_not_hang_on_the_window(method: str, target: Path) -> None:
    tissue = pinker(picture(seed=3, side=700))
    model = normalise(tissue, target, method)
    colours = colour_table(model.source, model.target, "cpu").numpy()
    side, (y, x) = model.window + 2 * model.halo, (30, 55)
    window = tissue[y : y + side, x : x + side]
    red, green, blue = np.moveaxis(window, -1, 0)
    expected = model.model.predict(torch.from_numpy(colours[red, green, blue][None]))
    assert (predict(model, window[None], Device()) == expected.numpy()).all()
    assert normalise(tissue, target, method) == model


@pytest.mark.tiatoolbox
def test_the_reference_is_what_the_slide_shows(data: Path) -> None:
    pytest.importorskip("tiatoolbox")
    with open_slide(data / "slides" / "CMU-1-Small-Region.svs") as slide:
        pixels = slide.read(Box(0, 0, *slide.shape), slide.mpp).reshape(-1, 3)
    for method, appearance in REFERENCE.items():
        for found, held in zip(numbers(find_appearance(method, pixels)), numbers(appearance), strict=True):
            assert found == pytest.approx(held, abs=2e-5)


def numbers(appearance: StainAppearance | ColourAppearance) -> list[float]:
    return np.concatenate([np.ravel(values) for values in dataclasses.astuple(appearance)]).tolist()


@pytest.mark.tiatoolbox
def test_cutting_changes_no_cell_and_another_target_is_other_work(six: Path, target: Path, tmp_path: Path) -> None:
    pytest.importorskip("tiatoolbox")
    chosen = {"model": "classical", "stain_norm": f"tiatoolbox:macenko={target}", "tissue": "all"}
    whole = run_one(six, tmp_path / "whole", region=1024, executor="loop", **chosen).folder
    cut = run_one(six, tmp_path / "cut", region=512, executor="processes", workers=2, **chosen).folder
    assert whole is not None
    assert cut is not None
    assert_same_cells(whole, cut)
    run = json.loads((whole / "run.json").read_text())
    assert run["counts"]["cells"] > 300
    assert run["model"]["name"] == "classical after tiatoolbox:macenko"
    assert run["model"]["calibration"]["stain_norm"]["source"] != run["model"]["calibration"]["stain_norm"]["target"]
    assert run_one(six, tmp_path / "cut", region=512, **chosen).status == "already done"
    with pytest.raises(OutputError, match="made with another model"):
        run_one(six, tmp_path / "cut", region=512, **chosen | {"stain_norm": "tiatoolbox:macenko"})


@pytest.mark.tiatoolbox
@pytest.mark.parametrize("method", METHODS)
def test_glass_has_no_stain(method: str, target: Path, tmp_path: Path) -> None:
    glass = np.full((64, 64, 3), 243, np.uint8)
    with pytest.raises(PlanError, match=f"{method} finds no stain in the slide's tissue .*run without --stain-norm"):
        normalise(glass, target, method)
    cv2.imwrite(str(tmp_path / "glass.png"), glass)
    with pytest.raises(SettingsError, match=rf"glass\.png: {method} finds no stain in it"):
        normalise(picture(seed=3), tmp_path / "glass.png", method)
