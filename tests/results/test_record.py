"""``run.json`` as a record: what is read can be written again byte for byte, and every field says what it is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import wsiproc
from tests.records import record, run_facts, scoring
from wsiproc.cli.documents import schema
from wsiproc.core.numbers import SlideNumbers
from wsiproc.errors import OutputError
from wsiproc.pipeline.progress import Outcome
from wsiproc.pipeline.settings import Settings
from wsiproc.results.record import RECORD_VERSION, NumbersRecord, RunRecord, SettingsRecord
from wsiproc.synthetic import write_synthetic_slide

# Fields that the first versions did not write, by the part that has them.
YOUNGER = {
    "": (
        "record_version", "made_with", "kinds", "immuno", "device", "precision", "overview", "roi", "left_out_mm2",
        "seams", "projected", "workers", "resumed", "numbers", "profile", "memory",
    ),
    "slide": ("reader", "objective", "levels", "likely_mpp"),
    "model": ("weights_sha256",),
    "regions": ("windows", "mpx"),
    "counts": ("in_tissue", "not_in_geojson"),
}  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A real run of a slide with DAB, three cuts and whole numbers among the settings."""
    home = tmp_path_factory.mktemp("record")
    write_synthetic_slide(home / "drawn.tif", (1200, 1200), mpp=0.5, tissue_fraction=0.6, stain="HDAB")
    options: dict[str, Any] = {"model": "classical", "executor": "loop", "stain": "hdab", "memory_gb": 64}
    (done,) = wsiproc.run(home / "drawn.tif", home / "out", positive_dab=(0.1, 0.2, 0.4), **options)
    assert done.error is None
    return done


@pytest.fixture
def folder(outcome: Outcome) -> Path:
    assert outcome.folder is not None
    return outcome.folder


def test_a_real_record_is_written_again_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    read = RunRecord.read(folder)
    read.write(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == (folder / "run.json").read_bytes()
    assert (read.record_version, read.counts.cells > 50) == (RECORD_VERSION, True)
    assert (repr(read.settings.memory_gb), read.settings.positive_dab) == ("64.0", (0.1, 0.2, 0.4))
    assert '"memory_gb": 64.0,' in (folder / "run.json").read_text()
    assert read.immuno is not None
    assert read.immuno.positive_dab_od == [0.1, 0.2, 0.4]


def test_a_real_record_has_every_field(folder: Path) -> None:
    told = schema("run.json")
    values = json.loads((folder / "run.json").read_text())
    jsonschema.validate(values, told, jsonschema.Draft202012Validator)
    assert list(values) == list(told["properties"])
    # A part may be null where a slide has nothing of the kind.
    for name, part in values.items():
        if isinstance(part, dict) and (fields := _fields(told, told["properties"][name])):
            assert list(part) == list(fields), name


def _fields(told: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """The fields of a part; empty where the field is no part."""
    (ref,) = [each["$ref"] for each in (field, *field.get("anyOf", [])) if "$ref" in each] or [""]
    return dict(told["$defs"][ref.rpartition("/")[2]]["properties"]) if ref else {}


def test_what_is_public_stays_a_plain_dict(outcome: Outcome, folder: Path) -> None:
    values = json.loads((folder / "run.json").read_text())
    result = wsiproc.open(folder)
    assert result.run == outcome.run == values
    assert type(result.run["counts"]) is dict
    assert result.run["counts"]["cells"] == result.record.counts.cells
    assert result.record == outcome.record


def test_every_field_says_what_it_is() -> None:
    told = schema("run.json")
    described = list(_described("run.json", told))
    assert len(described) > 120
    assert [name for name, text in described if not text.strip()] == []


def _described(name: str, told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield name, told.get("description", "")
    for title, part in {name: told, **told["$defs"]}.items():
        yield title, part.get("description", "")
        yield from ((f"{title}.{key}", field.get("description", "")) for key, field in part["properties"].items())


def test_a_record_of_the_first_versions_is_read(folder: Path, tmp_path: Path) -> None:
    values = json.loads((folder / "run.json").read_text())
    for part, names in YOUNGER.items():
        for name in names:
            del (values[part] if part else values)[name]
    values["projected"] = {"memory_bytes": 1, "disk_bytes": 2, "seconds": 3}  # as it once was
    (tmp_path / "run.json").write_text(json.dumps(values, indent=1))
    read = RunRecord.read(tmp_path)
    assert (read.record_version, read.profile, read.immuno, read.has_index) == (0, None, None, True)
    assert read.slide_numbers().cells == read.counts.cells
    assert read.slide_numbers().cells_per_mm2 is None, "cells in tissue were not counted"
    (tmp_path / "run.json").unlink()
    read.write(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == values, "nothing is made up"


def test_the_least_that_is_read_is_what_the_first_versions_wrote() -> None:
    assert json.loads(json.dumps(record().as_dict())) == run_facts()


@pytest.mark.parametrize("name", [name for name in run_facts() if name != "record_version"])
def test_what_every_version_wrote_must_be_there(name: str, tmp_path: Path) -> None:
    values = {key: value for key, value in run_facts().items() if key != name}
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(OutputError, match=rf"run\.json: not what `wsiproc run` writes \(`{name}` is missing"):
        RunRecord.read(tmp_path)


def test_what_a_later_version_adds_is_kept_and_another_meaning_refused(tmp_path: Path) -> None:
    values = run_facts(later={"a": [1, float("nan")]}, slide={"label": "x", "mpp": 1}, immuno=scoring(more=1))
    kept = RunRecord.model_validate(values).as_dict()
    assert {name: repr(value) for name, value in kept.items()} == {name: repr(value) for name, value in values.items()}
    (tmp_path / "run.json").write_text(json.dumps(values | {"record_version": RECORD_VERSION + 1, "wsiproc": "9.0"}))
    with pytest.raises(OutputError, match=r"written by wsiproc 9\.0 as version 2 of the record.*update wsiproc"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "`run.json` is missing or of the wrong type"),
        (json.dumps(run_facts(tissue_mm2="2")), "`tissue_mm2` is missing or of the wrong type: '2'"),
        (json.dumps(run_facts(slide={"mpp": None})), "`slide.mpp` is missing or of the wrong type: None"),
        (json.dumps(run_facts(counts={"cells": 1.5})), "`counts.cells` is missing or of the wrong type: 1.5"),
    ],
)
def test_what_is_no_record_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OutputError) as caught:
        RunRecord.read(tmp_path)
    assert said in str(caught.value)
    assert "wsiproc run --overwrite makes the result again" in str(caught.value)


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    """As of a slide whose name in the file system is not UTF-8."""
    record(slide={"path": "/slides/\udcff.tif"}).write(tmp_path)
    assert RunRecord.read(tmp_path).slide.path == "/slides/\udcff.tif"


def test_the_record_knows_every_setting_and_every_number() -> None:
    """Both are told in a second place, which has no use for the record."""
    assert list(SettingsRecord.model_fields) == [field.name for field in dataclasses.fields(Settings)]
    defaults = {name: field.default for name, field in SettingsRecord.model_fields.items()}
    assert defaults == dataclasses.asdict(Settings())
    assert list(NumbersRecord.model_fields) == [field.name for field in dataclasses.fields(SlideNumbers)]
