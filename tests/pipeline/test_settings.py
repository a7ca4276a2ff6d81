"""Settings that make no sense are refused with the place where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiproc.errors import SettingsError
from wsiproc.pipeline.settings import Settings, load_settings


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


@pytest.mark.parametrize(
    ("name", "value"), [("region", 0), ("region", -512), ("workers", 0), ("batch", 0), ("device", "tpu")]
)
def test_impossible_values_are_refused_with_name_and_value(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as error:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert name in str(error.value)
    assert str(value) in str(error.value)
