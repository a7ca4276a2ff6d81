"""What the page measures, against the table of cells read by others: geopandas, numpy and shapely."""

from __future__ import annotations

import urllib.error
import urllib.parse
from typing import Any

import cv2
import geopandas
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.results.viewer.serving import Shown, decoded
from wsiproc.pipeline.cohort import run_slides
from wsiproc.pipeline.settings import Settings
from wsiproc.results.viewer.analysis import order, stain_share, walk
from wsiproc.results.viewer.colouring import (
    GREY,
    HIDDEN,
    SHADES,
    Look,
    all_names,
    codes,
    positivity,
    rescored,
    scale_colours,
    standing_out,
)
from wsiproc.results.viewer.shown import ShownSlide

IHC = "api/slides/ihc"
NAMES = ["Negative", "Positive", "Tumor"]


def tile(shown: Shown, query: str, level: int = 3) -> np.ndarray:
    status, _, body = shown.get(f"{IHC}/cells/{level}/0/0.png?{query}")
    assert status == 200, body
    return decoded(body)


def colours_of(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in picture[picture[..., 3] > 64][:, :3].tolist()}


# --- colours ---


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 100, width=32), st.floats(0, 1, width=32)), max_size=40),
    st.tuples(st.floats(0, 100, width=32), st.floats(0, 100, width=32)),
    st.frozensets(st.integers(0, 2)),
    st.booleans(),
    st.booleans(),
)
def test_codes_show_each_cell_as_asked(
    cells: list[tuple[int, float, float]], ends: tuple[float, float], hidden: frozenset[int], grey: bool, paint: bool
) -> None:
    kinds = np.array([kind for kind, *_ in cells], np.uint8)
    values = np.array([value for _, value, _ in cells], np.float32)
    low, high = sorted(ends)
    look = Look(hidden, (), "area", paint, (0.0, 100.0), (low, high), grey)
    for code, (kind, value, _) in zip(codes(look, NAMES, kinds, values, None), cells, strict=True):
        if kind in hidden:
            assert code == HIDDEN
        elif not low <= value <= high:
            assert code == (GREY if grey else HIDDEN)
        elif paint:
            assert code == min(SHADES - 1, int(np.float32(value) * np.float32(SHADES / 100)))
        else:
            assert code == kind


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.sampled_from([("Negative", "Positive"), ("Negative", "1+", "2+", "3+")]),
)
def test_cells_are_told_anew_by_their_grades(grades: list[int], names: tuple[str, ...]) -> None:
    strong, weak = np.array(grades, np.uint8), np.minimum(np.array(grades, np.uint8), 1)
    every = all_names(names)
    assert set(every) == {"Negative", "Positive", "1+", "2+", "3+"}
    assert [every[code] for code in rescored(names, 3, strong)] == [("Negative", "1+", "2+", "3+")[g] for g in grades]
    assert [every[code] for code in rescored(names, 1, weak)] == [("Negative", "Positive")[g > 0] for g in grades]
    told = positivity(3, strong, True)
    assert [told["negative"], told["1+"], told["2+"], told["3+"]] == [grades.count(grade) for grade in range(4)]
    assert told["h_score"] == (pytest.approx(100 * sum(grades) / len(grades)) if grades else None)
    assert told["index"] == (pytest.approx(sum(g > 0 for g in grades) / len(grades)) if grades else None)


def test_the_scale_gets_lighter_all_the_way() -> None:
    lab = cv2.cvtColor(np.array([scale_colours()], np.uint8), cv2.COLOR_RGB2LAB)[0].astype(int)
    assert (np.diff(lab[:, 0]) >= 0).all()
    assert lab[-1, 0] - lab[0, 0] > 150  # of 255


@given(st.tuples(*[st.integers(0, 255)] * 3), st.tuples(*[st.integers(0, 255)] * 3))
def test_outlines_stand_out_from_any_tissue(colour: tuple[int, int, int], tissue: tuple[int, int, int]) -> None:
    found = standing_out(colour, tissue)
    lab = cv2.cvtColor(np.array([[found, tissue, colour]], np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    assert np.linalg.norm(lab[0] - lab[1]) > 40
    if np.linalg.norm(lab[2] - lab[1]) > 46:
        assert found == colour


# --- a measurement ---


def test_the_histogram_counts_every_cell_that_is_shown(shown: Shown, table: Any) -> None:
    told = shown.json(f"{IHC}/spread?measure=area_um2&keep=20,60")
    area = table["area_um2"]
    assert sum(told["counts"]) == told["cells"] == len(table)
    assert told["kept"] == ((area >= 20) & (area <= 60)).sum()
    inner = np.linspace(told["low"], told["high"], len(told["counts"]) + 1)[20:40]
    truth, _ = np.histogram(area, inner)
    assert np.abs(np.array(told["counts"][20:39]) - truth).max() <= 1  # of the roundings of float32
    positive = shown.json(f"{IHC}/spread?measure=area_um2&keep=20,&hide=0")
    assert positive["cells"] == (table["class"] == "Positive").sum()
    assert positive["kept"] == ((table["class"] == "Positive") & (area >= 20)).sum()
    assert shown.get(f"{IHC}/spread?measure=nothing")[0] == 400
    assert shown.get(f"{IHC}/spread?measure=area_um2&keep=a,b")[0] == 400


@pytest.mark.parametrize("level", [-1, 0, 1])
def test_cells_are_coloured_by_their_value_at_every_zoom(shown: Shown, table: Any, level: int) -> None:
    """The middle of each cell of a tile has the shade of its value, or is grey, or is not there."""
    side = int(512 * 2.0**level)
    whole = tile(shown, "measure=area_um2&paint=1&domain=10,70&keep=20,50&grey=1&filled=1", level)
    bare = tile(shown, "measure=area_um2&paint=1&domain=10,70&keep=20,50&filled=1", level)
    shades = scale_colours()
    right = seen = 0
    for _, row in table.iterrows():
        point = row.geometry.representative_point()
        y, x = int(point.y / 2 * 2.0**-level), int(point.x / 2 * 2.0**-level)
        if row.geometry.bounds[2] / 2 >= side or row.geometry.bounds[3] / 2 >= side:
            continue
        seen += 1
        kept = 20 <= row.area_um2 <= 50
        wanted = shades[min(SHADES - 1, max(0, int((row.area_um2 - 10) * SHADES / 60)))]
        right += tuple(whole[y, x, :3].tolist()) == wanted if kept else len(set(whole[y, x, :3].tolist())) == 3
        assert kept or bare[y, x, 3] in (0, 255), "an outline of a neighbour at most"
    assert seen > 20
    assert right / seen > 0.95


def test_a_filter_and_classes_and_colours_go_together(shown: Shown) -> None:
    colours = colours_of(tile(shown, "colours=0:123456,1:654321", 0))
    assert colours == {(0x12, 0x34, 0x56), (0x65, 0x43, 0x21)}
    assert not tile(shown, "measure=area_um2&keep=1e6,").any()
    few, all_of_them = (tile(shown, f"measure=area_um2&keep={keep}")[..., 3] > 0 for keep in ("40,", ","))
    assert few.sum() < all_of_them.sum()
    assert not (few & ~all_of_them).any()
    for wrong in ("colours=0:red", "hide=x", "hide=900", "cuts=1,2", "cuts=0.3,0.2,0.1", "measure=none"):
        assert shown.get(f"{IHC}/cells/3/0/0.png?{wrong}")[0] == 400


# --- positivity ---


def test_positivity_follows_the_threshold(shown: Shown, table: Any) -> None:
    run = shown.json(f"{IHC}/positivity")
    assert run["index"] == pytest.approx((table["class"] == "Positive").mean())
    (cut,) = run["cuts"]
    assert ((table["dab_od_mean"] > np.float32(cut)) == (table["class"] == "Positive")).all()
    one = shown.json(f"{IHC}/positivity?cuts=0.1")
    assert one["positive"] == (table["dab_od_mean"] > np.float32(0.1)).sum()
    assert one["h_score"] is None
    three = shown.json(f"{IHC}/positivity?cuts=0.1,0.2,0.35")
    grade = sum((table["dab_od_mean"] > np.float32(cut)).astype(int) for cut in (0.1, 0.2, 0.35))
    assert [three[name] for name in ("negative", "1+", "2+", "3+")] == [(grade == g).sum() for g in range(4)]
    assert three["h_score"] == pytest.approx(100 * grade.mean())
    strong = {tuple(bytes.fromhex(c[1:])) for c in shown.json(IHC)["strengths"].values()}
    assert strong < colours_of(tile(shown, "cuts=0.1,0.2,0.35", 0))
    assert not strong & colours_of(tile(shown, "cuts=0.1,0.2,0.35&hide=1", 0))


def test_slides_without_positive_cells_have_no_positivity(shown: Shown) -> None:
    name = next(card["name"] for card in shown.json("api/slides") if card["name"] != "ihc")
    path = f"api/slides/{urllib.parse.quote(name, safe='')}"
    assert shown.json(path)["has_dab"] is False
    status, _, body = shown.get(f"{path}/positivity")
    assert status == 400
    assert b"threshold of DAB" in body


@pytest.fixture(scope="module")
def brown(tmp_path_factory: pytest.TempPathFactory) -> ShownSlide:
    """Real tissue with DAB outside of nuclei (scikit-image, CC0), scored by the rings around them."""
    home = tmp_path_factory.mktemp("brown")
    Image.fromarray(skimage.data.immunohistochemistry()).save(home / "brown.png")
    settings = Settings(model="classical", executor="loop", mpp=0.5, compartment="membrane", positive_dab=0.15)
    (outcome,) = run_slides([home / "brown.png"], home / "out", settings)
    assert outcome.folder is not None
    return ShownSlide(outcome.folder, "brown")


def test_membranes_are_told_by_the_ring_and_its_completeness(brown: ShownSlide) -> None:
    cells = geopandas.read_parquet(brown.folder / "cells.parquet")
    ring, complete = cells["ring_dab_od_mean"], cells["ring_dab_completeness"]
    for cuts in ((), (0.15,), (0.02,)):
        told = stain_share(brown, Look(cuts=cuts))
        positive = (ring > np.float32(cuts[0] if cuts else 0.15)) & (complete >= 0.5)
        assert (told["positive"], told["negative"]) == (positive.sum(), (~positive).sum())
        assert told["index"] == pytest.approx(positive.mean())
        assert "half of which" in told["where"]
        assert told["spread"]["cells"] + told["spread"]["unmeasured"] == len(cells)
        assert told["spread"]["unmeasured"] == ring.isna().sum()
    assert ((ring > 0.02) & ~(complete >= 0.5)).any(), "the second condition counts too"
    strongest = walk(brown, order(brown, Look(), "ring_dab_od_mean", True), "ring_dab_od_mean", 0, 10, None)["cells"]
    assert [cell["value"] for cell in strongest] == pytest.approx(ring.sort_values(ascending=False).iloc[:10].tolist())


def test_cells_without_a_value_have_no_shade() -> None:
    values = np.array([0.2, np.nan, 0.9], np.float32)
    found = codes(Look(measure="ring_dab_od_mean", paint=True), NAMES, np.zeros(3, np.uint8), values, None)
    assert found.tolist() == [12, GREY, 57]


def test_where_only_the_compartment_was_recognised_no_threshold_gives_an_index(brown: ShownSlide) -> None:
    shown = ShownSlide(brown.folder, "brown")
    assert shown.run.immuno is not None
    shown.run = shown.run.model_copy(update={"immuno": shown.run.immuno.model_copy(update={"index": False})})
    told = stain_share(shown, Look(cuts=(0.1, 0.2, 0.3)))
    assert told["positive"] > 0
    assert told["index"] is told["h_score"] is None
    assert shown.card()["positive_index"] is None


# --- one cell after the other ---


def test_cells_come_in_the_order_of_a_measurement(shown: Shown, table: Any) -> None:
    for by, falling in (("score", 0), ("area_um2", 1)):
        wanted = table.sort_values(by, ascending=not falling, kind="stable")
        told = shown.json(f"{IHC}/walk?by={by}&falling={falling}&count=20")
        assert told["of"] == len(table)
        assert [cell["value"] for cell in told["cells"]] == pytest.approx(wanted[by].iloc[:20].tolist())
        first = table[table["id"] == told["cells"][0]["id"]].iloc[0]
        assert told["cells"][0]["class"] == first["class"]
        assert told["cells"][0]["centre"] == pytest.approx([first["centroid_x"], first["centroid_y"]], abs=0.1)
    ids = [cell["id"] for cell in shown.json(f"{IHC}/walk?count=3")["cells"]]
    assert shown.json(f"{IHC}/walk?id={ids[0]}&rank=1")["cells"][0]["id"] == ids[1]
    assert shown.json(f"{IHC}/walk?id={ids[1]}&rank=-1")["cells"][0]["id"] == ids[0]
    assert shown.json(f"{IHC}/walk?id={ids[0]}&rank=-1")["cells"][0]["id"] == ids[0]
    assert shown.json(f"{IHC}/walk?id=0&rank=1")["cells"][0]["id"] == ids[0]
    last = shown.json(f"{IHC}/walk?rank={len(table) + 5}")
    assert (last["rank"], len(last["cells"])) == (len(table) - 1, 1)


def test_only_cells_that_are_shown_are_walked(shown: Shown, table: Any) -> None:
    told = shown.json(f"{IHC}/walk?hide=0&measure=area_um2&keep=30,&count=10")
    assert told["of"] == ((table["class"] == "Positive") & (table["area_um2"] >= 30)).sum()
    assert {cell["class"] for cell in told["cells"]} == {"Positive"}
    assert shown.json(f"{IHC}/walk?hide=0,1") == {"rank": 0, "of": 0, "cells": []}
    assert shown.get(f"{IHC}/walk?by=nothing")[0] == 400


def test_a_crop_shows_the_cell_in_its_middle(shown: Shown, table: Any) -> None:
    row = table.iloc[len(table) // 3]
    status, _, body = shown.get(f"{IHC}/crop/{row['id']}.jpg?px=96&um=24")
    assert status == 200
    crop = decoded(body)
    assert crop.shape == (96, 96, 3)
    line = np.abs(crop.astype(int) - 255).sum(axis=2) < 60  # the white line around the cell
    y, x = (side.mean() for side in np.nonzero(line[16:80, 16:80]))
    assert abs(y - 32) < 12
    assert abs(x - 32) < 12
    assert shown.get(f"{IHC}/crop/{len(table) + 1}.jpg")[0] == 404
