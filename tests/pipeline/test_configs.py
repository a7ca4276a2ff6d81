"""The TOML files that users start from load as they are, and the annotated one says all there is to say."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from tests.pipeline.choices import CHOICES
from wsiproc.models import load_model
from wsiproc.pipeline.settings import Settings, load_settings
from wsiproc.psm.recipe import fit_settings

FIT = Path(__file__).parents[2] / "configs" / "default-model.toml"
CONFIGS = sorted(set(FIT.parent.glob("*.toml")) - set(FIT.parent.glob("*-model.toml")))
DEFAULT = next(path for path in CONFIGS if path.name == "default.toml")
COMMENTED_OUT = re.compile(r"^# (\w+ = .+)$", re.MULTILINE)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_file_holds_settings_that_a_run_accepts(path: Path) -> None:
    settings = Settings(**load_settings(path))
    assert settings.region % load_model(settings.model).window == 0
    assert path == DEFAULT or settings != Settings(), "a file that changes nothing has no reason to be"


def test_the_default_file_is_the_defaults() -> None:
    assert Settings(**load_settings(DEFAULT)) == Settings()


def test_the_default_file_names_every_setting_once() -> None:
    text = DEFAULT.read_text(encoding="utf-8")
    optional = tomllib.loads("\n".join(COMMENTED_OUT.findall(text)))
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert sorted([*tomllib.loads(text), *optional]) == sorted(defaults)
    assert all(defaults[name] is None for name in optional)


@pytest.mark.parametrize("name", CHOICES)
def test_the_default_file_names_whatever_can_be_chosen(name: str) -> None:
    text = DEFAULT.read_text(encoding="utf-8")
    (said,) = re.findall(rf"((?:^#.*\n)+){name} = ", text, re.MULTILINE)
    assert [value for value in get_args(CHOICES[name]) if f'"{value}"' not in said] == []


def test_commented_out_values_are_accepted_when_they_are_let_in(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(COMMENTED_OUT.sub(r"\1", DEFAULT.read_text(encoding="utf-8")), encoding="utf-8")
    values = load_settings(path)
    assert len(values) == len(dataclasses.fields(Settings))
    Settings(**values)


def test_the_settings_of_the_default_model_are_those_of_a_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = tomllib.loads(FIT.read_text(encoding="utf-8"))["sources"]
    for source in sources:
        source["path"] = str(tmp_path / source["path"])
        Path(source["path"]).mkdir(parents=True)
    settings = fit_settings(FIT, [], Path("default"), mpp=None, quick=False, base=None, seed=None, device="cpu")
    assert [(s.path, s.mpp) for s in settings.sources] == [(Path(s["path"]), s.get("mpp")) for s in sources]
    assert all(s.mpp is None or 0.2 < s.mpp <= 0.5 for s in settings.sources)
    assert not any("regions" in s.path.parts for s in settings.sources), "regions overlap the tiles of their slides"


def test_the_default_model_learns_from_every_folder_of_tiles(data: Path) -> None:
    left_out = {"licences", "regions", "pancreas_CK7-p40-IHC"}  # the last has three stains
    folders = {path.name for path in (data / "corpus").iterdir() if path.is_dir()} - left_out
    sources = tomllib.loads(FIT.read_text(encoding="utf-8"))["sources"]
    assert {Path(s["path"]).name for s in sources if s["path"].startswith("corpus/")} == folders
    assert all((data / s["path"]).exists() for s in sources)
