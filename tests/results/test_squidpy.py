"""Cells of slides as squidpy wants them: with squidpy itself where it is installed, else by what it looks for.

squidpy 1.8 asks for imagecodecs before 2026, which the versions of constraints.txt are not; older ones do not work with
AnnData 0.12. So it is no dependency of the tests.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pytest

import wsiproc
from tests.example_runs import example
from wsiproc.results.result import Result, Results


@pytest.fixture(scope="module")
def cohort(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same slide twice, in folders of other names than its own."""
    out = tmp_path_factory.mktemp("cohort")
    for name in ("a", "b.2"):
        shutil.copytree(result.folder, out / name)
    return wsiproc.open_all(out)


def test_the_overview_lies_under_the_cells(result: Result) -> None:
    cells = result.anndata()
    facts = cells.uns["spatial"]["drawn"]
    picture, factors = facts["images"]["hires"], facts["scalefactors"]
    assert (picture.dtype, picture.shape[2]) == (np.uint8, 3)
    places = cells.obsm["spatial"] * factors["tissue_hires_scalef"]
    assert places[:, 0].max() < picture.shape[1]
    assert places[:, 1].max() < picture.shape[0]
    # Nuclei are darker than the picture as a whole, so cells lie where the picture shows them.
    under = picture[tuple(places[:, ::-1].astype(int).T)]
    assert under.mean() < picture.mean() - 10
    across_um = factors["spot_diameter_fullres"] * 0.25
    assert across_um == pytest.approx(2 * np.sqrt(np.median(result.table()["area_um2"]) / np.pi))
    assert "spatial" not in result.anndata(overview_px=0).uns


def test_all_slides_are_one_table(cohort: Results, result: Result) -> None:
    cells = cohort.anndata()
    assert cells.n_obs == 2 * len(result)
    assert cells.obs_names.is_unique
    assert list(cells.obs_names[[0, -1]]) == ["a:1", f"b.2:{len(result)}"]
    assert cells.obs["slide"].value_counts().to_dict() == {"a": len(result), "b.2": len(result)}
    assert np.array_equal(cells.X[: len(result)], result.anndata().X)
    assert set(cells.uns["spatial"]) == set(cells.uns["wsiproc"]) == {"a", "b.2"}
    assert len(cells.uns["class_colors"]) == len(cells.obs["class"].cat.categories)


def test_what_one_slide_does_not_measure_is_not_a_number(cohort: Results) -> None:
    from wsiproc.results.scverse import join_slides

    one, other = (result.anndata() for result in cohort.values())
    other = other[other.obs["class"] == "Negative", [name for name in other.var_names if "dab" not in name]].copy()
    other.obs["class"] = other.obs["class"].cat.rename_categories({"Negative": "Nucleus"})
    other.uns["class_colors"] = ["#123456"]
    joined = join_slides({"a": one, "b": other})
    assert list(joined.obs["class"].cat.categories) == ["Negative", "Positive", "Nucleus"]
    assert joined.uns["class_colors"][2] == "#123456"
    missing = np.isnan(joined[:, "dab_od_mean"].X).ravel()
    assert np.array_equal(missing, joined.obs["slide"] == "b")


def test_a_cohort_goes_through_a_file(cohort: Results, tmp_path: Path) -> None:
    cells = cohort.anndata(overview_px=300)
    cells.write_h5ad(tmp_path / "cohort.h5ad")
    read = anndata.read_h5ad(tmp_path / "cohort.h5ad")
    assert np.array_equal(read.uns["spatial"]["b.2"]["images"]["hires"], cells.uns["spatial"]["b.2"]["images"]["hires"])
    assert list(read.obs["slide"].cat.categories) == ["a", "b.2"]


def test_the_example_finds_neighbours_and_distances(result: Result) -> None:
    first, *between = example("neighbours.py", result.folder, 40).splitlines()
    number, neighbours = first.split()[0], float(first.split(", ")[1].split()[0])
    assert int(number) == len(result)
    assert 2 < neighbours <= 6  # a plane graph has less than six
    told = dict(line.removesuffix(" µm (median)").split(": ") for line in between)
    assert set(told) == {f"{one} to {other}" for one in result.classes for other in result.classes}
    assert all(2 < float(um) < 500 for um in told.values())


@pytest.fixture(scope="module")
def squidpy() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("squidpy", exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")
def test_squidpy_draws_and_finds_neighbours(squidpy: Any, cohort: Results, tmp_path: Path) -> None:
    """Only where squidpy is installed beside wsiproc."""
    mpl.use("agg")
    cells = cohort.anndata()
    squidpy.gr.spatial_neighbors(cells, coord_type="generic", delaunay=True, library_key="slide")
    graph = cells.obsp["spatial_distances"]
    first = (cells.obs["slide"] == "a").to_numpy()
    assert graph.nnz > cells.n_obs
    assert graph[first][:, ~first].nnz == 0
    squidpy.pl.spatial_scatter(cells, color="class", library_key="slide", save=str(tmp_path / "cells.png"))
    import PIL.Image

    picture = np.asarray(PIL.Image.open(tmp_path / "cells.png").convert("RGB"))
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in cells.uns["class_colors"]]
    assert all((np.abs(picture.astype(int) - colour).max(axis=2) < 8).sum() > 100 for colour in colours)
