"""Areas that hold no nucleus: what is found there is false, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluate.datasets_on_disk import picture, true_labels
from wsiproc.errors import SettingsError
from wsiproc.evaluate.areas import (
    Tally,
    area_dataset_columns,
    area_image_columns,
    count_false,
    describe_area,
    load_marks,
    write_area_figure,
)
from wsiproc.evaluate.benchmark import run_benchmark
from wsiproc.evaluate.layouts import find_dataset
from wsiproc.evaluate.points import cell_points
from wsiproc.pipeline.settings import Settings

LIST = Path(__file__).parents[2] / "benchmarks" / "no_nuclei.toml"
DATA = Path(__file__).parents[3] / "shared" / "data"
GOOD = """
[[picture]]
file = "a.png"
mpp = 0.5
role = "choosing"
licence = "CC0-1.0"
areas = [
  { kind = "glass", rings = [[[0, 0], [100, 0], [100, 100], [0, 100]]], ignore = [[50, 50, 10]] },
  { kind = "muscle", rings = [[[200, 0], [300, 0], [300, 50], [200, 50]], [[200, 60], [300, 60], [300, 80]]] },
]
"""


def marks(folder: Path, text: str = GOOD) -> Path:
    path = folder / "marks.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_cells_count_where_their_centre_lies_in_an_area_and_in_no_disc_to_ignore(tmp_path: Path) -> None:
    (found,) = load_marks(marks(tmp_path)).images
    yx = np.array([[5.0, 5.0], [50, 50], [50, 61], [101, 50], [20, 250], [55, 250], [61, 299], [79, 201]])
    tallies = count_false(yx, found)
    glass, muscle = tallies["choosing", "glass"], tallies["choosing", "muscle"]
    assert (glass.cells, muscle.cells) == (2, 2)
    assert muscle.mm2 == pytest.approx((100 * 50 + 100 * 20 / 2) * 0.25e-6)
    assert glass.mm2 == pytest.approx((100 * 100 - np.pi * 100) * 0.25e-6, rel=1e-3)
    columns = area_image_columns(tallies)
    assert (columns["role"], columns["false"]) == ("choosing", 4)


def test_densities_are_of_the_areas_of_all_pictures_together() -> None:
    first = {("choosing", "glass"): Tally(0, 0.9), ("choosing", "muscle"): Tally(10, 0.1)}
    second = {("reporting", "muscle"): Tally(2, 0.1)}
    columns = area_dataset_columns([first, second])
    assert columns == pytest.approx(
        {
            "false_per_mm2": 12 / 1.1,
            "but_glass": 60.0,
            "choosing_false_per_mm2": 10.0,
            "choosing_but_glass": 100.0,
            "reporting_false_per_mm2": 20.0,
            "reporting_but_glass": 20.0,
            "glass": 0.0,
            "muscle": 60.0,
        }
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mpp = 0.5", "", "mpp"),
        ('role = "choosing"', 'role = "training"', "training"),
        ("[100, 100], [0, 100]]]", "[0, 100], [100, 100]]]", "crosses itself"),
        ("[[picture]]", "[picture", "cannot read a list"),
        (GOOD, "", "no [[picture]]"),
        ("rings = [[[0, 0], [100, 0], [100, 100], [0, 100]]]", "rings = [[[0, 0]]]", "[[picture]] 1"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = marks(tmp_path, GOOD.replace(old, new))
    with pytest.raises(SettingsError) as refused:
        load_marks(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_pictures_that_are_not_there_and_doubled_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"1 of 1 images are not in .*a\.png"):
        find_dataset(str(marks(tmp_path)), tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(SettingsError, match="images with the same name: a"):
        find_dataset(str(marks(tmp_path, GOOD + GOOD)), tmp_path)


def test_a_benchmark_counts_the_cells_of_its_runs(tmp_path: Path) -> None:
    """On a picture with known nuclei: areas over them are full of cells, those between them have none."""
    picture(1).save(tmp_path / "a.png")
    labels = true_labels(1)
    h, w = labels.shape
    empty = next(
        (y, x)
        for y in range(0, h - 24, 8)
        for x in range(0, w - 24, 8)
        if not labels[max(0, y - 12) : y + 36, max(0, x - 12) : x + 36].any()
    )
    y, x = empty
    text = f"""
[[picture]]
file = "a.png"
mpp = 0.25
role = "reporting"
areas = [
  {{ kind = "all", rings = [[[0, 0], [{w}, 0], [{w}, {h}], [0, {h}]]] }},
  {{ kind = "between", rings = [[[{x}, {y}], [{x + 24}, {y}], [{x + 24}, {y + 24}], [{x}, {y + 24}]]] }},
]
"""
    dataset = find_dataset(str(marks(tmp_path, text)), tmp_path)
    done = run_benchmark(dataset, ["classical"], tmp_path / "out", Settings(model="classical", device="cpu", workers=1))
    (line,) = done.lines
    (row,) = done.images
    runs = tmp_path / "out" / "classical" / "runs" / "a"
    assert done.failures == []
    assert line["between"] == 0
    assert row["false"] == row["cells"] == len(cell_points(runs).yx) > 5
    assert line["all"] == pytest.approx(float(row["cells"]) / (h * w * 0.25**2 / 1e6))
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "µm/px as listed" in table
    assert "between 0.0000 mm² (1)" in table
    assert (tmp_path / "out" / "classical" / "figures" / "01_a.png").is_file()


def test_false_cells_are_crossed_and_areas_outlined(tmp_path: Path) -> None:
    (found,) = load_marks(marks(tmp_path)).images
    pixels = np.full((120, 320, 3), 255, np.uint8)
    write_area_figure(tmp_path / "figure.png", np.array([[20.0, 250.0], [110, 20]]), found, pixels)
    drawn = np.asarray(Image.open(tmp_path / "figure.png"))
    assert (drawn[20, 250] != 255).any()
    assert (drawn[0, 50] != 255).any()
    assert (drawn[110, 20] == 255).all()


def test_the_list_of_the_repository_is_sound() -> None:
    listed = load_marks(LIST)
    areas = [area for marked in listed.images for area in marked.areas]
    halves: dict[str, set[str]] = {}
    for marked in listed.images:
        halves.setdefault(marked.file.split("/")[1], set()).add(marked.role)
    assert len(areas) >= 60
    assert len(listed.images) >= 12
    assert all(len(roles) == 1 for roles in halves.values()), "a case is in both halves"
    assert {role for roles in halves.values() for role in roles} == {"choosing", "reporting"}
    assert all(area.shape.area > 0 for area in areas)
    assert "muscle" in describe_area(listed.images)


@pytest.mark.skipif(not DATA.is_dir(), reason="the pictures of ../shared/data are not here")
def test_the_areas_of_the_list_lie_on_their_pictures() -> None:
    for marked in load_marks(LIST).images:
        if not marked.file.endswith(".svs"):
            with Image.open(DATA / marked.file) as image:
                w, h = image.size
            for area in marked.areas:
                x0, y0, x1, y1 = area.shape.bounds
                assert 0 <= x0 < x1 <= w, marked.file
                assert 0 <= y0 < y1 <= h, marked.file
