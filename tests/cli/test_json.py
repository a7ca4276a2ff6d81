"""``--json``: one document on the standard output that its own schema accepts, with the exit code of the command."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.command import CPU, wsiproc
from wsiproc.cli.arguments import answer_in_json
from wsiproc.cli.documents import DOCUMENTS, schema
from wsiproc.cli.main import app
from wsiproc.cli.slide_commands.schema import JsonDocument

PAGE = Path(__file__).parents[2] / "docs/json.md"
FAILS = "not a slide that wsiproc can read"


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    """The document of a command, checked against its schema."""
    done = wsiproc(*arguments, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    assert "Error" not in done.stderr
    return checked(done.stdout, str(arguments[0]), code)


def checked(text: str, command: str, code: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator(schema(command)).validate(told)
    assert (told["command"], told["exit_code"]) == (command, code)
    return told


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of two classes, with its true labels beside it and a file that is no slide."""
    path = tmp_path_factory.mktemp("json") / "ihc [1].tif"
    size = ("--height", 900, "--width", 1300, "--mpp", 0.5, "--tissue", 0.6, "--stain", "HDAB")
    assert wsiproc("synth", path, *size, "--labels").returncode == 0
    path.with_name("bad.svs").write_bytes(b"not a slide")
    return path


@pytest.fixture(scope="module")
def ran(slide: Path) -> dict[str, Any]:
    """What ``run`` answers about both."""
    bad, out = slide.with_name("bad.svs"), slide.with_name("out")
    return answer("run", slide, bad, "-o", out, "--executor", "loop", *CPU, code=1)


@pytest.fixture(scope="module")
def folder(ran: dict[str, Any]) -> Path:
    return next(Path(each["folder"]) for each in ran["slides"] if each["folder"])


def test_run_tells_of_every_slide(ran: dict[str, Any], slide: Path, folder: Path) -> None:
    by_path = {each["path"]: each for each in ran["slides"]}
    good, bad = by_path[str(slide)], by_path[str(slide.with_name("bad.svs"))]
    run = json.loads((folder / "run.json").read_text())
    assert (good["status"], bad["status"], bad["cells"]) == ("done", "failed", None)
    assert good["cells"] == run["counts"]["cells"] > 100
    assert good["classes"] == run["counts"]["classes"]
    assert good["tissue_mm2"] == run["tissue_mm2"]
    assert 0 <= good["positive_index"] <= 1
    (problem,) = ran["errors"]
    assert (problem["kind"], problem["path"]) == ("SlideError", bad["path"])
    assert FAILS in problem["message"]


def test_run_keeps_its_progress_on_stderr(slide: Path, folder: Path) -> None:
    done = wsiproc("run", slide, "-o", folder.parent, "--overwrite", "--json", "--executor", "loop", *CPU)
    assert "detecting tissue" in done.stderr
    assert json.loads(done.stdout)["slides"][0]["status"] == "done"


def test_info_tells_sizes_with_their_units(slide: Path) -> None:
    told = answer("info", slide, slide.with_name("bad.svs"), code=1)
    (only,) = told["slides"]
    assert (only["width_px"], only["height_px"], only["mpp"]) == (1300, 900, 0.5)
    assert (only["width_mm"], only["height_mm"]) == (0.65, 0.45)
    assert only["level_downsamples"][0] == 1
    assert only["file_bytes"] == slide.stat().st_size
    assert only["remedy"] is None
    assert FAILS in told["errors"][0]["message"]


def test_info_knows_a_slide_without_a_pixel_size(data: Path) -> None:
    (only,) = answer("info", data / "slides" / "no_mpp_jpeg2000.svs")["slides"]
    assert (only["width_px"], only["height_px"], only["level_downsamples"]) == (4443, 3567, [1.0, 2.0])
    assert (only["mpp"], only["width_mm"], only["warnings"]) == (None, None, [])
    assert "pass --mpp" in only["remedy"]


def test_plan_tells_what_a_run_needs(slide: Path, tmp_path: Path) -> None:
    (only,) = answer("plan", slide, "-o", tmp_path / "out", "--region", 512, *CPU)["slides"]
    assert (only["grid_width_px"], only["grid_height_px"], only["region_px"]) == (1300, 900, 512)
    assert only["memory_bytes"] > only["disk_bytes"] > 0
    assert only["expected_cells"] > 0 < only["expected_s"]


def test_check_tells_a_good_folder_from_a_damaged_one(folder: Path, tmp_path: Path) -> None:
    (good,) = answer("check", folder.parent)["folders"]
    assert good["ok"]
    assert {finding["level"] for finding in good["findings"]} <= {"ok", "warning"}
    (tmp_path / "run.json").write_text("{}")
    (damaged,) = answer("check", tmp_path, code=1)["folders"]
    assert not damaged["ok"]
    assert any(finding["level"] == "error" for finding in damaged["findings"])


def test_profile_tells_where_the_time_went(folder: Path) -> None:
    (only,) = answer("profile", folder)["folders"]
    assert sum(line["share"] for line in only["busy"]) == pytest.approx(1)
    assert sum(only["clock_s"].values()) == pytest.approx(only["total_s"], abs=0.01)


def test_export_names_what_it_wrote(folder: Path, tmp_path: Path) -> None:
    told = answer("export", folder, "--to", "csv", "--to", "classes", "--out", tmp_path)
    assert [Path(each["path"]).name for each in told["files"]] == [
        "cells.csv.gz", "cells-Negative.geojson.gz", "cells-Positive.geojson.gz",
    ]  # fmt: skip
    assert all(Path(each["path"]).exists() and each["folder"] == str(folder) for each in told["files"])


def test_reclassify_tells_both_counts(folder: Path) -> None:
    (only,) = answer("reclassify", folder, "--positive-dab", "0.35")["folders"]
    run = json.loads((folder / "run.json").read_text())
    assert only["after"] == run["counts"]["classes"]
    assert sum(only["before"].values()) == sum(only["after"].values()) == run["counts"]["cells"]


def test_evaluate_gives_scores_and_their_mean(slide: Path, folder: Path, tmp_path: Path) -> None:
    truth = slide.with_name(f"{slide.stem}.labels.tif")
    told = answer("evaluate", folder, truth, "--csv", tmp_path / "scores.csv")
    (only,) = told["pictures"]
    assert 0.5 < only["f1"] <= 1
    assert {**told["mean"], "picture": only["picture"]} == only
    assert (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("run", "gone.svs"), "SlideError", "no such file"),
        (("run", "gone.svs", "--regoin", 512), "UsageError", "No such option: --regoin"),
        (("run", "gone.svs", "--workers", 0), "SettingsError", "at least 1 is needed"),
        (("run", "gone.svs", "--region", "large"), "UsageError", "'--region'"),
        (("plan", "gone.svs"), "SlideError", "no such file"),
        (("info", "gone.svs"), "SlideError", "no such file"),
        (("check", "gone"), "OutputError", "no such folder"),
        (("profile", "gone"), "OutputError", "no such folder"),
        (("export", "gone"), "UsageError", "Missing option '--to'"),
        (("export", "gone", "--to", "csv"), "OutputError", "no such folder"),
        (("evaluate", "gone", "gone.tif"), "SettingsError", "no such file or folder"),
        (("reclassify", "gone"), "OutputError", "no such folder"),
    ],
)
def test_a_command_that_makes_no_sense_says_so_in_json(
    arguments: tuple[object, ...],
    kind: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, which is sooner; the next test is the same as users meet it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wsiproc", *map(str, arguments), "--json"])
    assert answer_in_json(app, str(arguments[0])) == 2
    (problem,) = checked(capsys.readouterr().out, str(arguments[0]), 2)["errors"]
    assert problem["kind"] == kind
    assert said in problem["message"]


def test_errors_of_the_command_itself_have_its_exit_code(tmp_path: Path) -> None:
    for option in ("--regoin", "--json"):
        (problem,) = answer("run", tmp_path / "gone.svs", option, code=2)["errors"]
        assert problem["kind"] == {"--regoin": "UsageError", "--json": "SlideError"}[option]


def test_the_command_line_gives_the_schema() -> None:
    assert json.loads(wsiproc("schema", "run").stdout) == schema("run")


def test_a_single_folder_that_fails_is_named(folder: Path) -> None:
    told = answer("reclassify", folder, "--positive-dab", "9", code=2)
    assert [problem["path"] for problem in told["errors"]] == [str(folder)]
    assert told["folders"] == []


def test_every_document_has_a_schema_that_the_command_line_names() -> None:
    assert [document.value for document in JsonDocument] == [*DOCUMENTS, "run.json"]
    for document in JsonDocument:
        jsonschema.Draft202012Validator.check_schema(schema(document))


def test_the_page_is_what_the_models_say() -> None:
    spec = importlib.util.spec_from_file_location("make_json_reference", PAGE.with_name("make_json_reference.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert PAGE.read_text(encoding="utf-8") == module.reference(), "run: python docs/make_json_reference.py"


def test_models_load_nothing_heavy() -> None:
    code = "import sys, wsiproc.cli.documents; assert not {'torch', 'skimage', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
