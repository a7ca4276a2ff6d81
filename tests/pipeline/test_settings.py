"""Settings that make no sense are refused with the place where they stand."""

from __future__ import annotations

import dataclasses
import math
import pickle
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from tests.pipeline.choices import CHOICES
from wsiproc.core.choices import (
    StainNormChoice,
)
from wsiproc.errors import SettingsError
from wsiproc.pipeline.settings import Settings, SettingsArguments, load_settings, settings_by_name


def written(folder: Path, text: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_arrive_under_their_names_and_types(tmp_path: Path) -> None:
    text = 'roi = "areas.geojson"\nmpp = 1\nworkers = 3\nmodel = "classical"\n'
    assert load_settings(written(tmp_path, text)) == {
        "roi": Path.cwd() / "areas.geojson",
        "mpp": 1,
        "workers": 3,
        "model": "classical",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("regoin = 512", "regoin"),
        ('region = "512"', "region"),
        ("region = 512.0", "region"),
        ("workers = true", "workers"),
        ("mpp = '0.25'", "mpp"),
        ("device = 0", "device"),
        ("roi = 3", "roi"),
        ("[run]\nregion = 512", "run"),
        ("model =\nregion = 512", "line 1"),
    ],
)
def test_a_file_with_a_mistake_is_refused_naming_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as error:
        load_settings(path)
    assert str(path) in str(error.value)
    assert said in str(error.value).replace(str(path), "")


def test_an_unknown_key_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"known are .*\bregion\b.*\bworkers\b"):
        load_settings(written(tmp_path, "regoin = 512"))


def test_files_that_are_no_text_or_not_there_are_refused_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path / "gone.toml"):
        with pytest.raises(SettingsError, match=path.name):
            load_settings(path)


@pytest.mark.parametrize(("name", "value"), [("workers", 0), ("device", "tpu"), ("positive_dab", [0.4, 0.2, 0.6])])
def test_a_file_with_an_impossible_value_is_named(tmp_path: Path, name: str, value: object) -> None:
    path = written(tmp_path, f"{name} = {value!r}")
    with pytest.raises(SettingsError, match=f"{path}: {name} is "):
        load_settings(path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mpp", 0, "mpp is 0, not a positive number; give the µm per pixel of the slide"),
        ("mpp", math.nan, "mpp is nan, not a positive number; give the µm per pixel of the slide"),
        ("mpp", math.inf, "mpp is inf, not a positive number; give the µm per pixel of the slide"),
        ("min_score", 1.5, "min_score is 1.5; scores go from 0 to 1"),
        ("min_score", math.nan, "min_score is nan; scores go from 0 to 1"),
        ("classes", 1, "classes is 1; give a number of phenotypes (clusters of cells) to find, 2 to 12, or the path of "
         "a classes.toml"),
        ("classes", 13, "classes is 13; give a number of phenotypes (clusters of cells) to find, 2 to 12, or the path "
         "of a classes.toml"),
        ("region", 0, "region is 0 px; it must be a positive multiple of the model's window"),
        ("region", -51200000, "region is -51200000 px; it must be a positive multiple of the model's window"),
        ("batch", 0, "batch is 0; at least 1 is needed"),
        ("workers", 0, "workers is 0; at least 1 is needed"),
        ("workers", 1025, "workers is 1025; one machine can start 1024 at most: leave it out for one per core, or name "
         "a cluster with --scheduler"),
        ("memory_gb", 0, "memory_gb is 0; it must be more than 0 GB"),
        ("memory_gb", math.nan, "memory_gb is nan; it must be more than 0 GB"),
        ("read_timeout_s", -0.5, "read_timeout_s is -0.5; it must be more than 0 seconds"),
        ("positive_dab", (0.4, 0.2, 0.6), "positive_dab is 0.4, 0.2, 0.6; give one optical density of DAB, such as "
         "0.2, or three in ascending order, for weak, moderate and strong, such as 0.2, 0.4, 0.6; each above 0 and at "
         "most 3"),
        ("roi", "", "'' is not a path: it is empty or contains a NUL character; is a shell variable not set?"),
        ("classes", "", "'' is not a path: it is empty or contains a NUL character; is a shell variable not set?"),
        ("device", "tpu", "device is 'tpu'; choose one of auto, cpu, cuda"),
        ("device", 0, "device is 0; choose one of auto, cpu, cuda"),
        ("stain_norm", "none=a.png", "stain_norm is 'none=a.png'; choose one of none, tiatoolbox:reinhard, "
         "tiatoolbox:macenko, tiatoolbox:vahadane, tiatoolbox:ruifrok"),
        ("model", 3, "model = 3 should be of type str"),
        ("roi", 3, "roi = 3 should be of type Path | None"),
        ("classes", True, "classes = True should be of type int | Path | None"),
        ("positive_dab", "0.2", "positive_dab = '0.2' should be of type float | tuple[float, ...] | None"),
        ("mpp", True, "mpp = True should be of type float | None"),
        ("strict", 1, "strict = 1 should be of type bool"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_name_value_and_remedy(name: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings(**{name: value})
    assert str(error.value) == said


@pytest.mark.parametrize("name", ["regoin", "self", "__class__"])
def test_an_unknown_name_is_refused_in_python_too(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"unknown setting '{name}'; known are model, mpp, "):
        Settings(**{name: 3})  # type: ignore[arg-type]


def test_of_two_mistakes_the_first_is_told() -> None:
    with pytest.raises(SettingsError, match=r"^batch is 0; at least 1 is needed$"):
        Settings(workers=0, batch=0)


@pytest.mark.parametrize("name", CHOICES)
def test_whatever_can_be_chosen_is_taken(name: str) -> None:
    for value in get_args(CHOICES[name]):
        assert getattr(Settings(**{name: value}), name) == value


def test_a_picture_of_the_target_stain_may_follow_each_method() -> None:
    for method in get_args(StainNormChoice)[1:]:
        assert Settings(stain_norm=f"{method}=a b/typical.png").stain_norm == f"{method}=a b/typical.png"


def test_values_are_held_as_their_types(tmp_path: Path) -> None:
    given = Settings(model=tmp_path, mpp=1, positive_dab=[1, 2, 3], roi="a.geojson", classes="b.toml")  # type: ignore[arg-type]
    here = Path.cwd()
    assert given == Settings(
        model=str(tmp_path), mpp=1.0, positive_dab=(1.0, 2.0, 3.0), roi=here / "a.geojson", classes=here / "b.toml"
    )
    assert [type(value) for value in (given.model, given.mpp, given.positive_dab)] == [str, float, tuple]
    assert settings_by_name({"device": None, "roi": tmp_path / ".." / "x"}) == Settings(roi=tmp_path.parent / "x")


def test_settings_are_a_value() -> None:
    settings = Settings(device="cpu", positive_dab=(0.2, 0.4, 0.6))
    assert pickle.loads(pickle.dumps(settings)) == settings == eval(repr(settings))
    assert {settings: 1}[dataclasses.replace(settings)] == 1
    assert Settings(**dataclasses.asdict(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.device = "cuda"  # type: ignore[misc]
    with pytest.raises(SettingsError, match="workers is 0"):
        dataclasses.replace(settings, workers=0)


def test_arguments_by_name_are_the_settings_and_none_and_paths_as_text() -> None:
    """What a type checker is told that ``wsiproc.run`` takes."""
    settings, arguments = get_type_hints(Settings), get_type_hints(SettingsArguments)
    assert list(arguments) == list(settings)
    for name, hint in settings.items():
        members = {hint} if isinstance(hint, type) or (name in CHOICES and name != "stain_norm") else {*get_args(hint)}
        if Path in members or name == "model":
            members = members - {Path} | {str, PathLike[str]}
        if tuple[float, ...] in members:
            members.add(list[float])
        assert {*get_args(arguments[name])} == members | {NoneType}, name


def test_numbers_of_numpy_and_files_with_a_byte_order_mark(tmp_path: Path) -> None:
    given = {
        "workers": np.int64(2),
        "mpp": np.float32(0.5),
        "strict": np.True_,
        "positive_dab": np.array([0.1, 0.2, 0.3]),
    }
    settings = settings_by_name(given)
    assert (settings.workers, settings.mpp, settings.strict, settings.positive_dab) == (2, 0.5, True, (0.1, 0.2, 0.3))
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfworkers = 2\r\n")
    assert load_settings(path) == {"workers": 2}
