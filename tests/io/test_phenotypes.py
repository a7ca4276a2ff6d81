"""classes.toml: what is written comes back, what people may change counts, and a slip is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiproc.core.phenotypes import Phenotypes
from wsiproc.errors import SettingsError
from wsiproc.io.cells.phenotypes import read_phenotypes, write_phenotypes

KINDS = Phenotypes(
    names=("Kind 1", "Kind 2"),
    colours=((0, 114, 178), (230, 159, 0)),
    features=("area_um2", "dab_od_mean"),
    scale=(12.25, 0.125),
    centres=((28.5, 0.0625), (21.0, 0.375)),
    model="classical",
    mpp=0.5,
    weights_sha256=None,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_phenotypes(tmp_path / "classes.toml", KINDS, "50 cells of 1 slide")
    return tmp_path / "classes.toml"


def test_kinds_come_back_as_they_were(path: Path) -> None:
    assert read_phenotypes(path) == KINDS
    assert "found by wsiproc in 50 cells of 1 slide" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["classes.toml"]


@given(
    st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=6),
    st.sets(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20), min_size=2, max_size=12),
    st.data(),
)
def test_any_numbers_and_names_come_back(
    tmp_path_factory: pytest.TempPathFactory, scale: list[float], names: set[str], data: st.DataObject
) -> None:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    row = st.tuples(*[finite] * len(scale))
    phenotypes = Phenotypes(
        tuple(names),
        tuple(data.draw(st.tuples(*[st.integers(0, 255)] * 3)) for _ in names),
        tuple(f"feature_{number}" for number in range(len(scale))),
        tuple(scale),
        tuple(data.draw(row) for _ in names),
        "model",
        0.25,
        "ab" * 32,
    )
    path = tmp_path_factory.mktemp("kinds") / "k.toml"
    write_phenotypes(path, phenotypes, "cells")
    assert read_phenotypes(path) == phenotypes


def test_names_colours_and_comments_may_be_changed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = text.replace('"Kind 2"', '"Plasma cells: active"  # seen in slide 3').replace("#e69f00", "#FF00aa")
    path.write_text(text, encoding="utf-8")
    phenotypes = read_phenotypes(path)
    assert phenotypes.names == ("Kind 1", "Plasma cells: active")
    assert phenotypes.colours[1] == (255, 0, 170)
    assert phenotypes.centres == KINDS.centres


def swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (swap('name = "Kind 2"', 'name = "Kind 1"'), "more than one phenotype is called 'Kind 1'"),
        (swap('"Kind 2"', '"Background"'), "'Background'"),
        (swap('"Kind 2"', '""'), "kind.1.name"),
        (swap('"Kind 2"', '" Kind"'), "kind.1.name"),
        (swap('"Kind 2"', "2"), "kind.1.name"),
        (swap("#e69f00", "orange"), "kind.1.colour"),
        (swap("#e69f00", "#e69f0"), "kind.1.colour"),
        (swap("colour =", "color ="), "kind.0.colour"),
        (swap("dab_od_mean = 0.375\n", ""), "the centre of 'Kind 2' has area_um2; it must have the same as [scale]"),
        (swap("dab_od_mean = 0.375", "dab_od_mean = nan"), "kind.1.centre.dab_od_mean"),
        (swap("dab_od_mean = 0.375", 'dab_od_mean = "high"'), "kind.1.centre.dab_od_mean"),
        (swap("dab_od_mean = 0.125", "dab_od_mean = 0"), "scale.dab_od_mean"),
        (swap("area_um2 = 21.0", "area_um2 = -21.0"), "the centre of 'Kind 2' has area_um2 = -21"),
        (swap("format = 1", "format = 2"), "format"),
        (swap("format = 1", "format = 1\nclasses = 2"), "unknown key classes"),
        (lambda text: text[: text.index("[[kind]]", text.index("[[kind]]") + 1)], "kind"),
        (lambda text: text[: text.index("[[kind]]")], "kind"),
    ],
)
def test_a_slip_is_refused_naming_file_and_place(path: Path, slip: Callable[[str], str], said: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert slip(text) != text
    path.write_text(slip(text), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        read_phenotypes(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "Only names and colours may be changed" in str(error.value)


def test_files_that_are_not_there_or_no_toml_are_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[[kind]\n", encoding="utf-8")
    for path in (broken, tmp_path / "gone.toml"):
        with pytest.raises(SettingsError, match=path.name):
            read_phenotypes(path)


def test_the_file_that_the_guide_shows_is_one(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/classes.md").read_text(encoding="utf-8")
    path = tmp_path / "classes.toml"
    path.write_text(guide.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    assert read_phenotypes(path).names == ("Kind 1", "Kind 2")
